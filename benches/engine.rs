//! What the engine costs beside the model's work: `cargo bench --bench engine`.
//!
//! Around a model with next to nothing to do. A step of 256 sequences is divided among their tokens; the prompts are of
//! 1,024 tokens, and are either all new or in the prefix cache but for their end.

#![allow(clippy::unwrap_used, missing_docs)]

mod idle;

use std::time::{Duration, Instant};

use codeseal::engine::{self, Engine, EngineConfig, Event, GenerationRequest, Handle, Quantize, Sampling};
use codeseal::model::ModelFiles;
use codeseal::protocol::{Dek, Namespace};
use codeseal::tokenizer::TokenId;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// The server's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEQUENCES: usize = 256;
/// Tokens of each sequence in one measurement.
const TOKENS: usize = 64;
const PROMPT: usize = 1024;

struct World {
    handle: Handle,
    _engine: Engine,
    runtime: tokio::runtime::Runtime,
    namespace: Namespace,
}

impl World {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        idle::write(dir.path());
        let config = EngineConfig {
            kv_cache_bytes: Some(256 << 20),
            // Everything is read at once: the steps measured are those of all sequences together.
            step_tokens: 4096,
            draft_tokens: 0,
            ..EngineConfig::new(SEQUENCES, SEQUENCES)
        };
        let files = ModelFiles::directory(dir.path());
        let (handle, engine, _) = engine::open(&files, "idle", Quantize::None, config).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { handle, _engine: engine, runtime, namespace: Dek::generate().unwrap().namespace() }
    }

    fn request(&self, prompt: Vec<TokenId>, max_new_tokens: usize, sampling: Sampling) -> GenerationRequest {
        GenerationRequest {
            prompt,
            max_new_tokens,
            stop_ids: &[],
            sampling,
            logprobs: None,
            namespace: self.namespace,
            deadline: Instant::now() + Duration::from_secs(600),
        }
    }

    /// How long it takes until all of `requests` have ended.
    fn run(&self, requests: Vec<GenerationRequest>) -> Duration {
        let started = Instant::now();
        let generations: Vec<_> =
            requests.into_iter().map(|request| self.handle.submit(request).unwrap()).collect();
        self.runtime.block_on(async {
            for mut generation in generations {
                while let Some(event) = generation.next().await {
                    if matches!(event.unwrap(), Event::Finished(_)) {
                        break;
                    }
                }
            }
        });
        started.elapsed()
    }
}

fn tokens(seed: u64, count: usize) -> Vec<TokenId> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state = state.wrapping_mul(0xD120_2E7A_29A5_B1F5).wrapping_add(1);
        TokenId(200 + (state >> 40) as u32 % 3000)
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn steps(criterion: &mut Criterion) {
    let world = World::start();
    let mut group = criterion.benchmark_group("engine");
    // Random weights like all tokens alike: without top_k, a nucleus would be most of the vocabulary.
    let sampled =
        Sampling { temperature: 0.8, top_k: Some(40), top_p: Some(0.95), seed: 7, ..Sampling::GREEDY };
    group.throughput(Throughput::Elements((SEQUENCES * TOKENS) as u64)).sample_size(20);
    for (name, sampling) in [("greedy", Sampling::GREEDY), ("sampled", sampled)] {
        group.bench_function(format!("64 steps of 256 sequences, {name}"), |bencher| {
            bencher.iter_custom(|times| {
                let once = |time: u64| {
                    let prompt = |sequence: u64| tokens(time * 1000 + sequence, 4);
                    let requests =
                        (0..SEQUENCES as u64).map(|n| world.request(prompt(n), TOKENS, sampling)).collect();
                    world.run(requests)
                };
                (0..times).map(once).sum()
            });
        });
    }
    group.throughput(Throughput::Elements(PROMPT as u64));
    let mut seed = 1 << 32;
    group.bench_function("a prompt of 1024 tokens, new", |bencher| {
        bencher.iter_custom(|times| {
            let once = |_| {
                seed += 1;
                world.run(vec![world.request(tokens(seed, PROMPT), 1, Sampling::GREEDY)])
            };
            (0..times).map(once).sum()
        });
    });
    let cached = tokens(3, PROMPT);
    group.bench_function("a prompt of 1024 tokens, cached", |bencher| {
        bencher.iter_custom(|times| {
            (0..times).map(|_| world.run(vec![world.request(cached.clone(), 1, Sampling::GREEDY)])).sum()
        });
    });
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
