//! A server that holds the session's key and says what it likes: it is passed on as text, and as nothing else.

use codeseal::proxy::Proxy;
use serde_json::{Value, json};
use tokio::process::Command;

use super::scripted::Scripted;
use super::{config, post, url};
use crate::harness::{World, clean, http};

/// A name for a web page, a terminal, and a log.
const NAME: &str = "<img src=x onerror=alert(1)>\u{1b}]8;;http://evil.example\u{7}\n\u{202e}codegemma";
const TEXT: &str = "\n\ndata: [DONE]\n\n<script>alert(1)</script>\u{1b}[2J\r\n{\"done\":true}\n";

fn script(_: &str, _: &Value) -> (&'static str, &'static str) {
    (NAME, TEXT)
}

fn is_steering(character: char) -> bool {
    character.is_control() && character != '\n' || ('\u{202a}'..='\u{202e}').contains(&character)
}

#[tokio::test]
async fn nothing_that_a_server_says_is_more_than_text() {
    let world = World::start().await;
    let server = Scripted::start(&world, script).await;
    let mut settings = config(&world, &server.url);
    settings.whole_below = 0;
    let proxy = Proxy::start(settings).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    for path in ["/v1/models", "/props", "/api/tags", "/v1/health", "/status"] {
        let answer: Value = http().get(format!("{url}{path}")).send().await.unwrap().json().await.unwrap();
        let text = answer.to_string();
        assert!(text.contains("codegemma") && !text.contains("<img") && !text.contains("\\u001b"), "{text}");
        assert!(!text.contains(is_steering), "{text}");
    }
    for stream in [false, true] {
        let body = json!({ "prompt": "x", "max_tokens": 99, "stream": stream, "stop": ["never"] });
        let answer = post(&url, "/v1/completions", &body).await;
        let text = if stream {
            let events =
                answer.text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
            let events: Vec<&str> = events.collect();
            assert_eq!(events.iter().filter(|event| **event == "[DONE]").count(), 1, "{}", answer.text);
            let json = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
            json.filter_map(|event| event["choices"][0]["text"].as_str().map(str::to_owned)).collect()
        } else {
            answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
        };
        assert_eq!(text, TEXT, "stream: {stream}");
        let lines = post(&url, "/api/generate", &json!({ "prompt": "y", "stream": stream })).await.text;
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().filter(|line| line["done"] == true).count(), 1, "{lines:?}");
    }
    let mut command = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")));
    command.args(["proxy", "status", "--url", &url]).kill_on_drop(true);
    let shown = String::from_utf8(command.output().await.unwrap().stdout).unwrap();
    assert!(shown.contains("codegemma") && !shown.contains(is_steering), "{shown:?}");
    // The page is the same file whatever the server says.
    let page = http().get(format!("{url}/")).header("accept", "text/html").send().await.unwrap().text().await;
    assert!(!page.unwrap().contains("alert"));
}
