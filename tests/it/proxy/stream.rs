//! Streams: the editor's ends with the text, the sealed one with its last frame, and a broken one never as if whole.

use std::time::Duration;

use codeseal::proxy::Proxy;
use codeseal::server::Shaping;
use serde_json::{Value, json};

use super::between::{Between, Passes};
use super::{Desk, config, url};
use crate::harness::{ENDLESS, Server, World, http, until};

fn texts(stream: &str) -> String {
    let data = stream.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let json = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    json.filter_map(|event| event["choices"][0]["text"].as_str().map(String::from)).collect()
}

#[tokio::test]
async fn a_stream_is_the_whole_text_in_pieces_whichever_way_it_was_asked_for() {
    for whole_below in [0, 64] {
        let desk = Desk::with(|config| config.whole_below = whole_below).await;
        let expected = desk.expected(json!({ "prompt": "def fib(n):\n", "max_tokens": 12 })).await;
        let body = json!({
            "prompt": "def fib(n):\n", "max_tokens": 12, "stream": true, "stream_options": { "include_usage": true },
        });
        let answer = desk.post("/v1/completions", &body).await;
        assert_eq!(texts(&answer.text), expected, "{}", answer.text);
        assert!(answer.text.ends_with("data: [DONE]\n\n"), "{}", answer.text);
        assert!(
            answer.text.contains(r#""choices":[],"#) && answer.text.contains(r#""usage":{"#),
            "{}",
            answer.text
        );
        let lines = desk
            .post("/api/generate", &json!({ "prompt": "def fib(n):\n", "options": { "num_predict": 12 } }))
            .await;
        let lines: Vec<Value> = lines.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let text: String = lines.iter().map(|line| line["response"].as_str().unwrap()).collect();
        assert_eq!((text, &lines.last().unwrap()["done"]), (expected, &json!(true)));
    }
}

/// With frames on a slow clock a sealed stream takes much longer than its text.
#[tokio::test]
async fn the_editors_stream_ends_with_the_text_and_the_sealed_one_is_read_on() {
    let answer = with_the_text_and_not_with_the_fillers(true).await;
    assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
}

/// A server that shapes its traffic keeps whole answers back, so the proxy gathers them from a stream.
#[tokio::test]
async fn an_editor_that_wants_one_piece_gets_it_with_the_text() {
    let answer = with_the_text_and_not_with_the_fillers(false).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    assert_eq!(answer["usage"]["completion_tokens"], 2, "{answer}");
}

/// An editor's answer, which came before the last frames of the sealed stream; these are read all the same.
async fn with_the_text_and_not_with_the_fillers(stream: bool) -> String {
    let world = World::start().await;
    let mut server_config = world.config();
    server_config.shaping = Shaping::PaceAndLength(Duration::from_millis(160));
    let server = Server::start(server_config).await;
    let mut proxy_config = config(&world, &server.url(""));
    proxy_config.whole_below = 0;
    let proxy = Proxy::start(proxy_config).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    let body = json!({ "prompt": "def f", "max_tokens": 2, "stream": stream });
    let received = async || -> u64 {
        let status: Value = http().get(format!("{url}/status")).send().await.unwrap().json().await.unwrap();
        status["servers"][0]["sealed_bytes_received"].as_u64().unwrap()
    };
    let before = received().await;
    let answer = super::post(&url, "/v1/completions", &body).await;
    // 8 frames of 1024 bytes and their seal; the text was in the first few.
    let at_end = received().await - before;
    assert!(at_end < 8 * 1400, "the editor waited for the fillers: {at_end}");
    until("the rest is read", async || received().await - before >= 8 * 1400).await;
    answer.text
}

#[tokio::test]
async fn an_editor_that_leaves_cancels_the_request() {
    let world = World::start().await;
    let mut server_config = world.config();
    server_config.limits.max_new_tokens = 4000;
    server_config.engine.draft_tokens = 0;
    let server = Server::start(server_config).await;
    let mut proxy_config = config(&world, &server.url(""));
    proxy_config.whole_below = 0;
    let proxy = Proxy::start(proxy_config).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    for stream in [true, false] {
        let body = json!({ "prompt": ENDLESS, "max_tokens": 4000, "stream": stream });
        let request = http().post(format!("{url}/v1/completions")).body(body.to_string());
        let asking = tokio::spawn(request.send());
        until("the server works", async || {
            server.metrics().await.contains("codeseal_num_requests_running 1")
        })
        .await;
        let response = if stream {
            Some(asking.await.unwrap().unwrap())
        } else {
            asking.abort();
            None
        };
        drop(response);
        until("the server has stopped", async || {
            server.metrics().await.contains("codeseal_num_requests_running 0")
        })
        .await;
    }
    until("both are counted", async || {
        let status: Value = http().get(format!("{url}/status")).send().await.unwrap().json().await.unwrap();
        status["counts"]["cancelled"] == 2
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_cut_never_ends_as_if_it_were_whole() {
    let world = World::start().await;
    let server = world.server().await;
    let between = Between::start(server.url(""), Passes::All).await;
    let mut settings = config(&world, &between.url);
    settings.whole_below = 0;
    let proxy = Proxy::start(settings).await.unwrap();
    proxy.ready().await;
    between.set(Passes::Cut(2));
    let url = url(&proxy);
    for (path, body, error) in [
        (
            "/v1/completions",
            json!({ "prompt": "def fib(n):\n", "max_tokens": 12, "stream": true }),
            "/error/code",
        ),
        ("/api/generate", json!({ "prompt": "def fib(n):\n", "options": { "num_predict": 12 } }), "/error"),
    ] {
        let mut response = http().post(format!("{url}{path}")).body(body.to_string()).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let mut text = String::new();
        let end = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => text.push_str(std::str::from_utf8(&chunk).unwrap()),
                end => break end,
            }
        };
        assert!(end.is_err(), "{path}: the connection ended as if all were well: {text}");
        let last = text.trim_end().lines().last().unwrap().trim_start_matches("data: ").to_owned();
        let last: Value = serde_json::from_str(&last).unwrap();
        assert!(last.pointer(error).is_some_and(Value::is_string), "{text}");
        assert!(!text.contains("[DONE]") && !text.contains("\"done\":true"), "{text}");
    }
}
