//! Client libraries and commands written in Python.

use std::sync::Arc;

use serde_json::{Value, json};

use super::driver::{Driver, file, program};
use super::outcome::{BOTH, Client, check, find, read};
use super::scenes::Scenes;
use crate::harness::clean;
use crate::proxy::Desk;

/// The libraries without async, with prompts and counts of their own.
#[tokio::test]
#[ignore = "needs a Python with the packages of tests/python/editors.txt: set CODESEAL_EDITORS_PYTHON"]
async fn every_client_library_gets_the_text_that_the_server_makes() {
    let desk = Desk::new().await;
    let home = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::from(clean(program("CODESEAL_EDITORS_PYTHON")));
    command.arg(file("tests/python/editors.py")).arg(&desk.url);
    command.env("NO_PROXY", "*").env("HOME", home.path()).kill_on_drop(true);
    let output = tokio::time::timeout(super::driver::PATIENCE, command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let expected = desk
        .expected(json!({
            "prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n", "max_tokens": 12
        }))
        .await;
    assert!(!expected.is_empty());
    let lines = String::from_utf8(output.stdout).unwrap();
    let results: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 10, "{lines}");
    for result in results {
        match result["client"].as_str().unwrap() {
            "openai models" => assert!(result["got"][0].as_str().unwrap().contains("codegemma"), "{result}"),
            "openai error" => assert_eq!(result["got"], json!([400, "invalid_parameter"]), "{result}"),
            _ => assert_eq!(result["got"], json!(expected), "{result}"),
        }
    }
}

#[tokio::test]
#[ignore = "needs a Python with the packages of tests/python/editors.txt: set CODESEAL_EDITORS_PYTHON"]
async fn every_client_in_every_scene() {
    let scenes = Arc::new(Scenes::new().await);
    let driver = Driver::new("CODESEAL_EDITORS_PYTHON").arg(file("tests/python/clients.py"));
    let outcomes = read(driver.run(&scenes).await);
    for (name, tries_when_busy) in
        [("openai-py", 3), ("ollama-py", 1), ("mistral", 1), ("litellm", 3), ("langchain", 3), ("llm", 3)]
    {
        // Mistral's library raises that an error event is no completion, and says no more.
        let tells_of_break = name != "mistral";
        check(&scenes, &outcomes, Client { name, forms: BOTH, tries_when_busy, tells_of_break }).await;
    }
    for (scene, name, status, code) in [
        ("down", "InternalServerError", 503, "not_connected"),
        ("not_verified", "PermissionDeniedError", 403, "not_verified"),
        ("busy", "RateLimitError", 429, "server_busy"),
    ] {
        let problem = find(&outcomes, "openai-py", scene, "stream").error.as_ref().unwrap();
        assert_eq!((problem.name.as_str(), problem.status), (name, Some(status)), "{problem:?}");
        assert_eq!(problem.code.as_ref().unwrap(), code, "{problem:?}");
    }
}
