//! The client libraries that editors use, unmodified, against the proxy.
//!
//! They need packages that a fresh machine lacks (`tests/python/editors.txt`), so this test is ignored until
//! `CODESEAL_EDITORS_PYTHON` names an interpreter that has them; `.ci/run python` makes one.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use super::Desk;
use crate::harness::clean;

/// Importing the packages alone takes seconds on a busy machine.
const IMPORT_PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test]
#[ignore = "needs a Python with the packages of tests/python/editors.txt: set CODESEAL_EDITORS_PYTHON"]
async fn every_client_library_gets_the_text_that_the_server_makes() {
    let desk = Desk::new().await;
    let interpreter = std::env::var_os("CODESEAL_EDITORS_PYTHON").expect("it names an interpreter");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/editors.py");
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::from(clean(interpreter));
    command.arg(script).arg(&desk.url).env("NO_PROXY", "*").env("HOME", home.path()).kill_on_drop(true);
    let output = tokio::time::timeout(IMPORT_PATIENCE, command.output()).await.unwrap().unwrap();
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
