//! The HTTP interface: the codelab's contract, sealed completions and chat, health, limits.

use codeseal::sandbox::Fault;
use serde_json::json;

use crate::harness::{Server, World, until};

#[tokio::test]
async fn generate_answers_with_the_prompt_and_its_continuation() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let prompt = "def fib(n):\n    # 한국어 🦀 <|fim_middle|> <eos>\n";
    let first = employee.open_generated(&server.post("/generate", &employee.prompt(prompt.as_bytes())).await);
    assert!(first.starts_with(prompt) && first.len() > prompt.len(), "{first}");
    let second =
        employee.open_generated(&server.post("/generate", &employee.prompt(prompt.as_bytes())).await);
    assert_eq!(first, second, "greedy answers repeat");
}

#[tokio::test]
async fn generate_continues_as_completions_does() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let whole = employee.open_generated(&server.post("/generate", &employee.prompt(b"import os")).await);
    assert_eq!(whole, format!("import os{}", server.complete(&employee, "import os").await));
}

#[tokio::test]
async fn a_completion_is_sealed_padded_and_counted() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let mut lengths = Vec::new();
    for prompt in ["a", "a much longer prompt than the first one"] {
        let sealed = employee.seal("/v1/completions", &json!({ "prompt": prompt, "max_tokens": 3 }));
        let answer = server.post("/v1/completions", &sealed.body).await;
        lengths.push(answer.text.len());
        let (status, body) = employee.open(sealed.id, &answer);
        assert_eq!((status, &body["object"]), (200, &json!("text_completion")));
        assert_eq!(body["id"], format!("cmpl-{}", sealed.id));
        assert_eq!(
            (&body["model"], &body["choices"][0]["finish_reason"]),
            (&json!("tiny"), &json!("length"))
        );
        let usage = &body["usage"];
        assert_eq!(usage["completion_tokens"], 3);
        let total = usage["prompt_tokens"].as_u64().unwrap() + 3;
        assert_eq!(usage["total_tokens"], total);
    }
    assert_eq!(lengths[0], lengths[1]);
}

#[tokio::test]
async fn a_suffix_asks_for_the_middle() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let plain = json!({ "prompt": "def f():\n    return " });
    let infill = json!({ "prompt": "def f():\n    return ", "suffix": "\n\nprint(f())\n" });
    let (_, plain) = server.ask(&employee, "/v1/completions", plain).await;
    let (status, infill) = server.ask(&employee, "/v1/completions", infill).await;
    assert_eq!(status, 200);
    let tokens = |body: &serde_json::Value| body["usage"]["prompt_tokens"].as_u64().unwrap();
    // At least the three markers more.
    assert!(tokens(&infill) >= tokens(&plain) + 3);
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_and_is_no_part_of_it() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let whole = server.complete(&employee, "x = ").await;
    let stop: String = whole.chars().skip(whole.chars().count() / 2).take(2).collect();
    let body = json!({ "prompt": "x = ", "stop": [stop, "never occurs"] });
    let (_, body) = server.ask(&employee, "/v1/completions", body).await;
    assert_eq!(body["choices"][0]["text"], whole.split(&stop).next().unwrap());
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn echo_puts_the_prompt_first() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let (_, body) = server.ask(&employee, "/v1/completions", json!({ "prompt": "x = ", "echo": true })).await;
    let expected = format!("x = {}", server.complete(&employee, "x = ").await);
    assert_eq!(body["choices"][0]["text"], expected);
}

#[tokio::test]
async fn the_same_seed_samples_the_same_text() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let mut texts = Vec::new();
    for seed in [1, 1, 2] {
        let body = json!({ "prompt": "x", "temperature": 1.5, "top_p": 0.99, "top_k": 200, "seed": seed });
        let (_, body) = server.ask(&employee, "/v1/completions", body).await;
        texts.push(body["choices"][0]["text"].clone());
    }
    assert_eq!(texts[0], texts[1]);
    assert_ne!(texts[0], texts[2]);
}

#[tokio::test]
async fn a_conversation_gets_one_message() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let body = json!({ "max_completion_tokens": 4, "messages": [
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "Write a sort." },
    ] });
    let (status, body) = server.ask(&employee, "/v1/chat/completions", body).await;
    assert_eq!((status, &body["object"]), (200, &json!("chat.completion")));
    assert_eq!(body["choices"][0]["message"]["role"], "assistant");
    assert_eq!(body["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_get_the_usual_shape() {
    let world = World::start().await;
    let server = world.server().await;
    let missing = server.get("/v1/models").await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "not_found"));
    let method = server.get("/generate").await;
    assert_eq!((method.status, method.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(server.get("/metrics").await.status, 404, "metrics are on the other port only");
}

#[tokio::test]
async fn health_and_metrics_tell_what_happened() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    assert_eq!(server.get("/livez").await.status, 200);
    server.complete(&employee, "x").await;
    let metrics = server.metrics().await;
    for line in [
        "codeseal_requests_total{endpoint=\"completions\",code=\"ok\"} 1",
        "codeseal_requests_in_flight 0",
        "codeseal_time_to_first_token_seconds_count 1",
        "codeseal_inter_token_latency_seconds_count 15",
        "codeseal_generation_tokens_total 16",
        "codeseal_replay_entries 1",
        "codeseal_ready 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn a_full_server_refuses_at_once_and_takes_the_same_envelope_later() {
    let world = World::start().await;
    let mut config = world.config();
    (config.engine.max_running, config.engine.max_waiting) = (1, 0);
    let server = Server::start(config).await;
    let employee = world.employee().await;
    // Keeps the only slot for as long as the key service takes.
    world.sandbox.faults().inject(Fault::KmsHang);
    let first = employee.seal("/v1/completions", &json!({ "prompt": "x" }));
    let second = employee.seal("/v1/completions", &json!({ "prompt": "y" }));
    let (first_answer, refused) = tokio::join!(server.post("/v1/completions", &first.body), async {
        until("the slot is taken", async || {
            let refused = server.post("/v1/completions", &second.body).await;
            refused.status == 429
        })
        .await;
        let refused = server.post("/v1/completions", &second.body).await;
        world.sandbox.faults().clear();
        refused
    });
    assert_eq!((refused.code().as_str(), refused.retry_after), ("server_busy", Some(1)));
    assert_eq!(employee.open(first.id, &first_answer).0, 200);
    let answer = server.post("/v1/completions", &second.body).await;
    assert_eq!(employee.open(second.id, &answer).0, 200);
}

#[tokio::test]
async fn an_outage_of_the_key_service_loses_no_request() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    world.sandbox.faults().inject(Fault::KmsStatus { status: 503 });
    let sealed = employee.seal("/v1/completions", &json!({ "prompt": "x" }));
    let refused = server.post("/v1/completions", &sealed.body).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "key_service_unavailable"));
    assert_eq!(refused.retry_after, Some(2));
    // Readiness follows the server's own probe, not this request.
    until("a probe fails", async || server.get("/readyz").await.status == 503).await;
    assert_eq!(server.get("/readyz").await.code(), "key_service_unavailable");
    world.sandbox.faults().clear();
    server.until_ready().await;
    let answer = server.post("/v1/completions", &sealed.body).await;
    assert_eq!(employee.open(sealed.id, &answer).0, 200);
}

#[tokio::test]
async fn an_expired_token_turns_the_load_balancer_away_until_there_is_a_new_one() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let before = server.complete(&employee, "x").await;
    world.sandbox.faults().inject(Fault::LauncherStatus { status: 500 });
    world.sandbox.launcher().expire().unwrap();
    until("readiness is lost", async || server.get("/readyz").await.status == 503).await;
    assert_eq!(server.get("/readyz").await.code(), "attestation_expired");
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(server.complete(&employee, "x").await, before, "the key is in the cache");
    world.sandbox.faults().clear();
    world.sandbox.launcher().refresh().unwrap();
    server.until_ready().await;
}
