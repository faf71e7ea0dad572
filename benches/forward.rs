//! Our kernels and the candle backend beside the stock forward pass of `candle-transformers`, on the same random weights in one run:
//! `cargo bench --bench forward`. Decode is also given in bytes of weights per second, beside what the memory gives.

#![allow(clippy::unwrap_used, missing_docs)]

mod stock;

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::gemma;
use codeseal::model::{CandleModel, CandleSequence, Model, ModelFiles, Place, Quantize, Sequence};
use codeseal::tokenizer::TokenId;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use tempfile::TempDir;

const PROMPT: usize = 256;
/// Tokens before the decode steps: of a short and of a long context.
const CONTEXTS: [usize; 2] = [32, 1024];
/// Decode steps between two prompts: few, so that what is measured does not grow meanwhile.
const STEPS: usize = 16;

/// 2B's proportions at an eighth of its size, in bf16, as the original is.
fn write_model() -> TempDir {
    let (hidden, inner, vocabulary, layers) = (1024, 8192, 32_000, 6);
    let config = json!({
        "model_type": "gemma", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    });
    let mut shapes = vec![
        (String::from("model.embed_tokens.weight"), vec![vocabulary, hidden]),
        (String::from("model.norm.weight"), vec![hidden]),
    ];
    for layer in 0..layers {
        for (name, shape) in [
            ("self_attn.q_proj", vec![1024, hidden]),
            ("self_attn.k_proj", vec![256, hidden]),
            ("self_attn.v_proj", vec![256, hidden]),
            ("self_attn.o_proj", vec![hidden, 1024]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let tensors: Vec<_> = shapes.into_iter().map(|(name, shape)| (name, random(&shape), shape)).collect();
    let views = tensors
        .iter()
        .map(|(name, data, shape)| (name, TensorView::new(Dtype::BF16, shape.clone(), data).unwrap()));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    dir
}

/// Uniform numbers as small as those of a trained model, as bf16.
fn random(shape: &[usize]) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let number = || {
        state = state.wrapping_mul(0xD120_2E7A_29A5_B1F5).wrapping_add(1);
        let uniform = ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 0.05;
        ((uniform.to_bits() >> 16) as u16).to_le_bytes()
    };
    std::iter::repeat_with(number).take(shape.iter().product()).flatten().collect()
}

/// Reads tokens, which come at a position, and gives the next one.
trait Forward {
    fn restart(&mut self);
    fn step(&mut self, tokens: &[u32], position: usize) -> f32;
}

struct Ours<'a>(&'a Model, Sequence);

impl Forward for Ours<'_> {
    fn restart(&mut self) {
        self.1 = self.0.sequence();
    }

    fn step(&mut self, tokens: &[u32], _: usize) -> f32 {
        let tokens: Vec<_> = tokens.iter().copied().map(TokenId).collect();
        self.1.forward(&tokens).unwrap()[0]
    }
}

/// The candle backend.
struct Candle<'a>(&'a CandleModel, CandleSequence);

impl Forward for Candle<'_> {
    fn restart(&mut self) {
        self.1 = self.0.sequence(CONTEXTS[1] + STEPS).unwrap();
    }

    fn step(&mut self, tokens: &[u32], position: usize) -> f32 {
        let tokens: Vec<_> = tokens.iter().copied().map(TokenId).collect();
        let logits = if position == 0 { self.1.forward(&tokens) } else { self.1.decode(tokens[0]) };
        logits.unwrap()[0]
    }
}

struct Stock(gemma::Model);

impl Forward for Stock {
    fn restart(&mut self) {
        self.0.clear_kv_cache();
    }

    fn step(&mut self, tokens: &[u32], position: usize) -> f32 {
        let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits = self.0.forward(&input, position).unwrap().to_dtype(DType::F32).unwrap();
        logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
    }
}

fn measure(criterion: &mut Criterion, name: &str, bytes: usize, contexts: &[usize], model: &mut dyn Forward) {
    let prompt: Vec<u32> = (0..CONTEXTS[1] as u32).map(|index| 200 + 7 * index).collect();
    let mut group = criterion.benchmark_group("forward");
    settings(&mut group);
    group.throughput(Throughput::Elements(PROMPT as u64));
    group.bench_function(format!("prefill {PROMPT}/{name}"), |bencher| {
        bencher.iter(|| {
            model.restart();
            model.step(black_box(&prompt[..PROMPT]), 0)
        });
    });
    group.throughput(Throughput::Bytes(bytes as u64));
    for &context in contexts {
        group.bench_function(format!("decode after {context}/{name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let (mut left, mut elapsed) = (iterations as usize, Duration::ZERO);
                while left > 0 {
                    let steps = left.min(STEPS);
                    model.restart();
                    model.step(&prompt[..context], 0);
                    let start = Instant::now();
                    for step in 0..steps {
                        black_box(model.step(&[300], context + step));
                    }
                    elapsed += start.elapsed();
                    left -= steps;
                }
                elapsed
            });
        });
    }
}

fn settings(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
}

fn forward(criterion: &mut Criterion) {
    let dir = write_model();
    let mut bytes = 0;
    for (name, quantize) in [
        ("codeseal q8_0", Quantize::Q8_0),
        ("codeseal q4k", Quantize::Q4K),
        ("codeseal bf16", Quantize::None),
    ] {
        let files = ModelFiles::directory(dir.path());
        let model = Model::from_files(&files, "random", quantize, |_, _| {}).unwrap();
        bytes = model.bytes_per_token();
        measure(criterion, name, bytes, &CONTEXTS, &mut Ours(&model, model.sequence()));
    }
    for (name, quantize) in [
        ("candle backend q8_0", Quantize::Q8_0),
        ("candle backend q4k", Quantize::Q4K),
        ("candle backend f32", Quantize::None),
    ] {
        let files = ModelFiles::directory(dir.path());
        let model =
            CandleModel::from_files(&files, "random", quantize, Place::cpu().unwrap(), |_, _| {}).unwrap();
        measure(
            criterion,
            name,
            model.bytes_per_token(),
            &CONTEXTS,
            &mut Candle(&model, model.sequence(0).unwrap()),
        );
    }
    let mut theirs = Stock(stock::load(dir.path(), DType::F32));
    measure(criterion, "candle-transformers f32", 2 * bytes, &CONTEXTS, &mut theirs);
    let mut theirs = Stock(stock::load(dir.path(), DType::BF16));
    // Not after a long context: it takes seconds for a token.
    measure(criterion, "candle-transformers bf16", bytes, &CONTEXTS[..1], &mut theirs);

    let memory = vec![1u64; bytes / 8];
    let mut group = criterion.benchmark_group("memory");
    settings(&mut group);
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let sum = |piece: &[u64]| piece.iter().fold(0u64, |sum, value| sum.wrapping_add(*value));
            black_box(&memory).par_chunks(1 << 16).map(sum).reduce(|| 0, u64::wrapping_add)
        });
    });
}

criterion_group!(benches, forward);
criterion_main!(benches);
