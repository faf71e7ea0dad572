#!/usr/bin/env bash
# Where a process may use fewer cores than the machine has, candle starts a thread for each core of the machine, and they wait
# for one another in loops.
#
# Package:  candle-core 0.11.1 (Rust), utils::get_num_threads and the pool of quantized products (utils::barrier_pool)
# Expected: as many threads as the process may use cores, as std::thread::available_parallelism, rayon and OpenMP have it: they
#           respect affinity (taskset, cpuset) and, std and rayon, the CPU quota of a control group.
# Seen:     the number is num_cpus::get_physical, all cores of the machine, unless RAYON_NUM_THREADS or CANDLE_NUM_THREADS is
#           set. A quantized product is divided among them, and the caller waits for the last in a loop without yielding. On
#           one core the threads take turns by the scheduler's time slices, and a product of one row takes longer than
#           with CANDLE_NUM_THREADS=1 (1.65 times with two threads, in the last run).
# Last run: 2026-11-29, Rust 1.95. Needs Rust, a C compiler, taskset (util-linux) and a machine with two cores or more; compiling
#           takes most of the time.
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
use std::time::Instant;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};

/// Prints the number of threads that candle takes, the number of cores that this process may use, and how many microseconds a
/// product of one row with 2,048 x 16,384 weights in q8_0 takes, as a median.
fn main() -> Result<()> {
    let device = Device::Cpu;
    let weights = QTensor::quantize(&Tensor::randn(0f32, 1.0, (16_384, 2_048), &device)?, GgmlDType::Q8_0)?;
    let row = Tensor::randn(0f32, 1.0, (1, 2_048), &device)?;
    let mut times = Vec::new();
    for _ in 0..31 {
        let began = Instant::now();
        row.apply_op1_no_bwd(&weights)?;
        times.push(began.elapsed().as_micros());
    }
    times.sort();
    let cores = std::thread::available_parallelism().unwrap();
    println!("{} {} {}", candle_core::utils::get_num_threads(), cores, times[times.len() / 2]);
    Ok(())
}
RUST
(cd "$folder" && cargo fetch --quiet) || exit 69
# Beside the packages, and not in a target directory of the caller's.
CARGO_TARGET_DIR=$folder/target cargo build --quiet --release --manifest-path "$folder/Cargo.toml"

allowed=$(taskset -pc $$ | sed 's/.*: //')
core=${allowed%%[,-]*}
unset RAYON_NUM_THREADS CANDLE_NUM_THREADS
read -r threads cores time < <(taskset -c "$core" "$folder/target/release/finding")
read -r _ _ alone < <(CANDLE_NUM_THREADS=1 taskset -c "$core" "$folder/target/release/finding")
echo "expected: on one core, one thread; and about the same time as with CANDLE_NUM_THREADS=1"
echo "seen:     on $cores core, $threads threads; a product takes $time µs, and $alone µs with CANDLE_NUM_THREADS=1"
[ "$cores" = 1 ] && [ "$threads" -gt 1 ] && [ "$time" -gt $((alone * 6 / 5)) ]
