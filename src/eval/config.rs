//! The command line of `codeseal-server eval` → what is measured.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::engine::{BackendChoice, DeviceChoice};
use crate::flags::at_least_one;
use crate::model::{ModelFiles, Quantize};
use crate::protocol::HoleStart;

/// What to measure, and with what.
#[derive(Clone, Debug)]
pub struct FimConfig {
    /// What the report calls the model.
    pub model_name: String,
    /// The model.
    pub model: ModelFiles,
    /// What its weights are turned into while they load.
    pub quantize: Quantize,
    /// What it runs on.
    pub device: DeviceChoice,
    /// The implementation of the model.
    pub backend: BackendChoice,
    /// A file of cases, one JSON object a line: `name`, `prefix`, `suffix`, `middle` and `kind`, which is `single`
    /// or `multi`.
    pub cases: PathBuf,
    /// Where holes begin: text from there to the cursor goes behind the middle marker.
    pub hole: HoleStart,
    /// At most this many cases, from the beginning of the file.
    pub limit: Option<usize>,
    /// How many tokens an answer may have.
    pub max_new_tokens: usize,
    /// How many cases are shown with their answers.
    pub examples: usize,
    /// Whether the report is JSON rather than a table.
    pub json: bool,
}

/// What can be measured.
#[derive(Subcommand)]
pub(crate) enum EvalCommand {
    /// Fill holes in code, and report exact matches and edit similarity
    Fim(FimArgs),
}

/// How to fill holes, as typed.
#[derive(Args)]
pub(crate) struct FimArgs {
    /// Model: a directory or a GGUF file; `tiny` is the embedded model, in builds that have it
    #[arg(long, value_name = "PATH")]
    model: PathBuf,

    /// File of cases: per line a JSON object with name, prefix, suffix, middle and kind (single or multi)
    #[arg(long, value_name = "FILE")]
    cases: PathBuf,

    /// Quantize weights at load time, as the server: none, q8_0 or q4k
    #[arg(long, value_name = "TYPE", default_value = "none")]
    quantize: Quantize,

    /// Device, as of the server: cpu, cuda or cuda:N (in builds with CUDA), or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Implementation of the model, as of the server: auto, kernels or candle
    #[arg(long, env = "CODESEAL_BACKEND", value_name = "BACKEND", default_value = "auto")]
    backend: BackendChoice,

    /// Maximum of new tokens per answer. The rest of the context is the prompt's. A longer prompt is cut around the hole: three
    /// quarters of the room go to the prefix, one to the suffix
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one())]
    max_new_tokens: usize,

    /// Where a hole begins: at the cursor as in the cases, or, as with `codeseal proxy --hole`, at the cursor's line or 8
    /// lines above it. The model then gets the text from there to the cursor behind the middle marker
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = HoleStart::Cursor)]
    hole: HoleStart,

    /// Number of cases, from the beginning of the file [default: all]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    limit: Option<usize>,

    /// Print this many cases with the expected text and the answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    show: usize,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl FimArgs {
    pub(crate) fn resolve(self) -> FimConfig {
        let (model_name, model) = ModelFiles::named(&self.model);
        FimConfig {
            model_name,
            model,
            quantize: self.quantize,
            device: self.device,
            backend: self.backend,
            cases: self.cases,
            hole: self.hole,
            limit: self.limit,
            max_new_tokens: self.max_new_tokens,
            examples: self.show,
            json: self.json,
        }
    }
}
