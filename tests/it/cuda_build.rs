//! `scripts/cuda-build.sh` with a Cargo that is a stand-in: what it makes of a program, and what it does not let pass.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use crate::harness::clean;

/// Builds what lies beside it.
const CARGO: &str = r#"#!/usr/bin/env bash
echo "$@" >"$(dirname "$0")/asked"
mkdir -p "$CARGO_TARGET_DIR/release" && cp "$(dirname "$0")/program" "$CARGO_TARGET_DIR/release/codeseal-server"
"#;

/// PTX and machine code, as nvcc's containers call them.
const PTX: u16 = 1;
const SM: u16 = 2;

/// A container of such pieces, as nvcc writes it.
fn container(pieces: &[(u16, u32)]) -> Vec<u8> {
    let piece = |(kind, capability): &(u16, u32)| {
        let mut bytes = [kind.to_le_bytes(), 0x101_u16.to_le_bytes()].concat();
        bytes.extend(64_u32.to_le_bytes());
        bytes.extend(40_u64.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend(capability.to_le_bytes());
        bytes.resize(64 + 40, 0xff);
        bytes
    };
    let pieces: Vec<u8> = pieces.iter().flat_map(piece).collect();
    let mut bytes = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
    bytes.extend((pieces.len() as u64).to_le_bytes());
    bytes.extend(pieces);
    bytes
}

/// A program that ends with `code`, and has `kernels` in it.
fn program(code: u8, kernels: &[Vec<u8>]) -> Vec<u8> {
    let script = format!(
        "#!/bin/sh\necho 'codeseal-server: no device: libcuda.so.1 is not installed' >&2\nexit {code}\n"
    );
    // The beginning of a container, which is none.
    [script.as_bytes(), &[0x50, 0xed, 0x55, 0xba, 0xff], &kernels.concat()].concat()
}

fn build(dir: &Path, program: &[u8]) -> Output {
    let write = |name: &str, bytes: &[u8]| {
        fs::write(dir.join(name), bytes).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("cargo", CARGO.as_bytes());
    write("program", program);
    clean(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/cuda-build.sh"))
        .arg(dir.join("out"))
        .env("PATH", format!("{}:{}", dir.display(), std::env::var("PATH").unwrap()))
        .env("CUDA_HOME", dir)
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .output()
        .unwrap()
}

#[test]
fn what_a_machine_with_a_gpu_needs_is_put_together() {
    let dir = tempfile::tempdir().unwrap();
    let whole = container(&[(SM, 75), (SM, 80), (SM, 89), (PTX, 90), (SM, 90)]);
    let output = build(dir.path(), &program(69, &[whole.clone(), whole]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["codeseal-server", "gpu-check.sh", "gpu-check/transformers_peer.py"] {
        assert!(dir.path().join("out").join(file).exists(), "{file}");
    }
    let asked = fs::read_to_string(dir.path().join("asked")).unwrap();
    assert_eq!(
        asked.trim(),
        "build --release --locked --no-default-features --features server,cuda --bin codeseal-server"
    );
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.matches("sm_75 sm_80 sm_89 PTX_90 sm_90\n").count(), 2, "{said}");
}

#[test]
fn a_program_that_lacks_something_does_not_pass() {
    let whole = || container(&[(SM, 75), (SM, 80), (SM, 89), (SM, 90), (PTX, 90)]);
    let large = [container(&[(SM, 75)]), vec![0; 60_000_000]].concat();
    for (program, reason) in [
        (program(69, &[]), "has no CUDA kernels"),
        (program(69, &[whole(), container(&[(SM, 75), (SM, 80), (SM, 90), (PTX, 90)])]), "missing: sm_89"),
        (program(69, &[container(&[(SM, 75), (SM, 80), (SM, 89), (SM, 90)])]), "missing: PTX_90"),
        (program(69, &[large]), "more than the 60000000"),
        // Where there is a driver this cannot be seen.
        (program(127, &[whole()]), "that should be 69"),
    ] {
        if reason == "that should be 69" && Path::new("/proc/driver/nvidia").exists() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let output = build(dir.path(), &program);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{reason}: {error}");
    }
}
