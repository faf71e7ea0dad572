//! The command line of `codeseal-server bench` → what is measured.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::eval::model;
use super::flags::at_least_one;
use crate::bench::{BenchConfig, BenchWeights, CheckConfig};
use crate::engine::{DeviceChoice, UnknownDevice};
use crate::model::Quantize;

/// What to measure, as typed.
#[derive(Args)]
pub(super) struct BenchArgs {
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

    /// What weights are turned into while they load
    #[arg(long, value_name = "TYPE", default_value = "none")]
    quantize: Quantize,

    /// Tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one())]
    prompt_tokens: usize,

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
pub(super) struct CheckArgs {
    /// The device: cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cuda", value_parser = parse_cuda)]
    device: usize,

    /// Report in JSON
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(super) fn resolve(self) -> CheckConfig {
        CheckConfig { device: self.device, json: self.json }
    }
}

/// The number of a CUDA device, or none for the processors.
#[derive(Clone, Copy)]
pub(super) struct BenchDevice(Option<usize>);

/// Here nothing is chosen for whoever measures.
fn parse_device(name: &str) -> Result<BenchDevice, UnknownDevice> {
    match name.parse()? {
        DeviceChoice::Cpu => Ok(BenchDevice(None)),
        DeviceChoice::Cuda(number) => Ok(BenchDevice(Some(number))),
        DeviceChoice::Auto => Err(UnknownDevice),
    }
}

fn parse_cuda(name: &str) -> Result<usize, UnknownDevice> {
    parse_device(name)?.0.ok_or(UnknownDevice)
}

impl BenchArgs {
    pub(super) fn resolve(self) -> BenchConfig {
        let weights = match self.random_weights {
            Some(config) => BenchWeights::Random(config),
            None => {
                // clap has refused the lack of both already; an empty path is the directory that one is in.
                let (name, files) = model(&self.model.unwrap_or_default());
                BenchWeights::Model { name, files }
            }
        };
        BenchConfig {
            weights,
            quantize: self.quantize,
            prompt_tokens: self.prompt_tokens,
            new_tokens: self.new_tokens,
            batches: self.batch,
            device: self.device.0,
            threads: self.threads,
            repeats: self.repeats,
            json: self.json,
        }
    }
}
