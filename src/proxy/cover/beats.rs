//! When requests leave with `--cover`: one on each beat, from the first request until a while after the last one.
//!
//! Knows nothing of what leaves, only of tokio's clock.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// A request leaves within this part of the interval, at a random time: sealing an empty request takes some microseconds less.
const JITTER_PART: u32 = 8;

/// How often requests leave, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// From one beat to the next.
    pub interval: Duration,
    /// The rhythm ends so long after the last request of an editor, or up to twice as long: the end would show the last key.
    pub idle: Duration,
}

/// A request that waits for its beat.
pub(super) trait Waits {
    /// Whether it need not leave any more.
    fn is_abandoned(&self) -> bool;
}

/// What leaves on a beat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat<T> {
    /// The request that waits longest.
    Request(T),
    /// None waits.
    Empty,
}

/// The requests that wait, and whether there is a rhythm now.
#[derive(Debug)]
pub(super) struct Beats<T> {
    rhythm: Rhythm,
    state: Mutex<State<T>>,
    begun: Notify,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    /// When the rhythm ends, if there is one and no other request comes.
    end: Option<Instant>,
    /// How long after the last request that is; drawn at the beginning.
    idle: Duration,
}

impl<T: Waits> Beats<T> {
    /// None waits, and there is no rhythm.
    pub(super) fn new(rhythm: Rhythm) -> Self {
        let state = State { waiting: VecDeque::new(), end: None, idle: rhythm.idle };
        Self { rhythm, state: Mutex::new(state), begun: Notify::new() }
    }

    /// The rhythm that it was made with.
    pub(super) fn rhythm(&self) -> Rhythm {
        self.rhythm
    }

    /// Whether requests leave now.
    pub(super) fn is_running(&self) -> bool {
        self.lock().end.is_some()
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.iter().filter(|request| !request.is_abandoned()).count()
    }

    /// Puts a request behind those that wait; begins the rhythm if there is none.
    pub(super) fn push(&self, request: T) {
        let mut state = self.lock();
        state.waiting.retain(|request| !request.is_abandoned());
        state.waiting.push_back(request);
        if state.end.is_none() {
            state.idle = self.rhythm.idle + share(self.rhythm.idle, random());
            self.begun.notify_one();
        }
        state.end = Some(Instant::now() + state.idle);
    }

    /// Keeps a rhythm going: an editor is in use, but needs no request now.
    pub(super) fn touch(&self) {
        let mut state = self.lock();
        state.end = state.end.map(|_| Instant::now() + state.idle);
    }

    /// Has `leave` send what is due on each beat, until it is dropped. A beat without `room` sends nothing, and what waits is sent on the
    /// next one.
    pub(super) async fn run<P>(&self, room: impl Fn() -> Option<P>, mut leave: impl FnMut(Beat<T>, P)) {
        let interval = self.rhythm.interval;
        loop {
            self.begun.notified().await;
            let (start, mut number) = (Instant::now(), 0);
            loop {
                let beat = start + interval.saturating_mul(number);
                sleep_until(beat + share(interval / JITTER_PART, random())).await;
                let now = Instant::now();
                if let Some(room) = room() {
                    match self.next(now) {
                        Some(beat) => leave(beat, room),
                        None => break,
                    }
                }
                // Beats that are over are left out: a machine that slept sends no burst.
                let over = now.duration_since(start).as_nanos() / interval.as_nanos().max(1);
                number = u32::try_from(over).unwrap_or(u32::MAX).max(number).saturating_add(1);
            }
        }
    }

    /// What leaves now; `None` at the end of the rhythm.
    fn next(&self, now: Instant) -> Option<Beat<T>> {
        let mut state = self.lock();
        while let Some(request) = state.waiting.pop_front() {
            if !request.is_abandoned() {
                return Some(Beat::Request(request));
            }
        }
        if state.end.is_some_and(|end| now < end) {
            return Some(Beat::Empty);
        }
        state.end = None;
        None
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 0 if the OS random number generator failed: then nothing can be sealed either.
fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}

/// The part of `whole` that `random` is of 2^64.
fn share(whole: Duration, random: u64) -> Duration {
    let nanos = (whole.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::time::sleep;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    const RHYTHM: Rhythm = Rhythm { interval: Duration::from_millis(300), idle: Duration::from_secs(3) };

    #[derive(Debug)]
    struct Key {
        name: usize,
        abandoned: Arc<AtomicBool>,
    }

    impl Waits for Key {
        fn is_abandoned(&self) -> bool {
            self.abandoned.load(Ordering::Relaxed)
        }
    }

    type Departures = Arc<Mutex<Vec<(Instant, Option<usize>)>>>;

    struct Desk {
        beats: Arc<Beats<Key>>,
        left: Departures,
        has_room: Arc<AtomicBool>,
        last: Cell<Option<Arc<AtomicBool>>>,
        _running: AbortOnDropHandle<()>,
    }

    impl Desk {
        fn new() -> Self {
            let (beats, left) = (Arc::new(Beats::new(RHYTHM)), Departures::default());
            let has_room = Arc::new(AtomicBool::new(true));
            let (shared, seen, room) = (Arc::clone(&beats), Arc::clone(&left), Arc::clone(&has_room));
            let running = tokio::spawn(async move {
                let room = || room.load(Ordering::Relaxed).then_some(());
                let leave = |beat, ()| {
                    let name = match beat {
                        Beat::Request(Key { name, .. }) => Some(name),
                        Beat::Empty => None,
                    };
                    seen.lock().unwrap().push((Instant::now(), name));
                };
                shared.run(room, leave).await;
            });
            Self { beats, left, has_room, last: Cell::default(), _running: AbortOnDropHandle::new(running) }
        }

        /// A key whose request takes the place of the one before.
        fn type_key(&self, name: usize) {
            let abandoned = Arc::new(AtomicBool::new(false));
            if let Some(last) = self.last.replace(Some(Arc::clone(&abandoned))) {
                last.store(true, Ordering::Relaxed);
            }
            self.beats.push(Key { name, abandoned });
        }

        fn left(&self) -> Vec<(Instant, Option<usize>)> {
            self.left.lock().unwrap().clone()
        }

        fn names(&self) -> Vec<Option<usize>> {
            self.left().into_iter().map(|(_, name)| name).collect()
        }
    }

    /// Each beat has exactly one request, within the jitter after a multiple of the interval.
    fn assert_even(left: &[(Instant, Option<usize>)], start: Instant) {
        for (number, (at, _)) in left.iter().enumerate() {
            let beat = start + RHYTHM.interval * number as u32;
            // The clock of the tests goes in milliseconds.
            let latest = beat + RHYTHM.interval / JITTER_PART + Duration::from_millis(1);
            assert!((beat..=latest).contains(at), "{number}: {:?}", at.duration_since(start));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_request_leaves_on_each_beat_whatever_is_typed() {
        let desk = Desk::new();
        let start = Instant::now();
        for (name, pause) in [140, 95, 0, 610, 30, 1, 299, 300, 301, 1500, 12, 45].into_iter().enumerate() {
            desk.type_key(name);
            sleep(Duration::from_millis(pause)).await;
        }
        sleep(Duration::from_secs(2)).await;
        let left = desk.left();
        let over = start.elapsed().as_millis() / RHYTHM.interval.as_millis();
        assert!((over..=over + 1).contains(&(left.len() as u128)), "{left:?}");
        assert_even(&left, start);
        // The last key's request has left, and none of those that a later key replaced before a beat.
        let names: Vec<usize> = desk.names().into_iter().flatten().collect();
        assert!(names.is_sorted() && names.first() == Some(&0) && names.last() == Some(&11), "{names:?}");
        assert!(!names.contains(&2) && names.len() < 12, "{names:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_replace_none_wait_for_a_beat_each() {
        let desk = Desk::new();
        for name in 0..3 {
            desk.beats.push(Key { name, abandoned: Arc::default() });
        }
        sleep(RHYTHM.interval * 4).await;
        assert_eq!(desk.names().get(..4).unwrap(), [Some(0), Some(1), Some(2), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_silent_before_the_first_request_and_a_while_after_the_last() {
        for _ in 0..8 {
            let desk = Desk::new();
            desk.beats.touch();
            sleep(Duration::from_secs(60)).await;
            assert!(desk.left().is_empty() && !desk.beats.is_running());
            desk.type_key(0);
            sleep(Duration::from_secs(2)).await;
            // Keys that are answered without a request are no reason to end.
            desk.beats.touch();
            let last = Instant::now();
            sleep(Duration::from_secs(60)).await;
            let left = desk.left();
            let end = left.last().unwrap().0;
            assert!(end >= last + RHYTHM.idle - RHYTHM.interval * 2, "{:?}", end.duration_since(last));
            assert!(end < last + RHYTHM.idle * 2, "{:?}", end.duration_since(last));
            assert!(!desk.beats.is_running());
            let again = Instant::now();
            desk.type_key(1);
            sleep(RHYTHM.interval / 2).await;
            assert_eq!(desk.names().get(left.len()..).unwrap(), [Some(1)]);
            assert_even(desk.left().get(left.len()..).unwrap(), again);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_without_room_sends_nothing_and_the_request_waits() {
        let desk = Desk::new();
        desk.has_room.store(false, Ordering::Relaxed);
        desk.type_key(0);
        sleep(RHYTHM.interval * 5).await;
        assert!(desk.left().is_empty());
        desk.has_room.store(true, Ordering::Relaxed);
        sleep(RHYTHM.interval).await;
        assert_eq!(desk.names(), [Some(0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_sends_no_burst() {
        let desk = Desk::new();
        desk.type_key(0);
        sleep(Duration::from_millis(1)).await;
        tokio::time::advance(RHYTHM.interval * 7).await;
        sleep(RHYTHM.interval).await;
        assert!(desk.left().len() <= 3, "{:?}", desk.left());
    }
}
