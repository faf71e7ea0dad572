//! Every dialect against requests as real clients sent them.

use serde_json::{Value, json};

use super::*;

/// What a task is, in short.
fn summary(ask: &EditorRequest) -> String {
    match &ask.task {
        Task::Nothing => "nothing".to_owned(),
        Task::Text(text) => format!("text {:?}", text.expose()),
        Task::Hole(hole) => {
            let (prefix, middle, suffix) = (hole.prefix.expose(), hole.middle.expose(), hole.suffix.expose());
            format!("hole {prefix:?} {middle:?} {suffix:?}")
        }
        Task::Chat(turns) => {
            let turns: Vec<String> =
                turns.iter().map(|turn| format!("{:?} {:?}", turn.role, turn.content.expose())).collect();
            format!("chat {}", turns.join(", "))
        }
    }
}

fn ask(endpoint: Endpoint, body: &Value) -> EditorRequest {
    read(endpoint, body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn asked(endpoint: Endpoint, body: &Value) -> String {
    summary(&ask(endpoint, body))
}

/// Requests that 20 clients sent to a stand-in, one JSON object in each line.
fn recorded() -> Vec<(Endpoint, Value)> {
    let lines = include_str!("../../../tests/vectors/editors/requests.jsonl").lines();
    lines
        .filter_map(|line| {
            let request: Value = serde_json::from_str(line).unwrap();
            let target = request["target"].as_str().unwrap();
            let endpoint = match target.split('?').next().unwrap() {
                "/v1/completions" | "/completions" | "/v1/beta/completions" => Endpoint::Completions,
                "/v1/fim/completions" | "/fim/completions" => Endpoint::FimCompletions,
                "/v1/chat/completions" | "/chat/completions" => Endpoint::ChatCompletions,
                "/infill" => Endpoint::Infill,
                "/api/generate" => Endpoint::OllamaGenerate,
                "/api/chat" => Endpoint::OllamaChat,
                _ => return None,
            };
            (request["method"] == "POST").then(|| (endpoint, request["body"].clone()))
        })
        .collect()
}

#[test]
fn every_recorded_request_is_understood() {
    let recorded = recorded();
    assert!(recorded.len() >= 40, "{}", recorded.len());
    for (endpoint, body) in recorded {
        let ask = ask(endpoint, &body);
        let summary = summary(&ask);
        let kind = summary.split(' ').next().unwrap();
        let has = |name: &str| body[name].as_str().is_some_and(|text| !text.is_empty());
        let marked = body["prompt"].as_str().is_some_and(|prompt| prompt.contains("fim"));
        let is_hole = marked || has("suffix") || body["segments"].is_object() || has("input_prefix");
        let expected = match &body["messages"] {
            Value::Array(messages) if !messages.is_empty() => "chat",
            _ if is_hole || endpoint == Endpoint::FimCompletions => "hole",
            _ => "text",
        };
        assert_eq!(kind, expected, "{body}");
        assert!(!summary.contains("fim_") && !summary.contains('▁'), "markers are left: {summary}");
        let streams = endpoint == Endpoint::OllamaGenerate || endpoint == Endpoint::OllamaChat;
        assert_eq!(ask.reply.stream, body["stream"].as_bool().unwrap_or(streams), "{body}");
    }
}

#[test]
fn all_families_of_markers_mean_the_same_hole() {
    for prompt in [
        "<|fim_prefix|>def f(a):\n<|fim_suffix|>\nprint(f(1))<|fim_middle|>",
        "<|fim_prefix|>def f(a):\n<|fim_suffix|>\nprint(f(1))<|fim_middle|>\n",
        "<bos><|fim_prefix|>def f(a):\n<|fim_suffix|>\nprint(f(1))<|fim_middle|>",
        "<|fim_suffix|>\nprint(f(1))<|fim_prefix|>def f(a):\n<|fim_middle|>",
        "<\u{200d}|fim_prefix|>def f(a):\n<\u{200d}|fim_suffix|>\nprint(f(1))<\u{200d}|fim_middle|>",
        "<fim_prefix>def f(a):\n<fim_suffix>\nprint(f(1))<fim_middle>",
        "<fim-prefix>def f(a):\n<fim-suffix>\nprint(f(1))<fim-middle>",
        "<｜fim▁begin｜>def f(a):\n<｜fim▁hole｜>\nprint(f(1))<｜fim▁end｜>",
        "<|fim_begin|>def f(a):\n<|fim_hole|>\nprint(f(1))<|fim_end|>",
        "<PRE> def f(a):\n <SUF>\nprint(f(1)) <MID>",
        "[SUFFIX]\nprint(f(1))[PREFIX]def f(a):\n",
    ] {
        let expected = r#"hole "def f(a):\n" "" "\nprint(f(1))""#;
        for (endpoint, body) in [
            (Endpoint::Completions, json!({ "prompt": prompt })),
            (Endpoint::Completions, json!({ "prompt": [prompt] })),
            (Endpoint::OllamaGenerate, json!({ "prompt": prompt, "raw": true })),
            (Endpoint::LlamaCompletion, json!({ "prompt": prompt })),
            (Endpoint::ChatCompletions, json!({ "messages": [{ "role": "user", "content": prompt }] })),
            (
                Endpoint::ChatCompletions,
                json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": prompt }] }] }),
            ),
        ] {
            assert_eq!(asked(endpoint, &body), expected, "{prompt}");
        }
    }
}

#[test]
fn what_has_not_the_structure_of_a_hole_stays_text() {
    for prompt in [
        "a <|fim_prefix|>b<|fim_suffix|>c<|fim_middle|>",
        "<|fim_prefix|>a<|fim_suffix|>b",
        "<|fim_prefix|>a<|fim_middle|>",
        "<|fim_prefix|>a<|fim_suffix|>b<|fim_suffix|>c<|fim_middle|>",
        "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>c",
        "[SUFFIX]a[PREFIX]b[PREFIX]c",
        "say [SUFFIX]a[PREFIX]b",
        "# <fim_prefix> is a marker\n",
        "<PRE> a <SUF>b",
    ] {
        let text = format!("text {prompt:?}");
        assert_eq!(asked(Endpoint::Completions, &json!({ "prompt": prompt })), text);
    }
}

#[test]
fn files_in_front_of_a_hole_are_its_context() {
    let files = |prompt: &str| -> Vec<(String, String)> {
        let Task::Hole(hole) = ask(Endpoint::Completions, &json!({ "prompt": prompt })).task else {
            panic!("no hole: {prompt}")
        };
        assert_eq!((hole.prefix.expose().as_str(), hole.suffix.expose().as_str()), ("p", "s"));
        hole.context
            .into_iter()
            .map(|file| (file.path.expose().clone(), file.text.expose().clone()))
            .collect()
    };
    let expected = vec![("a.py".to_owned(), "x = 1".to_owned()), ("b.py".to_owned(), "y = 2".to_owned())];
    for head in [
        "a.py\nx = 1\n<|file_separator|>b.py\ny = 2\n<|file_separator|>",
        "<|repo_name|>r\n<|file_sep|>a.py\nx = 1\n<|file_sep|>b.py\ny = 2\n<|file_sep|>c.py\n",
        "<|file_sep|>a.py\nx = 1\n<|file_sep|>b.py\ny = 2\n",
    ] {
        assert_eq!(files(&format!("{head}<|fim_prefix|>p<|fim_suffix|>s<|fim_middle|>")), expected, "{head}");
    }
    let star =
        "<file_sep>a.py\nx = 1\n<file_sep>b.py\ny = 2\n<file_sep><fim_prefix>p<fim_suffix>s<fim_middle>";
    assert_eq!(files(star), expected);
    let body = json!({ "input_prefix": "p", "input_suffix": "s", "input_extra": [
        { "filename": "a.py", "text": "x = 1" }, { "text": null }, { "filename": "b.py", "text": "y = 2" },
    ] });
    let Task::Hole(hole) = ask(Endpoint::Infill, &body).task else { panic!("no hole") };
    assert_eq!(hole.context.len(), 2);
}

#[test]
fn nulls_lists_of_one_and_odd_types_are_as_if_absent() {
    let odd = json!({
        "model": null, "prompt": ["def f"], "suffix": null, "max_tokens": null, "max_completion_tokens": 7,
        "temperature": null, "top_p": 0, "top_k": -1, "n": 1, "logprobs": null, "seed": -1, "stop": null,
        "stream": null, "stream_options": null, "echo": null, "logit_bias": {}, "user": null, "best_of": 1,
        "presence_penalty": 0, "frequency_penalty": 0.0, "unknown": [{ "deep": [null] }],
    });
    let ask = ask(Endpoint::Completions, &odd);
    assert_eq!(summary(&ask), r#"text "def f""#);
    let options = &ask.options;
    assert_eq!((options.max_tokens, options.seed, options.top_k, options.top_p), (Some(7), None, None, None));
    assert_eq!((options.temperature, options.stop.len(), ask.reply.stream), (None, 0, false));
}

#[test]
fn numbers_come_in_many_types() {
    for (value, expected) in [
        (json!(64), Some(64)),
        (json!(64.0), Some(64)),
        (json!("64"), Some(64)),
        (json!(0), Some(0)),
        (json!(-1), None),
        (json!({}), None),
        (json!([1]), None),
        (json!(1e300), None),
    ] {
        let ask = ask(Endpoint::Completions, &json!({ "prompt": "x", "max_tokens": value }));
        assert_eq!(ask.options.max_tokens, expected, "{value}");
    }
}

#[test]
fn any_number_of_stops_is_taken() {
    let stops: Vec<String> = (0..64).map(|number| format!("stop {number}")).collect();
    let ask = ask(Endpoint::Completions, &json!({ "prompt": "x", "stop": stops }));
    assert_eq!(ask.options.stop.len(), 64);
    let one = ask_stop(&json!("one"));
    assert_eq!(one, 1);
    assert_eq!(ask_stop(&json!(["", null, "a"])), 1);
}

fn ask_stop(stop: &Value) -> usize {
    ask(Endpoint::Completions, &json!({ "prompt": "x", "stop": stop })).options.stop.len()
}

#[test]
fn ollama_has_its_options_apart_and_loads_without_a_prompt() {
    let body = json!({ "prompt": "x", "options": { "num_predict": 9, "stop": ["a"], "temperature": 0.5, "seed": 3 } });
    let ask = ask(Endpoint::OllamaGenerate, &body);
    let options = &ask.options;
    assert_eq!((options.max_tokens, options.stop.len(), options.seed), (Some(9), 1, Some(3)));
    assert!(ask.reply.stream);
    for body in [json!({ "model": "m" }), json!({ "model": "m", "prompt": "" })] {
        assert_eq!(asked(Endpoint::OllamaGenerate, &body), "nothing");
    }
    assert_eq!(asked(Endpoint::OllamaChat, &json!({ "messages": [] })), "nothing");
    let with_system = json!({ "prompt": "x", "system": "s" });
    assert_eq!(asked(Endpoint::OllamaGenerate, &with_system), r#"text "s\n\nx""#);
    let from_litellm = json!({ "prompt": "x", "options": { "suffix": "y", "num_predict": 9 } });
    let hole = self::ask(Endpoint::OllamaGenerate, &from_litellm);
    assert_eq!((summary(&hole).as_str(), hole.options.max_tokens), (r#"hole "x" "" "y""#, Some(9)));
}

#[test]
fn llama_cpp_sends_the_cursors_line_apart() {
    let body = json!({ "input_prefix": "a\n", "input_suffix": "\nb", "prompt": "    ret", "n_predict": 0 });
    let ask = ask(Endpoint::Infill, &body);
    assert_eq!(summary(&ask), r#"hole "a\n" "    ret" "\nb""#);
    assert_eq!(ask.options.max_tokens, Some(0));
    let waits = json!({ "input_prefix": "a", "t_max_prompt_ms": 500, "t_max_predict_ms": 250 });
    assert_eq!(self::ask(Endpoint::Infill, &waits).options.deadline_ms, Some(750));
    let warm = json!({ "input_prefix": "a", "n_predict": 0, "t_max_prompt_ms": 1, "t_max_predict_ms": 1 });
    assert_eq!(self::ask(Endpoint::Infill, &warm).options.deadline_ms, None);
    let waits = json!({ "input_prefix": "a", "t_max_prompt_ms": 500 });
    assert_eq!(self::ask(Endpoint::Infill, &waits).options.deadline_ms, None);
}

#[test]
fn a_conversation_has_roles_in_turn() {
    let body = json!({ "messages": [
        { "role": "system", "content": "s" },
        { "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
        { "role": "user", "content": "c" },
        { "role": "assistant", "content": null, "tool_calls": [] },
        { "role": "developer", "content": "t" },
        { "role": "tool", "content": "d", "tool_call_id": "x" },
    ] });
    let expected = r#"chat System "s\n\nt", User "ab\n\nc\n\nd""#;
    assert_eq!(asked(Endpoint::ChatCompletions, &body), expected);
}

#[test]
fn what_cannot_be_done_is_said_without_the_text() {
    for (endpoint, body, expected) in [
        (Endpoint::Completions, json!({}), BadBody::Missing("prompt")),
        (Endpoint::Completions, json!({ "prompt": ["a", "b"] }), BadBody::ManyPrompts),
        (Endpoint::Completions, json!({ "prompt": [1, 2] }), BadBody::TokenIds),
        (Endpoint::Completions, json!({ "prompt": [[1, 2]] }), BadBody::TokenIds),
        (Endpoint::Completions, json!({ "prompt": { "a": 1 } }), BadBody::Json),
        (Endpoint::Completions, json!("canary"), BadBody::Json),
        (Endpoint::Infill, json!({}), BadBody::Missing("input_prefix")),
        (Endpoint::ChatCompletions, json!({}), BadBody::Missing("messages")),
        (
            Endpoint::ChatCompletions,
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            BadBody::NotText,
        ),
        (
            Endpoint::ChatCompletions,
            json!({ "messages": [{ "role": "assistant", "content": "canary" }] }),
            BadBody::NoUser,
        ),
    ] {
        assert_eq!(read(endpoint, body.to_string().as_bytes()).unwrap_err(), expected, "{body}");
    }
    for bad in [&b"{"[..], b"\xff", b"[1", b"null", br#"{"prompt":"a"}x"#] {
        assert_eq!(read(Endpoint::Completions, bad).unwrap_err(), BadBody::Json);
    }
    assert_eq!(read(Endpoint::Completions, b"").unwrap_err(), BadBody::Missing("prompt"));
}

#[test]
fn requests_do_not_print_their_texts() {
    let body = json!({ "prompt": "canary", "suffix": "canary", "stop": ["canary"] });
    assert!(!format!("{:?}", ask(Endpoint::Completions, &body)).contains("canary"));
}
