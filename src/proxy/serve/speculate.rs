//! After an accepted completion, the next one is requested before the editor requests it.
//!
//! Only while no editor's request runs, and the next one ends it: it takes no request's place here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::protocol::openai::FinishReason;
use crate::proxy::gathered;
use crate::proxy::keystrokes::Fingerprint;
use crate::proxy::ledger::Ledger;
use crate::proxy::link::{Upstream, Warm};
use crate::proxy::server_api::Request;
use crate::secret::Secret;

/// The request that is made ahead, if enabled.
#[derive(Debug)]
pub(in crate::proxy) struct Speculation {
    enabled: bool,
    /// Requests of editors that run.
    requests: AtomicUsize,
    running: Mutex<Option<DropGuard>>,
}

/// A request of an editor. While there is one, no request is made ahead.
#[derive(Debug)]
pub(super) struct Running<'a>(&'a AtomicUsize);

/// The request to make ahead, and where its answer is kept.
pub(super) struct Next {
    pub(super) server: Arc<Upstream>,
    pub(super) warm: Arc<Warm>,
    pub(super) request: Request,
    pub(super) fingerprint: Fingerprint,
    pub(super) before: Secret<String>,
}

impl Speculation {
    pub(in crate::proxy) fn new(enabled: bool) -> Self {
        Self { enabled, requests: AtomicUsize::new(0), running: Mutex::default() }
    }

    /// Cancels the request ahead: an editor sends one.
    pub(super) fn interrupt(&self) -> Running<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        // Dropping the guard cancels.
        self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        Running(&self.requests)
    }

    /// Sends `next` in the background, if no other request of an editor runs.
    pub(super) fn start(&self, next: Next, ledger: &Arc<Ledger>, timeout: Duration) {
        if !self.enabled || self.requests.load(Ordering::Relaxed) > 1 {
            return;
        }
        let cancelled = CancellationToken::new();
        let child = cancelled.child_token();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancelled.drop_guard());
        let ledger = Arc::clone(ledger);
        tokio::spawn(async move {
            let asking = gathered::request(&next.server.link, &next.warm.held, &next.request);
            let answer = tokio::select! {
                () = child.cancelled() => return,
                answer = tokio::time::timeout(timeout, asking) => answer,
            };
            // A failure is left to the editor's own request.
            let Ok(Ok(answer)) = answer else { return };
            if let [choice] = answer.choices.as_slice() {
                let finish = choice.finish.unwrap_or(FinishReason::Stop);
                let (before, text) = (next.before.expose(), choice.text.expose());
                next.warm.predictions.keep(next.fingerprint, before, text, finish);
                ledger.speculated(answer.counts.unwrap_or_default());
            }
        });
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
