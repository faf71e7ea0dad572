//! What is run on a machine with a GPU to learn whether it computes right, and how fast: here on the emulator.

use codeseal::bench::{
    BenchConfig, BenchError, BenchWeights, CheckConfig, Checks, DeviceSteps, Extent, check, run_checks_on,
    run_on,
};
use codeseal::model::Quantize;
use codeseal_kernels::cuda::DeviceError;
use serde_json::{Value, json};

use crate::toy::Weights;
use codeseal_emulator::device::{Emulator, Traits};

fn checked(traits: Traits) -> Checks {
    check(|| Ok(Emulator::with(traits)), &Extent::EMULATOR).unwrap()
}

/// What failed.
fn failed(checks: &Checks) -> Vec<&str> {
    let failed = checks.checks.iter().filter(|check| check.failure.is_some());
    failed.map(|check| check.name.as_str()).collect()
}

#[test]
fn a_sound_device_passes_every_check() {
    for has_bf16 in [true, false] {
        let checks = checked(Traits { has_bf16, ..Traits::SOUND });
        let nothing: [&str; 0] = [];
        assert_eq!(failed(&checks), nothing);
        assert_eq!(checks.checks.len(), 6 * 5);
        let mut report = Vec::new();
        checks.write(true, &mut report).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["device"], "the emulator");
    }
}

#[test]
fn a_device_that_computes_wrong_fails_by_the_check_that_is_for_it() {
    let checks = checked(Traits { records: false, ..Traits::SOUND });
    let failed = failed(&checks);
    assert_eq!(failed.len(), 6);
    assert!(failed.iter().all(|name| name.contains("replayed")), "{failed:?}");

    // What it should have written is what was there before.
    let checks = checked(Traits { idle: Some("combine_bf16"), ..Traits::SOUND });
    let wrong = checks.checks.iter().filter(|check| check.name.ends_with("the CPU's"));
    assert!(wrong.clone().count() == 6 && wrong.clone().all(|check| check.failure.is_some()));
    assert!(!checks.passed());
    let mut report = Vec::new();
    checks.write(false, &mut report).unwrap();
    assert!(
        String::from_utf8(report).unwrap().contains("\nFAILED  4 heads, 4 for a key, weights none: logits")
    );
}

/// What `kernels-check --device cuda` prints for a device, and whether it passes.
fn kernels_check(open: fn(usize) -> Result<Emulator, DeviceError>) -> (Value, bool) {
    let (_dir, files) = Weights::random(31).files();
    let weights = Some(BenchWeights::Model { name: "toy".to_owned(), files });
    let config = CheckConfig { device: Some(0), weights, json: true };
    let extent = Extent { heads: &[(2, 1)], ..Extent::EMULATOR };
    let mut report = Vec::new();
    let result = run_checks_on(&config, open, &extent, &mut report);
    assert!(matches!(result, Ok(()) | Err(BenchError::WrongDevice)), "{result:?}");
    (serde_json::from_slice(&report).unwrap(), result.is_ok())
}

#[test]
fn a_device_is_checked_against_candle_first() {
    let (report, passed) = kernels_check(|_| Ok(Emulator::with(Traits::SOUND)));
    assert!(passed, "{report}");
    assert_eq!(report["device"], "the emulator");
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 3 + 3 * 5);
    let (agreements, others) = checks.split_at(3);
    for (check, kind) in agreements.iter().zip(["none", "q8_0", "q4k"]) {
        let name = format!("toy, first 2 layers, weights {kind}: logits are those of candle on cpu");
        assert_eq!(check["name"], name);
        let number = |name: &str| check[name].as_f64().unwrap();
        assert!(number("difference") > 0.0 && number("difference") < number("bound"), "{check}");
    }
    assert!(others.iter().all(|check| check["difference"].is_null() && check["bound"].is_null()), "{report}");
}

#[test]
fn a_kernel_that_disagrees_with_candle_or_fails_does_not_pass() {
    let idle = |_| Ok(Emulator::with(Traits { idle: Some("rope_bf16"), ..Traits::SOUND }));
    let (report, passed) = kernels_check(idle);
    assert!(!passed);
    for check in &report["checks"].as_array().unwrap()[..3] {
        assert!(check["difference"].as_f64() > check["bound"].as_f64(), "{check}");
        assert!(check["failure"].as_str().unwrap().starts_with("a logit is off by "), "{check}");
    }
    // All checks are made, whatever came of those before.
    let (report, passed) = kernels_check(|_| Ok(Emulator::with(Traits { lives_for: 20, ..Traits::SOUND })));
    assert!(!passed);
    assert!(report["checks"].as_array().unwrap().len() > 3, "{report}");
    for check in &report["checks"].as_array().unwrap()[..3] {
        assert!(check["difference"].is_null() && check["failure"].is_string(), "{check}");
    }
}

#[test]
fn the_benchmark_measures_a_device_as_it_does_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    let shape = dir.path().join("shape.json");
    let config = json!({
        "model_type": "gemma", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256,
    });
    std::fs::write(&shape, config.to_string()).unwrap();
    let config = BenchConfig {
        startup: false,
        weights: BenchWeights::Random(shape),
        quantize: Quantize::Q8_0,
        prompt_tokens: 35,
        context_tokens: 35,
        new_tokens: 4,
        batches: vec![1, 3],
        device: Some(0),
        backend: codeseal::model::BackendChoice::Auto,
        threads: Some(1),
        repeats: 1,
        json: true,
    };
    let sound = |_: usize| -> Result<Emulator, DeviceError> {
        Ok(Emulator::with(Traits { free_bytes: 1 << 16, ..Traits::SOUND }))
    };
    let mut report = Vec::new();
    run_on(&config, sound, &mut report).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["device"], "the emulator");
    let decode = report["decode"].as_array().unwrap();
    assert_eq!(decode.len(), 2);
    // The fewest that two layers can be.
    assert!(decode.iter().all(|row| row["launches_per_step"].as_u64() > Some(10)), "{report}");
    assert!(report["memory_bytes_per_second"].as_f64().unwrap() > 0.0);
    // 34 bytes for every 32 weights, and two for each number of a key or a value.
    assert_eq!(report["weight_bytes"].as_u64().unwrap() % 34, 0);
    assert_eq!(report["kv_bytes_per_token"], 2 * 2 * 256 * 2);
}

#[test]
fn steps_of_random_weights_are_measured_one_kind_at_a_time() {
    let config = json!({
        "model_type": "gemma", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256,
        "max_position_embeddings": 128,
    });
    let open = |length: usize| {
        let device = Emulator::with(Traits { free_bytes: 1 << 16, ..Traits::SOUND });
        DeviceSteps::random(device, config.to_string().into_bytes(), Quantize::Q8_0, 3, length)
    };
    let mut steps = open(64).unwrap();
    assert!(steps.bytes_per_second() > 0.0);
    assert!(!steps.prefill(35).unwrap().is_zero());
    assert!(!steps.decode(3, 40, 2).unwrap().is_zero());
    assert!(!steps.decode(1, 0, 1).unwrap().is_zero());
    // Two numbers of two bytes for each of 256 places of a layer.
    assert_eq!(steps.bytes_of_step(3, 10) - steps.bytes_of_step(1, 10), 2 * 10 * 2 * 2 * 256 * 2);
    assert!(matches!(open(129), Err(BenchError::NoRoom { limit: 128 })));
}
