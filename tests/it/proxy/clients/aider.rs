//! aider, which chats: one edit of a file through the proxy, with the configuration that `--editor aider` prints.
//!
//! It is not part of CI: its packages take 700 MB. The text of the edit is scripted, because the small model of the tests does not
//! chat.

use codeseal::proxy::Proxy;
use serde_json::Value;
use tokio::process::Command;

use super::driver::{PATIENCE, program};
use crate::harness::{World, clean, http};
use crate::proxy::scripted::Scripted;
use crate::proxy::{config, url};

const BEFORE: &str = "def add(a, b):\n    return a - b\n";
const AFTER: &str = "def add(a, b):\n    return a + b\n";

/// The edit in the format that aider asks unknown models for: the whole file.
fn script(path: &str, _: &Value) -> (&'static str, &'static str) {
    if path.ends_with("/chat/completions") {
        ("codegemma", "The sign was wrong.\n\ncalc.py\n```\ndef add(a, b):\n    return a + b\n```\n")
    } else {
        ("codegemma", "a + b")
    }
}

#[tokio::test]
#[ignore = "needs aider-chat 0.86.2 in a virtual environment: set CODESEAL_EDITORS_AIDER to its program `aider`"]
async fn one_edit_with_the_printed_configuration() {
    let world = World::start().await;
    let server = Scripted::start(&world, script).await;
    let proxy = Proxy::start(config(&world, &server.url)).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    let home = tempfile::tempdir().unwrap();
    let mut printing = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")));
    let address = url.strip_prefix("http://").unwrap();
    printing.args(["proxy", "--editor", "aider", "--listen", address]).kill_on_drop(true);
    std::fs::write(home.path().join(".aider.conf.yml"), printing.output().await.unwrap().stdout).unwrap();
    let file = home.path().join("calc.py");
    std::fs::write(&file, BEFORE).unwrap();

    let mut command = Command::from(clean(program("CODESEAL_EDITORS_AIDER")));
    command.current_dir(home.path()).env("HOME", home.path()).env("NO_PROXY", "*").kill_on_drop(true);
    // Otherwise litellm looks for a list of prices on the network, and aider for a newer version.
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    command.args([
        "--no-check-update",
        "--analytics-disable",
        "--no-show-model-warnings",
        "--no-git",
        "--yes-always",
    ]);
    command.args(["--no-pretty", "--message", "The sign is wrong. ~canary~", "calc.py"]);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), AFTER, "{said}");

    let asked = server.asked();
    let chats: Vec<&Value> = asked.iter().filter(|body| body["messages"].is_array()).collect();
    assert!(!chats.is_empty() && chats[0].to_string().contains("~canary~"), "{asked:?}");
    let status: Value = http().get(format!("{url}/status")).send().await.unwrap().json().await.unwrap();
    assert_eq!(status["counts"]["clients"][0]["endpoint"], "/v1/chat/completions", "{status}");
    assert_eq!(status["counts"]["failed"], 0, "{status}");
}
