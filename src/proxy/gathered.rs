//! A whole answer out of a sealed stream.
//!
//! A server that shapes its traffic keeps a whole answer until a stream of as many tokens would have ended, because the time
//! of an answer shows its length. The text of a stream is there as soon as it is generated, and the rest of its frames is
//! read in the background.

use std::time::Duration;

use serde::Serialize;

use super::server_api::{Answer, Request};
use crate::client::{ClientError, Events, Held, Link, NotAuthentic, StreamReply};
use crate::protocol::openai::FinishReason;
use crate::secret::Secret;

/// How long the frames after the text may take: more than the 128 that a stream is rounded to.
pub(super) const REST_TIMEOUT: Duration = Duration::from_secs(30);

/// The body of a whole answer, in JSON.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    text: &'a str,
    finish_reason: FinishReason,
}

#[derive(Clone, Copy, Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Details,
}

#[derive(Clone, Copy, Serialize)]
struct Details {
    cached_tokens: u64,
}

/// What a stream has said so far.
#[derive(Default)]
struct Gathered {
    id: String,
    model: String,
    created: u64,
    texts: Vec<(Secret<String>, Option<FinishReason>)>,
    usage: Option<Usage>,
}

/// Sends `request`, which asks for a stream of one answer, and returns the answer as soon as its text has ended.
///
/// # Errors
/// [`ClientError`] if there is none.
pub(super) async fn request(link: &Link, held: &Held, request: &Request) -> Result<Answer, ClientError> {
    let opened = link.stream(held, request.path, &request.body).await?;
    Answer::whole(body(opened, 1).await?.expose(), request)
}

/// The body of the whole answer that `opened` is or becomes, of `choices` answers.
///
/// # Errors
/// The stream breaks off, or is none of this protocol.
pub(super) async fn body(opened: StreamReply, choices: usize) -> Result<Secret<String>, ClientError> {
    let mut events = match opened {
        StreamReply::Whole(body) => return Ok(body),
        StreamReply::Stream(events) => events,
    };
    let mut gathered = Gathered::expecting(choices);
    while !gathered.is_whole() {
        match events.next().await? {
            Some(said) => gathered.absorb(&said)?,
            // A server of the first version tells no counts.
            None if gathered.has_ended() => break,
            None => return Err(NotAuthentic::Malformed.into()),
        }
    }
    tokio::spawn(tokio::time::timeout(REST_TIMEOUT, read_rest(events)));
    gathered.write()
}

/// The body of the whole answer in `frames`, of `choices` answers.
///
/// # Errors
/// Some answer has no end, or an event is none of this protocol.
pub(super) fn of_frames(
    frames: &[Vec<Secret<String>>],
    choices: usize,
) -> Result<Secret<String>, ClientError> {
    let mut gathered = Gathered::expecting(choices);
    for events in frames {
        gathered.absorb(events)?;
    }
    gathered.write()
}

/// To the last frame: a connection that is closed before would show when the text ended.
async fn read_rest(mut events: Box<Events>) {
    while let Ok(Some(_)) = events.next().await {}
}

impl Gathered {
    fn expecting(choices: usize) -> Self {
        let texts = (0..choices).map(|_| (Secret::default(), None)).collect();
        Self { texts, ..Self::default() }
    }

    fn has_ended(&self) -> bool {
        self.texts.iter().all(|(_, finish)| finish.is_some())
    }

    fn is_whole(&self) -> bool {
        self.has_ended() && self.usage.is_some()
    }

    fn absorb(&mut self, events: &[Secret<String>]) -> Result<(), ClientError> {
        for event in events {
            let answer = Answer::parse(event.expose())?;
            if let Some(counts) = answer.counts {
                self.usage = Some(Usage {
                    prompt_tokens: counts.prompt,
                    completion_tokens: counts.completion,
                    prompt_tokens_details: Details { cached_tokens: counts.cached() },
                });
            }
            (self.id, self.model, self.created) = (answer.id, answer.model, answer.created);
            for choice in answer.choices {
                let (text, finish) = self.texts.get_mut(choice.index).ok_or(NotAuthentic::Malformed)?;
                text.append(choice.text.expose());
                *finish = choice.finish.or(*finish);
            }
        }
        Ok(())
    }

    fn write(&self) -> Result<Secret<String>, ClientError> {
        let choices = self.texts.iter().enumerate().map(|(index, (text, finish))| {
            let finish_reason = finish.ok_or(NotAuthentic::Malformed)?;
            Ok(Choice { index, text: text.expose(), finish_reason })
        });
        let choices = choices.collect::<Result<_, NotAuthentic>>()?;
        let (id, model) = (self.id.as_str(), self.model.as_str());
        let body = Body { id, created: self.created, model, choices, usage: self.usage };
        // Room for escapes, so that growing does not leave unwiped copies behind.
        let length: usize = self.texts.iter().map(|(text, _)| text.expose().len()).sum();
        let mut json = Secret::new(Vec::with_capacity(length * 6 + 4096));
        let unwritable = ClientError::Internal("the answer cannot be written");
        if serde_json::to_writer(json.expose_mut(), &body).is_err() {
            return Err(unwritable);
        }
        json.into_text().ok_or(unwritable)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn events(events: &[Value]) -> Vec<Secret<String>> {
        events.iter().map(|event| Secret::new(event.to_string())).collect()
    }

    fn piece(index: usize, text: &str, finish: Option<&str>) -> Value {
        let choice = json!({ "index": index, "text": text, "finish_reason": finish });
        json!({ "id": "cmpl-1", "created": 7, "model": "m", "choices": [choice] })
    }

    #[test]
    fn pieces_of_several_answers_become_one_body() {
        let mut gathered = Gathered::expecting(2);
        gathered.absorb(&events(&[piece(0, "a", None), piece(1, "\"x", None)])).unwrap();
        assert!(!gathered.has_ended());
        gathered.absorb(&events(&[piece(1, "", Some("stop")), piece(0, "b", Some("length"))])).unwrap();
        assert!(gathered.has_ended() && !gathered.is_whole());
        let usage = json!({
            "prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": { "cached_tokens": 2 },
        });
        let counts = json!({ "id": "cmpl-1", "created": 7, "model": "m", "choices": [], "usage": usage });
        gathered.absorb(&events(&[counts])).unwrap();
        assert!(gathered.is_whole());
        let body: Value = serde_json::from_str(gathered.write().unwrap().expose()).unwrap();
        assert_eq!(
            body,
            json!({
                "id": "cmpl-1", "created": 7, "model": "m", "usage": usage,
                "choices": [
                    { "index": 0, "text": "ab", "finish_reason": "length" },
                    { "index": 1, "text": "\"x", "finish_reason": "stop" },
                ],
            })
        );
    }

    #[test]
    fn an_answer_that_was_not_asked_for_or_has_no_end_is_refused() {
        let mut gathered = Gathered::expecting(1);
        assert!(gathered.absorb(&events(&[piece(1, "a", None)])).is_err());
        gathered.absorb(&events(&[piece(0, "a", None)])).unwrap();
        assert!(gathered.write().is_err());
    }
}
