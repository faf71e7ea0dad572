//! Our kernels beside candle's on a CUDA device: `cargo bench --features cuda --bench gpu`.
//!
//! Prefill of 128, 512 and 2,048 tokens, decode at batch 1, 8 and 64, and a sealed request from end to end, in the shapes of
//! CodeGemma 2B and 7B with random weights that are made on the device. Beside the figures of decode stands the share of the
//! memory bandwidth that a copy on the device has. Without a device nothing is measured, which is said, and no failure.
//!
//! `CODESEAL_BENCH_SHAPES=2b` measures that shape alone, `CODESEAL_BENCH_DEVICE=1` on another device.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

mod idle;
mod stock;
mod world;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use candle_core::{DType, Device as CandleDevice, Tensor};
use candle_transformers::models::gemma;
use codeseal::bench::DeviceSteps;
use codeseal::engine::{
    DeviceChoice, EngineConfig, EngineParts, Open, OpenError, Place, Quantize, StartError, start_candle,
    start_on,
};
use codeseal::model::{Config, ModelFiles};
use codeseal::tokenizer::Tokenizer;
use codeseal_kernels::cuda::{CudaDevice, Device as _};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput};
use serde_json::{Value, json};

use self::world::World;

const PROMPTS: [usize; 3] = [128, 512, 2048];
const BATCHES: [usize; 3] = [1, 8, 64];
/// How many tokens a sequence has when its decode is measured.
const DEPTH: usize = 512;
/// Decode steps between two beginnings: few, so that what is measured does not grow meanwhile.
const STEPS: usize = 16;
/// Of a sealed request.
const PROMPT_BYTES: usize = 2048;
const NEW_TOKENS: usize = 32;

type Failure = Box<dyn Error>;

/// A shape of CodeGemma: its name, and the `config.json` that describes it.
struct Shape {
    name: &'static str,
    config: Value,
}

impl Shape {
    fn new(name: &'static str, [hidden, inner, layers, heads, kv_heads]: [usize; 5]) -> Self {
        let config = json!({
            "model_type": "gemma", "vocab_size": 256_000, "hidden_size": hidden, "intermediate_size": inner,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 256,
            "max_position_embeddings": 8192,
        });
        Self { name, config }
    }

    fn two() -> Self {
        Self::new("2b", [2048, 16384, 18, 8, 1])
    }

    fn json(&self) -> Vec<u8> {
        self.config.to_string().into_bytes()
    }
}

/// What computes steps of a model with random weights.
trait Steps {
    /// How long the prefill of a prompt takes, its next token included.
    fn prefill(&mut self, tokens: usize) -> Result<Duration, Failure>;
    /// How long `steps` decode steps take that each add a token to `batch` sequences of [`DEPTH`].
    fn decode(&mut self, batch: usize, steps: usize) -> Result<Duration, Failure>;
}

impl Steps for DeviceSteps {
    fn prefill(&mut self, tokens: usize) -> Result<Duration, Failure> {
        Ok(Self::prefill(self, tokens)?)
    }

    fn decode(&mut self, batch: usize, steps: usize) -> Result<Duration, Failure> {
        Ok(Self::decode(self, batch, DEPTH, steps)?)
    }
}

/// `candle-transformers`, which has no server around it.
struct Stock {
    model: gemma::Model,
    device: CandleDevice,
}

impl Stock {
    /// Reads `tokens` of each of `batch` sequences, which come at `position`, and waits for the logits.
    fn step(&mut self, batch: usize, tokens: usize, position: usize) -> Result<(), Failure> {
        let ids: Vec<u32> = (0..(batch * tokens) as u32).map(|index| 108 + (7 * index) % 200_000).collect();
        let input = Tensor::from_vec(ids, (batch, tokens), &self.device)?;
        // As in a greedy answer: the token is known when the step ends.
        self.model
            .forward(&input, position)?
            .to_dtype(DType::F32)?
            .argmax(2)?
            .flatten_all()?
            .to_vec1::<u32>()?;
        Ok(())
    }
}

impl Steps for Stock {
    fn prefill(&mut self, tokens: usize) -> Result<Duration, Failure> {
        self.model.clear_kv_cache();
        let began = std::time::Instant::now();
        self.step(1, tokens, 0)?;
        Ok(began.elapsed())
    }

    fn decode(&mut self, batch: usize, steps: usize) -> Result<Duration, Failure> {
        self.model.clear_kv_cache();
        self.step(batch, DEPTH, 0)?;
        let began = std::time::Instant::now();
        for step in 0..steps {
            self.step(batch, 1, DEPTH + step)?;
        }
        Ok(began.elapsed())
    }
}

/// What is known of the device and the shape.
struct Facts {
    bytes_per_second: f64,
    /// Bytes that a decode step reads at each of [`BATCHES`], for weights of two bytes.
    bytes: [usize; 3],
}

/// Measures one that computes. What fails is left out, and the reason said: a device may be too small for a batch.
fn measure(criterion: &mut Criterion, shape: &Shape, name: &str, facts: &Facts, steps: &mut dyn Steps) {
    let mut group = criterion.benchmark_group(format!("gpu {}", shape.name));
    settings(&mut group);
    for tokens in PROMPTS {
        if let Err(error) = steps.prefill(tokens) {
            println!("gpu {}: {name}: prefill {tokens}: not measured: {error}", shape.name);
            continue;
        }
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(format!("prefill {tokens}/{name}"), |bencher| {
            bencher.iter_custom(|iterations| (0..iterations).map(|_| steps.prefill(tokens).unwrap()).sum());
        });
    }
    for (batch, bytes) in BATCHES.into_iter().zip(facts.bytes) {
        if let Err(error) = steps.decode(batch, 1) {
            println!("gpu {}: {name}: decode, batch {batch}: not measured: {error}", shape.name);
            continue;
        }
        let (mut total, mut taken) = (Duration::ZERO, 0_u64);
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("decode, batch {batch}/{name}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let (mut left, mut elapsed) = (iterations, Duration::ZERO);
                while left > 0 {
                    let some = left.min(STEPS as u64);
                    elapsed += steps.decode(batch, some as usize).unwrap();
                    left -= some;
                }
                total += elapsed;
                taken += iterations;
                elapsed
            });
        });
        if taken > 0 {
            let share = (bytes as f64 * taken as f64) / total.as_secs_f64() / facts.bytes_per_second;
            println!(
                "gpu {}: {name}: decode, batch {batch}: {:.1} % of copy bandwidth",
                shape.name,
                100.0 * share
            );
        }
    }
}

fn settings(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
}

fn number() -> usize {
    std::env::var("CODESEAL_BENCH_DEVICE").ok().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// How many sequences there is room for, and how many tokens in each.
fn room() -> (usize, usize) {
    let length = PROMPTS.into_iter().max().unwrap_or(1).max(DEPTH + STEPS + 1) + STEPS;
    (BATCHES.into_iter().max().unwrap_or(1), length)
}

fn kernels(shape: &Shape) -> Result<DeviceSteps, Failure> {
    let (batch, length) = room();
    Ok(DeviceSteps::random(CudaDevice::open(number())?, shape.json(), Quantize::None, batch, length)?)
}

fn candle(shape: &Shape) -> Result<DeviceSteps, Failure> {
    let (batch, length) = room();
    Ok(DeviceSteps::candle(number(), shape.json(), Quantize::None, batch, length)?)
}

fn stock(shape: &Shape, has_bf16: bool) -> Result<Stock, Failure> {
    let device = CandleDevice::new_cuda_with_stream(number())?;
    let dtype = if has_bf16 { DType::BF16 } else { DType::F16 };
    let model = stock::random(&Config::parse(&shape.json())?, dtype, &device)?;
    Ok(Stock { model, device })
}

/// A sealed request from end to end, in the shape of 2B: HTTP, keys, seal, tokenizer, scheduler and model.
fn sealed(criterion: &mut Criterion, backend: &str, open: Open) {
    let dir = tempfile::tempdir().unwrap();
    idle::write(dir.path());
    write_tokenizer(dir.path());
    let engine = EngineConfig {
        device: DeviceChoice::Cuda(number()),
        // Or the second request would have its prompt read already.
        prefix_cache: false,
        ..EngineConfig::new(8, 8)
    };
    let world = World::start(dir, engine, open, PROMPT_BYTES, NEW_TOKENS);
    let mut connection = world.connect();
    connection.ask(&world.request());
    let mut group = criterion.benchmark_group("gpu 2b");
    settings(&mut group);
    let name = format!("sealed request, {PROMPT_BYTES} bytes and {NEW_TOKENS} tokens/{backend}");
    group.bench_function(name, |bencher| {
        bencher.iter_batched(|| world.request(), |request| connection.ask(&request), BatchSize::SmallInput);
    });
    group.finish();
    world.end();
}

/// An engine of our kernels with random weights in 2B's shape, and the tokenizer of `files`.
fn open_kernels(
    files: &ModelFiles,
    name: &str,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<EngineParts, OpenError> {
    let model = ModelFiles::random(Shape::two().json())?;
    let (handle, engine) = start_on(|| CudaDevice::open(number()), model, name, quantize, config)?;
    Ok((handle, engine, Tokenizer::from_files(files)?))
}

/// As [`open_kernels`], computed by candle.
fn open_candle(
    files: &ModelFiles,
    name: &str,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<EngineParts, OpenError> {
    let model = ModelFiles::random(Shape::two().json())?;
    let place = Place::cuda(number()).map_err(StartError::Device)?;
    let (handle, engine) = start_candle(place, &model, name, quantize, config)?;
    Ok((handle, engine, Tokenizer::from_files(files)?))
}

/// The embedded model's tokenizer, with a name for every token that a model of 2B's shape can choose.
fn write_tokenizer(dir: &Path) {
    let path = dir.join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    for id in vocabulary.len()..256_000 {
        vocabulary.insert(format!("filler{id}"), json!(id));
    }
    std::fs::write(&path, tokenizer.to_string()).unwrap();
}

fn gpu(criterion: &mut Criterion) -> Result<(), Failure> {
    let (name, has_bf16) = {
        let device = CudaDevice::open(number())?;
        (device.name(), device.has_bf16())
    };
    println!("gpu: {name}");
    let wanted = std::env::var("CODESEAL_BENCH_SHAPES").unwrap_or_else(|_| "2b 7b".to_owned());
    let shapes = [Shape::two(), Shape::new("7b", [3072, 24576, 28, 16, 16])];
    for shape in shapes.iter().filter(|shape| wanted.split_whitespace().any(|name| name == shape.name)) {
        let facts = {
            let mut ours = match kernels(shape) {
                Ok(ours) => ours,
                Err(error) => {
                    println!("gpu {}: not measured: {error}", shape.name);
                    continue;
                }
            };
            let facts = Facts {
                bytes_per_second: ours.bytes_per_second(),
                bytes: BATCHES.map(|batch| ours.bytes_of_step(batch, DEPTH)),
            };
            println!("gpu {}: a copy reads and writes {:.1} GB/s", shape.name, facts.bytes_per_second / 1e9);
            measure(criterion, shape, "kernels", &facts, &mut ours);
            facts
        };
        match candle(shape) {
            Ok(mut theirs) => measure(criterion, shape, "candle backend", &facts, &mut theirs),
            Err(error) => println!("gpu {}: candle backend: not measured: {error}", shape.name),
        }
        match stock(shape, has_bf16) {
            Ok(mut theirs) => measure(criterion, shape, "candle-transformers", &facts, &mut theirs),
            Err(error) => println!("gpu {}: candle-transformers: not measured: {error}", shape.name),
        }
    }
    if wanted.split_whitespace().any(|name| name == "2b") {
        sealed(criterion, "kernels", open_kernels);
        match Place::cuda(number()) {
            Ok(_) => sealed(criterion, "candle backend", open_candle),
            Err(error) => println!("gpu 2b: candle backend: sealed request: not measured: {error}"),
        }
    }
    Ok(())
}

fn main() {
    if let Some(reason) = CudaDevice::missing() {
        println!("gpu: no CUDA device ({reason}): nothing is measured");
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    if let Err(error) = gpu(&mut criterion) {
        println!("gpu: nothing is measured: {error}");
    }
    criterion.final_summary();
}
