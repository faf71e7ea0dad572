//! The command line of `codeseal-server bench` → what is measured.

use std::path::PathBuf;

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
    /// What they are turned into while they load.
    pub quantize: Quantize,
    /// How long a prompt is.
    pub prompt_tokens: usize,
    /// How many tokens are before the first decode step; those beyond the prompt are not computed.
    pub context_tokens: usize,
    /// How many tokens follow.
    pub new_tokens: usize,
    /// How many sequences go on at once, one measurement each.
    pub batches: Vec<usize>,
    /// The number of the device that computes; without one, the processors do.
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
#[derive(Clone, Copy, Debug)]
pub struct CheckConfig {
    /// The number of the CUDA device.
    pub device: usize,
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
    /// The model's directory, or a GGUF file; `tiny` is the model inside this program, where there is one
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "random_weights",
        conflicts_with = "random_weights"
    )]
    model: Option<PathBuf>,

    /// Random weights in the shape that this config.json describes
    #[arg(long, value_name = "FILE")]
    random_weights: Option<PathBuf>,

    /// Measure the start of a server's engine instead: milliseconds for each part, on CPUs with all cores
    #[arg(long, conflicts_with_all = ["random_weights", "device", "threads"])]
    startup: bool,

    /// What weights are turned into while they load
    #[arg(long, value_name = "TYPE", default_value = "none")]
    quantize: Quantize,

    /// Tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one())]
    prompt_tokens: usize,

    /// Tokens of context before the decode steps; beyond --prompt-tokens their keys and values are zeros, which are read as
    /// others are [default: as --prompt-tokens]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    context_tokens: Option<usize>,

    /// Tokens that follow
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = at_least_one())]
    new_tokens: usize,

    /// How many sequences go on at once, one measurement each
    #[arg(long, value_name = "N,N", default_value = "1,4,16", value_delimiter = ',',
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    batch: Vec<usize>,

    /// What computes: cpu, cuda or cuda:N (in builds with CUDA)
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = parse_device)]
    device: BenchDevice,

    /// Implementation of the model: kernels (of this program) or candle; auto is kernels
    #[arg(long, env = "CODESEAL_BACKEND", value_name = "BACKEND", default_value = "auto")]
    backend: BackendChoice,

    /// Threads that compute [default: one for each core]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    threads: Option<usize>,

    /// How often everything is measured; medians are reported
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    repeats: usize,

    /// Report in JSON
    #[arg(long)]
    json: bool,
}

/// What to check, as typed.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The device: cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cuda", value_parser = parse_cuda)]
    device: usize,

    /// Report in JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(crate) fn resolve(self) -> CheckConfig {
        CheckConfig { device: self.device, json: self.json }
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
            None => {
                // clap has refused the lack of both already; an empty path is the directory that one is in.
                let (name, files) = ModelFiles::named(&self.model.unwrap_or_default());
                BenchWeights::Model { name, files }
            }
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
