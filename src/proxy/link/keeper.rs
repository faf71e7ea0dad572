//! Keeps one session with one server: begins it, renews it before it ends, and begins another when it fails.
//!
//! The key of the next session is wrapped while this one is used.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::pins::Pins;
use super::state::{State, Timing, Warm};
use super::trouble::Trouble;
use crate::client::{ClientError, Held, Link, SpareKey};
use crate::proxy::error::Failure;
use crate::proxy::gathered;
use crate::proxy::golden::Golden;
use crate::proxy::verdicts::{Noted, Verdicts};
use crate::telemetry::{Event, emit};

/// One server and what is known of it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) link: Link,
    /// Its address, to be displayed.
    pub(crate) address: String,
    pub(crate) pins: Pins,
    state: watch::Sender<State>,
    /// A request has found the session unusable.
    trouble: Notify,
    /// A client is there again after a pause.
    stirred: Notify,
    /// When a client was there last.
    touched: Mutex<Instant>,
    terms: Terms,
}

/// The settings for all servers.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) timing: Timing,
    pub(crate) golden: Golden,
    /// Whether a server may only run what it ran when it was verified first.
    pub(crate) pin_first: bool,
    pub(crate) verdicts: Arc<Verdicts>,
}

impl Upstream {
    /// A server that nothing is known of yet; [`Upstream::keep`] finds out.
    pub(crate) fn new(link: Link, address: String, terms: Terms) -> Self {
        let (state, _) = watch::channel(State::Starting);
        let pins = Pins::new(terms.pin_first, terms.verdicts.last_trusted(&address));
        let (trouble, stirred) = (Notify::new(), Notify::new());
        Self { link, address, pins, state, trouble, stirred, touched: Mutex::new(Instant::now()), terms }
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
        warm.renewal(&self.terms.timing)
    }

    /// Waits for a state for which `condition` is true.
    pub(crate) async fn until(&self, condition: impl FnMut(&State) -> bool) {
        self.state.subscribe().wait_for(condition).await.ok();
    }

    /// Reports the error of a request that used `warm`. If the next request would fail as well, none is sent until the
    /// background has a session again.
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

    /// Tells that a client is there. After a pause this opens a connection and has the server unwrap the session's key in
    /// the background, so that the first whole request does not wait for it.
    pub(crate) fn touch(&self) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *touched, Instant::now()).elapsed() >= self.terms.timing.idle_after {
            self.stirred.notify_one();
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn keep(&self) {
        let timing = &self.terms.timing;
        let mut pause = timing.first_pause;
        // A session that a request or an attempt has failed with, and that may still be good.
        let mut kept: Option<Arc<Held>> = None;
        let mut spare: Option<SpareKey> = None;
        loop {
            match self.attempt(&mut kept, &mut spare).await {
                Ok(warm) => {
                    pause = timing.first_pause;
                    let renewal = Instant::now() + warm.renewal(timing).max(timing.first_pause);
                    let held = Arc::clone(&warm.held);
                    self.publish(State::Ready(warm));
                    if self.rest(&held, renewal, &mut spare).await {
                        // The next session is begun from scratch, while this one is still used.
                        kept = None;
                    } else {
                        tokio::time::sleep(pause).await;
                    }
                }
                Err(trouble) => {
                    let failure = trouble.failure();
                    // A renewal that fails does not end a session that is good for a while yet.
                    let usable = matches!(&*self.state.borrow(), State::Ready(warm) if warm.is_current());
                    if !usable || matches!(failure, Failure::NotVerified(_)) {
                        self.publish(State::Down(failure));
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(timing.longest_pause);
                }
            }
        }
    }

    /// While the session is good: wraps the next key, and warms the session up when a client is there again. Returns
    /// whether it is time for the next session; otherwise a request has found trouble.
    async fn rest(&self, held: &Arc<Held>, renewal: Instant, spare: &mut Option<SpareKey>) -> bool {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(renewal) => return true,
                () = self.trouble.notified() => return false,
                () = self.stirred.notified() => self.warm_up(held).await,
                wrapped = self.wrap_ahead(), if spare.is_none() => *spare = Some(wrapped),
            }
        }
    }

    /// The next session's key. A key service that fails is asked again after a while.
    async fn wrap_ahead(&self) -> SpareKey {
        loop {
            match self.link.wrap().await {
                Ok(key) => return key,
                Err(_) => tokio::time::sleep(self.terms.timing.longest_pause).await,
            }
        }
    }

    async fn warm_up(&self, held: &Arc<Held>) {
        let Ok(request) = self.terms.golden.request() else { return };
        let warming = gathered::request(&self.link, held, &request);
        let warmed = tokio::time::timeout(self.terms.timing.attempt, warming).await;
        let State::Ready(warm) = self.state() else { return };
        if let Ok(Err(error)) = warmed {
            self.report(&warm, &error);
        }
    }

    async fn attempt(
        &self,
        kept: &mut Option<Arc<Held>>,
        spare: &mut Option<SpareKey>,
    ) -> Result<Arc<Warm>, Trouble> {
        let limit = self.terms.timing.attempt;
        let attempt = tokio::time::timeout(limit, self.connect(kept, spare)).await;
        attempt.unwrap_or_else(|_| Err(ClientError::TimedOut { secs: limit.as_secs() }.into()))
    }

    /// A session that has answered a small request: the kept one if it still does, else a new one.
    async fn connect(
        &self,
        kept: &mut Option<Arc<Held>>,
        spare: &mut Option<SpareKey>,
    ) -> Result<Arc<Warm>, Trouble> {
        if let Some(held) = kept.take() {
            match self.try_out(&held).await {
                Ok(warm) => {
                    *kept = Some(held);
                    return Ok(warm);
                }
                Err(trouble) if trouble.outlives() => {
                    *kept = Some(held);
                    return Err(trouble);
                }
                Err(_) => {}
            }
        }
        let held = Arc::new(self.begin(spare).await?);
        let warm = self.try_out(&held).await;
        if warm.as_ref().map_or_else(Trouble::outlives, |_| true) {
            *kept = Some(held);
        }
        warm
    }

    /// A new session, after the server was verified if that is demanded.
    async fn begin(&self, spare: &mut Option<SpareKey>) -> Result<Held, Trouble> {
        let verdicts = &self.terms.verdicts;
        let proof = self.link.verify().await.inspect_err(|error| {
            if let ClientError::Untrusted(reason) = error {
                verdicts.note(&self.address, Noted::Untrusted(*reason));
            }
        })?;
        if let Some(proof) = &proof {
            let verdict = proof.verdict();
            let pinned = self.pins.note(&verdict.measurements());
            let noted = if pinned.is_ok() { Noted::Trusted(verdict) } else { Noted::Changed(verdict) };
            verdicts.note(&self.address, noted);
            pinned?;
        }
        let key = match spare.take() {
            Some(key) => key,
            None => self.link.wrap().await?,
        };
        Ok(self.link.hold(key, proof)?)
    }

    /// Sends the golden request, which tells what the server can do as well.
    async fn try_out(&self, held: &Arc<Held>) -> Result<Arc<Warm>, Trouble> {
        let golden = &self.terms.golden;
        let answer = gathered::request(&self.link, held, &golden.request()?).await?;
        golden.check(&answer)?;
        Ok(Arc::new(Warm::new(Arc::clone(held), Golden::features(&answer), answer.model)))
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
