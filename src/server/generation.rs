//! From token ids to text as it is made: what every endpoint shares.
//!
//! Must not touch: HTTP, the seal.

use super::error::ApiError;
use super::observation::Observation;
use super::parameters::Parameters;
use super::state::Loaded;
use crate::engine::{Event, Finish, Generation, GenerationRequest, SubmitError, Token};
use crate::prompt::{self, StopMatcher};
use crate::protocol::openai::FinishReason;
use crate::protocol::{ErrorCode, Namespace};
use crate::secret::Secret;
use crate::tokenizer::{Decoder, TokenId};

/// What is to be generated.
#[derive(Debug)]
pub(super) struct Job {
    /// Control tokens included.
    pub(super) prompt: Vec<TokenId>,
    /// Text that the answer begins with, before anything is generated.
    pub(super) lead: Option<Secret<String>>,
    pub(super) parameters: Parameters,
}

/// An answer that is being generated. Dropping it stops the model's work on it.
pub(super) struct Answer {
    generation: Generation,
    /// Gone once the model has ended.
    decoder: Option<Decoder>,
    /// Gone once the answer has ended.
    matcher: Option<StopMatcher>,
    lead: Option<Secret<String>>,
    /// Set when the last text has been given out.
    finish: Option<FinishReason>,
}

/// What an answer goes on with.
#[derive(Debug)]
pub(super) enum Step {
    /// One token's worth of text; empty while it may yet turn out to belong to a stop text.
    Text(Secret<String>),
    /// The end.
    End(FinishReason),
}

impl Answer {
    /// Hands `job` to the model.
    ///
    /// # Errors
    /// The prompt is too long, or the model has as much work as it takes.
    pub(super) fn start(
        loaded: &Loaded,
        job: Job,
        namespace: Namespace,
        observation: &mut Observation,
    ) -> Result<Self, ApiError> {
        let Parameters { max_new_tokens, sampling, stops } = job.parameters;
        prompt::fit(job.prompt.len(), max_new_tokens, loaded.engine.context_length())?;
        observation.prompt(job.prompt.len());
        let generation = loaded.engine.submit(GenerationRequest {
            prompt: job.prompt,
            max_new_tokens,
            stop_ids: prompt::stop_ids(),
            sampling,
            logprobs: None,
            namespace,
            deadline: observation.deadline().into_std(),
        })?;
        Ok(Self {
            generation,
            decoder: Some(loaded.tokenizer.decoder()),
            matcher: Some(stops.into_matcher()),
            lead: job.lead,
            finish: None,
        })
    }

    /// The next step. Nothing follows [`Step::End`].
    ///
    /// # Errors
    /// The model failed, or the deadline has passed.
    pub(super) async fn next(&mut self, observation: &mut Observation) -> Result<Step, ApiError> {
        if let Some(lead) = self.lead.take() {
            return Ok(Step::Text(lead));
        }
        if let Some(finish) = self.finish {
            return Ok(Step::End(finish));
        }
        let mut event = self.generation.next().await;
        if let Some(Ok(Event::Started)) = event {
            observation.admitted();
            event = self.generation.next().await;
        }
        match event {
            Some(Ok(Event::Token(Token { id, .. }))) => {
                observation.token();
                let decoder = self.decoder.as_mut().ok_or(ErrorCode::Internal)?;
                let text = decoder.push(id).map_err(|_| ErrorCode::Internal)?;
                Ok(self.show(text))
            }
            Some(Ok(Event::Finished(Finish::Stop))) => Ok(self.end(FinishReason::Stop)),
            Some(Ok(Event::Finished(Finish::Length))) => Ok(self.end(FinishReason::Length)),
            Some(Ok(Event::Finished(Finish::Deadline))) => Err(ErrorCode::DeadlineExceeded.into()),
            Some(Ok(Event::Started) | Err(_)) | None => Err(ErrorCode::Internal.into()),
        }
    }

    /// The whole text.
    ///
    /// # Errors
    /// As [`Answer::next`].
    pub(super) async fn collect(
        mut self,
        observation: &mut Observation,
    ) -> Result<(Secret<String>, FinishReason), ApiError> {
        let mut pieces = Vec::new();
        loop {
            match self.next(observation).await? {
                Step::Text(piece) => pieces.push(piece),
                Step::End(finish) => return Ok((concat(&pieces), finish)),
            }
        }
    }

    fn show(&mut self, text: Option<Secret<String>>) -> Step {
        let (Some(matcher), Some(text)) = (&mut self.matcher, text) else {
            return Step::Text(Secret::new(String::new()));
        };
        let piece = matcher.push(text.expose());
        if piece.stopped {
            self.matcher = None;
            self.finish = Some(FinishReason::Stop);
        }
        Step::Text(piece.text)
    }

    /// What was held back comes before the end: bytes of an unfinished character, and the start of a stop text.
    fn end(&mut self, finish: FinishReason) -> Step {
        let rest = self.decoder.take().and_then(Decoder::finish);
        let shown = self.show(rest);
        self.finish.get_or_insert(finish);
        match (shown, self.matcher.take()) {
            (Step::Text(text), Some(matcher)) => Step::Text(concat(&[text, matcher.finish()])),
            (shown, _) => shown,
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Full => ErrorCode::ServerBusy.into(),
            SubmitError::Empty => ErrorCode::Internal.into(),
            SubmitError::TooLong { .. } => ErrorCode::ContextLengthExceeded.into(),
            SubmitError::Stopped => ErrorCode::Draining.into(),
        }
    }
}

/// At once in its final capacity: growing would leave unwiped copies behind.
fn concat(pieces: &[Secret<String>]) -> Secret<String> {
    let mut text = String::with_capacity(pieces.iter().map(|piece| piece.expose().len()).sum());
    for piece in pieces {
        text.push_str(piece.expose());
    }
    Secret::new(text)
}
