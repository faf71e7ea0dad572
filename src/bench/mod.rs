//! How fast a model is on this machine: reading a prompt, and making tokens for one or several sequences at once.
//!
//! Only the model's own steps are measured: no scheduler, no tokenizer, no seal. The tokens are arbitrary, and each
//! new one is the argmax of the logits, as in a greedy answer. Every figure is the median of its repetitions. A start is measured
//! apart, with the engine that a server starts.
//!
//! Allowed modules: engine, files, flags, machine, model, telemetry, token.
//! Forbidden: axum, google_cloud_*, hyper, reqwest, tokio.

mod agree;
mod check;
mod config;
mod memory;
mod report;
mod startup;
mod steps;
mod subject;

use std::fmt;
use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

pub use self::agree::{run_checks, run_checks_on};
pub use self::check::{Check, Checks, Extent, check};
pub(crate) use self::config::{BenchArgs, CheckArgs};
pub use self::config::{BenchConfig, BenchWeights, CheckConfig};
use self::report::{BenchReport, Decode};
pub use self::steps::DeviceSteps;
use self::subject::{Facts, OnCandle, OnCpu, OnDevice, Room, Subject};
use crate::engine::{OpenError, StartError};
use crate::files;
use crate::machine::Available;
use crate::model::{
    BackendChoice, CandleModel, Checkpoint, MemoryNeeds, Model, ModelError, ModelFiles, NotEnoughMemory,
    Place, Slice,
};
use crate::telemetry;
use crate::token::TokenId;
use codeseal_kernels::cuda::{CudaDevice, Device, DeviceError};
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};

/// What to change if memory does not suffice.
const ADVICE: &str = "lower --batch, --prompt-tokens, --context-tokens or --new-tokens, choose a smaller type with --quantize, or raise the limit";
/// How many tokens of a prompt are read in one step: as many as the engine reads.
const PREFILL_TOKENS: usize = 512;
/// Steps before those that are measured: the first ones touch memory that is new.
const WARM_UP_STEPS: usize = 2;
/// The largest `config.json` that is read, in bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The file with the shape cannot be read.
    #[error("cannot read the shape of the random weights from {path} ({error}): name a config.json")]
    ReadConfig {
        /// As it was named.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// The file describes no model that can be measured.
    #[error("{path}: {error}")]
    Shape {
        /// As it was named.
        path: String,
        /// Why not.
        error: Box<ModelError>,
    },
    /// A start needs a tokenizer, which random weights do not have.
    #[error("--startup loads a tokenizer: name a model with --model")]
    NoTokenizer,
    /// The engine does not start.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The engine did not end as it should.
    #[error("the model thread failed")]
    Engine,
    /// The model cannot be loaded, or fails.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The context is too short for what is asked.
    #[error("the context has {limit} tokens: lower --prompt-tokens, --context-tokens or --new-tokens")]
    NoRoom {
        /// The context's length.
        limit: usize,
    },
    /// Weights, keys and values and a step do not fit into memory.
    #[error(transparent)]
    NotEnoughMemory(#[from] NotEnoughMemory),
    /// The thread pool could not be started.
    #[error("cannot start the threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// A check failed; the report says which.
    #[error("the device does not compute what it should: do not serve with it")]
    WrongDevice,
    /// Standard output is closed.
    #[error("cannot write the report: {0}")]
    Write(#[from] io::Error),
    /// The report cannot be written as JSON.
    #[error("cannot write the report: {0}")]
    Json(#[from] serde_json::Error),
}

impl BenchError {
    /// The status that the process exits with, as `--help` lists it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoRoom { .. } | Self::ReadConfig { .. } | Self::NoTokenizer => 64,
            Self::Open(OpenError::Start(StartError::NotEnoughMemory(_) | StartError::Device(_))) => 69,
            Self::Model(ModelError::Device(_)) | Self::NotEnoughMemory(_) => 69,
            _ => 70,
        }
    }
}

/// Measures, and writes the report to `stdout`. Blocks meanwhile.
///
/// # Errors
/// [`BenchError`]
pub fn run(config: &BenchConfig, stdout: &mut impl Write) -> Result<(), BenchError> {
    run_on(config, CudaDevice::open, stdout)
}

/// As [`run`], with devices that `open` opens by their numbers.
///
/// # Errors
/// [`BenchError`]
pub fn run_on<D: Device + 'static>(
    config: &BenchConfig,
    open: fn(usize) -> Result<D, DeviceError>,
    stdout: &mut impl Write,
) -> Result<(), BenchError> {
    if config.startup {
        return write(config, &startup::measure(config)?, stdout);
    }
    let threads = config.threads.unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let report = pool.install(|| measure(config, open))?;
    write(config, &report, stdout)
}

fn write(
    config: &BenchConfig,
    report: &(impl fmt::Display + Serialize),
    stdout: &mut impl Write,
) -> Result<(), BenchError> {
    if config.json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        write!(stdout, "{report}")?;
    }
    Ok(())
}

fn measure<D: Device + 'static>(
    config: &BenchConfig,
    open: fn(usize) -> Result<D, DeviceError>,
) -> Result<BenchReport, BenchError> {
    let began = Instant::now();
    let (name, files) = files(&config.weights)?;
    let blocks = length(config).div_ceil(BLOCK_TOKENS);
    let batch = config.batches.iter().copied().max().unwrap_or(1);
    let room = Room { blocks: batch * blocks, rows: PREFILL_TOKENS, batch };
    let check_memory = |needs: MemoryNeeds| {
        let kv = needs.kv_block.saturating_mul(room.blocks as u64);
        let scratch = needs.scratch(PREFILL_TOKENS.max(batch), batch).saturating_add(memory::READ_BYTES);
        needs.check(kv, scratch, Available::now(), ADVICE)
    };
    match config.device {
        device if config.backend == BackendChoice::Candle => {
            let place = device.map_or_else(Place::cpu, Place::cuda).map_err(ModelError::from)?;
            let mut checkpoint = Checkpoint::open(&files)?;
            if place.free_bytes().is_none() {
                check_memory(CandleModel::needs(&checkpoint, config.quantize, &place))?;
            }
            let model =
                CandleModel::from_checkpoint(&mut checkpoint, &name, config.quantize, place, |_, _| {})?;
            let load_seconds = began.elapsed().as_secs_f64();
            check_length(config, model.config().context_length)?;
            let facts = OnCandle::facts(&model);
            figures(config, name, load_seconds, &facts, &mut OnCandle::new(model, room)?)
        }
        None => {
            let mut checkpoint = Checkpoint::open(&files)?;
            check_memory(MemoryNeeds::of(&checkpoint, config.quantize))?;
            let model = Model::from_checkpoint(&mut checkpoint, &name, config.quantize, |_, _| {})?;
            let load_seconds = began.elapsed().as_secs_f64();
            check_length(config, model.context_length())?;
            let facts = OnCpu::facts(&model);
            let mut subject = OnCpu::new(model, room);
            figures(config, name, load_seconds, &facts, &mut subject)
        }
        Some(number) => {
            let device = open(number).map_err(ModelError::from)?;
            let random = matches!(config.weights, BenchWeights::Random(_));
            let (model, facts) = OnDevice::load(device, &files, &name, config.quantize, random)?;
            let load_seconds = began.elapsed().as_secs_f64();
            check_length(config, model.config().context_length)?;
            figures(config, name, load_seconds, &facts, &mut OnDevice::new(model, room)?)
        }
    }
}

/// Tokens of the longest text.
fn length(config: &BenchConfig) -> usize {
    config.context_tokens + config.new_tokens + WARM_UP_STEPS
}

fn check_length(config: &BenchConfig, limit: usize) -> Result<(), BenchError> {
    if length(config) > limit { Err(BenchError::NoRoom { limit }) } else { Ok(()) }
}

fn figures(
    config: &BenchConfig,
    model: String,
    load_seconds: f64,
    facts: &Facts,
    subject: &mut dyn Subject,
) -> Result<BenchReport, BenchError> {
    let length = length(config);
    let mut prefills = Vec::new();
    for _ in 0..config.repeats {
        prefills.push(Texts::new(&mut *subject, 1, length).read(config.prompt_tokens)?);
    }
    let prefill = median(&mut prefills).as_secs_f64();
    let mut decodes = Vec::new();
    for &batch in &config.batches {
        let mut texts = Texts::new(&mut *subject, batch, length);
        texts.read(config.prompt_tokens)?;
        texts.fill(config.context_tokens)?;
        let mut steps = Vec::new();
        for _ in 0..config.repeats {
            texts.go_back(config.context_tokens);
            for _ in 0..WARM_UP_STEPS {
                texts.step()?;
            }
            for _ in 0..config.new_tokens {
                steps.push(texts.step()?);
            }
        }
        decodes.push((batch, median(&mut steps).as_secs_f64(), subject.launches_per_step(batch)));
    }

    let Facts { device, backend, weight_bytes, kv_bytes_per_token, bytes_per_second } = facts.clone();
    let peak_bytes = memory::peak_bytes();
    let bytes_per_second = bytes_per_second.unwrap_or_else(memory::read_bandwidth);
    let depth = config.context_tokens + WARM_UP_STEPS + config.new_tokens / 2;
    let decode = decodes.into_iter().map(|(batch, step, launches_per_step)| {
        let bytes = (weight_bytes + batch * depth * kv_bytes_per_token) as f64;
        Decode {
            batch,
            tokens_per_second: batch as f64 / step,
            step_ms: step * 1e3,
            bytes_per_token: bytes / batch as f64,
            memory_share: bytes / step / bytes_per_second,
            launches_per_step,
        }
    });
    Ok(BenchReport {
        version: telemetry::VERSION,
        model,
        quantize: config.quantize.as_str(),
        backend: backend.as_str(),
        device,
        threads: rayon::current_num_threads(),
        prompt_tokens: config.prompt_tokens,
        context_tokens: config.context_tokens,
        new_tokens: config.new_tokens,
        repeats: config.repeats,
        load_seconds,
        weight_bytes,
        kv_bytes_per_token,
        peak_bytes,
        memory_bytes_per_second: bytes_per_second,
        prefill_tokens_per_second: config.prompt_tokens as f64 / prefill,
        ttft_ms: prefill * 1e3,
        decode: decode.collect(),
    })
}

fn files(weights: &BenchWeights) -> Result<(String, ModelFiles), BenchError> {
    match weights {
        BenchWeights::Model { name, files } => Ok((name.clone(), files.clone())),
        BenchWeights::Random(path) => {
            let named = || path.display().to_string();
            let json = files::read_argument(path, MAX_CONFIG_BYTES)
                .map_err(|error| BenchError::ReadConfig { path: named(), error: error.into() })?;
            let files = ModelFiles::random(json)
                .map_err(|error| BenchError::Shape { path: named(), error: Box::new(error) })?;
            Ok(("random weights".to_owned(), files))
        }
    }
}

/// The sequences of a batch: a decode step adds a token to each.
struct Texts<'a> {
    subject: &'a mut dyn Subject,
    /// The block table of each.
    tables: Vec<Vec<BlockId>>,
    /// The last token of each, which the next step reads.
    last: Vec<TokenId>,
    position: usize,
}

impl<'a> Texts<'a> {
    /// `batch` texts of up to `length` tokens.
    fn new(subject: &'a mut dyn Subject, batch: usize, length: usize) -> Self {
        let blocks = length.div_ceil(BLOCK_TOKENS);
        let table = |text: usize| (0..blocks).map(|block| BlockId((text * blocks + block) as u32)).collect();
        let tables = (0..batch).map(table).collect();
        Self { subject, tables, last: vec![TokenId(0); batch], position: 0 }
    }

    /// Reads a prompt into each text, one after the other. Returns how long that took.
    fn read(&mut self, length: usize) -> Result<Duration, ModelError> {
        let vocabulary = self.subject.vocabulary() as u32;
        let began = Instant::now();
        for (text, (blocks, last)) in self.tables.iter().zip(&mut self.last).enumerate() {
            // Different in every text, and no control tokens.
            let token = |index: usize| TokenId(108 + (7 * index + 13 * text) as u32 % (vocabulary - 108));
            let tokens: Vec<TokenId> = (0..length).map(token).collect();
            for (chunk, tokens) in tokens.chunks(PREFILL_TOKENS).enumerate() {
                let position = chunk * PREFILL_TOKENS;
                let slice = Slice { tokens, position, blocks, num_logits: 1, prompt: length };
                *last = self.subject.step(&[slice])?.first().copied().unwrap_or(*last);
            }
        }
        self.position = length;
        Ok(began.elapsed())
    }

    /// Goes on until there are `length` tokens: their keys and values are zeros.
    fn fill(&mut self, length: usize) -> Result<(), ModelError> {
        for blocks in &self.tables {
            for block in blocks.iter().skip(self.position.div_ceil(BLOCK_TOKENS)) {
                self.subject.clear(*block)?;
            }
        }
        self.position = length;
        Ok(())
    }

    /// Adds a token to each text. Returns how long that took.
    fn step(&mut self) -> Result<Duration, ModelError> {
        let began = Instant::now();
        let slices = self.tables.iter().zip(&self.last).map(|(blocks, last)| Slice {
            tokens: std::slice::from_ref(last),
            position: self.position,
            blocks,
            num_logits: 1,
            prompt: 0,
        });
        let slices: Vec<_> = slices.collect();
        self.last = black_box(self.subject.step(&slices)?);
        self.position += 1;
        Ok(began.elapsed())
    }

    /// Forgets what was added after `position`.
    fn go_back(&mut self, position: usize) {
        self.position = position;
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Quantize;

    #[test]
    fn a_batch_makes_the_tokens_that_its_texts_make_alone() {
        let model = Model::from_files(&ModelFiles::tiny(), "tiny", Quantize::None, |_, _| {}).unwrap();
        let tokens = |batch: usize, text: usize| {
            let room = Room { blocks: 2 * batch, rows: 64, batch };
            let model = Model::from_files(&ModelFiles::tiny(), "tiny", Quantize::None, |_, _| {}).unwrap();
            let mut subject = OnCpu::new(model, room);
            let mut texts = Texts::new(&mut subject, batch, 50);
            texts.read(40).unwrap();
            let mut made = vec![texts.last[text]];
            for _ in 0..5 {
                texts.step().unwrap();
                made.push(texts.last[text]);
            }
            made
        };
        let together = tokens(3, 0);
        assert_eq!(tokens(1, 0), together);
        let mut sequence = model.sequence();
        let prompt: Vec<TokenId> = (0..40).map(|index| TokenId(108 + 7 * index)).collect();
        let mut alone = vec![subject::argmax(&sequence.forward(&prompt).unwrap())];
        for _ in 0..5 {
            alone.push(subject::argmax(&sequence.forward(&[alone[alone.len() - 1]]).unwrap()));
        }
        assert_eq!(alone, together);
    }

    #[test]
    fn a_context_that_is_not_computed_is_zeros() {
        let subject = || {
            let model = Model::from_files(&ModelFiles::tiny(), "tiny", Quantize::None, |_, _| {}).unwrap();
            OnCpu::new(model, Room { blocks: 6, rows: 64, batch: 2 })
        };
        let logits = |subject: &mut OnCpu| {
            let mut texts = Texts::new(subject, 2, 95);
            texts.read(64).unwrap();
            texts.fill(90).unwrap();
            texts.step().unwrap();
            assert_eq!(texts.position, 91);
            subject.logits().to_vec()
        };
        let mut used = subject();
        Texts::new(&mut used, 2, 95).read(95).unwrap();
        assert_eq!(logits(&mut used), logits(&mut subject()));
    }

    #[test]
    fn the_median_is_one_of_the_times() {
        let mut times = [3, 1, 2].map(Duration::from_millis);
        assert_eq!(median(&mut times), Duration::from_millis(2));
        assert_eq!(median(&mut []), Duration::ZERO);
        assert!(memory::peak_bytes().is_none_or(|bytes| bytes > 1 << 20));
    }
}
