//! The real `codeseal proxy`, as a process.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::post;
use crate::harness::PATIENCE;

/// Is in what is asked for, and must be in no log.
const CANARY: &str = "canary_x7q";

fn codeseal(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_codeseal"));
    command
        .args(arguments)
        .env_clear()
        .env("TMPDIR", std::env::temp_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn the_demo_serves_with_one_command_and_says_where() {
    let mut child = codeseal(&["proxy", "--demo", "--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(ready["event"], "ready");
    let url = ready["url"].as_str().unwrap();
    let body = json!({ "prompt": format!("def {CANARY}(n):\n"), "suffix": CANARY, "max_tokens": 4 });
    // A body that is refused, and a path that is not there.
    assert_eq!(post(url, "/v1/completions", &json!({ "prompt": { "not": CANARY } })).await.status, 400);
    assert_eq!(post(url, &format!("/{CANARY}"), &body).await.status, 404);
    let answer = post(url, "/v1/completions", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);

    let status = codeseal(&["proxy", "status", "--json", "--url", url]).output().await.unwrap();
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stderr));
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["ready"], &status["counts"]["requests"]), (&json!(true), &json!(3)));
    let words = codeseal(&["proxy", "status", "--url", url]).output().await.unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains("verified") && words.contains("/v1/completions"), "{words}");

    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
    let mut log = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        log += &line;
    }
    child.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
    assert!(!log.contains(CANARY), "{log}");
    let gone = codeseal(&["proxy", "status", "--url", url]).output().await.unwrap();
    assert_eq!(gone.status.code(), Some(3));
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_by_name() {
    let key = "projects/p/locations/global/keyRings/r/cryptoKeys/k";
    let needed = ["--server", "http://127.0.0.1:1", "--kms-key", key];
    for (flags, word) in [
        (&["--listen", "0.0.0.0:0"][..], "--listen"),
        (&["--allow-origin", "*"], "--allow-origin"),
        (&["--allow-origin", "https://a.example/path"], "--allow-origin"),
        (&["--timeout-secs", "0"], "--timeout-secs"),
        (&["--token", "/nonexistent/token"], "--token"),
    ] {
        let all: Vec<&str> = ["proxy"].iter().chain(&needed).chain(flags).copied().collect();
        let output = codeseal(&all).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(word), "{stderr}");
    }
}
