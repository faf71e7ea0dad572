//! The requests that wait for the model thread, and how many it works on.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc;

use super::{EngineConfig, EngineError, Event, Finish, GenerationRequest, Load, SubmitError};

/// A request and where its tokens go.
pub(super) struct Job {
    pub(super) request: GenerationRequest,
    pub(super) events: mpsc::Sender<Result<Event, EngineError>>,
}

/// First come, first served, up to a bound.
pub(super) struct Queue {
    config: EngineConfig,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    running: usize,
    stopped: bool,
}

/// The right to run one request; given back when dropped.
pub(super) struct Slot(Arc<Queue>);

impl Job {
    /// Whether whoever asked has left.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether the time for the answer has run out.
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
        Self { config, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Adds `job` at the end.
    ///
    /// # Errors
    /// [`SubmitError::Full`] or [`SubmitError::Stopped`].
    pub(super) fn push(&self, job: Job) -> Result<(), SubmitError> {
        let mut state = self.lock();
        if state.stopped {
            return Err(SubmitError::Stopped);
        }
        let limit = self.config.max_running.saturating_add(self.config.max_waiting);
        if state.running + state.waiting.len() >= limit {
            // Those who left while they waited must not keep others out.
            state.waiting.retain(|job| !job.is_abandoned());
        }
        if state.running + state.waiting.len() >= limit {
            return Err(SubmitError::Full);
        }
        state.waiting.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// The jobs whose turn it is, oldest first, and `None` once the engine has stopped.
    /// Waits for one if nothing is running.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Vec<(Job, Slot)>> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            state.drop_ended();
            let free = self.config.max_running.saturating_sub(state.running).min(state.waiting.len());
            state.running += free;
            let admitted: Vec<_> =
                state.waiting.drain(..free).map(|job| (job, Slot(Arc::clone(self)))).collect();
            if state.running > 0 {
                return Some(admitted);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes no more jobs and drops those that wait: their generations end with an error.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.waiting.clear();
        self.changed.notify_all();
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        Load { running: state.running, waiting: state.waiting.len() }
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
    /// Drops the waiting jobs whose answer nobody wants or whose time has run out, and says so to the latter.
    fn drop_ended(&mut self) {
        self.waiting.retain(|job| {
            let expired = job.is_expired();
            if expired {
                job.send(Ok(Event::Finished(Finish::Deadline)));
            }
            !expired && !job.is_abandoned()
        });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}
