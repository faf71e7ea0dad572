//! Keeps one session with one server: begins it, renews it before it ends, and begins another when it fails.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::state::{State, Timing, Warm};
use crate::client::{ClientError, Held, Link};
use crate::proxy::error::Failure;
use crate::proxy::upstream;
use crate::proxy::verdicts::Verdicts;
use crate::telemetry::{Event, emit};

/// One server and what is known of it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) link: Link,
    /// Where it is, for people.
    pub(crate) address: String,
    state: watch::Sender<State>,
    /// A request has found the session unusable.
    trouble: Notify,
    timing: Timing,
    verdicts: Arc<Verdicts>,
}

impl Upstream {
    /// A server that nothing is known of yet; [`Upstream::keep`] finds out.
    pub(crate) fn new(link: Link, address: String, timing: Timing, verdicts: Arc<Verdicts>) -> Self {
        let (state, _) = watch::channel(State::Starting);
        Self { link, address, state, trouble: Notify::new(), timing, verdicts }
    }

    /// What is known now.
    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The session, if there is one that may be used.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn session(&self) -> Result<Arc<Warm>, Failure> {
        match &*self.state.borrow() {
            State::Starting => Err(Failure::NotConnected("the first attempt is under way".to_owned())),
            State::Down(failure) => Err(failure.clone()),
            State::Ready(warm) if warm.is_current() => Ok(Arc::clone(warm)),
            State::Ready(_) => {
                self.trouble.notify_one();
                Err(Failure::NotVerified("the verdict has expired, a new one is being sought".to_owned()))
            }
        }
    }

    /// How long `warm` is used yet.
    pub(crate) fn until_renewal(&self, warm: &Warm) -> std::time::Duration {
        warm.renewal(&self.timing)
    }

    /// Waits for a state that is as `wanted`.
    pub(crate) async fn until(&self, wanted: impl FnMut(&State) -> bool) {
        self.state.subscribe().wait_for(wanted).await.ok();
    }

    /// Tells what a request that used `warm` failed with. If it means that the next one would fail as well, no
    /// further request is sent until the background has found a remedy.
    pub(crate) fn report(&self, warm: &Arc<Warm>, error: &ClientError) {
        let failure = Failure::of(error);
        if !matches!(failure, Failure::NotConnected(_) | Failure::NotVerified(_)) {
            return;
        }
        let noted = self.state.send_if_modified(|state| match state {
            State::Ready(current) if Arc::ptr_eq(current, warm) => {
                *state = State::Down(failure.clone());
                true
            }
            _ => false,
        });
        if noted {
            emit(Event::ProxyLost { reason: failure.code() });
            self.trouble.notify_one();
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn keep(&self) {
        let mut pause = self.timing.first_pause;
        // A session that a request or an attempt has failed with, and that may still be good.
        let mut kept: Option<Arc<Held>> = None;
        loop {
            match self.attempt(&mut kept).await {
                Ok(warm) => {
                    pause = self.timing.first_pause;
                    let renewal = warm.renewal(&self.timing).max(self.timing.first_pause);
                    self.publish(State::Ready(warm));
                    tokio::select! {
                        // The next session is begun from scratch, while this one is still used.
                        () = tokio::time::sleep(renewal) => kept = None,
                        () = self.trouble.notified() => tokio::time::sleep(pause).await,
                    }
                }
                Err(error) => {
                    let failure = Failure::of(&error);
                    // A renewal that fails does not end a session that is good for a while yet.
                    let usable = matches!(&*self.state.borrow(), State::Ready(warm) if warm.is_current());
                    if !usable || matches!(failure, Failure::NotVerified(_)) {
                        self.publish(State::Down(failure));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(self.timing.longest_pause);
                }
            }
        }
    }

    async fn attempt(&self, kept: &mut Option<Arc<Held>>) -> Result<Arc<Warm>, ClientError> {
        let limit = self.timing.attempt;
        let attempt = tokio::time::timeout(limit, self.connect(kept)).await;
        attempt.unwrap_or(Err(ClientError::TimedOut { secs: limit.as_secs() }))
    }

    /// A session that has answered a small request: the kept one if it still does, else a new one.
    async fn connect(&self, kept: &mut Option<Arc<Held>>) -> Result<Arc<Warm>, ClientError> {
        if let Some(held) = kept.take() {
            match self.probe(&held).await {
                Ok(warm) => {
                    *kept = Some(held);
                    return Ok(warm);
                }
                Err(error) if outlives(&error) => {
                    *kept = Some(held);
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        let begun = self.link.begin().await;
        self.verdicts.note(&self.address, self.link.verifies(), &begun);
        let held = Arc::new(begun?);
        let warm = self.probe(&held).await;
        if warm.is_ok() || warm.as_ref().err().is_some_and(outlives) {
            *kept = Some(held);
        }
        warm
    }

    async fn probe(&self, held: &Arc<Held>) -> Result<Arc<Warm>, ClientError> {
        let (features, model) = upstream::probe(&self.link, held).await?;
        Ok(Arc::new(Warm::new(Arc::clone(held), features, model)))
    }

    fn publish(&self, new: State) {
        self.state.send_if_modified(|state| {
            let changes = match (&*state, &new) {
                (State::Down(before), State::Down(after)) => before != after,
                (State::Ready(_), State::Ready(_)) => false,
                _ => true,
            };
            if changes {
                match &new {
                    State::Ready(_) => emit(Event::ProxyConnected),
                    State::Down(failure) => emit(Event::ProxyLost { reason: failure.code() }),
                    State::Starting => {}
                }
            }
            *state = new;
            true
        });
    }
}

/// Whether a session may be good although a request under it has failed so.
fn outlives(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) | ClientError::TimedOut { .. } => true,
        ClientError::Refused(refusal) => matches!(refusal.status, 429 | 503),
        _ => false,
    }
}
