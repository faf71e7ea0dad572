//! The flags of `codeseal-server bench` and `kernels-check` → validated settings.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::RangedU64ValueParser;

use crate::flags::at_least_one;
use crate::model::{BackendChoice, ModelFiles, Quantize};

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct BenchConfig {
    /// Whose weights.
    pub weights: BenchWeights,
    /// Whether the start is measured instead of steps.
    pub startup: bool,
    /// Quantization at load time.
    pub quantize: Quantize,
    /// Prompt length, in tokens.
    pub prompt_tokens: usize,
    /// Context before the first decode step, in tokens; those beyond the prompt are not computed.
    pub context_tokens: usize,
    /// New tokens per sequence.
    pub new_tokens: usize,
    /// Batch sizes of decode, one measurement each.
    pub batches: Vec<usize>,
    /// The number of the CUDA device; none for the CPU.
    pub device: Option<usize>,
    /// The implementation; the kernels unless candle is chosen.
    pub backend: BackendChoice,
    /// How many threads compute; without a number, as many as there are cores.
    pub threads: Option<usize>,
    /// How often everything is measured.
    pub repeats: usize,
    /// Whether the report is JSON rather than a table.
    pub json: bool,
}

/// What to check.
#[derive(Clone, Debug)]
pub struct CheckConfig {
    /// The number of the CUDA device whose kernels are checked; without one, those of the CPU are.
    pub device: Option<usize>,
    /// The model on whose first layers kernels are compared with candle; the small one of this program if none is named.
    pub weights: Option<BenchWeights>,
    /// Whether the report is JSON rather than lines.
    pub json: bool,
}

/// Whose weights are measured.
#[derive(Clone, Debug)]
pub enum BenchWeights {
    /// A model's.
    Model {
        /// What the report calls it.
        name: String,
        /// Where it is.
        files: ModelFiles,
    },
    /// Random ones in the shape that a `config.json` describes.
    Random(PathBuf),
}

/// What to measure, as typed.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Model: a directory or a GGUF file; `tiny` is the embedded model, in builds that have it
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "random_weights",
        conflicts_with = "random_weights"
    )]
    model: Option<PathBuf>,

    /// Random weights in the shape of this config.json
    #[arg(long, value_name = "FILE")]
    random_weights: Option<PathBuf>,

    /// Measure the start of a server's engine instead: milliseconds for each part, on CPUs with all cores
    #[arg(long, conflicts_with_all = ["random_weights", "device", "threads"])]
    startup: bool,

    /// Quantize weights at load time: none, q8_0 or q4k
    #[arg(long, value_name = "TYPE", default_value = "none")]
    quantize: Quantize,

    /// Prompt length of the prefill, in tokens
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one())]
    prompt_tokens: usize,

    /// Context before the decode steps, in tokens; beyond --prompt-tokens their keys and values are zeros, which cost as much
    /// to read [default: as --prompt-tokens]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    context_tokens: Option<usize>,

    /// New tokens per sequence
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one())]
    new_tokens: usize,

    /// Batch sizes of the decode, one measurement each
    #[arg(long, value_name = "N,N", default_value = "1,4,16", value_delimiter = ',',
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    batch: Vec<usize>,

    /// Device: cpu, cuda or cuda:N (in builds with CUDA)
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = parse_device)]
    device: BenchDevice,

    /// Implementation of the model: kernels (of this program) or candle (in builds with candle or CUDA); auto is kernels
    #[arg(long, env = "CODESEAL_BACKEND", value_name = "BACKEND", default_value = "auto")]
    backend: BackendChoice,

    /// Compute threads [default: number of cores]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    threads: Option<usize>,

    /// Number of measurements, of which the median is reported
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    repeats: usize,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// What to check, as typed.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// Whose kernels are checked: those of the cpu, or of cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cuda", value_parser = parse_device)]
    device: BenchDevice,

    /// Model whose first layers kernels and candle compute: a directory, or a GGUF file [default: the model inside this
    /// program, or random weights in its shape]
    #[arg(long, value_name = "PATH", conflicts_with = "random_weights")]
    model: Option<PathBuf>,

    /// Random weights in the shape that this config.json describes instead
    #[arg(long, value_name = "FILE")]
    random_weights: Option<PathBuf>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(crate) fn resolve(self) -> CheckConfig {
        let random = self.random_weights.map(BenchWeights::Random);
        let weights = random.or_else(|| self.model.map(|path| BenchWeights::named(&path)));
        CheckConfig { device: self.device.0, weights, json: self.json }
    }
}

impl BenchWeights {
    fn named(path: &Path) -> Self {
        let (name, files) = ModelFiles::named(path);
        Self::Model { name, files }
    }
}

/// The number of a CUDA device; `None` is the CPU.
#[derive(Clone, Copy)]
pub(crate) struct BenchDevice(Option<usize>);

/// Not the name of a device that can be measured; `auto` is none, because a report must say what was measured.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a device is cpu, cuda or cuda:N")]
pub(crate) struct UnknownDevice;

fn parse_device(name: &str) -> Result<BenchDevice, UnknownDevice> {
    if name == "cpu" {
        Ok(BenchDevice(None))
    } else {
        parse_cuda(name).map(|number| BenchDevice(Some(number)))
    }
}

fn parse_cuda(name: &str) -> Result<usize, UnknownDevice> {
    match name.strip_prefix("cuda") {
        Some("") => Ok(0),
        Some(number) => number.strip_prefix(':').and_then(|number| number.parse().ok()).ok_or(UnknownDevice),
        None => Err(UnknownDevice),
    }
}

impl BenchArgs {
    pub(crate) fn resolve(self) -> BenchConfig {
        let weights = match self.random_weights {
            Some(config) => BenchWeights::Random(config),
            // clap has refused the lack of both already; an empty path is the directory that one is in.
            None => BenchWeights::named(&self.model.unwrap_or_default()),
        };
        BenchConfig {
            weights,
            startup: self.startup,
            quantize: self.quantize,
            prompt_tokens: self.prompt_tokens,
            context_tokens: self.context_tokens.unwrap_or(0).max(self.prompt_tokens),
            new_tokens: self.new_tokens,
            batches: self.batch,
            device: self.device.0,
            backend: self.backend,
            threads: self.threads,
            repeats: self.repeats,
            json: self.json,
        }
    }
}
