//! Where answers wait until they leave.
//!
//! Those that leave at the same time do so in a random order. In the order in which they came, or in which timers of their own ended, a stream whose
//! text goes on would leave before or after one that has only fillers left, because it seals its frames later. An observer
//! with a stream of his own would see where a text ends.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::timer::Timer;

/// Opens at the times that answers wait for.
#[derive(Debug)]
pub(super) struct Gate {
    queue: Arc<Queue>,
    _opening: AbortOnDropHandle<()>,
}

/// Who waits.
#[derive(Debug, Default)]
struct Queue {
    /// By time; those of one time by a random number.
    waiting: Mutex<BTreeMap<(Instant, u64), oneshot::Sender<()>>>,
    /// The earliest time has become earlier.
    earlier: Notify,
}

impl Gate {
    /// A gate that a task of this runtime opens until it is dropped.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub(super) fn new() -> io::Result<Self> {
        let (timer, queue) = (Timer::new()?, Arc::<Queue>::default());
        let opening = tokio::spawn(open(timer, Arc::clone(&queue)));
        Ok(Self { queue, _opening: AbortOnDropHandle::new(opening) })
    }

    /// Waits until `at`.
    ///
    /// # Errors
    /// The OS random number generator failed, or the runtime shuts down.
    pub(super) async fn wait_until(&self, at: Instant) -> io::Result<()> {
        let opened = self.queue.join(at, getrandom::u64()?);
        opened.await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Queue {
    /// Adds an answer that leaves at `at`, at the place `random` among those that leave with it.
    fn join(&self, at: Instant, random: u64) -> oneshot::Receiver<()> {
        let (leave, opened) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_earlier = waiting.first_key_value().is_none_or(|(&(first, _), _)| at < first);
        waiting.insert((at, random), leave);
        drop(waiting);
        if is_earlier {
            self.earlier.notify_one();
        }
        opened
    }

    /// The earliest departure in the queue.
    fn earliest(&self) -> Option<Instant> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Lets all leave whose time has come by `now`.
    fn release(&self, now: Instant) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut leaving = Vec::new();
        while let Some(first) = waiting.first_entry()
            && first.key().0 <= now
        {
            leaving.push(first.remove());
        }
        drop(waiting);
        for leave in leaving {
            // An error: the client is gone.
            leave.send(()).ok();
        }
    }
}

/// Lets answers leave at their times, for ever.
async fn open(timer: Timer, queue: Arc<Queue>) {
    loop {
        let Some(at) = queue.earliest() else {
            queue.earlier.notified().await;
            continue;
        };
        tokio::select! {
            () = queue.earlier.notified() => {}
            waited = timer.wait_until(at) => {
                if waited.is_err() {
                    // Less exact, but it cannot fail.
                    sleep_until(at).await;
                }
                queue.release(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use futures_util::stream::FuturesUnordered;
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    const SOON: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn nobody_leaves_before_the_time() {
        let gate = Gate::new().unwrap();
        let now = Instant::now();
        // Each is earlier than the one before; the last is over.
        let times = [now + SOON * 3, now + SOON, now + SOON * 2, now];
        join_all(times.map(async |at| {
            gate.wait_until(at).await.unwrap();
            assert!(Instant::now() >= at);
        }))
        .await;
        assert_eq!(gate.queue.earliest(), None);
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_holds_up_nobody() {
        let gate = Gate::new().unwrap();
        let now = Instant::now();
        for at in [now + SOON, now + SOON * 2] {
            assert!(gate.wait_until(at).now_or_never().is_none());
        }
        gate.wait_until(now + SOON * 2).await.unwrap();
        assert_eq!(gate.queue.earliest(), None);
    }

    #[test]
    fn those_of_one_time_leave_in_the_order_of_their_random_numbers() {
        let (queue, at) = (Queue::default(), Instant::now());
        let mut late = queue.join(at + SOON, 0);
        let mut opened = [7, 2, 5].map(|random| queue.join(at, random));
        let waiting = queue.waiting.lock().unwrap();
        let order: Vec<u64> = waiting.keys().map(|&(_, random)| random).collect();
        drop(waiting);
        assert_eq!(order, [2, 5, 7, 0]);
        queue.release(at);
        assert!(opened.iter_mut().all(|opened| opened.try_recv().is_ok()));
        assert!(late.try_recv().is_err());
        assert_eq!(queue.earliest(), Some(at + SOON));
    }

    #[tokio::test]
    async fn the_order_does_not_follow_from_who_came_first() {
        let gate = Gate::new().unwrap();
        let mut second_left_first = 0;
        for _ in 0..64 {
            let at = Instant::now() + Duration::from_millis(1);
            let wait = async |number| gate.wait_until(at).await.map(|()| number);
            let mut leaving: FuturesUnordered<_> = [0, 1].map(wait).into_iter().collect();
            second_left_first += leaving.next().await.unwrap().unwrap();
        }
        // With a random order this fails with a probability of 2^-63.
        assert!((1..64).contains(&second_left_first), "{second_left_first}");
    }
}
