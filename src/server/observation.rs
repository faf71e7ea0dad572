//! Follows one request from its arrival to the end of its answer, and reports it once: in the metrics, and in the log if
//! it was authenticated.
//!
//! A guard: a request whose client goes away is dropped wherever it stands, and is reported as cancelled.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::state::App;
use crate::protocol::ErrorCode;
use crate::protocol::openai::Usage;
use crate::telemetry::{self, Endpoint, Event, InFlight, RequestOutcome};

/// One request under way.
#[derive(Debug)]
pub(crate) struct Observation {
    app: Arc<App>,
    endpoint: Endpoint,
    started: Instant,
    usage: Usage,
    /// How many of the prompt's tokens were in the prefix cache when the first answer was admitted. The others find the whole
    /// prompt there.
    cached: Option<usize>,
    outcome: RequestOutcome,
    authenticated: bool,
    _in_flight: InFlight,
}

/// When one answer of a request was submitted to the engine, and when its last token came.
#[derive(Debug)]
pub(crate) struct ChoiceTimes {
    submitted: Instant,
    last_token: Option<Instant>,
}

impl ChoiceTimes {
    /// To be called just before the answer is submitted.
    pub(crate) fn start() -> Self {
        Self { submitted: Instant::now(), last_token: None }
    }
}

impl Observation {
    /// A request has arrived.
    pub(crate) fn start(app: &Arc<App>, endpoint: Endpoint) -> Self {
        Self {
            app: Arc::clone(app),
            endpoint,
            started: Instant::now(),
            usage: Usage::new(0, 0),
            cached: None,
            outcome: RequestOutcome::Cancelled,
            authenticated: false,
            _in_flight: app.metrics.in_flight(),
        }
    }

    /// The request's envelope was opened, for the first time: its end is logged.
    pub(crate) fn authenticated(&mut self) {
        self.authenticated = true;
    }

    /// When this request must be done.
    pub(crate) fn deadline(&self) -> Instant {
        self.started + self.app.limits.request_timeout
    }

    /// Records the prompt's length, in tokens.
    pub(crate) fn prompt(&mut self, tokens: usize) {
        self.usage = Usage::new(tokens, self.usage.completion_tokens);
    }

    /// When an answer ends as it is that may take `limit`.
    pub(crate) fn after(&self, limit: Duration) -> Instant {
        self.started + limit
    }

    /// The model works on one of the answers, and found `cached` tokens of the prompt.
    pub(crate) fn admitted(&mut self, times: &ChoiceTimes, cached: usize) {
        self.cached.get_or_insert(cached);
        self.app.metrics.queued(times.submitted.elapsed());
    }

    /// One more token of one of the answers was generated.
    pub(crate) fn token(&mut self, times: &mut ChoiceTimes) {
        let now = Instant::now();
        match (times.last_token.replace(now), self.usage.completion_tokens) {
            (Some(last), _) => self.app.metrics.next_token(now - last),
            (None, 0) => self.app.metrics.first_token(now - self.started),
            // The first token of a further answer: the client has had one already.
            (None, _) => {}
        }
        self.usage = Usage::new(self.usage.prompt_tokens, self.usage.completion_tokens + 1);
    }

    /// The counts so far.
    pub(crate) fn usage(&self) -> Usage {
        self.usage.with_cached(self.cached.unwrap_or(0))
    }

    /// Whether the server is about to stop: it waits for this request.
    pub(crate) fn is_draining(&self) -> bool {
        self.app.lifecycle.check() == Err(ErrorCode::Draining)
    }

    /// The whole answer is on its way.
    pub(crate) fn succeeded(&mut self) {
        self.outcome = RequestOutcome::Ok;
    }

    /// The answer is an error.
    pub(crate) fn failed(&mut self, code: ErrorCode) {
        self.outcome = RequestOutcome::Failed(code);
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        self.app.metrics.request_finished(self.endpoint, self.outcome, elapsed);
        self.app.metrics.tokens(self.usage.prompt_tokens, self.usage.completion_tokens);
        if !self.authenticated {
            self.app.unauthenticated.ended();
            return;
        }
        telemetry::emit(Event::RequestFinished {
            endpoint: self.endpoint,
            outcome: self.outcome,
            milliseconds: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        });
    }
}
