//! `scripts/gpu-check.sh` with a server that is a stand-in: what it asks for, and what it writes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Answers as `codeseal-server` does.
const SERVER: &str = r#"#!/usr/bin/env bash
echo "$@" >>"$(dirname "$0")/asked"
case $1 in
  kernels-check)
    [ -e "$(dirname "$0")/absent" ] && { echo "codeseal-server: no device" >&2; exit 69; }
    printf '{\n  "device": "a device",\n  "checks": [\n    {\n      "name": "logits",\n      "failure": "off"\n    },\n    {\n      "name": "bits"\n    }\n  ]\n}\n'
    [ ! -e "$(dirname "$0")/wrong" ] || exit 70 ;;
  bench)
    [ "$9" = 2048 ] && { echo "codeseal-server: too little memory" >&2; exit 69; }
    printf '{\n  "weight_bytes": 5000000,\n  "memory_bytes_per_second": 3.1e12,\n  "prefill_tokens_per_second": 12.5,\n  "ttft_ms": 7.25,\n  "decode": [\n    {\n      "batch": 1,\n      "tokens_per_second": 2.5,\n      "step_ms": 400.0,\n      "memory_share": 0.5\n    }\n  ]\n}\n' ;;
esac
"#;

fn run(directory: &Path) -> Output {
    let server = directory.join("server");
    fs::write(&server, SERVER).unwrap();
    fs::set_permissions(&server, fs::Permissions::from_mode(0o755)).unwrap();
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/gpu-check.sh"))
        .arg(&server)
        .arg(directory.join("out"))
        .env("CODESEAL_CHECK_SHAPES", "2b")
        .output()
        .unwrap()
}

#[test]
fn everything_is_written_once_as_json_and_once_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("out/results.json")).unwrap()).unwrap();
    assert_eq!(results["passed"], true);
    assert_eq!(results["checks"]["device"], "a device");
    let runs: Vec<_> =
        results["runs"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect();
    // What does not fit the device is left out, and the rest goes on.
    assert_eq!(runs, ["2b-none-128", "2b-none-512", "2b-q8_0-128", "2b-q8_0-512"]);
    assert_eq!(results["runs"][1]["figures"]["ttft_ms"], 7.25);
    let table = fs::read_to_string(dir.path().join("out/table.txt")).unwrap();
    for line in [
        "device: a device",
        "failure: off",
        "2b-none-2048: not measured, see above",
        "=== 2b-q8_0-512: memory 3.1e12 B/s, weights 5000000 B",
        "prefill of 512: 12.5 tokens/s, first token after 7.25 ms",
        "batch 1: 2.5 tokens/s, 400.0 ms a step, 0.5 of what the memory gives",
    ] {
        assert!(table.lines().any(|found| found == line), "{line} is not in\n{table}");
    }
    let asked = fs::read_to_string(dir.path().join("asked")).unwrap();
    assert!(asked.lines().all(|line| line.contains("--device cuda:0")), "{asked}");
    assert!(asked.contains("--new-tokens 64 --batch 1,8,64 --json"), "{asked}");
}

#[test]
fn a_device_that_is_wrong_or_absent_is_told_by_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("wrong"), "").unwrap();
    assert_eq!(run(dir.path()).status.code(), Some(70));
    let results = fs::read_to_string(dir.path().join("out/results.json")).unwrap();
    assert!(results.contains("\"passed\": false"));
    fs::write(dir.path().join("absent"), "").unwrap();
    let output = run(dir.path());
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no device"));
}
