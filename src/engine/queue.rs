//! The requests that wait for the model thread, and how many it works on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{EngineConfig, EngineError, Event, Finish, GenerationRequest, SubmitError};

/// How long a request that was refused is left waiting while nothing runs.
const RETRY: Duration = Duration::from_millis(100);

/// A request and the channel that its events go to.
pub(super) struct QueuedRequest {
    pub(super) request: GenerationRequest,
    pub(super) events: mpsc::Sender<Result<Event, EngineError>>,
}

/// A bounded queue, fair between namespaces: the request whose namespace has the fewest running requests is next, and among
/// equals the first. So a client with many requests does not starve one that has a single one.
pub(super) struct Queue {
    config: EngineConfig,
    state: Mutex<State>,
    changed: Condvar,
    gone: CancellationToken,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<QueuedRequest>,
    /// How many requests run, by namespace.
    running: HashMap<[u8; 32], usize>,
    stopped: bool,
    /// Why, if a device failed.
    failure: Option<String>,
}

/// A slot for a running request; released when dropped.
pub(super) struct Slot {
    queue: Arc<Queue>,
    namespace: [u8; 32],
}

impl QueuedRequest {
    /// Whether the receiver is gone: the request is abandoned.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether the deadline has passed.
    pub(super) fn is_expired(&self) -> bool {
        self.request.deadline <= Instant::now()
    }

    /// Delivers `event`. The channel holds all there can be, so only a receiver that has left makes this fail;
    /// that is noticed before the next step.
    pub(super) fn send(&self, event: Result<Event, EngineError>) {
        self.events.try_send(event).ok();
    }
}

impl Queue {
    pub(super) fn new(config: EngineConfig) -> Self {
        Self { config, state: Mutex::default(), changed: Condvar::new(), gone: CancellationToken::new() }
    }

    /// Appends `queued`.
    ///
    /// # Errors
    /// [`SubmitError::Full`] or [`SubmitError::Stopped`].
    pub(super) fn push(&self, queued: QueuedRequest) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.stopped {
            return Err(SubmitError::Stopped);
        }
        let limit = self.config.capacity();
        if state.running() + state.waiting.len() >= limit {
            // Abandoned requests must not take the places of others.
            state.waiting.retain(|queued| !queued.is_abandoned());
        }
        if state.running() + state.waiting.len() >= limit {
            return Err(SubmitError::Full);
        }
        state.waiting.push_back(queued);
        self.changed.notify_one();
        Ok(())
    }

    /// Offers the requests whose turn it is to `take`, until it refuses one, which stays next. Waits for a request if
    /// nothing is running. Returns whether the engine still runs.
    pub(super) fn admit(
        self: &Arc<Self>,
        mut take: impl FnMut(QueuedRequest, Slot) -> Result<(), (QueuedRequest, Slot)>,
    ) -> bool {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return false;
            }
            state.drop_ended();
            while state.running() < self.config.max_running {
                let Some((place, queued, namespace)) = state.take_next() else { break };
                // The slot's end needs the lock.
                drop(state);
                let refused = take(queued, Slot { queue: Arc::clone(self), namespace }).err();
                let queued = refused.map(|(queued, slot)| {
                    drop(slot);
                    queued
                });
                state = self.lock();
                if let Some(queued) = queued {
                    // Others may have come meanwhile, but only behind it.
                    state.waiting.insert(place, queued);
                    break;
                }
            }
            if state.running() > 0 {
                return true;
            }
            state = if state.waiting.is_empty() {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                // There is no memory for its keys and values now. There may be later, or its deadline passes.
                self.changed.wait_timeout(state, RETRY).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    /// Takes no more requests and drops those that wait: their generations end with an error.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.waiting.clear();
        self.changed.notify_all();
        self.gone.cancel();
    }

    /// As [`Queue::stop`], because of `reason`.
    pub(super) fn fail(&self, reason: String) {
        self.lock().failure = Some(reason);
        self.stop();
    }

    /// Why it stopped, if a device failed.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Waits until it has stopped.
    pub(super) async fn stopped(&self) {
        self.gone.cancelled().await;
    }

    /// How many requests run, and how many wait.
    pub(super) fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.running(), state.waiting.len())
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// The state is a list and two counters: sound whatever the holder of the lock was doing when it panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn running(&self) -> usize {
        self.running.values().sum()
    }

    /// Takes the request whose turn it is, and counts it as running.
    fn take_next(&mut self) -> Option<(usize, QueuedRequest, [u8; 32])> {
        let namespace = |queued: &QueuedRequest| *queued.request.namespace.as_bytes();
        let (place, _) =
            self.waiting.iter().enumerate().min_by_key(|(_, queued)| {
                self.running.get(&namespace(queued)).copied().unwrap_or_default()
            })?;
        let queued = self.waiting.remove(place)?;
        let namespace = namespace(&queued);
        *self.running.entry(namespace).or_default() += 1;
        Some((place, queued, namespace))
    }

    /// Drops waiting requests that are abandoned or past their deadline, and tells the latter.
    fn drop_ended(&mut self) {
        self.waiting.retain(|queued| {
            let expired = queued.is_expired();
            if expired {
                queued.send(Ok(Event::Finished(Finish::Deadline)));
            }
            !expired && !queued.is_abandoned()
        });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        if let Some(running) = state.running.get_mut(&self.namespace) {
            *running -= 1;
            if *running == 0 {
                state.running.remove(&self.namespace);
            }
        }
    }
}
