//! The shapes, as the clients read them.

use serde_json::json;

use super::*;
use crate::secret::Secret;

const TOOK: Duration = Duration::from_millis(50);

fn heading(endpoint: Endpoint, usage: bool) -> Heading {
    Heading {
        endpoint,
        id: "cmpl-1".to_owned(),
        created: 1_795_903_200,
        model: "m".to_owned(),
        usage,
        fields: Vec::new(),
    }
}

fn choices(text: &str) -> Vec<Choice> {
    let text = Secret::new(text.to_owned());
    vec![Choice { index: 0, text, finish: Some(FinishReason::Stop), logprobs: None }]
}

fn counts() -> Counts {
    serde_json::from_value(json!({
        "prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14,
        "prompt_tokens_details": { "cached_tokens": 8 },
    }))
    .unwrap()
}

fn stream(endpoint: Endpoint, usage: bool) -> String {
    let mut pieces = Pieces::new(heading(endpoint, usage));
    let mut bytes = pieces.text(0, "a\n").to_vec();
    bytes.extend(pieces.text(0, "b"));
    bytes.extend(pieces.end(0, FinishReason::Length).into_iter().flatten());
    bytes.extend(pieces.close(FinishReason::Length, counts(), TOOK));
    String::from_utf8(bytes).unwrap()
}

/// The JSON of each event, and whether `[DONE]` followed.
fn events(stream: &str) -> (Vec<Value>, bool) {
    let data: Vec<&str> =
        stream.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    let done = data.last() == Some(&"[DONE]");
    let json = data.iter().filter(|data| **data != "[DONE]").map(|data| serde_json::from_str(data).unwrap());
    (json.collect(), done)
}

#[test]
fn whole_answers_have_their_text_where_each_client_looks() {
    for (endpoint, path) in [
        (Endpoint::Completions, "/choices/0/text"),
        (Endpoint::ChatCompletions, "/choices/0/message/content"),
        (Endpoint::FimCompletions, "/choices/0/message/content"),
        (Endpoint::LlamaCompletion, "/content"),
        (Endpoint::Infill, "/content"),
        (Endpoint::OllamaGenerate, "/response"),
        (Endpoint::OllamaChat, "/message/content"),
    ] {
        let answer = heading(endpoint, false).whole(&choices("x"), counts(), TOOK);
        assert_eq!(answer.pointer(path), Some(&json!("x")), "{answer}");
        assert_eq!(answer["model"], "m");
    }
    let answer = heading(Endpoint::Completions, false).whole(&choices("x"), counts(), TOOK);
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 8);
    assert_eq!(
        (&answer["usage"]["total_tokens"], &answer["object"]),
        (&json!(14), &json!("text_completion"))
    );
}

#[test]
fn llama_cpp_gives_the_members_that_were_asked_for_under_their_paths() {
    let mut heading = heading(Endpoint::Infill, false);
    heading.fields = ["content", "timings/prompt_n", "truncated", "nothing/here"].map(String::from).to_vec();
    let answer = heading.whole(&choices("x"), counts(), TOOK);
    assert_eq!(answer, json!({ "content": "x", "timings/prompt_n": 3, "truncated": false }));
}

#[test]
fn streams_end_with_a_reason_and_done() {
    let (json, done) = events(&stream(Endpoint::Completions, false));
    let texts: Vec<&str> = json.iter().map(|event| event["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!((texts.concat().as_str(), done), ("a\nb", true));
    assert_eq!(json.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert!(json.iter().all(|event| event.get("usage").is_none()));

    let (json, done) = events(&stream(Endpoint::ChatCompletions, false));
    assert!(done);
    assert_eq!(json[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "a\n" }));
    assert_eq!(json[1]["choices"][0]["delta"], json!({ "content": "b" }));
    assert_eq!(json[2]["choices"][0], json!({ "index": 0, "delta": {}, "finish_reason": "length" }));

    let (json, done) = events(&stream(Endpoint::Infill, false));
    assert!(!done);
    assert_eq!(json.last().unwrap()["stop_type"], "limit");
    assert!(json.iter().rev().skip(1).all(|event| event["stop"] == false));
}

#[test]
fn counts_come_in_a_chunk_of_their_own_if_and_only_if_asked_for() {
    for endpoint in [Endpoint::Completions, Endpoint::ChatCompletions] {
        let (json, done) = events(&stream(endpoint, true));
        let last = json.last().unwrap();
        assert_eq!((last["choices"].as_array().unwrap().len(), done), (0, true));
        assert_eq!(last["usage"]["prompt_tokens"], 11);
    }
}

#[test]
fn ollama_has_one_object_in_each_line_and_done_in_the_last() {
    for endpoint in [Endpoint::OllamaGenerate, Endpoint::OllamaChat] {
        let text = stream(endpoint, false);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().filter(|line| line["done"] == true).count(), 1);
        let last = lines.last().unwrap();
        assert_eq!((&last["done_reason"], &last["eval_count"]), (&json!("length"), &json!(3)));
        assert_eq!(last["created_at"], "2026-11-28T22:00:00Z");
    }
}

#[test]
fn a_failure_in_a_stream_is_an_event_that_the_clients_raise() {
    let failure = Failure::NotAuthentic("it was cut short".to_owned());
    let event = |endpoint| {
        let pieces = Pieces::new(heading(endpoint, false));
        String::from_utf8(pieces.failure(&failure, "http://127.0.0.1:8012/").to_vec()).unwrap()
    };
    let (json, _) = events(&event(Endpoint::Completions));
    assert_eq!(json[0]["error"]["code"], "not_authentic");
    let line: Value = serde_json::from_str(&event(Endpoint::OllamaGenerate)).unwrap();
    assert!(line["error"].as_str().unwrap().contains("cut short"));
}
