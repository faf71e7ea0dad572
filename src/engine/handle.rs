//! The async face of the engine: hand in a request, receive its tokens, drop it to cancel.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;

use super::phases::Phases;
use super::queue::{Queue, QueuedRequest};
use super::stats::{Load, Stats};
use super::{EngineError, Event, GenerationRequest, Platform, SubmitError};
use crate::model::Assumption;

/// Hands requests to the model thread.
#[derive(Clone)]
pub struct Handle {
    queue: Arc<Queue>,
    stats: Arc<Stats>,
    context_length: usize,
    model_name: Arc<str>,
    platform: Arc<Platform>,
    assumption: Option<Assumption>,
    phases: Phases,
}

/// The events of a submitted request. Dropping it cancels the request within one step.
#[derive(Debug)]
pub struct Generation {
    events: mpsc::Receiver<Result<Event, EngineError>>,
    finished: bool,
}

impl Handle {
    pub(super) fn new(
        queue: Arc<Queue>,
        stats: Arc<Stats>,
        context_length: usize,
        model_name: &str,
        platform: Platform,
        assumption: Option<Assumption>,
        phases: Phases,
    ) -> Self {
        let (model_name, platform) = (model_name.into(), Arc::new(platform));
        Self { queue, stats, context_length, model_name, platform, assumption, phases }
    }

    /// Hands in `request`. Never waits.
    ///
    /// # Errors
    /// The request is too long, or the engine is full or has stopped.
    pub fn submit(&self, request: GenerationRequest) -> Result<Generation, SubmitError> {
        let limit = self.context_length;
        if request.prompt.is_empty() {
            return Err(SubmitError::Empty);
        }
        if request.prompt.len().saturating_add(request.max_new_tokens) > limit {
            return Err(SubmitError::TooLong { limit });
        }
        // Room for the start, every token and the end, so that the model thread never waits for a slow reader.
        let (sender, events) = mpsc::channel(request.max_new_tokens + 2);
        self.queue.push(QueuedRequest { request, events: sender })?;
        Ok(Generation { events, finished: false })
    }

    /// The longest prompt and answer together, in tokens: the model's context, or what there are blocks for.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The model's name, for answers and metrics.
    pub fn model_name(&self) -> &str {
        &self.model_name
    }

    /// What computes the model's steps.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// A member of the model's configuration that is in no file, so that Gemma's default is used.
    pub fn assumption(&self) -> Option<Assumption> {
        self.assumption
    }

    /// How long the parts of the start took.
    pub fn phases(&self) -> Phases {
        self.phases
    }

    pub(super) fn set_phases(&mut self, phases: Phases) {
        self.phases = phases;
    }

    /// The current load, and counters since the start.
    pub fn load(&self) -> Load {
        let (running, waiting) = self.queue.load();
        self.stats.load(running, waiting)
    }

    /// Whether the engine was shut down or its thread has died: no request will be taken any more.
    pub fn is_stopped(&self) -> bool {
        self.queue.is_stopped()
    }

    /// The device's error, if that is why the engine has stopped.
    pub fn failure(&self) -> Option<String> {
        self.queue.failure()
    }

    /// Waits until the engine has stopped. Cancellation-safe.
    pub async fn stopped(&self) {
        self.queue.stopped().await;
    }
}

impl Generation {
    /// The start, the tokens, the end, then nothing. Cancellation-safe.
    pub async fn next(&mut self) -> Option<Result<Event, EngineError>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`Generation::next`] for callers that wait for several at once.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event, EngineError>>> {
        if self.finished {
            return Poll::Ready(None);
        }
        // A thread that dies drops its senders: that must not look like an ordinary end.
        let event = ready!(self.events.poll_recv(context)).unwrap_or(Err(EngineError::Failed));
        self.finished = !matches!(event, Ok(Event::Started { .. } | Event::Token(_)));
        Poll::Ready(Some(event))
    }
}
