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
    /// Fill holes in code, and report how often and how nearly the model writes what stood there
    Fim(FimArgs),
}

/// How to fill holes, as typed.
#[derive(Args)]
pub(crate) struct FimArgs {
    /// The model's directory, or a GGUF file; `tiny` is the model inside this program, where there is one
    #[arg(long, value_name = "PATH")]
    model: PathBuf,

    /// The cases: a JSON object a line with name, prefix, suffix, middle and kind (single or multi)
    #[arg(long, value_name = "FILE")]
    cases: PathBuf,

    /// Load the weights as a server with this --quantize does: none, q8_0 or q4k
    #[arg(long, value_name = "TYPE", default_value = "none")]
    quantize: Quantize,

    /// What the model runs on, as a server with this --device: cpu, cuda or cuda:N (in builds with CUDA), or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Implementation of the model, as a server with this --backend: auto, kernels or candle
    #[arg(long, env = "CODESEAL_BACKEND", value_name = "BACKEND", default_value = "auto")]
    backend: BackendChoice,

    /// New tokens of an answer at most. The rest of the context is the prompt's: of one that is longer, the
    /// prefix loses its beginning and the suffix its end, which keep three quarters and one of the room
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one())]
    max_new_tokens: usize,

    /// Where a hole begins: at the cursor as in the cases, or, as with `codeseal proxy --hole`, at the cursor's line or 8
    /// lines above it. The model then gets the text from there to the cursor behind the middle marker
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = HoleStart::Cursor)]
    hole: HoleStart,

    /// Only the first cases of the file
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    limit: Option<usize>,

    /// Print the first cases with what was expected and what was answered
    #[arg(long, value_name = "N", default_value_t = 0)]
    show: usize,

    /// Report in JSON
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
