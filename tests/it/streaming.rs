//! Sealed streams: the same text as without, in frames of one size, gone when the client is.

use std::time::Duration;

use codeseal::protocol::openai::{ChatChunk, Completion, FinishReason};
use codeseal::protocol::{Frame, FrameReader};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::harness::{Employee, Server, World, until};

/// Sends a sealed call and reads the frames of its stream.
async fn frames(server: &Server, employee: &Employee, path: &str, body: &Value) -> Vec<Frame> {
    let sealed = employee.seal(path, body);
    let answer = server.http.post(server.url(path)).json(&sealed.body).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    employee.open_stream(sealed.id, &answer.text().await.unwrap())
}

fn completions(frames: &[Frame]) -> Vec<Completion<String>> {
    let events = frames.iter().flat_map(|frame| &frame.events);
    events.map(|event| serde_json::from_str(event.get()).unwrap()).collect()
}

fn text(events: &[Completion<String>]) -> String {
    events.iter().map(|event| event.choices[0].text.as_str()).collect()
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let body = json!({ "prompt": "def f(", "stream": true });
    let events = completions(&frames(&server, &employee, "/v1/completions", &body).await);
    assert_eq!(text(&events), server.complete(&employee, "def f(").await);
    let (end, pieces) = events.split_last().unwrap();
    assert_eq!(end.choices[0].finish_reason, Some(FinishReason::Length));
    assert_eq!(end.usage.unwrap().completion_tokens, 16);
    assert!(pieces.iter().all(|piece| piece.usage.is_none() && piece.choices[0].finish_reason.is_none()));
}

#[tokio::test]
async fn frames_come_one_per_step_and_all_of_one_length() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let mut shapes = Vec::new();
    for prompt in ["def f(", "한국어 🦀"] {
        let sealed = employee.seal("/v1/completions", &json!({ "prompt": prompt, "stream": true }));
        let stream = server.post("/v1/completions", &sealed.body).await.text;
        shapes.push(stream.split_terminator("\n\n").map(str::len).collect::<Vec<_>>());
    }
    assert_eq!(shapes[0], shapes[1]);
    assert!(shapes[0].len() >= 16 && shapes[0].iter().all(|&len| len == shapes[0][0]));
}

#[tokio::test]
async fn a_stream_may_be_asked_for_by_header() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let sealed = employee.seal("/v1/completions", &json!({ "prompt": "x" }));
    let request = server.http.post(server.url("/v1/completions")).header("accept", "text/event-stream");
    let stream = request.json(&sealed.body).send().await.unwrap().text().await.unwrap();
    let events = completions(&employee.open_stream(sealed.id, &stream));
    assert_eq!(text(&events), server.complete(&employee, "x").await);
}

#[tokio::test]
async fn an_echoed_prompt_is_cut_into_events_that_fit_their_frames() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let prompt = "\"quoted\"\n\t한국어 🦀 ".repeat(100);
    let body = json!({ "prompt": prompt, "echo": true, "stream": true, "max_tokens": 1 });
    let events = completions(&frames(&server, &employee, "/v1/completions", &body).await);
    assert!(text(&events).starts_with(&prompt));
}

#[tokio::test]
async fn a_conversation_streams_chunks() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let messages = json!([{ "role": "user", "content": "hello" }]);
    let path = "/v1/chat/completions";
    let body = json!({ "messages": messages, "stream": true });
    let frames = frames(&server, &employee, path, &body).await;
    let chunks: Vec<ChatChunk<String>> = frames
        .iter()
        .flat_map(|frame| &frame.events)
        .map(|event| serde_json::from_str(event.get()).unwrap())
        .collect();
    let streamed: String = chunks.iter().map(|chunk| chunk.choices[0].delta.content.as_str()).collect();
    assert!(chunks.iter().all(|chunk| chunk.object == "chat.completion.chunk"));
    let (_, whole) = server.ask(&employee, path, json!({ "messages": messages })).await;
    assert_eq!(whole["choices"][0]["message"]["content"], streamed);
}

#[tokio::test]
async fn an_error_before_the_first_frame_is_an_ordinary_sealed_answer() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let body = json!({ "prompt": "x", "stream": true, "max_tokens": 100_000 });
    let (status, body) = server.ask(&employee, "/v1/completions", body).await;
    assert_eq!((status, &body["error"]["code"]), (400, &json!("context_length_exceeded")));
}

#[tokio::test]
async fn an_error_in_the_middle_is_the_last_event() {
    let world = World::start().await;
    let mut config = world.config();
    config.limits.request_timeout = Duration::from_millis(300);
    let (server, employee) = (Server::start(config).await, world.employee().await);
    let body = json!({ "prompt": "x", "stream": true, "max_tokens": 8000 });
    let frames = frames(&server, &employee, "/v1/completions", &body).await;
    let last: Value = serde_json::from_str(frames.last().unwrap().events.last().unwrap().get()).unwrap();
    assert_eq!(last["error"]["code"], "deadline_exceeded");
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let world = World::start().await;
    let mut config = world.config();
    (config.engine.max_running, config.engine.max_waiting, config.limits.max_requests) = (1, 0, 1);
    let (server, employee) = (Server::start(config).await, world.employee().await);
    let sealed =
        employee.seal("/v1/completions", &json!({ "prompt": "x", "stream": true, "max_tokens": 8000 }));
    let request = server.http.post(server.url("/v1/completions")).json(&sealed.body);
    let mut stream = request.send().await.unwrap().bytes_stream();
    let first = stream.next().await.unwrap().unwrap();
    let token = std::str::from_utf8(&first).unwrap().split("\n\n").next().unwrap();
    let token = token.strip_prefix("data: ").unwrap();
    FrameReader::new(sealed.id).accept(&employee.unseal(token)).unwrap();
    assert!(server.metrics().await.contains("codeseal_num_requests_running 1"));
    drop(stream);
    until("the place is free", async || server.metrics().await.contains("codeseal_num_requests_running 0"))
        .await;
    let metrics = server.metrics().await;
    assert!(metrics.contains("{endpoint=\"completions\",code=\"cancelled\"} 1"), "{metrics}");
    server.complete(&employee, "y").await;
}
