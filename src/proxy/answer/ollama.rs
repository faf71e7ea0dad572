//! Ollama's shapes: one JSON object per line, `done` in the last.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Heading, rfc3339};
use crate::protocol::openai::FinishReason;
use crate::proxy::dialect::Endpoint;
use crate::proxy::server_api::{Choice, Counts};

/// A whole answer.
pub(super) fn whole(heading: &Heading, choices: &[Choice], counts: Counts, took: Duration) -> Value {
    let first = choices.first();
    let finish = first.and_then(|choice| choice.finish).unwrap_or(FinishReason::Stop);
    last(heading, first.map_or("", |choice| choice.text.expose()), finish, counts, took)
}

/// A piece of a stream.
pub(super) fn piece(heading: &Heading, text: &str) -> Value {
    let mut piece = json!({ "model": heading.model, "created_at": rfc3339(heading.created), "done": false });
    put(&mut piece, heading, text);
    piece
}

/// The last line of a stream, or a whole answer. Durations are in nanoseconds.
pub(super) fn last(
    heading: &Heading,
    text: &str,
    finish: FinishReason,
    counts: Counts,
    took: Duration,
) -> Value {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    let mut last = json!({
        "model": heading.model,
        "created_at": rfc3339(heading.created),
        "done": true,
        "done_reason": match finish {
            FinishReason::Length => "length",
            FinishReason::Stop => "stop",
        },
        "total_duration": nanoseconds,
        "load_duration": 0,
        "prompt_eval_count": counts.prompt,
        "prompt_eval_duration": 0,
        "eval_count": counts.completion,
        "eval_duration": nanoseconds,
    });
    put(&mut last, heading, text);
    last
}

/// The answer to a call that only loads the model.
pub(in crate::proxy) fn loaded(endpoint: Endpoint, model: &str, created: u64) -> Value {
    let mut answer = json!({
        "model": model,
        "created_at": rfc3339(created),
        "done": true,
        "done_reason": "load",
    });
    match endpoint {
        Endpoint::OllamaChat => answer["message"] = json!({ "role": "assistant", "content": "" }),
        _ => answer["response"] = json!(""),
    }
    answer
}

fn put(answer: &mut Value, heading: &Heading, text: &str) {
    match heading.endpoint {
        Endpoint::OllamaChat => answer["message"] = json!({ "role": "assistant", "content": text }),
        _ => answer["response"] = json!(text),
    }
}
