//! The texts of an answer that is being made: events of the server in, pieces in the client's shape out.
//!
//! Pure.

use std::time::Duration;

use bytes::Bytes;

use crate::client::{ClientError, LineEnds, NotAuthentic, Restorer};
use crate::protocol::openai::FinishReason;
use crate::proxy::answer::Pieces;
use crate::proxy::dialect::StopMatcher;
use crate::proxy::keystrokes::Trimmer;
use crate::proxy::server_api::{Answer, Counts, Request};
use crate::secret::Secret;

/// All texts of an answer.
pub(super) struct Texts {
    pub(super) pieces: Pieces,
    choices: Vec<ChoiceState>,
    /// Tokens, once they are known.
    pub(super) counts: Option<Counts>,
}

/// One of them.
pub(super) struct ChoiceState {
    matcher: StopMatcher,
    trimmer: Option<Trimmer>,
    restorer: Restorer,
    /// The text so far, with the line ends that the model sees.
    text: Secret<String>,
    finish: Option<FinishReason>,
}

impl ChoiceState {
    /// An answer to `request`, for a file whose lines end so.
    pub(super) fn new(request: &Request, trimmer: Option<Trimmer>, ends: LineEnds) -> Self {
        let (matcher, restorer) = (request.stop_matcher(), Restorer::new(ends));
        Self { matcher, trimmer, restorer, text: Secret::default(), finish: None }
    }
}

impl Texts {
    /// Nothing has come yet.
    pub(super) fn new(pieces: Pieces, choices: Vec<ChoiceState>) -> Self {
        Self { pieces, choices, counts: None }
    }

    /// Takes the events of one frame: what the client is to get for them.
    ///
    /// # Errors
    /// [`NotAuthentic::Malformed`] for an event that is none of this protocol.
    pub(super) fn absorb(&mut self, events: &[Secret<String>]) -> Result<Vec<Bytes>, ClientError> {
        let mut bytes = Vec::new();
        for event in events {
            let answer = Answer::parse(event.expose())?;
            self.counts = answer.counts.or(self.counts);
            for choice in answer.choices {
                let Some(state) = self.choices.get_mut(choice.index) else {
                    return Err(NotAuthentic::Malformed.into());
                };
                if state.finish.is_some() {
                    continue;
                }
                let mut text = state.matcher.push(choice.text.expose());
                if state.matcher.stopped() {
                    state.finish = Some(FinishReason::Stop);
                } else if choice.finish.is_some() {
                    text.append(state.matcher.finish().expose());
                    state.finish = choice.finish;
                }
                if let Some(trimmer) = &mut state.trimmer {
                    text = trimmer.push(text.expose());
                    if state.finish.is_some() {
                        text.append(trimmer.finish().expose());
                    }
                }
                if !text.expose().is_empty() {
                    state.text.append(text.expose());
                    let text = state.restorer.restore(text.expose());
                    bytes.push(self.pieces.text(choice.index, text.expose()));
                }
                if let Some(finish) = state.finish {
                    bytes.extend(self.pieces.end(choice.index, finish));
                }
            }
        }
        Ok(bytes)
    }

    /// Whether each text has its end.
    pub(super) fn have_ended(&self) -> bool {
        self.choices.iter().all(|choice| choice.finish.is_some())
    }

    /// The end of the client's stream, also of texts that have none yet.
    pub(super) fn close(&mut self, took: Duration) -> Bytes {
        let mut bytes = Vec::new();
        let mut last = FinishReason::Stop;
        for (index, choice) in self.choices.iter_mut().enumerate() {
            if choice.finish.is_none() {
                choice.finish = Some(FinishReason::Stop);
                bytes.extend(self.pieces.end(index, FinishReason::Stop).into_iter().flatten());
            }
            last = choice.finish.unwrap_or(last);
        }
        bytes.extend(self.pieces.close(last, self.counts.unwrap_or_default(), took));
        Bytes::from(bytes)
    }

    /// The one text, if there is one only and it has an end.
    pub(super) fn only(&self) -> Option<(&str, FinishReason)> {
        match self.choices.as_slice() {
            [choice] => choice.finish.map(|finish| (choice.text.expose().as_str(), finish)),
            _ => None,
        }
    }
}
