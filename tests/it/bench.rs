//! The measurement of a model's speed as a user runs it.

use std::fs;

use serde_json::Value;

use super::harness::{Remains, clean, run_server};

async fn bench(flags: &[&str]) -> Remains {
    let few = ["bench", "--prompt-tokens", "40", "--new-tokens", "3", "--repeats", "1"];
    let flags: Vec<String> = [&few[..], flags].concat().into_iter().map(str::to_owned).collect();
    run_server(&flags).await
}

#[tokio::test]
async fn every_batch_is_measured_and_what_moves_is_counted() {
    let remains = bench(&["--model", "tiny", "--batch", "1,3", "--threads", "1", "--json"]).await;
    assert_eq!(remains.code, Some(0), "{}", remains.stderr);
    let report: Value = serde_json::from_str(&remains.stdout).unwrap();
    assert_eq!((&report["quantize"], &report["threads"]), (&"none".into(), &1.into()));
    let [one, three] = report["decode"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!((&one["batch"], &three["batch"]), (&1.into(), &3.into()));
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap();
    for row in [one, three] {
        let made = number(row, "batch") * 1e3 / number(row, "step_ms");
        assert!((number(row, "tokens_per_second") / made - 1.0).abs() < 1e-6, "{report}");
        assert!(number(row, "memory_share") > 0.0, "{report}");
        assert!(row["launches_per_step"].is_null(), "{report}");
    }
    // The weights are read once for all, the keys and values once for each.
    let weights = number(&report, "weight_bytes");
    let kept = number(one, "bytes_per_token") - weights;
    assert!(
        kept > 0.0 && (number(three, "bytes_per_token") - (weights / 3.0 + kept)).abs() < 1.0,
        "{report}"
    );
}

#[tokio::test]
async fn a_start_is_measured_part_by_part() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny");
    for quantize in ["none", "q8_0"] {
        let remains = bench(&["--startup", "--model", model, "--quantize", quantize, "--json"]).await;
        assert_eq!(remains.code, Some(0), "{}", remains.stderr);
        let report: Value = serde_json::from_str(&remains.stdout).unwrap();
        let number = |name: &str| report[name].as_f64().unwrap();
        for part in ["tokenizer_ms", "read_ms", "hash_ms", "repack_ms"] {
            assert!(number(part) > 0.0, "{part}: {report}");
        }
        let one_by_one = ["weights_ms", "kv_ms", "warm_up_ms", "self_test_ms"].map(number);
        assert!(one_by_one.iter().all(|part| *part > 0.0), "{report}");
        assert!(one_by_one.iter().sum::<f64>() <= number("ready_ms"), "{report}");
        assert_eq!(
            number("file_bytes"),
            fs::metadata(format!("{model}/model.safetensors")).unwrap().len() as f64
        );
        assert!(number("weight_bytes") > 0.0 && number("kv_bytes") > 0.0, "{report}");
    }
    let text = bench(&["--startup", "--model", model]).await.stdout;
    assert!(text.starts_with("start of tiny, weights none, ") && text.contains("self-test"), "{text}");
}

#[tokio::test]
async fn candle_is_measured_where_it_is_asked_for() {
    for quantize in ["none", "q8_0", "q4k"] {
        let flags =
            ["--model", "tiny", "--batch", "1,3", "--backend", "candle", "--quantize", quantize, "--json"];
        let remains = bench(&flags).await;
        assert_eq!(remains.code, Some(0), "{}", remains.stderr);
        let report: Value = serde_json::from_str(&remains.stdout).unwrap();
        assert_eq!((&report["backend"], &report["device"]), (&"candle".into(), &Value::Null));
        assert_eq!(report["decode"].as_array().unwrap().len(), 2);
    }
    let remains = bench(&["--model", "tiny", "--backend", "kernels", "--batch", "1", "--json"]).await;
    assert!(remains.stdout.contains(r#""backend": "kernels""#), "{}", remains.stdout);
    assert_eq!(bench(&["--model", "tiny", "--backend", "torch"]).await.code, Some(64));
}

#[tokio::test]
async fn random_weights_need_nothing_but_a_shape() {
    let dir = tempfile::tempdir().unwrap();
    let shape = dir.path().join("shape.json");
    let config = r#"{"model_type": "gemma", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}"#;
    fs::write(&shape, config).unwrap();
    let flags = ["--random-weights", shape.to_str().unwrap(), "--quantize", "q8_0", "--batch", "2"];
    let remains = bench(&flags).await;
    assert_eq!(remains.code, Some(0), "{}", remains.stderr);
    assert!(remains.stdout.starts_with("random weights, weights q8_0, "), "{}", remains.stdout);
    fs::write(&shape, "{}").unwrap();
    assert_eq!(bench(&flags).await.code, Some(70));
}

async fn kernels_check(flags: &[&str]) -> Remains {
    let flags = [&["kernels-check", "--device", "cpu"], flags].concat();
    run_server(&flags.into_iter().map(str::to_owned).collect::<Vec<_>>()).await
}

#[tokio::test]
async fn the_kernels_of_the_cpu_are_checked_against_candle() {
    let root = env!("CARGO_MANIFEST_DIR");
    let gguf = format!("{root}/tests/vectors/gguf/types.gguf");
    let shape = format!("{root}/models/tiny/config.json");
    for (flags, model) in [
        (&[][..], "codeseal-tiny"),
        (&["--model", &format!("{root}/models/tiny")], "tiny"),
        (&["--model", &gguf], "types"),
        (&["--random-weights", &shape], "random weights"),
    ] {
        let remains = kernels_check(&[flags, &["--json"]].concat()).await;
        assert_eq!(remains.code, Some(0), "{}{}", remains.stdout, remains.stderr);
        let report: Value = serde_json::from_str(&remains.stdout).unwrap();
        assert!(report["device"].as_str().unwrap().starts_with("cpu "), "{report}");
        let checks = report["checks"].as_array().unwrap();
        assert_eq!(checks.len(), 3, "{report}");
        for (check, kind) in checks.iter().zip(["none", "q8_0", "q4k"]) {
            let name = format!("{model}, first 2 layers, weights {kind}: logits are those of candle on cpu");
            assert_eq!(check["name"], name);
            let number = |name: &str| check[name].as_f64().unwrap();
            assert!(number("difference") > 0.0 && number("difference") <= number("bound"), "{check}");
            assert!(check["failure"].is_null(), "{check}");
        }
    }
    let text = kernels_check(&[]).await.stdout;
    assert!(text.starts_with("cpu "), "{text}");
    let lines: Vec<_> = text.lines().skip(1).collect();
    assert_eq!(lines.len(), 3, "{text}");
    for line in lines {
        assert!(line.starts_with("ok      codeseal-tiny, ") && line.ends_with(", bound 0.3"), "{text}");
        assert!(line.contains(", largest difference 0."), "{text}");
    }
}

#[tokio::test]
async fn a_check_without_a_model_to_read_says_so() {
    assert_eq!(kernels_check(&["--model", "tiny", "--random-weights", "shape.json"]).await.code, Some(64));
    assert_eq!(kernels_check(&["--random-weights", "/nonexistent/shape.json"]).await.code, Some(64));
    let remains = kernels_check(&["--model", "/nonexistent/model"]).await;
    assert_eq!((remains.code, remains.stdout.as_str()), (Some(70), ""));
    assert!(remains.stderr.contains("/nonexistent is not there"), "{}", remains.stderr);
}

/// An image sets variables for flags of serving; a subcommand that is run in it has other flags.
#[test]
fn variables_of_serving_do_not_matter_to_subcommands() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny");
    for flags in [
        &["models", "digest", "--model", model][..],
        &["kernels-check", "--device", "cpu"],
        &[
            "bench",
            "--model",
            model,
            "--prompt-tokens",
            "3",
            "--new-tokens",
            "1",
            "--batch",
            "1",
            "--repeats",
            "1",
        ],
    ] {
        let output = clean(env!("CARGO_BIN_EXE_codeseal-server"))
            .args(flags)
            .envs([
                ("CODESEAL_BACKEND", "kernels"),
                ("CODESEAL_KMS_KEY", "projects/p/locations/l/keyRings/r/cryptoKeys/k"),
                ("CODESEAL_LISTEN", "127.0.0.1:0"),
                ("CODESEAL_MAX_RUNNING", "4"),
            ])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{flags:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn wrong_usage_exits_with_64() {
    for flags in [
        &["--model", "tiny", "--batch", "0"][..],
        &["--model", "tiny", "--random-weights", "shape.json"],
        &["--random-weights", "/nonexistent/shape.json"],
        &["--random-weights", "shape.json", "--startup"],
        &[],
    ] {
        let remains = bench(flags).await;
        assert_eq!((remains.code, remains.stdout.as_str()), (Some(64), ""), "{flags:?}");
    }
    let flags =
        ["bench", "--model", "tiny", "--prompt-tokens", "8192", "--new-tokens", "1"].map(str::to_owned);
    let remains = run_server(&flags).await;
    assert_eq!(remains.code, Some(64));
    assert!(remains.stderr.contains("lower --prompt-tokens"), "{}", remains.stderr);
}
