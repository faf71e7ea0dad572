//! What `codeseal proxy` prints and writes for people, and what it says of a proxy that runs.

use std::process::{Output, Stdio};

use codeseal::proxy::AccessToken;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Desk;
use crate::harness::clean;

async fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_codeseal"));
    command.arg("proxy").args(arguments).env_clear().kill_on_drop(true).output().await.unwrap()
}

fn text(output: &Output) -> String {
    [output.stdout.as_slice(), output.stderr.as_slice()].map(String::from_utf8_lossy).concat()
}

#[tokio::test]
async fn an_editors_configuration_has_the_proxys_own_address_and_token() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    let token = token.to_str().unwrap();
    for editor in ["vim", "neovim", "vscode", "continue", "zed", "emacs", "jupyter", "tabby", "llm", "aider"]
    {
        let flags = ["--editor", editor, "--listen", "127.0.0.1:8099", "--token", token];
        let output = run(&flags).await;
        assert_eq!(output.status.code(), Some(0), "{editor}: {}", text(&output));
        assert!(text(&output).contains("127.0.0.1:8099"), "{editor}: {}", text(&output));
    }
    let token = std::fs::read_to_string(token).unwrap();
    let output = run(&["--editor", "continue", "--token", dir.path().join("token").to_str().unwrap()]).await;
    assert!(text(&output).contains(token.trim()), "{}", text(&output));
}

#[tokio::test]
async fn a_block_is_written_into_a_file_and_taken_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("settings.json");
    let old = "{\n  \"editor.fontSize\": 14\n}\n";
    std::fs::write(&path, old).unwrap();
    let file = path.to_str().unwrap();
    let output = run(&["--editor", "vscode", "--write", file]).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let written = std::fs::read_to_string(&path).unwrap();
    let uncommented: String = written.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let settings: serde_json::Value = serde_json::from_str(&uncommented).unwrap();
    assert_eq!(settings["llama-vscode.endpoint"], "http://127.0.0.1:8012");
    assert_eq!(run(&["--undo", file]).await.status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), old);
    assert_eq!(run(&["--undo", file]).await.status.code(), Some(1));
}

#[tokio::test]
async fn units_name_this_program() {
    let systemd = text(&run(&["--unit", "systemd"]).await);
    for line in ["Type=notify", "Restart=on-failure", "NoNewPrivileges=yes", "PrivateTmp=yes"] {
        assert!(systemd.contains(line), "{systemd}");
    }
    assert!(systemd.contains(env!("CARGO_BIN_EXE_codeseal")), "{systemd}");
    let launchd = text(&run(&["--unit", "launchd"]).await);
    assert!(launchd.contains("<key>ProgramArguments</key>"), "{launchd}");
    // As launchd reads it, where there is a Python to do so.
    let mut reading = Command::from(clean("python3"));
    reading.args([
        "-c",
        "import json, plistlib, sys; print(json.dumps(plistlib.loads(sys.stdin.buffer.read())))",
    ]);
    let reading = reading.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
    let Ok(mut reading) = reading else { return };
    reading.stdin.take().unwrap().write_all(launchd.as_bytes()).await.unwrap();
    let read = reading.wait_with_output().await.unwrap();
    assert!(read.status.success());
    let unit: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
    assert_eq!(unit["ProgramArguments"], json!([env!("CARGO_BIN_EXE_codeseal"), "proxy"]));
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong_in_an_editor() {
    let desk = Desk::new().await;
    let doctor = async || run(&["doctor", "--url", &desk.url]).await;
    let healthy = doctor().await;
    assert_eq!(healthy.status.code(), Some(0), "{}", text(&healthy));
    assert!(text(&healthy).contains("no editor has sent anything yet"), "{}", text(&healthy));
    let plain = json!({ "prompt": "x" });
    let long = json!({ "messages": [{ "role": "user", "content": "x ".repeat(40_000) }] });
    for (path, body, advice) in [
        ("/v1", &plain, "sends requests to the base URL itself"),
        ("/v1/responses", &plain, "uses the Responses API"),
        ("/v1/embeddings", &plain, "wants embeddings"),
        ("/api/embed", &plain, "wants embeddings"),
        ("/v2/completions", &plain, "asks for a path that is not there"),
        ("/infill", &json!([]), "cannot be read as a request of that path"),
        ("/v1/completions", &json!({ "prompt": [1, 2] }), "cannot be read as a request of that path"),
        ("/v1/chat/completions", &long, "more than the model's 8192 tokens"),
    ] {
        desk.post(path, body).await;
        let output = doctor().await;
        assert_eq!(output.status.code(), Some(1), "{path}");
        assert!(text(&output).contains(advice), "{path}: {}", text(&output));
    }
    // The setting was corrected: the client's last request is what counts.
    assert_eq!(desk.post("/v1/completions", &json!({ "prompt": "x", "max_tokens": 1 })).await.status, 200);
    assert_eq!(doctor().await.status.code(), Some(0));
}

#[tokio::test]
async fn the_doctor_finds_an_editor_with_a_wrong_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let token = AccessToken::of_file(&path).unwrap();
    let desk = Desk::with(|config| config.token = Some(token)).await;
    let file = path.to_str().unwrap();
    let doctor = async || run(&["doctor", "--url", &desk.url, "--token", file]).await;
    assert_eq!(doctor().await.status.code(), Some(0));
    for path in ["/v1/models", "/v1/health", "/api/tags", "/v1/completions"] {
        let asked = if path.ends_with("completions") {
            desk.post(path, &json!({ "prompt": "x" })).await.status
        } else {
            desk.get(path).await.status
        };
        assert_eq!(asked, 401, "{path}");
        let output = doctor().await;
        assert_eq!(output.status.code(), Some(1), "{path}");
        assert!(text(&output).contains("its API key is not the proxy's token"), "{path}: {}", text(&output));
    }
    let wrong = run(&["doctor", "--url", &desk.url]).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong).contains("the token is missing or wrong"), "{}", text(&wrong));
}
