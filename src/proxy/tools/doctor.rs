//! `codeseal proxy doctor`: asks a proxy that runs through every shape, and looks at what editors have sent it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::status::{Asker, ToolError, ToolReport, string};

/// What it calls itself, so that its own requests are told from those of editors.
const NAME: &str = "codeseal doctor";

/// A small request, and where its answer has the text.
struct Probe {
    path: &'static str,
    clients: &'static str,
    body: Value,
    text: &'static str,
}

fn probes() -> Vec<Probe> {
    let (prefix, suffix) = ("def add(a, b):\n    return ", "\n");
    let probe = |path, clients, body, text| Probe { path, clients, body, text };
    vec![
        probe(
            "/v1/completions",
            "OpenAI clients, Continue, Zed, llm",
            json!({ "prompt": prefix, "suffix": suffix, "max_tokens": 2 }),
            "/choices/0/text",
        ),
        probe(
            "/v1/completions",
            "Tabby's agent",
            json!({ "segments": { "prefix": prefix, "suffix": suffix }, "max_tokens": 2 }),
            "/choices/0/text",
        ),
        probe(
            "/v1/fim/completions",
            "Mistral clients, Continue",
            json!({ "prompt": prefix, "suffix": suffix, "max_tokens": 2 }),
            "/choices/0/message/content",
        ),
        probe(
            "/infill",
            "llama.vim, llama.vscode",
            json!({ "input_prefix": prefix, "input_suffix": suffix, "n_predict": 2 }),
            "/content",
        ),
        probe(
            "/api/generate",
            "Ollama clients",
            json!({ "prompt": prefix, "suffix": suffix, "stream": false, "options": { "num_predict": 2 } }),
            "/response",
        ),
        probe(
            "/v1/chat/completions",
            "chat clients, aider",
            json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 2 }),
            "/choices/0/message/content",
        ),
    ]
}

/// Asks through every shape.
pub(super) async fn doctor(asker: &Asker) -> Result<ToolReport, ToolError> {
    let asker = asker.called(NAME);
    let mut text = String::new();
    let mut healthy = true;
    for probe in probes() {
        let answer = asker.post(probe.path, &probe.body).await?;
        let found = answer.pointer(probe.text).is_some_and(Value::is_string);
        let is_chat = probe.path.contains("chat");
        healthy &= found || is_chat;
        let (mark, why) = match (found, is_chat) {
            (true, _) => ("ok  ", String::new()),
            (false, true) => ("note", format!(": no chat with this model ({})", message(&answer))),
            (false, false) => ("BAD ", format!(": {}", message(&answer))),
        };
        writeln!(text, "{mark} {:<22} {}{why}", probe.path, probe.clients).unwrap_or(());
    }
    let status = asker.status().await?;
    let clients = status["counts"]["clients"].as_array().cloned().unwrap_or_default();
    let editors: Vec<&Value> = clients.iter().filter(|row| row["client"] != NAME).collect();
    if editors.is_empty() {
        writeln!(
            text,
            "\nno editor has sent anything yet: compare its base URL with `codeseal proxy --editor NAME`"
        )
        .unwrap_or(());
    }
    for row in editors {
        let (client, endpoint, outcome) =
            (string(&row["client"]), string(&row["endpoint"]), string(&row["outcome"]));
        if let Some(advice) = advice(&endpoint, &outcome) {
            healthy = false;
            writeln!(text, "\n{client}: {advice}").unwrap_or(());
        }
    }
    text.truncate(text.trim_end().len());
    Ok(ToolReport { text, exit_code: u8::from(!healthy) })
}

/// What to change in an editor whose last request ended so.
fn advice(endpoint: &str, outcome: &str) -> Option<&'static str> {
    match (endpoint, outcome) {
        ("(the base URL)", _) => Some(
            "it sends requests to the base URL itself; it wants the whole path, such as .../v1/completions",
        ),
        ("(an unknown path)", _) => Some(
            "it asks for a path that is not there; its base URL should end in /v1, or have no path at all",
        ),
        ("/v1/responses", _) => {
            Some("it uses the Responses API; choose its provider for OpenAI-compatible servers instead")
        }
        ("/v1/embeddings", _) => {
            Some("it wants embeddings; turn its indexing off, or give it another provider")
        }
        (_, "invalid_token") => Some("its API key is not the proxy's token"),
        (_, "invalid_request") => Some("what it sends cannot be read as a request of that path"),
        (_, "context_length_exceeded") => {
            Some("it sends more than the model's 8192 tokens; lower its context")
        }
        ("/v1/chat/completions" | "/api/chat", "invalid_parameter") => Some(
            "it chats, and this model completes; choose its autocomplete setting, or an instruction model",
        ),
        _ => None,
    }
}

fn message(answer: &Value) -> String {
    let error = answer.pointer("/error/message").or_else(|| answer.get("error"));
    error.map(string).filter(|text| !text.is_empty()).unwrap_or_else(|| "the answer has no text".to_owned())
}
