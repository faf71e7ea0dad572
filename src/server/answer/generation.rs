//! One answer: token ids to text, token by token.

use std::task::{Context, Poll, ready};

use zeroize::Zeroize;

use crate::engine::{Event, Finish, Generation, GenerationRequest, Handle, Logprobs, SubmitError, Token};
use crate::prompt::StopMatcher;
use crate::protocol::ErrorCode;
use crate::protocol::openai::FinishReason;
use crate::secret::Secret;
use crate::server::error::ApiError;
use crate::server::observation::{ChoiceTimes, Observation};
use crate::tokenizer::{Decoder, TokenId};

/// An answer that is being generated. Dropping it stops the model's work on it.
pub(crate) struct RunningChoice {
    generation: Generation,
    times: ChoiceTimes,
    /// None once the engine has ended it.
    decoder: Option<Decoder>,
    /// None once the answer has ended.
    matcher: Option<StopMatcher>,
    lead: Option<Secret<String>>,
    /// How many characters have been decoded, the lead included.
    decoded: usize,
    /// How many bytes have been given out, without the lead.
    shown: usize,
    /// Whether the deadline is an ordinary end.
    deadline_ends: bool,
    /// The tokens with their log probabilities, if requested.
    scored: Vec<ScoredToken>,
    /// Set when the last text has been given out.
    finish: Option<FinishReason>,
}

/// A token of an answer and its log probability.
pub(crate) struct ScoredToken {
    pub(crate) id: TokenId,
    pub(crate) logprobs: Box<Logprobs>,
    /// Where in the answer it begins, in characters.
    pub(crate) offset: usize,
    /// What it adds to the answer. A character of several tokens is added by the last of them.
    pub(crate) text: Secret<String>,
}

/// The next event of an answer.
#[derive(Debug)]
pub(crate) enum ChoiceEvent {
    /// The text of one token; empty while it may be the beginning of a stop text.
    Text(Secret<String>),
    /// The end.
    End(FinishReason),
}

impl RunningChoice {
    /// Submits `request` to the engine; the answer begins with `lead`. With `deadline_ends`, an answer that the deadline cuts
    /// is like one that has reached its length.
    ///
    /// # Errors
    /// The queue is full.
    pub(crate) fn start(
        engine: &Handle,
        request: GenerationRequest,
        lead: Option<Secret<String>>,
        decoder: Decoder,
        matcher: StopMatcher,
        deadline_ends: bool,
    ) -> Result<Self, SubmitError> {
        let times = ChoiceTimes::start();
        Ok(Self {
            generation: engine.submit(request)?,
            times,
            decoder: Some(decoder),
            matcher: Some(matcher),
            decoded: lead.as_ref().map_or(0, |lead| lead.expose().chars().count()),
            lead,
            shown: 0,
            deadline_ends,
            scored: Vec::new(),
            finish: None,
        })
    }

    /// The next event. Must not be called again after [`ChoiceEvent::End`].
    ///
    /// # Errors
    /// The model failed, or the deadline has passed.
    pub(crate) fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        observation: &mut Observation,
    ) -> Poll<Result<ChoiceEvent, ApiError>> {
        if let Some(lead) = self.lead.take() {
            return Poll::Ready(Ok(ChoiceEvent::Text(lead)));
        }
        if let Some(finish) = self.finish {
            return Poll::Ready(Ok(ChoiceEvent::End(finish)));
        }
        let mut event = ready!(self.generation.poll_next(context));
        if let Some(Ok(Event::Started { cached })) = event {
            observation.admitted(&self.times, cached);
            event = ready!(self.generation.poll_next(context));
        }
        Poll::Ready(match event {
            Some(Ok(Event::Token(token))) => {
                observation.token(&mut self.times);
                self.take(token)
            }
            Some(Ok(Event::Finished(Finish::Stop))) => Ok(self.end(FinishReason::Stop)),
            Some(Ok(Event::Finished(Finish::Length))) => Ok(self.end(FinishReason::Length)),
            Some(Ok(Event::Finished(Finish::Deadline))) if self.deadline_ends => {
                Ok(self.end(FinishReason::Length))
            }
            Some(Ok(Event::Finished(Finish::Deadline))) => Err(ErrorCode::DeadlineExceeded.into()),
            Some(Ok(Event::Started { .. }) | Err(_)) | None => Err(ErrorCode::Internal.into()),
        })
    }

    /// The tokens of the answer with their log probabilities, if requested. Their texts joined are the answer without its lead.
    pub(crate) fn into_scored(mut self) -> Vec<ScoredToken> {
        clip(&mut self.scored, self.shown);
        self.scored
    }

    fn take(&mut self, Token { id, logprobs }: Token) -> Result<ChoiceEvent, ApiError> {
        let offset = self.decoded;
        let decoder = self.decoder.as_mut().ok_or(ErrorCode::Internal)?;
        let text = decoder.push(id).map_err(|_| ErrorCode::Internal)?;
        if let Some(logprobs) = logprobs {
            let text = Secret::new(text.as_ref().map_or_else(String::new, |text| text.expose().clone()));
            self.scored.push(ScoredToken { id, logprobs, offset, text });
        }
        self.decoded += text.as_ref().map_or(0, |text| text.expose().chars().count());
        Ok(self.show(text))
    }

    fn show(&mut self, text: Option<Secret<String>>) -> ChoiceEvent {
        let (Some(matcher), Some(text)) = (&mut self.matcher, text) else {
            return ChoiceEvent::Text(Secret::new(String::new()));
        };
        let piece = matcher.push(text.expose());
        self.shown += piece.text.expose().len();
        if piece.stopped {
            self.matcher = None;
            self.finish = Some(FinishReason::Stop);
        }
        ChoiceEvent::Text(piece.text)
    }

    /// The start of a stop text that was held back comes before the end. The bytes of an unfinished character do not: they
    /// are no text.
    fn end(&mut self, finish: FinishReason) -> ChoiceEvent {
        self.decoder = None;
        self.finish.get_or_insert(finish);
        let rest = self.matcher.take().map_or_else(|| Secret::new(String::new()), StopMatcher::finish);
        self.shown += rest.expose().len();
        ChoiceEvent::Text(rest)
    }
}

/// Cuts the texts of `scored` to the `shown` bytes that the answer has of them: a stop text is no part of it. Tokens at the
/// end that add nothing go, such as the bytes of an unfinished character.
fn clip(scored: &mut Vec<ScoredToken>, shown: usize) {
    let mut left = shown;
    for token in scored.iter_mut() {
        let text = token.text.expose_mut();
        if text.len() > left {
            text.get_mut(left..).unwrap_or_default().zeroize();
            text.truncate(left);
        }
        left -= text.len();
    }
    let kept = scored.iter().rposition(|token| !token.text.expose().is_empty()).map_or(0, |last| last + 1);
    scored.truncate(kept);
}

/// At once in its final capacity: growing would leave unwiped copies behind.
pub(crate) fn concat(pieces: &[Secret<String>]) -> Secret<String> {
    let mut text = String::with_capacity(pieces.iter().map(|piece| piece.expose().len()).sum());
    for piece in pieces {
        text.push_str(piece.expose());
    }
    Secret::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clipped(texts: &[&str], shown: usize) -> Vec<String> {
        let token = |text: &&str| ScoredToken {
            id: TokenId(0),
            logprobs: Box::new(Logprobs { chosen: 0.0, top: Vec::new() }),
            offset: 0,
            text: (*text).to_owned().into(),
        };
        let mut scored = texts.iter().map(token).collect();
        clip(&mut scored, shown);
        scored.iter().map(|token| token.text.expose().clone()).collect()
    }

    #[test]
    fn scored_tokens_joined_are_what_was_shown() {
        assert_eq!(clipped(&["a", "", "", "€", "b"], 5), ["a", "", "", "€", "b"]);
        assert_eq!(clipped(&["a", "", "", "€", "b"], 4), ["a", "", "", "€"]);
        // The stop begins with the character of several tokens, or within a token.
        assert_eq!(clipped(&["a", "", "", "€", "b"], 1), ["a"]);
        assert_eq!(clipped(&["a", "bcd", "e"], 2), ["a", "b"]);
        assert_eq!(clipped(&["a", "", ""], 1), ["a"]);
        assert_eq!(clipped(&["", "", "€"], 0), Vec::<String>::new());
    }
}
