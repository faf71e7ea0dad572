//! Clients for JavaScript: the libraries of OpenAI and Ollama, Continue's adapters, and Tabby's agent.

use std::sync::Arc;

use super::driver::{Driver, file};
use super::outcome::{BOTH, Client, Outcome, check, find, hole, read};
use super::scenes::Scenes;

async fn drive(scenes: &Arc<Scenes>, script: &str) -> Vec<Outcome> {
    read(Driver::new("CODESEAL_EDITORS_NODE").arg(file("tests/node").join(script)).run(scenes).await)
}

#[tokio::test]
#[ignore = "needs Node with the packages of tests/node: set CODESEAL_EDITORS_NODE"]
async fn openais_library() {
    let scenes = Arc::new(Scenes::new().await);
    let outcomes = drive(&scenes, "openai.mjs").await;
    let client = Client { name: "openai-js", forms: BOTH, tries_when_busy: 3, tells_of_break: true };
    check(&scenes, &outcomes, client).await;
    for (scene, name, status, code) in [
        ("down", "InternalServerError", 503, "not_connected"),
        ("not_verified", "PermissionDeniedError", 403, "not_verified"),
        ("busy", "RateLimitError", 429, "server_busy"),
    ] {
        let problem = find(&outcomes, "openai-js", scene, "stream").error.as_ref().unwrap();
        assert_eq!((problem.name.as_str(), problem.status), (name, Some(status)), "{problem:?}");
        assert_eq!(problem.code.as_ref().unwrap(), code, "{problem:?}");
    }
    assert!(find(&outcomes, "openai-js", "models", "list").shown.contains("codegemma"));
}

#[tokio::test]
#[ignore = "needs Node with the packages of tests/node: set CODESEAL_EDITORS_NODE"]
async fn ollamas_library() {
    let scenes = Arc::new(Scenes::new().await);
    let outcomes = drive(&scenes, "ollama.mjs").await;
    let client = Client { name: "ollama-js", forms: BOTH, tries_when_busy: 1, tells_of_break: true };
    check(&scenes, &outcomes, client).await;
}

#[tokio::test]
#[ignore = "needs Node with the packages of tests/node: set CODESEAL_EDITORS_NODE"]
async fn continues_adapters_with_the_printed_configuration() {
    let scenes = Arc::new(Scenes::new().await);
    let outcomes = drive(&scenes, "continue.mjs").await;
    let client = Client { name: "continue", forms: BOTH, tries_when_busy: 3, tells_of_break: true };
    check(&scenes, &outcomes, client).await;
    // The other providers that a user may have chosen instead.
    for provider in ["vllm", "lmstudio", "llama.cpp", "ollama", "mistral", "deepseek"] {
        let outcome = find(&outcomes, "continue", "good", provider);
        assert_eq!(outcome.shown, scenes.expected(hole("continue", provider)).await, "{outcome:?}");
    }
}

/// The agent asks for no streams, and shows a part of what it gets. What went wrong is in its log alone.
#[tokio::test]
#[ignore = "needs Node with the packages of tests/node: set CODESEAL_EDITORS_NODE"]
async fn tabbys_agent_with_the_printed_configuration() {
    let scenes = Arc::new(Scenes::new().await);
    let outcomes = drive(&scenes, "tabby.mjs").await;
    for scene in ["good", "token"] {
        let outcome = find(&outcomes, "tabby", scene, "whole");
        let expected = scenes.expected(hole("tabby", "whole")).await;
        assert!(
            !outcome.shown.is_empty() && expected.starts_with(&outcome.shown),
            "{expected:?}: {outcome:?}"
        );
        assert_eq!(outcome.requests, 1, "{outcome:?}");
    }
    for scene in ["down", "not_verified", "busy"] {
        let outcome = find(&outcomes, "tabby", scene, "whole");
        assert!(outcome.shown.is_empty(), "{outcome:?}");
        assert_eq!(outcome.requests, 1, "{outcome:?}");
    }
    assert_eq!(find(&outcomes, "tabby", "cancelled", "whole").error.as_ref().unwrap().name, "0 items");
}
