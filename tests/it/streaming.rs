//! Sealed streams: the same text as without, in frames of one size, gone when the client is.

use std::time::{Duration, Instant};

use codeseal::protocol::openai::{ChatChunk, Completion, FinishReason};
use codeseal::protocol::{Frame, FrameReader, RequestId};
use codeseal::server::ServerConfig;
use codeseal::server::Shaping;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::harness::{Answer, ENDLESS, Employee, Server, World, until};

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
    let body = json!({ "prompt": "def f(", "stream": true, "stream_options": { "include_usage": true } });
    let mut events = completions(&frames(&server, &employee, "/v1/completions", &body).await);
    let usage = events.pop().unwrap();
    assert_eq!(text(&events), server.complete(&employee, "def f(").await);
    let (end, pieces) = events.split_last().unwrap();
    assert_eq!(end.choices[0].finish_reason, Some(FinishReason::Length));
    assert!(usage.choices.is_empty());
    assert_eq!(usage.usage.unwrap().completion_tokens, 16);
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

/// The lengths of a stream's frames, its text, and how long it took.
async fn shaped(shaping: Shaping, prompt: &str, max_tokens: usize) -> (Vec<usize>, String, Duration) {
    let world = World::start().await;
    let server = Server::start(ServerConfig { shaping, ..world.config() }).await;
    let employee = world.employee().await;
    let body = json!({ "prompt": prompt, "stream": true, "max_tokens": max_tokens });
    let sealed = employee.seal("/v1/completions", &body);
    let started = Instant::now();
    let stream = server.post("/v1/completions", &sealed.body).await.text;
    let took = started.elapsed();
    let lengths = stream.split_terminator("\n\n").map(str::len).collect();
    let text = text(&completions(&employee.open_stream(sealed.id, &stream)));
    assert_eq!(text, {
        let (_, whole) = server
            .ask(&employee, "/v1/completions", json!({ "prompt": prompt, "max_tokens": max_tokens }))
            .await;
        whole["choices"][0]["text"].as_str().unwrap().to_owned()
    });
    (lengths, text, took)
}

#[tokio::test]
async fn the_number_of_frames_follows_from_the_tokens_that_were_asked_for() {
    let slot = Duration::from_millis(2);
    for (max_tokens, frames) in [(1, 8), (17, 8), (65, 32), (256, 64), (257, 128)] {
        let (lengths, ..) = shaped(Shaping::PaceAndLength(slot), "def f(", max_tokens).await;
        // A machine that is too slow takes a multiple of them.
        let expected = vec![lengths[0]; lengths.len().next_multiple_of(frames)];
        assert_eq!(lengths, expected, "{max_tokens} tokens");
    }
}

/// A request for nothing can have an answer like that of any other.
#[tokio::test]
async fn frames_and_sizes_follow_from_pad_tokens_if_that_is_more() {
    let world = World::start().await;
    let shaping = Shaping::PaceAndLength(Duration::from_millis(20));
    let server = Server::start(ServerConfig { shaping, ..world.config() }).await;
    let employee = world.employee().await;
    let lengths = async |max_tokens: usize, pad_tokens: Value, stream: bool| {
        let body = json!({
            "prompt": "x", "max_tokens": max_tokens, "pad_tokens": pad_tokens, "stream": stream,
            // Whatever the machine is busy with, the text ends within the first frames.
            "deadline_ms": 20,
        });
        let sealed = employee.seal("/v1/completions", &body);
        let answer = server.post("/v1/completions", &sealed.body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        (answer.text.matches("data: ").count(), answer.text.len())
    };
    for (max_tokens, pad_tokens, frames) in [
        (0, json!(null), 8),
        (0, json!(64), 16),
        (0, json!(128), 32),
        (0, json!(4000), 128),
        (128, json!(0), 32),
    ] {
        let tokens = pad_tokens.as_u64().unwrap_or(0).max(max_tokens as u64);
        let (stream, other_stream, whole, other_whole) = tokio::join!(
            lengths(max_tokens, pad_tokens.clone(), true),
            lengths(0, json!(4 * frames), true),
            lengths(max_tokens, pad_tokens.clone(), false),
            lengths(0, json!(tokens), false),
        );
        assert_eq!(stream.0, frames, "{max_tokens} {pad_tokens}");
        assert_eq!((stream, whole), (other_stream, other_whole), "{max_tokens} {pad_tokens}");
    }
}

#[tokio::test]
async fn a_shaped_answer_never_leaves_before_its_time() {
    let slot = Duration::from_millis(10);
    for max_tokens in [1, 12] {
        let (.., took) = shaped(Shaping::PaceAndLength(slot), "def f(", max_tokens).await;
        // The first slot may be as good as over. How much later is up to the machine.
        assert!(took >= 6 * slot + slot / 2, "{max_tokens}: {took:?}");
    }
}

/// The head alone would show how long the request took to open and to tokenize.
#[tokio::test]
async fn the_head_of_a_shaped_stream_comes_with_the_first_frame() {
    let world = World::start().await;
    let slot = Duration::from_millis(400);
    let shaping = Shaping::PaceAndLength(slot);
    let server = Server::start(ServerConfig { shaping, ..world.config() }).await;
    let employee = world.employee().await;
    let sealed = employee.seal("/v1/completions", &json!({ "prompt": "x", "stream": true, "max_tokens": 1 }));
    let started = Instant::now();
    let request = server.http.post(server.url("/v1/completions")).json(&sealed.body);
    let response = request.send().await.unwrap();
    assert!(started.elapsed() >= slot / 2, "{:?}", started.elapsed());
    let first = response.bytes_stream().next().await.unwrap().unwrap();
    assert!(first.starts_with(b"data: ") && first.ends_with(b"\n\n"));
}

#[tokio::test]
async fn shaped_whole_answers_of_any_length_have_one_size_and_leave_no_earlier() {
    let world = World::start().await;
    let slot = Duration::from_millis(10);
    let shaping = Shaping::PaceAndLength(slot);
    let server = Server::start(ServerConfig { shaping, ..world.config() }).await;
    let employee = world.employee().await;
    let path = "/v1/completions";
    let whole = async |body: Value| {
        let sealed = employee.seal(path, &body);
        let started = Instant::now();
        let answer = server.post(path, &sealed.body).await;
        assert!(started.elapsed() >= 31 * slot + slot / 2, "{:?}", started.elapsed());
        let (_, opened) = employee.open(sealed.id, &answer);
        (answer.text.len(), opened["usage"]["completion_tokens"].as_u64().unwrap())
    };
    let body = json!({ "prompt": "def f(", "max_tokens": 60 });
    let (long, tokens) = whole(body).await;
    let (_, answer) = server.ask(&employee, path, json!({ "prompt": "def f(", "max_tokens": 1 })).await;
    let first = answer["choices"][0]["text"].as_str().unwrap();
    let (short, fewer) = whole(json!({ "prompt": "def f(", "max_tokens": 60, "stop": [first] })).await;
    assert!(fewer < tokens, "{fewer} {tokens}");
    assert_eq!(short, long);
}

/// Reads the frames of a stream until its text is complete.
async fn until_complete(employee: &Employee, id: RequestId, response: &mut reqwest::Response) {
    let mut reader = FrameReader::new(id);
    let mut read = String::new();
    loop {
        let chunk = response.chunk().await.unwrap().expect("the stream goes on");
        read += std::str::from_utf8(&chunk).unwrap();
        while let Some((line, rest)) = read.split_once("\n\n") {
            let plaintext = employee.unseal(line.strip_prefix("data: ").unwrap());
            let frame = reader.accept(&plaintext).unwrap();
            assert!(!frame.last, "the stream has ended: use a longer interval");
            let finished = frame.events.iter().any(|event| event.get().contains(r#""finish_reason":""#));
            read = rest.to_owned();
            if finished {
                return;
            }
        }
    }
}

/// With a slot for one request: the test checks which requests are admitted, not how long anything takes.
#[tokio::test]
async fn a_stream_holds_its_slot_until_its_text_is_complete() {
    let world = World::start().await;
    let mut config = world.config();
    (config.engine.max_running, config.engine.max_waiting, config.engine.draft_tokens) = (1, 0, 0);
    // 128 frames take two minutes.
    config.shaping = Shaping::PaceAndLength(Duration::from_secs(1));
    let server = Server::start(config).await;
    let begin = async |employee: &Employee, max_tokens: usize| {
        let body = json!({ "prompt": ENDLESS, "stream": true, "max_tokens": max_tokens, "pad_tokens": 512 });
        let sealed = employee.seal("/v1/completions", &body);
        let request = server.http.post(server.url("/v1/completions")).json(&sealed.body);
        (sealed.id, request.send().await.unwrap())
    };
    let mut fillers = Vec::new();
    for count in 1..=3 {
        let employee = world.employee().await;
        let (id, mut response) = begin(&employee, 1).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream", "stream {count} was refused");
        until_complete(&employee, id, &mut response).await;
        fillers.push(response);
        let metrics = server.metrics().await;
        assert!(metrics.contains(&format!("codeseal_requests_in_flight {count}\n")), "{metrics}");
    }
    let employee = world.employee().await;
    // The head leaves with the first frame, when a fast machine may have made all 8,000 tokens: it is not waited for.
    let refused = async {
        let running = "codeseal_num_requests_running 1\n";
        until("the model works", async || server.metrics().await.contains(running)).await;
        Answer::read(begin(&employee, 1).await.1).await
    };
    let ((_, running), refused) = tokio::join!(begin(&employee, 8000), refused);
    assert_eq!(running.headers()["content-type"], "text/event-stream");
    assert_eq!((refused.status, refused.code().as_str()), (429, "server_busy"), "{}", refused.text);
}

/// A server that drains waits for the fillers of 8 frames at the most.
#[tokio::test]
async fn a_drain_shortens_what_follows_the_text() {
    let world = World::start().await;
    let shaping = Shaping::PaceAndLength(Duration::from_millis(100));
    let server = Server::start(ServerConfig { shaping, ..world.config() }).await;
    let employee = world.employee().await;
    let body = json!({ "prompt": "def f(", "stream": true, "max_tokens": 256, "stop": ["\n"] });
    let sealed = employee.seal("/v1/completions", &body);
    let request = server.http.post(server.url("/v1/completions")).json(&sealed.body);
    let response = request.send().await.unwrap();
    let (stream, ()) = tokio::join!(response.text(), server.service.shutdown());
    let frames = employee.open_stream(sealed.id, &stream.unwrap());
    assert!(frames.len() < 64 && frames.len().is_multiple_of(8), "{}", frames.len());
}

#[tokio::test]
async fn an_echoed_prompt_on_a_clock_takes_as_many_frames_as_it_needs() {
    let prompt = "\"quoted\"\n\t한국어 🦀 ".repeat(60);
    let world = World::start().await;
    let shaping = Shaping::PaceAndLength(Duration::from_millis(1));
    let server = Server::start(ServerConfig { shaping, ..world.config() }).await;
    let employee = world.employee().await;
    let body = json!({ "prompt": prompt, "echo": true, "stream": true, "max_tokens": 1 });
    let events = completions(&frames(&server, &employee, "/v1/completions", &body).await);
    assert!(text(&events).starts_with(&prompt));
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
    let prompt = "\"quoted\"\n\t한국어 🦀 ".repeat(60);
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
    let streamed: String =
        chunks.iter().filter_map(|chunk| chunk.choices[0].delta.content.as_deref()).collect();
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
    config.engine.draft_tokens = 0;
    let (server, employee) = (Server::start(config).await, world.employee().await);
    let body = json!({ "prompt": ENDLESS, "stream": true, "max_tokens": 8000 });
    let frames = frames(&server, &employee, "/v1/completions", &body).await;
    let last: Value = serde_json::from_str(frames.last().unwrap().events.last().unwrap().get()).unwrap();
    assert_eq!(last["error"]["code"], "deadline_exceeded");
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_place() {
    let world = World::start().await;
    let mut config = world.config();
    (config.engine.max_running, config.engine.max_waiting, config.engine.draft_tokens) = (1, 0, 0);
    let (server, employee) = (Server::start(config).await, world.employee().await);
    let sealed =
        employee.seal("/v1/completions", &json!({ "prompt": ENDLESS, "stream": true, "max_tokens": 8000 }));
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
