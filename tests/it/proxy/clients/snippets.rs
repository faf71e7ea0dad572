//! What `--editor` prints is read by the parsers that the editors use. Vim, Neovim, Emacs, Continue's adapters, Tabby's
//! agent and llm are driven with it in the modules beside this one.

use serde_json::Value;
use tokio::process::Command;

use super::driver::{file, program};
use crate::harness::clean;

/// The editors that there is a configuration for.
pub(super) const EDITORS: [&str; 10] =
    ["vim", "neovim", "vscode", "continue", "zed", "emacs", "jupyter", "tabby", "llm", "aider"];

async fn run(mut command: Command) -> String {
    let output = command.kill_on_drop(true).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn snippet(editor: &str) -> String {
    let mut command = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")));
    command.args(["proxy", "--editor", editor, "--listen", "127.0.0.1:8099"]);
    run(command).await
}

/// Members of an object of JSON with comments and a comma behind the last one, as VS Code and Zed take it.
fn settings(text: &str) -> Value {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let members = lines.join("\n");
    serde_json::from_str(&format!("{{{}}}", members.trim().trim_end_matches(','))).unwrap()
}

#[tokio::test]
async fn vscode_and_zed_read_theirs() {
    let vscode = settings(&snippet("vscode").await);
    assert_eq!(vscode["llama-vscode.endpoint"], "http://127.0.0.1:8099");
    let zed = settings(&snippet("zed").await);
    let provider = zed["edit_predictions"]["provider"].as_str().unwrap();
    assert_eq!(zed["edit_predictions"][provider]["api_url"], "http://127.0.0.1:8099/v1/completions");
}

#[tokio::test]
async fn tabby_reads_its_toml() {
    let text = snippet("tabby").await;
    let config: toml::Table = toml::from_str(&text).unwrap();
    assert_eq!(config["server"]["endpoint"].as_str(), Some("http://127.0.0.1:8099"));
    assert_eq!(config["anonymousUsageTracking"]["disable"].as_bool(), Some(true));
}

#[tokio::test]
#[ignore = "needs a Python: set CODESEAL_EDITORS_PYTHON"]
async fn jupyter_reads_its_python() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.py");
    std::fs::write(&path, snippet("jupyter").await).unwrap();
    // Jupyter runs the file with `c` in it, and takes what it has set there.
    let script = "import json, runpy, sys, types\n\
                  app = types.SimpleNamespace()\n\
                  runpy.run_path(sys.argv[1], {'c': types.SimpleNamespace(CellSenseApp=app)})\n\
                  print(json.dumps(vars(app)))";
    let mut command = Command::from(clean(program("CODESEAL_EDITORS_PYTHON")));
    command.args(["-c", script]).arg(path);
    let set: Value = serde_json::from_str(&run(command).await).unwrap();
    assert_eq!(set["provider_base_url"], "http://127.0.0.1:8099");
    assert_eq!(set["provider_type"], "openai_compatible");
}

#[tokio::test]
#[ignore = "needs Node with the packages of tests/node: set CODESEAL_EDITORS_NODE"]
async fn aider_reads_its_yaml() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aider.conf.yml");
    std::fs::write(&path, snippet("aider").await).unwrap();
    let mut command = Command::from(clean(program("CODESEAL_EDITORS_NODE")));
    command.arg(file("tests/node/yaml.mjs")).arg(path);
    let set: Value = serde_json::from_str(&run(command).await).unwrap();
    assert_eq!(set["openai-api-base"], "http://127.0.0.1:8099/v1");
    assert_eq!(set["model"], "openai/codegemma");
}
