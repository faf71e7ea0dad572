//! Every route gives the server's own text, in the shape that its clients read.

use codeseal::protocol::openai::MAX_STOPS;
use serde_json::{Value, json};

use super::Desk;

const PREFIX: &str =
    "def northwind_price(volume, discount):\n    floor_price = 41.75\n    list_price = 77.50\n    ";
const SUFFIX: &str = "\n    return max(floor_price, price) * volume\n";

#[tokio::test]
async fn every_shape_gives_the_same_hole_the_same_text() {
    let desk = Desk::new().await;
    let expected = desk.expected(json!({ "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 12 })).await;
    assert!(!expected.is_empty());
    let marked = format!("<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>");
    let deepseek = format!("<｜fim▁begin｜>{PREFIX}<｜fim▁hole｜>{SUFFIX}<｜fim▁end｜>");
    for (path, text, body) in [
        (
            "/v1/completions",
            "/choices/0/text",
            json!({ "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 12 }),
        ),
        (
            "/completions/",
            "/choices/0/text",
            json!({ "prompt": [marked], "max_tokens": 12, "model": "gpt-99" }),
        ),
        (
            "/v1/beta/completions",
            "/choices/0/text",
            json!({ "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 12 }),
        ),
        (
            "/v1/completions",
            "/choices/0/text",
            json!({ "segments": { "prefix": PREFIX, "suffix": SUFFIX }, "max_tokens": 12 }),
        ),
        (
            "/v1/fim/completions",
            "/choices/0/message/content",
            json!({ "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 12 }),
        ),
        (
            "/chat/completions",
            "/choices/0/message/content",
            json!({ "messages": [], "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 12 }),
        ),
        (
            "/v1/chat/completions",
            "/choices/0/message/content",
            json!({ "messages": [{ "role": "user", "content": marked }], "max_completion_tokens": 12 }),
        ),
        ("/infill", "/content", json!({ "input_prefix": PREFIX, "input_suffix": SUFFIX, "n_predict": 12 })),
        (
            "/infill",
            "/content",
            json!({
                "input_prefix": PREFIX.strip_suffix("    ").unwrap(), "prompt": "    ",
                "input_suffix": SUFFIX, "n_predict": 12, "input_extra": [],
            }),
        ),
        ("/completion", "/content", json!({ "prompt": marked, "n_predict": 12 })),
        (
            "/api/generate",
            "/response",
            json!({ "prompt": PREFIX, "suffix": SUFFIX, "stream": false, "options": { "num_predict": 12 } }),
        ),
        (
            "/api/generate",
            "/response",
            json!({ "prompt": deepseek, "raw": true, "stream": false, "options": { "num_predict": 12 } }),
        ),
    ] {
        let answer = desk.post(path, &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        let found = answer.json().pointer(text).cloned();
        assert_eq!(found, Some(Value::from(expected.as_str())), "{path} {body}");
    }
}

#[tokio::test]
async fn texts_and_conversations_are_passed_on() {
    let desk = Desk::new().await;
    let expected = desk.expected(json!({ "prompt": "def fib(n):\n", "max_tokens": 8 })).await;
    let nulls = json!({
        "prompt": ["def fib(n):\n"], "max_tokens": 8, "frequency_penalty": 0, "logprobs": null, "n": 1,
        "seed": null, "temperature": 0, "top_p": 1, "stop": null, "user": null,
    });
    let answer = desk.post("/v1/completions", &nulls).await;
    assert_eq!(answer.json()["choices"][0]["text"], expected.as_str(), "{}", answer.text);
    let stops: Vec<String> = (0..64).map(|number| format!("never {number}")).collect();
    let answer = desk
        .post("/v1/completions", &json!({ "prompt": "def fib(n):\n", "max_tokens": 8, "stop": stops }))
        .await;
    assert_eq!(answer.json()["choices"][0]["text"], expected.as_str(), "{}", answer.text);
    let chat =
        json!({ "messages": [{ "role": "system", "content": "s" }, { "role": "user", "content": "hi" }] });
    let answer = desk.post("/v1/chat/completions", &chat).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.json()["choices"][0]["message"]["content"].is_string());
    let answer = desk
        .post("/v1/completions", &json!({ "prompt": "def f", "n": 2, "logprobs": 1, "max_tokens": 4 }))
        .await;
    let choices = answer.json()["choices"].clone();
    assert_eq!(choices.as_array().unwrap().len(), 2, "{choices}");
    assert!(choices[1]["logprobs"]["tokens"].is_array(), "{choices}");
}

/// More stop texts than the server takes: the rest is matched here.
#[tokio::test]
async fn the_stop_after_the_last_that_the_server_takes_ends_the_answer_as_well() {
    let desk = Desk::new().await;
    let whole = desk.expected(json!({ "prompt": "def fib(n):\n", "max_tokens": 16 })).await;
    let stop: String = whole.chars().skip(3).take(4).collect();
    let mut stops: Vec<String> = (0..MAX_STOPS).map(|number| format!("never {number}")).collect();
    stops.push(stop.clone());
    for stream in [false, true] {
        let body = json!({ "prompt": "def fib(n):\n", "max_tokens": 16, "stop": stops, "stream": stream });
        let answer = desk.post("/v1/completions", &body).await;
        assert!(!answer.text.contains(&serde_json::to_string(&whole).unwrap()), "{}", answer.text);
        if !stream {
            let cut = whole.split(&stop).next().unwrap();
            assert_eq!(answer.json()["choices"][0]["text"], cut);
            assert_eq!(answer.json()["choices"][0]["finish_reason"], "stop");
        }
    }
}

#[tokio::test]
async fn editors_find_what_they_ask_for_first() {
    let desk = Desk::new().await;
    for (path, pointer, expected) in [
        ("/v1/models", "/data/0/max_model_len", json!(8192)),
        ("/models", "/data/0/status", json!("ready")),
        ("/v1/models/anything", "/id", json!("anything")),
        ("/health", "/status", json!("ok")),
        ("/v1/health", "/status", json!("ok")),
        ("/props", "/default_generation_settings/n_ctx", json!(8192)),
        ("/slots", "/0/id", json!(0)),
        ("/api/version", "/version", json!("0.9.9")),
    ] {
        let answer = desk.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.json().pointer(pointer), Some(&expected), "{path}: {}", answer.text);
    }
    let models = desk.get("/v1/models").await.json();
    assert!(models["data"][0]["id"].as_str().unwrap().contains("codegemma"), "{models}");
    assert_eq!(desk.get("/").await.text, "Ollama is running");
    let show = desk.post("/api/show", &json!({ "name": "x" })).await.json();
    assert_eq!(show["capabilities"], json!(["completion", "insert"]));
    assert!(desk.get("/api/tags").await.json()["models"][0]["name"].is_string());
    let loaded = desk.post("/api/generate", &json!({ "model": "x", "stream": false })).await.json();
    assert_eq!((&loaded["done"], &loaded["done_reason"]), (&json!(true), &json!("load")));
    let tokens = desk.post("/tokenize", &json!({ "content": "def fib(n):" })).await.json();
    assert!(!tokens["tokens"].as_array().unwrap().is_empty());
}

/// The second request is the beginning of the first one's answer, typed: no token is computed for it.
#[tokio::test]
async fn what_was_predicted_is_there_while_it_is_typed() {
    let desk = Desk::new().await;
    let ask = async |prefix: &str| {
        let body = json!({ "input_prefix": prefix, "input_suffix": SUFFIX, "n_predict": 12 });
        desk.post("/infill", &body).await.json()["content"].as_str().unwrap().to_owned()
    };
    let predicted = ask(PREFIX).await;
    let (typed, rest) = predicted.split_at(3);
    assert_eq!(ask(&format!("{PREFIX}{typed}")).await, rest);
    let counts = desk.get("/status").await.json()["counts"].clone();
    assert_eq!((&counts["reused"], &counts["requests"]), (&json!(1), &json!(2)), "{counts}");
}

/// The model sees line feeds, and the editor gets back what its file has.
#[tokio::test]
async fn a_file_keeps_its_own_line_ends() {
    for whole_below in [0, 64] {
        let desk = Desk::with(|config| config.whole_below = whole_below).await;
        let prompt = "def fib(n):\n    if n < 2:\n        return n\n";
        let expected = desk.expected(json!({ "prompt": prompt, "suffix": "\n\n\n", "max_tokens": 16 })).await;
        let (prompt, suffix) = (prompt.replace('\n', "\r\n"), "\r\n\r\n\r\n");
        let body = json!({ "prompt": prompt, "suffix": suffix, "max_tokens": 16 });
        let answer = desk.post("/v1/completions", &body).await.json();
        assert_eq!(answer["choices"][0]["text"], expected.replace('\n', "\r\n"));
        let body =
            json!({ "prompt": prompt, "suffix": suffix, "stream": false, "options": { "num_predict": 16 } });
        let answer = desk.post("/api/generate", &body).await.json();
        assert_eq!(answer["response"], expected.replace('\n', "\r\n"));
    }
}
