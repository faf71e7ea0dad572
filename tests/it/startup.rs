//! What a start reports, and that a model other than the manifest's never serves.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Process, World, run_server, tiny};

const FILES: [&str; 4] = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
/// Every part of a start, as the log calls it.
const PARTS: [&str; 9] = [
    "find_ms",
    "tokenizer_ms",
    "weights_ms",
    "read_ms",
    "hash_ms",
    "repack_ms",
    "kv_ms",
    "warm_up_ms",
    "self_test_ms",
];

fn copy_model(dir: &Path) {
    for name in FILES {
        std::fs::copy(tiny().join(name), dir.join(name)).unwrap();
    }
}

/// The flags of a server of `world` for the model in `dir`.
fn flags(world: &World, dir: &Path, more: &[&str]) -> Vec<String> {
    let mut flags = world.flags();
    let model = flags.iter().position(|flag| flag == "--model").unwrap();
    dir.to_str().unwrap().clone_into(&mut flags[model + 1]);
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    flags
}

#[tokio::test]
async fn the_log_says_how_long_each_part_of_the_start_took() {
    let world = World::start().await;
    let process = Process::start(&flags(&world, &tiny(), &["--log-format", "json"])).await;
    process.signal(Signal::TERM);
    let log = process.remains().await.stdout;
    let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let loaded = events.into_iter().find(|event| event["event"] == "model_loaded").unwrap();
    let number = |name: &str| loaded[name].as_u64().unwrap_or_else(|| panic!("{name}: {loaded}"));
    for part in PARTS {
        number(part);
    }
    // These pass one after the other, each rounded down.
    let one_by_one = ["find_ms", "weights_ms", "kv_ms", "warm_up_ms", "self_test_ms"].map(number);
    assert!(number("weights_ms") > 0 && one_by_one.iter().sum::<u64>() <= number("milliseconds"), "{loaded}");
}

#[tokio::test]
async fn a_model_whose_bytes_are_not_the_pinned_ones_never_serves() {
    let world = World::start().await;
    // The right weights, so this is the model of the manifest, with other files beside them: one that is well formed, and
    // one that does not even load.
    for (name, content) in
        [("generation_config.json", "{}\n"), ("config.json", "{"), ("tokenizer.json", r#"{"model":{}}"#)]
    {
        let dir = tempfile::tempdir().unwrap();
        copy_model(dir.path());
        std::fs::write(dir.path().join(name), content).unwrap();
        let remains = run_server(&flags(&world, dir.path(), &[])).await;
        assert_eq!(remains.code, Some(70), "{name}: {}", remains.stderr);
        let expected = format!("{name} is not the file that the manifest or the source names");
        assert!(remains.stderr.contains(&expected), "{}", remains.stderr);
        assert!(!remains.stdout.contains(" ready "), "{}", remains.stdout);
    }
}

#[tokio::test]
async fn other_weights_of_the_same_length_are_served_as_a_model_that_is_not_locked() {
    let world = World::start().await;
    let dir = tempfile::tempdir().unwrap();
    copy_model(dir.path());
    let path = dir.path().join("model.safetensors");
    let mut weights = std::fs::read(&path).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    std::fs::write(&path, weights).unwrap();
    for (dir, locked) in [(dir.path(), false), (&*tiny(), true)] {
        let process = Process::start(&flags(&world, dir, &["--log-format", "json"])).await;
        process.signal(Signal::TERM);
        let log = process.remains().await.stdout;
        assert_eq!(log.contains("model_not_locked"), !locked, "{log}");
    }
}
