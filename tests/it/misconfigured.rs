//! What a wrong path, a wrong size or a missing home does: one clear line and an exit code, at once.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Signal;

use crate::harness::{PATIENCE, Process, Remains, World, run_server};

fn make_pipe(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// The flags of `world` with other values for some of them.
fn flags(world: &World, changed: &[(&str, &str)]) -> Vec<String> {
    let mut flags = world.flags();
    for (flag, value) in changed {
        match flags.iter().position(|known| known == flag) {
            Some(at) => (*value).clone_into(&mut flags[at + 1]),
            None => flags.extend([*flag, value].map(String::from)),
        }
    }
    flags
}

async fn refused(world: &World, changed: &[(&str, &str)], code: i32, words: &[&str]) {
    let Remains { code: found, stdout, stderr } = run_server(&flags(world, changed)).await;
    assert_eq!(found, Some(code), "{changed:?}: {stdout}{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{changed:?}: {word}: {stderr}");
    }
    assert!(!stdout.contains(" ready "), "{stdout}");
}

#[tokio::test]
async fn a_token_path_that_names_no_file_is_told_at_once() {
    let world = World::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    make_pipe(&path("pipe"));
    std::os::unix::fs::symlink(path("pipe"), path("link")).unwrap();
    let _listener = UnixListener::bind(path("socket")).unwrap();
    std::fs::File::create(path("gigabyte")).unwrap().set_len(1 << 30).unwrap();
    let nowhere = path("nowhere");
    let names = ["pipe", "link", "socket", "gigabyte", "."].map(path);
    for file in names.into_iter().chain([PathBuf::from("/dev/zero")]) {
        let began = Instant::now();
        let name = file.to_str().unwrap();
        let changed = [("--attestation-token", name), ("--attestation-socket", nowhere.to_str().unwrap())];
        let words = ["--attestation-token", name, "name the token file of the launcher"];
        refused(&world, &changed, 78, &words).await;
        assert!(began.elapsed() < PATIENCE);
    }
    let file = path("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let changed = [("--attestation-token", nowhere.to_str().unwrap()), ("--attestation-socket", file)];
    refused(&world, &changed, 78, &["--attestation-socket", file]).await;
}

#[tokio::test]
async fn memory_that_is_not_there_is_said_before_anything_is_loaded() {
    let world = World::start().await;
    let figures =
        ["not enough memory", "weights take", "keys and values 16777216 MiB", "a step", "available"];
    let words = [&figures[..], &["--kv-cache-mib"]].concat();
    refused(&world, &[("--kv-cache-mib", "16777216")], 69, &words).await;
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny/config.json");
    let large = tempfile::tempdir().unwrap();
    let shape = large.path().join("config.json");
    let text = std::fs::read_to_string(config).unwrap();
    let mut text: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (member, value) in
        [("num_hidden_layers", 512), ("hidden_size", 65_536), ("intermediate_size", 1 << 20)]
    {
        text[member] = value.into();
    }
    std::fs::write(&shape, text.to_string()).unwrap();
    let bench = ["bench", "--random-weights", shape.to_str().unwrap()].map(String::from);
    let remains = run_server(&bench).await;
    assert_eq!(remains.code, Some(69), "{}", remains.stderr);
    assert!(remains.stderr.contains("not enough memory: weights take"), "{}", remains.stderr);
}

#[tokio::test]
async fn absurd_sizes_are_refused_with_their_bound() {
    let world = World::start().await;
    for flag in [
        "--kv-cache-mib",
        "--max-running",
        "--max-waiting",
        "--step-tokens",
        "--max-new-tokens",
        "--max-body-bytes",
        "--max-connections",
        "--max-replay-entries",
    ] {
        for value in ["18446744073709551615", "18446744073709551616", "1k"] {
            refused(&world, &[(flag, value)], 64, &[flag]).await;
        }
    }
    refused(&world, &[("--max-running", "4097")], 64, &["1..=4096"]).await;
    refused(&world, &[("--kv-cache-mib", "1")], 64, &["--kv-cache-mib"]).await;
}

#[tokio::test]
async fn a_model_in_a_directory_needs_no_home() {
    let world = World::start().await;
    let flags = world.flags();
    assert!(!flags.iter().any(|flag| flag == "--model-cache"));
    // `harness::clean` gives a program no home.
    let process = Process::start(&flags).await;
    process.signal(Signal::TERM);
    assert_eq!(process.remains().await.code, Some(0));
    refused(&world, &[("--model", "hf://google/codegemma-2b")], 64, &["--model-cache"]).await;
}
