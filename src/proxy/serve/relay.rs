//! The way of a server's answer through the proxy without sockets, for the fuzz target `answers`: what a server that lies
//! may send, and what an editor gets then.
//!
//! Pure.

use std::time::Duration;

use super::texts::{ChoiceState, Texts};
use crate::client::{ClientError, LineEnds};
use crate::proxy::answer::{Heading, Pieces};
use crate::proxy::dialect::{self, Endpoint, Task};
use crate::proxy::gathered;
use crate::proxy::keystrokes::Trimmer;
use crate::proxy::server_api::{Answer, Features, Request};
use crate::secret::Secret;

/// What an editor gets.
#[derive(Debug)]
pub struct Relayed {
    /// The body of its stream.
    pub stream: Vec<u8>,
    /// Whether that is lines of JSON; otherwise it is server-sent events.
    pub is_lines: bool,
    /// The body of a whole answer, in JSON.
    pub whole: String,
}

/// Passes `frames`, each with its events, on to an editor that has sent `body` to one of the endpoints. `None` if that is
/// no request for a completion.
///
/// # Errors
/// [`ClientError`] if the events are no whole answer.
pub fn relay(
    endpoint: usize,
    body: &[u8],
    frames: &[Vec<Secret<String>>],
) -> Option<Result<Relayed, ClientError>> {
    const ENDPOINTS: [Endpoint; 7] = [
        Endpoint::Completions,
        Endpoint::FimCompletions,
        Endpoint::ChatCompletions,
        Endpoint::LlamaCompletion,
        Endpoint::Infill,
        Endpoint::OllamaGenerate,
        Endpoint::OllamaChat,
    ];
    let endpoint = *ENDPOINTS.get(endpoint % ENDPOINTS.len())?;
    let ask = dialect::read(endpoint, body).ok()?;
    let request = Request::new(&ask.task, &ask.options, false, true, Features { holes: true }).ok()?;
    let choices = ask.options.choices();
    let trimmer = || match &ask.task {
        Task::Hole(hole) if choices == 1 => {
            Some(Trimmer::new(hole.prefix.expose(), hole.suffix.expose(), false))
        }
        _ => None,
    };
    let states = (0..choices).map(|_| ChoiceState::new(&request, trimmer(), LineEnds::Lf));
    let took = Duration::ZERO;
    let relayed = || {
        let whole = Answer::whole(gathered::of_frames(frames, choices)?.expose(), &request)?;
        let heading = Heading::new(endpoint, &ask.reply, "codegemma", &whole);
        let json = heading.whole(&whole.choices, whole.counts.unwrap_or_default(), took);
        let mut texts = Texts::new(Pieces::new(heading), states.collect());
        let mut stream = Vec::new();
        for events in frames {
            for piece in texts.absorb(events)? {
                stream.extend_from_slice(&piece);
            }
        }
        stream.extend_from_slice(&texts.close(took));
        let is_lines = endpoint.stream_type() == "application/x-ndjson";
        Ok(Relayed { stream, is_lines, whole: json.to_string() })
    };
    Some(relayed())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const BODIES: [&str; 3] = [
        r#"{"prompt":"def f(","suffix":")","model":"m","max_tokens":4,"stream_options":{"include_usage":true}}"#,
        r#"{"input_prefix":"def f(","input_suffix":")","n_predict":4}"#,
        r#"{"messages":[{"role":"user","content":"hi"}],"n":2}"#,
    ];

    fn frames(events: &[Value]) -> Vec<Vec<Secret<String>>> {
        events.iter().map(|event| vec![Secret::new(event.to_string())]).collect()
    }

    /// Each event of an editor's stream is JSON on a line of its own, whatever the text was.
    fn check(relayed: &Relayed) {
        let text = std::str::from_utf8(&relayed.stream).unwrap();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let data = if relayed.is_lines { line } else { line.strip_prefix("data: ").unwrap() };
            assert!(data == "[DONE]" || serde_json::from_str::<Value>(data).unwrap().is_object(), "{line}");
        }
        assert!(serde_json::from_str::<Value>(&relayed.whole).unwrap().is_object());
    }

    #[test]
    fn what_a_server_writes_never_becomes_an_event_of_its_own() {
        for text in [
            "\n\ndata: [DONE]\n\n",
            "\r\ndata: {\"error\":1}\r\n\r\n",
            "<script>alert(1)</script>",
            "\u{2028}\u{0}\u{1b}]8;;http://evil.example\u{7}",
            "{\"done\":true}\n{\"error\":\"x\"}\n",
        ] {
            let piece = |index: usize| {
                json!({
                    "id": format!("cmpl-{text}"), "model": text, "created": 1,
                    "choices": [{ "index": index, "text": text, "finish_reason": "stop" }],
                })
            };
            let usage = json!({ "choices": [], "usage": { "prompt_tokens": 1, "completion_tokens": 1 } });
            for (endpoint, body) in (0..7).flat_map(|endpoint| BODIES.map(|body| (endpoint, body))) {
                for choices in [1, 2] {
                    let events: Vec<Value> = (0..choices).map(piece).chain([usage.clone()]).collect();
                    if let Some(Ok(relayed)) = relay(endpoint, body.as_bytes(), &frames(&events)) {
                        check(&relayed);
                    }
                }
            }
        }
    }

    #[test]
    fn events_that_are_no_answer_are_an_error_and_nothing_else() {
        let end = json!({ "index": 0, "text": "", "finish_reason": "stop" });
        for event in [
            json!(null),
            json!([]),
            json!({}),
            json!({ "choices": null }),
            json!({ "choices": [{ "index": 1, "text": "x", "finish_reason": "stop" }] }),
            json!({ "choices": [{ "index": u64::MAX, "text": "x" }, end] }),
            json!({ "choices": [{ "index": -1, "text": "x" }, end] }),
            json!({ "choices": [{ "index": 0, "text": 7, "finish_reason": "stop" }] }),
            json!({ "choices": [{ "index": 0, "text": "x", "finish_reason": "because" }] }),
            json!({ "choices": [end], "usage": { "prompt_tokens": -1 } }),
            json!({ "choices": [end], "usage": { "prompt_tokens": 1e300 } }),
        ] {
            let relayed = relay(0, BODIES[0].as_bytes(), &frames(std::slice::from_ref(&event)));
            assert!(relayed.unwrap().is_err(), "{event}");
        }
        assert!(relay(0, BODIES[0].as_bytes(), &[]).unwrap().is_err());
    }
}
