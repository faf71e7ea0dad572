//! What editors ask before they send anything. All of it is answered while there is no server, too, and says so.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::routes::Info;
use super::{Call, Core, json as json_response, respond};
use crate::proxy::answer::rfc3339;
use crate::proxy::error::{ErrorShape, Failure};
use crate::proxy::page;
use crate::secret::Secret;
use crate::telemetry::VERSION;

/// Tokens that the model can hold.
const CONTEXT_TOKENS: u64 = 8192;
/// Bytes of code for each token, roughly: `/tokenize` is only asked how long a text is.
const BYTES_PER_TOKEN: usize = 3;
/// A version of Ollama whose API is what is answered here.
const OLLAMA_VERSION: &str = "0.9.9";
const DETAILS_FAMILY: &str = "gemma";
/// What tells Ollama's clients that a suffix can be sent.
const TEMPLATE: &str = "{{- if .Suffix }}<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}<|fim_middle|>\
                        {{- else }}{{ .Prompt }}{{- end }}";

/// Answers `info`.
pub(super) fn answer(core: &Arc<Core>, info: &Info, body: &Secret<Vec<u8>>, call: &Call) -> Response {
    let state = core.fleet.pick();
    let model =
        state.as_ref().map_or_else(|_| String::from("codegemma"), |(_, warm)| served_name(&warm.model));
    let trouble = state.as_ref().err();
    match info {
        Info::Root if call.wants_html() => page::html(),
        Info::Root => respond("text/plain; charset=utf-8", "Ollama is running"),
        Info::Health => health(trouble, call),
        Info::TabbyHealth => json_response(&tabby_health(&model, trouble, call)),
        Info::Models => {
            let card = card(&model, core.started, trouble, call);
            json_response(
                &json!({ "object": "list", "data": [card], "models": [{ "name": model, "model": model }] }),
            )
        }
        // Whatever the client calls it, it is this one.
        Info::Model(id) => json_response(&card(id, core.started, trouble, call)),
        Info::Props => json_response(&json!({
            "default_generation_settings": { "n_ctx": CONTEXT_TOKENS, "params": { "n_predict": -1 } },
            "total_slots": 1,
            "model_path": model,
            "model_alias": model,
            "modalities": { "vision": false, "audio": false },
            "chat_template": "",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "build_info": format!("codeseal {VERSION}"),
        })),
        Info::Slots => json_response(&json!([{ "id": 0, "n_ctx": CONTEXT_TOKENS, "is_processing": false }])),
        Info::Tokenize => json_response(&json!({ "tokens": (0..tokens(body)).collect::<Vec<_>>() })),
        Info::OllamaVersion => json_response(&json!({ "version": OLLAMA_VERSION })),
        Info::OllamaTags | Info::OllamaPs => {
            json_response(&json!({ "models": [ollama_card(&model, core.started)] }))
        }
        Info::OllamaShow => json_response(&json!({
            "modelfile": format!("FROM {model}"),
            "parameters": "",
            "template": TEMPLATE,
            "details": details(),
            "model_info": { "general.architecture": DETAILS_FAMILY, "gemma.context_length": CONTEXT_TOKENS },
            "capabilities": ["completion", "insert"],
            "modified_at": rfc3339(core.started),
        })),
    }
}

/// The model's name. Some clients choose their markers by it, so it says which family this is.
pub(super) fn served_name(model: &str) -> String {
    if model.to_ascii_lowercase().contains("codegemma") {
        model.to_owned()
    } else {
        format!("codegemma-{model}")
    }
}

fn health(trouble: Option<&Failure>, call: &Call) -> Response {
    match trouble {
        None => json_response(&json!({ "status": "ok" })),
        Some(failure) => {
            let mut response = failure.respond(ErrorShape::Llama, &call.page);
            // What llama.cpp's clients wait on.
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            response
        }
    }
}

fn tabby_health(model: &str, trouble: Option<&Failure>, call: &Call) -> Value {
    json!({
        "status": trouble.map_or("ok", Failure::code),
        "message": trouble.map(|failure| failure.sentence(&call.page)),
        "model": model,
        "device": "remote",
        "arch": std::env::consts::ARCH,
        "cpu_info": "",
        "cpu_count": 0,
        "cuda_devices": [],
        "version": { "build_date": "", "build_timestamp": "", "git_sha": "", "git_describe": VERSION },
    })
}

fn card(id: &str, created: u64, trouble: Option<&Failure>, call: &Call) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": created,
        "owned_by": "codeseal",
        "max_model_len": CONTEXT_TOKENS,
        "status": trouble.map_or("ready", Failure::code),
        "message": trouble.map(|failure| failure.sentence(&call.page)),
    })
}

fn ollama_card(model: &str, created: u64) -> Value {
    json!({
        "name": format!("{model}:latest"),
        "model": format!("{model}:latest"),
        "modified_at": rfc3339(created),
        "size": 0,
        "digest": "0".repeat(64),
        "details": details(),
    })
}

fn details() -> Value {
    json!({
        "parent_model": "",
        "format": "safetensors",
        "family": DETAILS_FAMILY,
        "families": [DETAILS_FAMILY],
        "parameter_size": "",
        "quantization_level": "",
    })
}

/// How many tokens a text may have. The tokenizer is the server's, and asking it would take a sealed request.
fn tokens(body: &Secret<Vec<u8>>) -> usize {
    #[derive(serde::Deserialize)]
    struct Text {
        #[serde(default)]
        content: Option<Secret<String>>,
    }

    let text = serde_json::from_slice::<Text>(body.expose()).ok().and_then(|text| text.content);
    text.map_or(0, |text| text.expose().len().div_ceil(BYTES_PER_TOKEN))
}

#[cfg(test)]
mod tests {
    use super::served_name;

    #[test]
    fn the_name_tells_the_family() {
        assert_eq!(served_name("codegemma-2b"), "codegemma-2b");
        assert_eq!(served_name("CodeGemma"), "CodeGemma");
        assert_eq!(served_name("tiny"), "codegemma-tiny");
    }
}
