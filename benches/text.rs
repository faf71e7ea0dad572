//! What texts cost: `cargo bench --bench text`.
//!
//! The embedded tokenizer has 4,096 entries and Gemma's form; CodeGemma's has 256,000, and makes fewer tokens of a text.

#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use codeseal::model::ModelFiles;
use codeseal::prompt::Stops;
use codeseal::secret::Secret;
use codeseal::tokenizer::Tokenizer;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// The server's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A screenful, a prompt with much context, a long file.
const SIZES: [usize; 3] = [2 * 1024, 16 * 1024, 128 * 1024];

/// Code, with no line twice.
fn code(bytes: usize) -> String {
    let line =
        |n: usize| format!("    total_{n} = sum(item.price * {n} for item in basket if item.count > {n})\n");
    let mut text: String = (0..bytes / 60 + 1).map(line).collect();
    text.truncate(bytes);
    text
}

fn tokenizer(criterion: &mut Criterion) {
    let tokenizer = Tokenizer::from_files(&ModelFiles::tiny()).unwrap();
    let mut group = criterion.benchmark_group("tokenizer");
    for size in SIZES {
        let text = code(size);
        let ids = tokenizer.encode(&text).unwrap();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("encode", size), &text, |bencher, text| {
            bencher.iter(|| tokenizer.encode(black_box(text)).unwrap());
        });
        group.bench_with_input(BenchmarkId::new("decode one by one", size), &ids, |bencher, ids| {
            bencher.iter(|| {
                let mut decoder = tokenizer.decoder();
                ids.iter().filter_map(|&id| decoder.push(id).unwrap()).count()
            });
        });
    }
}

fn stops(criterion: &mut Criterion) {
    let text = code(16 * 1024);
    let mut group = criterion.benchmark_group("stop matcher");
    group.throughput(Throughput::Bytes(text.len() as u64));
    for count in [1, 16] {
        let stops = (0..count).map(|n| Secret::new(format!("total_{}", 100_000 + n))).collect();
        let stops = Stops::new(stops).unwrap();
        group.bench_function(format!("{count} stops, pieces of 4 bytes"), |bencher| {
            bencher.iter(|| {
                let mut matcher = stops.matcher();
                let pieces = text.as_bytes().chunks(4).map(|piece| std::str::from_utf8(piece).unwrap());
                pieces.map(|piece| matcher.push(black_box(piece)).text.expose().len()).sum::<usize>()
            });
        });
    }
}

criterion_group!(benches, tokenizer, stops);
criterion_main!(benches);
