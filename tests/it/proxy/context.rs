//! `--context repo`: files of the repository go with a prompt, sealed, and no file that must not.

use std::path::Path;

use codeseal::proxy::Repository;
use serde_json::{Value, json};

use super::Desk;
use crate::harness::until;

/// Is in every file that must not be sent.
const CANARY: &str = "canary_q7x";

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn prices() -> String {
    (0..40).map(|line| format!("price_{line} = compute_price({line})\n")).collect()
}

fn repository(root: &Path) {
    std::fs::create_dir_all(root.join(".git")).unwrap();
    write(root, ".gitignore", "ignored.py\n");
    write(
        root,
        "main.py",
        "import prices\nimport ignored\nimport secret\n\nfirst_price = 1\nsecond_price = 2\nthird_price = 3\n",
    );
    write(root, "prices.py", &prices());
    write(root, "ignored.py", CANARY);
    write(root, "secret.py", CANARY);
}

async fn files(desk: &Desk) -> Value {
    desk.get("/status").await.json()["context"]["files"].clone()
}

/// What a request costs, in tokens of the prompt: `(all, cached)`.
async fn cost(desk: &Desk, body: &Value) -> (u64, u64) {
    let counts = async || {
        let counts = desk.get("/status").await.json()["counts"].clone();
        (counts["prompt_tokens"].as_u64().unwrap(), counts["cached_tokens"].as_u64().unwrap())
    };
    let before = counts().await;
    assert_eq!(desk.post("/v1/completions", body).await.status, 200);
    let after = counts().await;
    (after.0 - before.0, after.1 - before.1)
}

fn hole(typed: &str) -> Value {
    let prefix = format!("import prices\nimport ignored\nimport secret\n\nfirst_price = {typed}");
    json!({ "segments": { "prefix": prefix, "suffix": "\n", "filepath": "main.py" }, "max_tokens": 2 })
}

#[tokio::test]
async fn imported_files_go_with_the_prompt_and_stay_in_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    let desk = Desk::with(|config| config.repository = Some(Repository::open(dir.path()).unwrap())).await;
    let (alone, _) = cost(&desk, &hole("0")).await;
    let mut number = 0;
    until("the files are read", async || {
        number += 1;
        desk.post("/v1/completions", &hole(&number.to_string())).await;
        files(&desk).await != json!([])
    })
    .await;
    assert_eq!(files(&desk).await, json!([{ "path": "prices.py", "bytes": prices().len() }]));
    let (with, _) = cost(&desk, &hole("9 + 1")).await;
    assert!(with > alone + 50, "{with} tokens with the file, {alone} without");
    // Other files are saved while the user types: what was sent stays as it was.
    for typed in ["9 + 12", "9 + 123", "9 + 1234"] {
        write(dir.path(), "prices.py", &format!("{}# {typed}\n", prices()));
        write(dir.path(), "new.py", typed);
        let (all, cached) = cost(&desk, &hole(typed)).await;
        assert!(cached * 10 >= all * 9, "{cached} of {all} tokens were in the cache");
    }
    assert!(!desk.get("/status").await.text.contains(CANARY));
}

#[tokio::test]
async fn without_the_option_no_file_is_read() {
    let desk = Desk::new().await;
    desk.post("/v1/completions", &hole("1")).await;
    assert_eq!(desk.get("/status").await.json()["context"], Value::Null);
}

#[tokio::test]
async fn a_broken_ignore_file_is_shown_and_nothing_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    write(dir.path(), ".codesealignore", "a{b\n");
    let desk = Desk::with(|config| config.repository = Some(Repository::open(dir.path()).unwrap())).await;
    until("the trouble is shown", async || {
        desk.post("/v1/completions", &hole("1")).await;
        desk.get("/status").await.json()["context"]["message"].is_string()
    })
    .await;
    assert_eq!(files(&desk).await, json!([]));
}
