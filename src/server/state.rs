//! What every request shares: limits, counters, and the parts that are there once the model is loaded.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::config::RequestLimits;
use crate::attestation::{LauncherSocket, OnTokenExpiry};
use crate::engine::Handle;
use crate::keys::{Keys, Status};
use crate::protocol::{ErrorCode, REPLAY_WINDOW_SECS, ServerId};
use crate::server::admit::replay::ReplayGuard;
use crate::server::admit::unauthenticated::Unauthenticated;
use crate::server::answer::shaping::{Shaper, Shaping};
use crate::server::life::attestor::Attestor;
use crate::server::life::lifecycle::Lifecycle;
use crate::telemetry::{EngineReadings, Metrics};
use crate::tokenizer::Tokenizer;

/// The server's state.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) limits: RequestLimits,
    pub(crate) metrics: Metrics,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) replay: Arc<ReplayGuard>,
    pub(crate) attestor: Attestor,
    /// Traffic shaping of answers; none if that is off.
    pub(crate) shaper: Option<Arc<Shaper>>,
    pub(crate) unauthenticated: Unauthenticated,
    /// As many permits as the engine takes requests, running and waiting.
    slots: Arc<Semaphore>,
    /// Admitted requests whose answer is not finished.
    unanswered: TaskTracker,
    loaded: OnceLock<Loaded>,
    on_token_expiry: OnTokenExpiry,
}

/// What answers requests.
pub(crate) struct Loaded {
    pub(crate) keys: Keys,
    pub(crate) engine: Handle,
    pub(crate) tokenizer: Arc<Tokenizer>,
}

/// The right to use the model, from admission on. A drain waits until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    #[expect(dead_code, reason = "dropping it ends the request for the drain")]
    unanswered: TaskTrackerToken,
}

impl Slot {
    /// Lets another request use the model while the rest of a finished answer waits for its departure. The drain still waits for it.
    pub(crate) fn release(&mut self) {
        self.permit = None;
    }
}

impl App {
    /// A server that is starting, for `capacity` requests at the same time; `launcher` makes tokens for clients.
    ///
    /// # Errors
    /// The OS random number generator failed, or the process has no file descriptor left.
    pub(crate) fn new(
        limits: RequestLimits,
        capacity: usize,
        on_token_expiry: OnTokenExpiry,
        shaping: Shaping,
        launcher: Option<LauncherSocket>,
    ) -> io::Result<Arc<Self>> {
        let attestor = Attestor::new(launcher, limits.max_attestations_per_minute, ServerId::generate()?);
        Ok(Arc::new(Self {
            attestor,
            metrics: Metrics::new(),
            lifecycle: Lifecycle::default(),
            replay: ReplayGuard::new(REPLAY_WINDOW_SECS, limits.max_replay_entries),
            slots: Arc::new(Semaphore::new(capacity)),
            unanswered: TaskTracker::new(),
            loaded: OnceLock::new(),
            on_token_expiry,
            shaper: Shaper::new(shaping)?,
            unauthenticated: Unauthenticated::default(),
            limits,
        }))
    }

    /// Everything is loaded: requests are taken from here on.
    pub(crate) fn set_loaded(&self, loaded: Loaded) {
        if self.loaded.set(loaded).is_ok() && self.lifecycle.set_ready() {
            self.metrics.ready(true);
        }
    }

    /// No request is taken from here on.
    pub(crate) fn set_draining(&self) {
        self.lifecycle.set_draining();
        self.metrics.ready(false);
    }

    /// What answers requests.
    ///
    /// # Errors
    /// [`ErrorCode::Starting`] and [`ErrorCode::Draining`].
    pub(crate) fn loaded(&self) -> Result<&Loaded, ErrorCode> {
        self.lifecycle.check()?;
        self.loaded.get().ok_or(ErrorCode::Starting)
    }

    /// A slot for a request, at once or not at all.
    ///
    /// # Errors
    /// [`ErrorCode::ServerBusy`] if all are taken, [`ErrorCode::Draining`] if none is given any more.
    pub(crate) fn admit(&self) -> Result<Slot, ErrorCode> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| ErrorCode::ServerBusy)?;
        let slot = Slot { permit: Some(permit), unanswered: self.unanswered.token() };
        // Checked again while the slot is held: a drain that began before now waits for it.
        self.lifecycle.check().map(|()| slot)
    }

    /// Requests that are not answered yet.
    pub(crate) fn running(&self) -> usize {
        self.unanswered.len()
    }

    /// Waits until all admitted requests are answered. After [`App::set_draining`] none is admitted.
    pub(crate) async fn idle(&self) {
        self.unanswered.close();
        self.unanswered.wait().await;
    }

    /// Readiness: whether a load balancer should send requests.
    ///
    /// # Errors
    /// The reason why not: starting, draining, no attestation token, no key service. No request has a say in it: all of
    /// these are found by the server's own probes (`server::life::watch`).
    pub(crate) fn readiness(&self) -> Result<(), ErrorCode> {
        let loaded = self.loaded()?;
        if loaded.engine.is_stopped() {
            // The process is about to end.
            return Err(ErrorCode::Draining);
        }
        if self.on_token_expiry != OnTokenExpiry::Ignore && self.lifecycle.attestation_lost() {
            return Err(ErrorCode::AttestationExpired);
        }
        match loaded.keys.status() {
            Status::Untried => Err(ErrorCode::Starting),
            Status::Ok => Ok(()),
            Status::Failing(error) => match error.code() {
                // Whether that matters was said above.
                ErrorCode::AttestationExpired => Ok(()),
                code => Err(code),
            },
        }
    }

    /// Probes the key service, which sets its status.
    pub(crate) async fn probe_keys(&self) {
        let Some(loaded) = self.loaded.get() else { return };
        if let Err(error) = loaded.keys.probe().await {
            self.metrics.key_failed(error.as_str());
        }
    }

    /// The engine, once it is loaded.
    pub(crate) fn engine(&self) -> Option<&Handle> {
        self.loaded.get().map(|loaded| &loaded.engine)
    }

    /// The metrics in the text format.
    ///
    /// # Errors
    /// None in practice.
    pub(crate) fn render_metrics(&self) -> Result<String, std::fmt::Error> {
        let load = self.loaded.get().map(|loaded| loaded.engine.load()).unwrap_or_default();
        let engine = EngineReadings {
            running: load.running as u64,
            waiting: load.waiting as u64,
            kv_blocks_used: load.kv_blocks_used,
            kv_blocks: load.kv_blocks,
            steps: load.steps,
            prefix_queries: load.prefix_queries,
            prefix_hits: load.prefix_hits,
            draft_tokens: load.draft_tokens,
            accepted_tokens: load.accepted_tokens,
        };
        self.metrics.render(engine, self.replay.len(unix_time()))
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loaded")
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
