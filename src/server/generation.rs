//! One answer, from token ids to text as it is made.
//!
//! Must not touch: HTTP, the seal.

use std::task::{Context, Poll, ready};

use super::error::ApiError;
use super::observation::{Observation, Pace};
use crate::engine::{Event, Finish, Generation, GenerationRequest, Handle, Logprobs, SubmitError, Token};
use crate::prompt::StopMatcher;
use crate::protocol::ErrorCode;
use crate::protocol::openai::FinishReason;
use crate::secret::Secret;
use crate::tokenizer::{Decoder, TokenId};

/// An answer that is being generated. Dropping it stops the model's work on it.
pub(super) struct Answer {
    generation: Generation,
    pace: Pace,
    /// Gone once the model has ended.
    decoder: Option<Decoder>,
    /// Gone once the answer has ended.
    matcher: Option<StopMatcher>,
    lead: Option<Secret<String>>,
    /// How many characters have been decoded, the lead included.
    decoded: usize,
    /// How likely the tokens were, if that was asked for.
    scored: Vec<ScoredToken>,
    /// Set when the last text has been given out.
    finish: Option<FinishReason>,
}

/// A token of an answer, how likely it was, and where in the answer it begins, in characters.
pub(super) struct ScoredToken {
    pub(super) id: TokenId,
    pub(super) logprobs: Box<Logprobs>,
    pub(super) offset: usize,
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
    /// Hands `request` to the model; the answer begins with `lead`.
    ///
    /// # Errors
    /// The model has as much work as it takes.
    pub(super) fn start(
        engine: &Handle,
        request: GenerationRequest,
        lead: Option<Secret<String>>,
        decoder: Decoder,
        matcher: StopMatcher,
    ) -> Result<Self, SubmitError> {
        let pace = Pace::start();
        Ok(Self {
            generation: engine.submit(request)?,
            pace,
            decoder: Some(decoder),
            matcher: Some(matcher),
            decoded: lead.as_ref().map_or(0, |lead| lead.expose().chars().count()),
            lead,
            scored: Vec::new(),
            finish: None,
        })
    }

    /// The next step. Must not be asked again after [`Step::End`].
    ///
    /// # Errors
    /// The model failed, or the deadline has passed.
    pub(super) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        observation: &mut Observation,
    ) -> Poll<Result<Step, ApiError>> {
        if let Some(lead) = self.lead.take() {
            return Poll::Ready(Ok(Step::Text(lead)));
        }
        if let Some(finish) = self.finish {
            return Poll::Ready(Ok(Step::End(finish)));
        }
        let mut event = ready!(self.generation.poll_next(context));
        if let Some(Ok(Event::Started)) = event {
            observation.admitted(&self.pace);
            event = ready!(self.generation.poll_next(context));
        }
        Poll::Ready(match event {
            Some(Ok(Event::Token(token))) => {
                observation.token(&mut self.pace);
                self.take(token)
            }
            Some(Ok(Event::Finished(Finish::Stop))) => Ok(self.end(FinishReason::Stop)),
            Some(Ok(Event::Finished(Finish::Length))) => Ok(self.end(FinishReason::Length)),
            Some(Ok(Event::Finished(Finish::Deadline))) => Err(ErrorCode::DeadlineExceeded.into()),
            Some(Ok(Event::Started) | Err(_)) | None => Err(ErrorCode::Internal.into()),
        })
    }

    /// How likely the tokens so far were, if that was asked for.
    pub(super) fn into_scored(self) -> Vec<ScoredToken> {
        self.scored
    }

    fn take(&mut self, Token { id, logprobs }: Token) -> Result<Step, ApiError> {
        let offset = self.decoded;
        self.scored.extend(logprobs.map(|logprobs| ScoredToken { id, logprobs, offset }));
        let decoder = self.decoder.as_mut().ok_or(ErrorCode::Internal)?;
        let text = decoder.push(id).map_err(|_| ErrorCode::Internal)?;
        self.decoded += text.as_ref().map_or(0, |text| text.expose().chars().count());
        Ok(self.show(text))
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

/// At once in its final capacity: growing would leave unwiped copies behind.
pub(super) fn concat(pieces: &[Secret<String>]) -> Secret<String> {
    let mut text = String::with_capacity(pieces.iter().map(|piece| piece.expose().len()).sum());
    for piece in pieces {
        text.push_str(piece.expose());
    }
    Secret::new(text)
}
