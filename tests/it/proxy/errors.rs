//! What editors are told when there is no answer: at once, in their shape, and with something to do.

use std::sync::Arc;

use axum::Router;
use codeseal::sandbox::Fault;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{Desk, config, post, url};
use crate::harness::{World, until};
use codeseal::proxy::Proxy;

/// A server that answers everything with a web page.
async fn web_page() -> (String, AbortOnDropHandle<()>) {
    let router = Router::new().fallback(async || "<!doctype html><h1>hello</h1>");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    (url, AbortOnDropHandle::new(task))
}

#[tokio::test]
async fn the_proxy_starts_without_a_server_and_heals() {
    let world = World::start().await;
    // A port that nothing listens on, until a server does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let proxy = Proxy::start(config(&world, &format!("http://{address}"))).await.unwrap();
    proxy.tried().await;
    let url = url(&proxy);
    let body = json!({ "prompt": "def f", "max_tokens": 2 });
    let refused = post(&url, "/v1/completions", &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "not_connected"));
    let wrapped = world.sandbox.ledger().counts().encrypts().granted;
    for _ in 0..50 {
        assert_eq!(post(&url, "/v1/completions", &body).await.status, 503);
    }
    assert_eq!(world.sandbox.ledger().counts().encrypts().granted, wrapped, "a key was wrapped for each try");

    let server_config = codeseal::server::ServerConfig { listen: address, ..world.config() };
    let _server = crate::harness::Server::start(server_config).await;
    proxy.ready().await;
    assert_eq!(post(&url, "/v1/completions", &body).await.status, 200);
}

#[tokio::test]
async fn errors_have_the_shape_of_their_endpoint() {
    let world = World::start().await;
    let proxy = Proxy::start(config(&world, "http://127.0.0.1:1")).await.unwrap();
    proxy.tried().await;
    let url = url(&proxy);
    for (path, body, pointer) in [
        ("/v1/completions", json!({ "prompt": "x" }), "/error/message"),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "x" }] }),
            "/error/message",
        ),
        ("/v1/fim/completions", json!({ "prompt": "x", "suffix": "y" }), "/error/message"),
        ("/infill", json!({ "input_prefix": "x" }), "/error/message"),
        ("/api/generate", json!({ "prompt": "x" }), "/error"),
        ("/api/chat", json!({ "messages": [{ "role": "user", "content": "x" }] }), "/error"),
    ] {
        for stream in [true, false] {
            let mut body = body.clone();
            body["stream"] = json!(stream);
            let answer = post(&url, path, &body).await;
            assert_eq!(answer.status, 503, "{path}");
            let message = answer.json().pointer(pointer).unwrap().as_str().unwrap().to_owned();
            assert!(message.starts_with("codeseal: not connected: "), "{message}");
            assert!(message.contains(&format!("See {url}/")), "{message}");
        }
    }
    // What editors ask for first is answered all the same, and says so.
    let models = crate::harness::http().get(format!("{url}/v1/models")).send().await.unwrap();
    let models: serde_json::Value = models.json().await.unwrap();
    assert_eq!(models["data"][0]["status"], "not_connected");
}

#[tokio::test]
async fn a_request_that_is_none_is_refused_by_name() {
    let desk = Desk::new().await;
    let client = crate::harness::http();
    let send = async |path: &str, body: Vec<u8>| {
        crate::harness::Answer::read(
            client.post(format!("{}{path}", desk.url)).body(body).send().await.unwrap(),
        )
        .await
    };
    for (path, body, status, code) in [
        ("/v1/completions", b"{\"prompt\": \"def".to_vec(), 400, "invalid_request"),
        ("/v1/completions", b"\xff\xfe".to_vec(), 400, "invalid_request"),
        ("/v1/completions", vec![b'x'; 5 << 20], 413, "payload_too_large"),
        ("/v1", b"{}".to_vec(), 404, "not_found"),
        ("/v1/responses", b"{}".to_vec(), 404, "not_found"),
        ("/v1/embeddings", b"{}".to_vec(), 404, "not_found"),
        ("/v1/models", b"{}".to_vec(), 405, "method_not_allowed"),
    ] {
        let answer = send(path, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}: {}", answer.text);
    }
    let long =
        json!({ "messages": [{ "role": "user", "content": "x ".repeat(40_000) }], "max_tokens": 32_000 });
    let answer = desk.post("/v1/chat/completions", &long).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
}

#[tokio::test]
async fn a_server_that_is_none_is_never_sent_a_prompt() {
    let world = World::start().await;
    let (page, _serving) = web_page().await;
    let proxy = Proxy::start(config(&world, &page)).await.unwrap();
    proxy.tried().await;
    let answer = post(&url(&proxy), "/v1/completions", &json!({ "prompt": "canaryXq7" })).await;
    assert!(answer.status >= 500, "{}", answer.text);
    assert!(!answer.text.contains("canaryXq7") && !answer.text.contains("<h1>"), "{}", answer.text);
}

#[tokio::test]
async fn a_server_that_is_replaced_is_found_again_without_a_restart() {
    let desk = Desk::new().await;
    let address = desk.server.service.address();
    let body = json!({ "prompt": "def f", "max_tokens": 2 });
    assert_eq!(desk.post("/v1/completions", &body).await.status, 200);
    let Desk { world, server, proxy, url } = desk;
    server.service.shutdown().await;
    let refused = post(&url, "/v1/completions", &body).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    let server_config = codeseal::server::ServerConfig { listen: address, ..world.config() };
    let _server = crate::harness::Server::start(server_config).await;
    proxy.ready().await;
    assert_eq!(post(&url, "/v1/completions", &body).await.status, 200);
}

#[tokio::test]
async fn nothing_of_a_prompt_is_on_the_status_page() {
    let desk = Arc::new(Desk::new().await);
    let canary = "canaryXq7";
    for body in [
        json!({ "prompt": canary, "suffix": canary, "model": canary, "stop": [canary] }),
        json!({ "prompt": { "not": canary } }),
    ] {
        desk.post("/v1/completions", &body).await;
        desk.post(&format!("/{canary}"), &body).await;
    }
    desk.world.sandbox.faults().inject(Fault::KmsStatus { status: 503 });
    for path in ["/status", "/v1/models", "/props", "/api/tags"] {
        let text = desk.get(path).await.text;
        assert!(!text.contains(canary), "{path}: {text}");
    }
    let status = desk.get("/status").await.json();
    assert_eq!((&status["schema"], &status["ready"]), (&json!(1), &json!(true)));
    assert_eq!(status["servers"][0]["state"], "connected");
    assert!(status["servers"][0]["sealed_bytes_sent"].as_u64().unwrap() > 0);
    until("the wrong path is shown", async || {
        let status = desk.get("/status").await.json();
        status["counts"]["last_error"]["endpoint"] == "(an unknown path)"
    })
    .await;
}
