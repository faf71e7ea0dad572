//! llama.cpp's shapes: `content`, `stop`, `timings`.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Heading;
use crate::protocol::openai::FinishReason;
use crate::proxy::server_api::{Choice, Counts};

/// A whole answer, or those of its members that `response_fields` names; a path keeps its slashes as the key.
pub(super) fn whole(heading: &Heading, choices: &[Choice], counts: Counts, took: Duration) -> Value {
    let first = choices.first();
    let finish = first.and_then(|choice| choice.finish).unwrap_or(FinishReason::Stop);
    let mut answer = last(heading, finish, counts, took);
    answer["content"] = json!(first.map_or("", |choice| choice.text.expose()));
    if heading.fields.is_empty() {
        return answer;
    }
    let field = |path: &String| {
        let value = path.split('/').try_fold(&answer, |value, key| value.get(key))?;
        Some((path.clone(), value.clone()))
    };
    Value::Object(heading.fields.iter().filter_map(field).collect::<Map<_, _>>())
}

/// A piece of a stream.
pub(super) fn piece(index: usize, text: &str) -> Value {
    json!({ "index": index, "content": text, "tokens": [], "stop": false })
}

/// The last event of a stream.
pub(super) fn last(heading: &Heading, finish: FinishReason, counts: Counts, took: Duration) -> Value {
    let milliseconds = took.as_secs_f64() * 1000.0;
    let read = counts.prompt.saturating_sub(counts.cached());
    json!({
        "index": 0,
        "id_slot": 0,
        "content": "",
        "tokens": [],
        "stop": true,
        "model": heading.model,
        "tokens_predicted": counts.completion,
        "tokens_evaluated": counts.prompt,
        "tokens_cached": counts.cached(),
        "has_new_line": false,
        "truncated": false,
        "stop_type": match finish {
            FinishReason::Length => "limit",
            FinishReason::Stop => "eos",
        },
        "stopping_word": "",
        "timings": {
            "cache_n": counts.cached(),
            "prompt_n": read,
            "prompt_ms": 0.0,
            "predicted_n": counts.completion,
            "predicted_ms": milliseconds,
        },
    })
}
