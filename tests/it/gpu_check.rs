//! `scripts/gpu-check.sh` with a server and peers that are stand-ins: what it asks for, and what it writes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::clean;

/// Answers as `codeseal-server` does.
const SERVER: &str = r#"#!/usr/bin/env bash
echo "$@" >>"$(dirname "$0")/asked"
case $1 in
  kernels-check)
    [ -e "$(dirname "$0")/absent" ] && { echo "codeseal-server: no device" >&2; exit 69; }
    printf '{\n  "device": "a device",\n  "checks": [\n    {\n      "name": "candle",\n      "difference": 0.0213,\n      "bound": 0.15\n    },\n    {\n      "name": "logits",\n      "failure": "off"\n    },\n    {\n      "name": "bits"\n    }\n  ]\n}\n'
    [ ! -e "$(dirname "$0")/wrong" ] || exit 70 ;;
  bench)
    [ "$2" = --help ] && { [ -e "$(dirname "$0")/old" ] || echo "  --backend <BACKEND>"; exit; }
    [ "$9" = 2048 ] && { echo "codeseal-server: too little memory" >&2; exit 69; }
    prefill=12500.5
    [ "${16}" = candle ] && prefill=5000.0
    printf '{\n  "weight_bytes": 5000000,\n  "memory_bytes_per_second": 3.1e12,\n  "prefill_tokens_per_second": '"$prefill"',\n  "ttft_ms": 7.25,\n  "decode": ['
    row() { printf '\n    {\n      "batch": %s,\n      "tokens_per_second": %s,\n      "step_ms": 400.0,\n      "memory_share": 0.5,\n      "launches_per_step": %s\n    }' "$@"; }
    if [ "${16}" = candle ]; then row 1 2.0 null; else row 1 2.5 185; fi
    [ "${13}" = 1 ] || { printf ,; row 64 81.25 null; }
    printf '\n  ]\n}\n' ;;
esac
"#;

/// Answers as llama.cpp's `llama-bench` does, which knows no other order of its rates than that of its runs.
const LLAMA_BENCH: &str = r#"#!/usr/bin/env bash
echo "$@" >>"$(dirname "$0")/asked-llama"
[ ! -e "$(dirname "$0")/broken" ] || { echo "error: failed to load model"; exit 1; }
row() { printf '  {\n    "build_commit": "abc",\n    "n_prompt": %s,\n    "n_gen": %s,\n    "n_depth": %s,\n    "avg_ts": 77.0,\n    "samples_ns": [ 1, 2, 3, 4, 5 ],\n    "samples_ts": [ %s ]\n  }' "$@"; }
echo '['
case $* in
  *"-p 0 -n 64 -d 128,512,2048"*) row 0 64 128 "9, 10, 1.0, 2, 3"; echo ,; row 0 64 512 "0.5, 1.25e0, 100, 0.25, 20" ;;
  *"-p 128,512,2048 -n 0"*) row 128 0 0 "5, 4, 3, 2, 1"; echo ,; row 512 0 0 "25001, 25001, 25001, 25001, 25001" ;;
esac
printf '\n]\n'
"#;

/// Answers as a Python does that has PyTorch and a device, and as the script that measures `transformers`.
const PYTHON: &str = r#"#!/usr/bin/env bash
case $1 in
  -c) [ ! -e "$(dirname "$0")/no-torch" ] ;;
  *)
    echo "$@" >>"$(dirname "$0")/asked-python"
    cat "$2" >>"$(dirname "$0")/asked-python"
    row() { printf '    {\n      "prompt_tokens": %s,\n      "prefill_tokens_per_second": %s,\n      "ttft_ms": 9.0,\n      "decode_tokens_per_second": %s\n    }' "$@"; }
    printf '{\n  "torch": "2",\n  "matmul_teraflops": 123.75,\n  "runs": [\n'
    row 128 1000 0.25; echo ,; row 512 6250.25 0.2
    printf '\n  ]\n}\n' ;;
esac
"#;

/// A machine: the server, and the peers if they are wanted.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        fs::create_dir(machine.path("bin")).unwrap();
        machine.write("bin/server", SERVER);
        // No Python that this machine may have.
        machine.write("bin/python3", PYTHON);
        machine.write("bin/no-torch", "");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn run(&self, variables: &[(&str, &str)]) -> Output {
        self.run_server("bin/server", variables)
    }

    fn run_server(&self, server: &str, variables: &[(&str, &str)]) -> Output {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        clean(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/gpu-check.sh"))
            .arg(self.path(server))
            .arg(self.path("out"))
            .env("PATH", path)
            .env("CODESEAL_CHECK_SHAPES", "2b")
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    }

    fn results(&self) -> Value {
        serde_json::from_str(&self.read("out/results.json")).unwrap()
    }

    fn assert_says(&self, lines: &[&str]) {
        let table = self.read("out/table.txt");
        for line in lines {
            assert!(table.lines().any(|found| found == *line), "{line} is not in\n{table}");
        }
    }
}

#[test]
fn everything_is_written_once_as_json_and_once_for_people() {
    let machine = Machine::new();
    let output = machine.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let results = machine.results();
    assert_eq!(results["passed"], true);
    assert_eq!(results["checks"]["device"], "a device");
    let runs: Vec<_> =
        results["runs"].as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap()).collect();
    // What does not fit the device is left out, and the rest goes on.
    let expected = ["none", "q8_0", "q4k"].map(|kind| {
        ["512-candle", "128-candle", "512-kernels", "128-kernels"].map(|run| format!("2b-{kind}-{run}"))
    });
    assert_eq!(runs, expected.concat());
    assert_eq!(results["runs"][2]["figures"]["ttft_ms"], 7.25);
    assert_eq!(results["runs"][2]["figures"]["decode"][0]["launches_per_step"], 185);
    // Kernels and candle first.
    let table = machine.read("out/table.txt");
    let checks = "name: candle\ndifference: 0.0213\nbound: 0.15\nname: logits\nfailure: off\nname: bits\n";
    assert!(table.contains(checks), "{table}");
    machine.assert_says(&[
        "device: a device",
        "failure: off",
        "2b-none-2048-kernels: not measured, see above",
        "2b-none-2048-candle: not measured, see above",
        "=== 2b-q8_0-512-kernels: memory 3.1e12 B/s, weights 5000000 B",
        "prefill of 512: 12500.5 tokens/s, first token after 7.25 ms",
        "batch 1: 2.5 tokens/s, 400.0 ms a step, 0.5 of what the memory gives, 185 launches repeated",
        "batch 64: 81.25 tokens/s, 400.0 ms a step, 0.5 of what the memory gives, no launches repeated",
        "ratio: decode, batch 64 to batch 1: 32.500",
        // Neither peer is here, which is said and is no failure.
        "transformers: no python3 here with torch, transformers and a CUDA device, so it is not measured",
        "llama.cpp: CODESEAL_CHECK_LLAMA names no llama-bench, so it is not measured",
    ]);
    assert_eq!(results["peers"], json!([]));
    // How much batch 64 makes of one's rate, and how often candle's rate the kernels' is.
    let expected = ["none", "q8_0", "q4k"].map(|kind| {
        let ratio = |run: &str, ratio: &str, value: f64| {
            json!({"run": format!("2b-{kind}-{run}"), "ratio": ratio, "value": value})
        };
        [
            ratio("512-candle", "decode, batch 64 to batch 1", 40.625),
            ratio("512-kernels", "decode, batch 64 to batch 1", 32.5),
            ratio("512-kernels", "prefill, to candle", 2.5),
            ratio("512-kernels", "decode, batch 1, to candle", 1.25),
            ratio("512-kernels", "decode, batch 64, to candle", 1.0),
            ratio("128-kernels", "prefill, to candle", 2.5),
            ratio("128-kernels", "decode, batch 1, to candle", 1.25),
        ]
    });
    assert_eq!(results["ratios"], json!(expected.concat()));
    let asked = machine.read("bin/asked");
    // The device is checked before anything is measured.
    assert!(asked.starts_with("kernels-check --device cuda:0"), "{asked}");
    assert!(asked.lines().all(|line| line.contains("--device cuda:0") || line == "bench --help"), "{asked}");
    for backend in ["kernels", "candle"] {
        let expected = format!("--new-tokens 64 --batch 1,8,64 --json --backend {backend}\n");
        assert_eq!(asked.matches(&expected).count(), 3, "{asked}");
    }
}

#[test]
fn peers_that_are_there_are_measured_in_the_same_run() {
    let machine = Machine::new();
    machine.write("bin/llama-bench", LLAMA_BENCH);
    fs::remove_file(machine.path("bin/no-torch")).unwrap();
    fs::create_dir(machine.path("gguf")).unwrap();
    machine.write("gguf/2b-bf16.gguf", "");
    let llama = format!("{} -fa on", machine.path("bin/llama-bench").display());
    let gguf = machine.path("gguf");
    let peers = [
        ("CODESEAL_CHECK_LLAMA", llama.as_str()),
        ("CODESEAL_CHECK_GGUF", gguf.to_str().unwrap()),
        ("CODESEAL_CHECK_DEVICE", "cuda:1"),
        ("CODESEAL_CHECK_TYPES", "none q8_0"),
        ("CODESEAL_CHECK_BACKENDS", "kernels"),
    ];
    let output = machine.run(&peers);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("too little memory").count(), 2);
    machine.assert_says(&["llama.cpp: there is no 2b-q8_0.gguf, so it is not measured"]);
    let asked = machine.read("bin/asked-llama");
    assert_eq!(asked.lines().count(), 2, "{asked}");
    assert!(asked.lines().all(|line| line.starts_with("-fa on -m ") && line.contains("-mg 1 -r 5 -o json")));
    let asked = machine.read("bin/asked-python");
    assert!(asked.contains("--device cuda:1 --prompt-tokens 128,512,2048 --new-tokens 64\n"), "{asked}");
    assert!(asked.contains(r#""hidden_size": 2048"#), "{asked}");

    let results = machine.results();
    let peers: Vec<_> = results["peers"].as_array().unwrap().iter().map(|peer| &peer["peer"]).collect();
    assert_eq!(peers, ["transformers", "llama.cpp", "llama.cpp"]);
    assert_eq!(results["peers"][0]["figures"]["matmul_teraflops"], 123.75);
    assert_eq!(results["peers"][2]["figures"][1]["n_depth"], 512);
    let ratio = |run: &str, ratio: &str| {
        let ratios = results["ratios"].as_array().unwrap().iter();
        let found = ratios.filter(|found| found["run"] == run && found["ratio"] == ratio);
        found.map(|found| found["value"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    for (run, name, value) in [
        ("2b-none-128-kernels", "decode, batch 1, to transformers", 10.0),
        ("2b-none-512-kernels", "decode, batch 1, to transformers", 12.5),
        ("2b-none-512-kernels", "prefill, to transformers", 2.0),
        // The median: 1.25 of 0.25, 0.5, 1.25, 20 and 100, however they are written.
        ("2b-none-512-kernels", "decode, batch 1, to llama.cpp", 2.0),
        ("2b-none-128-kernels", "decode, batch 1, to llama.cpp", 0.833),
        ("2b-none-512-kernels", "prefill, to llama.cpp", 0.5),
        // 18 layers of 110,100,480 weights, twice, 12,500.5 times a second, of 123.75 * 10^12.
        ("2b-none-512-kernels", "prefill, to the device's rate for large matrices", 0.4),
    ] {
        assert_eq!(ratio(run, name), [value], "{run}: {name}");
    }
    // Of the same type only.
    assert!(ratio("2b-q8_0-512-kernels", "decode, batch 1, to transformers").is_empty());
    assert!(ratio("2b-q8_0-512-kernels", "decode, batch 1, to llama.cpp").is_empty());
    machine.assert_says(&["ratio: decode, batch 1, to transformers: 12.500"]);
}

#[test]
fn a_peer_that_fails_is_left_out() {
    let machine = Machine::new();
    machine.write("bin/llama-bench", LLAMA_BENCH);
    machine.write("bin/broken", "");
    machine.write("2b-bf16.gguf", "");
    let llama = machine.path("bin/llama-bench");
    let output = machine.run(&[
        ("CODESEAL_CHECK_LLAMA", llama.to_str().unwrap()),
        ("CODESEAL_CHECK_GGUF", machine.0.path().to_str().unwrap()),
    ]);
    assert_eq!(output.status.code(), Some(0));
    machine.assert_says(&["llama.cpp: 2b-bf16 not measured, see above"]);
    assert_eq!(machine.results()["peers"], json!([]));
}

#[test]
fn a_compressed_server_is_unpacked() {
    let machine = Machine::new();
    let packed = clean("gzip").arg(machine.path("bin/server")).status().unwrap();
    assert!(packed.success() && !machine.path("bin/server").exists());
    let output = machine.run_server("bin/server.gz", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(machine.results()["runs"].as_array().unwrap().len(), 12);
}

#[test]
fn a_device_that_is_wrong_or_absent_is_told_by_the_exit_code() {
    let machine = Machine::new();
    machine.write("bin/wrong", "");
    assert_eq!(machine.run(&[]).status.code(), Some(70));
    assert_eq!(machine.results()["passed"], false);
    machine.write("bin/absent", "");
    let output = machine.run(&[]);
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no device"));
}

#[test]
fn what_does_not_fit_into_the_time_is_left_out_and_a_server_without_candle_is_measured_without() {
    let machine = Machine::new();
    machine.write("bin/old", "");
    let output = machine.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    machine.assert_says(&["candle: this server has no --backend, so it is not measured"]);
    let asked = machine.read("bin/asked");
    assert!(asked.contains("bench --device") && !asked.contains("--backend"), "{asked}");
    assert_eq!(machine.results()["runs"].as_array().unwrap().len(), 6);

    // The check itself was cut short.
    let output = machine.run(&[("CODESEAL_CHECK_SECONDS", "0")]);
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the 0 seconds are over"));
}
