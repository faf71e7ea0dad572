//! The log of verdicts: its saved tokens are verified again without a network, and nothing in it can be changed.

use codeseal::proxy::Proxy;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use super::verify::{OTHER, good, verifying};
use crate::harness::{World, clean};

async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")));
    let output = command.args(["proxy", "log"]).args(arguments).kill_on_drop(true).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// The line with its own hash recomputed, as an attacker would.
fn resealed(line: &str) -> String {
    let (body, _) = line.trim_end().rsplit_once(",\"hash\":\"").unwrap();
    let hash: String = Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{body},\"hash\":\"sha256:{hash}\"}}\n")
}

#[tokio::test]
async fn saved_tokens_are_verified_again_offline_and_a_flipped_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("verdicts");
    {
        let world = World::start().await;
        let server = world.server().await;
        for _ in 0..2 {
            let proxy = Proxy::start(verifying(&world, &server, &dir, &good())).await.unwrap();
            proxy.ready().await;
            proxy.shutdown().await;
        }
    }
    // The issuer and its keys are gone.
    let path = log.to_str().unwrap();
    let (code, text) = run(&["--verify", path]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("2 verdicts, whole and in order"), "{text}");
    assert!(text.contains("2 attestation tokens pass again, signed with "), "{text}");

    let written = std::fs::read(&log).unwrap();
    for at in (0..written.len()).step_by(written.len() / 16) {
        let mut bytes = written.clone();
        bytes[at] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        let (code, text) = run(&[path]).await;
        assert_eq!(code, Some(1), "byte {at}: {text}");
        assert!(text.contains("of the log of verdicts is not what was written"), "{text}");
    }

    // An attacker who can write the file can recompute the hashes, but cannot change what the token says.
    let line = String::from_utf8(written).unwrap().lines().next().unwrap().to_owned();
    let weights = "\"weights\":\"sha256:";
    for (old, new, why) in [
        (good(), OTHER.to_owned(), "the saved token does not pass"),
        ("shielded-preview".to_owned(), "tdx".to_owned(), "the saved token does not pass"),
        (weights.to_owned(), format!("{weights}0"), "lacks what it was checked with"),
        ("\"trusted\":true".to_owned(), "\"trusted\":false".to_owned(), "`trusted` differs"),
        ("\"token\":\"e".to_owned(), "\"token\":\"f".to_owned(), "`token_sha256` differs"),
    ] {
        std::fs::write(&log, resealed(&line.replace(&old, &new))).unwrap();
        assert_eq!(run(&[path]).await.0, Some(0), "{old}: the chain itself is right");
        let (code, text) = run(&["--verify", path]).await;
        assert_eq!(code, Some(1), "{old}: {text}");
        assert!(text.contains(why), "{old}: {text}");
    }
}
