//! What it costs to choose a token: `cargo bench --bench sampling`.
//!
//! Among CodeGemma's 256,000, for one row of logits. They are normal, which is flat: a nucleus is most of the vocabulary.
//! Those of a model that is sure of a few tokens are as far apart as the second row's.

#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use codeseal_kernels::sampling::{RowSampler, SamplingParams, Scratch, sample_row};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// The server's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCABULARY: usize = 256_000;

/// Normal numbers, by the method of Box and Muller.
fn normals(size: f64) -> Vec<f32> {
    let mut state = 7u64;
    let mut uniform = || {
        state = state.wrapping_mul(0xD120_2E7A_29A5_B1F5).wrapping_add(1);
        ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let normal =
        || ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos() * size) as f32;
    std::iter::repeat_with(normal).take(VOCABULARY).collect()
}

fn choices(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choose");
    let warm = SamplingParams { temperature: 0.8, ..SamplingParams::GREEDY };
    for (row, size) in [("flat", 1.0), ("steep", 8.0)] {
        let (logits, mut scratch, mut counter) = (normals(size), Scratch::default(), 0);
        for (name, params) in [
            ("greedy", SamplingParams::GREEDY),
            ("temperature", warm),
            ("top_k 40", SamplingParams { top_k: 40, ..warm }),
            ("top_p 0.95", SamplingParams { top_p: 0.95, ..warm }),
            ("top_k 40, top_p 0.95", SamplingParams { top_k: 40, top_p: 0.95, ..warm }),
        ] {
            let sampler = RowSampler::new(&params, 7);
            group.bench_function(BenchmarkId::new(name, row), |bencher| {
                bencher.iter(|| {
                    counter += 1;
                    sample_row(black_box(&logits), &sampler, counter, &mut scratch).unwrap()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, choices);
criterion_main!(benches);
