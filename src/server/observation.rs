//! Follows one request from its arrival to the end of its answer, and reports it once.
//!
//! A guard: a request whose client goes away is dropped wherever it stands, and is reported as cancelled.
//! Must not touch: what the request says.

use std::sync::Arc;

use tokio::time::Instant;

use super::state::App;
use crate::protocol::ErrorCode;
use crate::protocol::openai::Usage;
use crate::telemetry::{self, Endpoint, Event, InFlight, Outcome};

/// One request under way.
#[derive(Debug)]
pub(super) struct Observation {
    app: Arc<App>,
    endpoint: Endpoint,
    started: Instant,
    submitted: Option<Instant>,
    last_token: Option<Instant>,
    usage: Usage,
    outcome: Outcome,
    _in_flight: InFlight,
}

impl Observation {
    /// A request has arrived.
    pub(super) fn start(app: &Arc<App>, endpoint: Endpoint) -> Self {
        Self {
            app: Arc::clone(app),
            endpoint,
            started: Instant::now(),
            submitted: None,
            last_token: None,
            usage: Usage::new(0, 0),
            outcome: Outcome::Cancelled,
            _in_flight: app.metrics.in_flight(),
        }
    }

    /// When this request must be done.
    pub(super) fn deadline(&self) -> Instant {
        self.started + self.app.limits.request_timeout
    }

    /// The prompt has so many tokens, and the model is about to be given it.
    pub(super) fn prompt(&mut self, tokens: usize) {
        self.submitted = Some(Instant::now());
        self.usage = Usage::new(tokens, self.usage.completion_tokens);
    }

    /// The model works on the request.
    pub(super) fn admitted(&mut self) {
        let now = Instant::now();
        self.app.metrics.queued(now - self.submitted.unwrap_or(now));
    }

    /// One more token was generated.
    pub(super) fn token(&mut self) {
        let now = Instant::now();
        match self.last_token.replace(now) {
            None => self.app.metrics.first_token(now - self.started),
            Some(last) => self.app.metrics.next_token(now - last),
        }
        self.usage = Usage::new(self.usage.prompt_tokens, self.usage.completion_tokens + 1);
    }

    /// The counts so far.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// The whole answer is on its way.
    pub(super) fn succeeded(&mut self) {
        self.outcome = Outcome::Ok;
    }

    /// The answer is an error.
    pub(super) fn failed(&mut self, code: ErrorCode) {
        self.outcome = Outcome::Failed(code);
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        self.app.metrics.request_finished(self.endpoint, self.outcome, elapsed);
        self.app.metrics.tokens(self.usage.prompt_tokens, self.usage.completion_tokens);
        telemetry::emit(Event::RequestFinished {
            endpoint: self.endpoint,
            outcome: self.outcome,
            milliseconds: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        });
    }
}
