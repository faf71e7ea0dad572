#!/usr/bin/env bash
# A product of two rows with f32 weights on the CPU takes more than twice as long as one of one row.
#
# Package:  candle-core 0.11.1 (Rust), Tensor::matmul, which calls gemm 0.19 on CPUs
# Expected: about the time of one row. Such a product is bound by memory: the weights are read once, for one row or for two. That
#           is what a decode step of a batch of two, or a draft token, relies on.
# Seen:     one row takes the time that reading the weights takes; two rows take more than twice as long (2.3 times in the last
#           run), as two products of one row each do. The same weights as a QTensor of type F32 take two rows in less time,
#           though they are multiplied row by row.
# Last run: 2026-11-29, Rust 1.95, 2 cores with AVX2. Needs Rust and a C compiler; compiling takes most of the time. It measures
#           times: run nothing else meanwhile.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
candle-core = "=0.11.1"

[profile.release]
incremental = false
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::time::{Duration, Instant};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};

/// Output and input features of the weights: 134 MB, more than any cache holds.
const SHAPE: (usize, usize) = (16_384, 2_048);

/// The median time of `product`.
fn median(product: impl Fn() -> Result<Tensor>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..15 {
        let began = Instant::now();
        product()?;
        times.push(began.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

fn main() -> Result<()> {
    let device = Device::Cpu;
    let weights = Tensor::randn(0f32, 1.0, SHAPE, &device)?;
    let transposed = weights.t()?;
    let rows = |rows: usize| Tensor::randn(0f32, 1.0, (rows, SHAPE.1), &device);
    let (one, two) = (rows(1)?, rows(2)?);
    let quantized = QTensor::quantize(&weights, GgmlDType::F32)?;
    let of_one = median(|| one.matmul(&transposed))?;
    let of_two = median(|| two.matmul(&transposed))?;
    let apart = median(|| Tensor::cat(&[two.narrow(0, 0, 1)?.matmul(&transposed)?, two.narrow(0, 1, 1)?.matmul(&transposed)?], 0))?;
    let as_blocks = median(|| two.apply_op1_no_bwd(&quantized))?;
    println!("expected: two rows take about as long as one, and less than two products of one row");
    println!("seen:     one row {of_one:.1?}; two rows {of_two:.1?}; two products of one row {apart:.1?}; two rows by a QTensor of F32 {as_blocks:.1?}");
    let as_described = of_two > of_one.mul_f64(1.7) && of_two > as_blocks.mul_f64(1.5);
    std::process::exit(i32::from(!as_described));
}
RUST
(cd "$folder" && cargo fetch --quiet) || exit 69
# Beside the packages, and not in a target directory of the caller's.
CARGO_TARGET_DIR=$folder/target cargo run --quiet --release --manifest-path "$folder/Cargo.toml"
