//! `codeseal demo` as it runs after a fresh clone.

use std::process::Stdio;

use tokio::process::Command;

use crate::harness::{PATIENCE, clean};

#[tokio::test]
async fn the_demo_shows_every_step_and_ends_well() {
    let temporary = tempfile::tempdir().unwrap();
    let output = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")))
        .arg("demo")
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("the demo hangs").unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
    let text = String::from_utf8(output.stdout).unwrap();
    let steps: Vec<&str> = text.split("\n\n").collect();
    let [_, typed, seen, released, gets, refused] = steps.as_slice() else { panic!("{text}") };

    assert!(typed.starts_with("1. ") && typed.contains("def northwind_price"), "{typed}");
    assert!(
        seen.starts_with("2. ") && seen.contains("gAAAAA") && seen.contains("request_finished"),
        "{seen}"
    );
    assert!(seen.contains(r#"codeseal_requests_total{endpoint="completions",code="ok"} 1"#), "{seen}");
    for word in ["northwind", "Northwind", "Larkspur", "floor_price"] {
        assert!(!seen.contains(word), "the operator sees {word}: {seen}");
    }
    for claim in ["image_digest", "hwmodel", "GCP_SHIELDED_VM", "google_service_accounts"] {
        assert!(released.contains(claim), "{released}");
    }
    for code in ["return max(floor_price, price) * volume", "⟦price = list_price * (1 - discount)⟧"] {
        assert!(gets.contains(code), "{gets}");
    }
    for word in ["sha256:0bad", "assertion.submods.container.image_digest ==", "503", "condition_not_met"] {
        assert!(refused.contains(word), "{refused}");
    }
    assert!(!text.contains('\x1b'), "colours without a terminal");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "temporary files are left");
}
