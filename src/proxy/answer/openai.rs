//! OpenAI's shapes; Mistral's FIM answers are its chat shape, and Tabby reads the completion's.

use serde_json::{Value, json};

use super::Heading;
use crate::protocol::openai::FinishReason;
use crate::proxy::dialect::Endpoint;
use crate::proxy::server_api::{Choice, Counts};

/// A whole `text_completion`.
pub(super) fn completion(heading: &Heading, choices: &[Choice], counts: Counts) -> Value {
    let choices = choices.iter().map(|choice| {
        json!({
            "index": choice.index,
            "text": choice.text.expose(),
            "logprobs": choice.logprobs.as_ref().map(|logprobs| &logprobs.0),
            "finish_reason": choice.finish,
        })
    });
    let choices: Vec<Value> = choices.collect();
    with_usage(enveloped(heading, "text_completion", choices), counts)
}

/// A whole `chat.completion`.
pub(super) fn chat(heading: &Heading, choices: &[Choice], counts: Counts) -> Value {
    let choices = choices.iter().map(|choice| {
        json!({
            "index": choice.index,
            "message": { "role": "assistant", "content": choice.text.expose() },
            "logprobs": choice.logprobs.as_ref().map(|logprobs| &logprobs.0),
            "finish_reason": choice.finish,
        })
    });
    let choices: Vec<Value> = choices.collect();
    with_usage(enveloped(heading, "chat.completion", choices), counts)
}

/// A piece of a `text_completion`.
pub(super) fn completion_piece(
    heading: &Heading,
    index: usize,
    text: &str,
    finish: Option<FinishReason>,
) -> Value {
    let choice = json!({ "index": index, "text": text, "logprobs": null, "finish_reason": finish });
    enveloped(heading, "text_completion", vec![choice])
}

/// A `chat.completion.chunk`; the first one of an answer tells the role.
pub(super) fn chat_piece(
    heading: &Heading,
    index: usize,
    text: &str,
    first: bool,
    finish: Option<FinishReason>,
) -> Value {
    let mut delta = json!({});
    if first {
        delta["role"] = json!("assistant");
    }
    // Mistral's clients want a content in each chunk.
    if finish.is_none() || first || heading.endpoint == Endpoint::FimCompletions {
        delta["content"] = json!(text);
    }
    let choice = json!({ "index": index, "delta": delta, "finish_reason": finish });
    enveloped(heading, "chat.completion.chunk", vec![choice])
}

/// The chunk that `stream_options.include_usage` asks for.
pub(super) fn usage_piece(heading: &Heading, counts: Counts) -> Value {
    let object = match heading.endpoint {
        Endpoint::Completions => "text_completion",
        _ => "chat.completion.chunk",
    };
    with_usage(enveloped(heading, object, Vec::new()), counts)
}

fn enveloped(heading: &Heading, object: &str, choices: Vec<Value>) -> Value {
    json!({
        "id": heading.id,
        "object": object,
        "created": heading.created,
        "model": heading.model,
        "choices": choices,
    })
}

fn with_usage(mut answer: Value, counts: Counts) -> Value {
    answer["usage"] = json!({
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": { "cached_tokens": counts.cached() },
    });
    answer
}
