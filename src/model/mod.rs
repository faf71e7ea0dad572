//! The Gemma architecture: weights from safetensors or GGUF, forward pass over ragged batches on our own kernels.
//!
//! Must not touch: async runtimes, HTTP, the scheduler.

mod config;
mod device;
mod files;
mod forward;
mod gemma;
mod gguf;
mod needs;
mod parameters;
mod random;
mod rounding;
mod sequence;
#[cfg(any(test, feature = "sandbox"))]
mod tiny;
mod weights;

use std::io;
use std::str::FromStr;

use codeseal_kernels::cuda::DeviceError;

pub use self::config::Config;
pub(crate) use self::device::{DeviceModel, DeviceSession, StepRoom};
pub use self::files::ModelFiles;
pub(crate) use self::forward::{Slice, Workspace};
pub use self::gemma::Model;
pub use self::needs::{Needs, NotEnoughMemory};
pub use self::rounding::{Rounding, UnknownRounding};
pub use self::sequence::Sequence;
#[cfg(any(test, feature = "sandbox"))]
pub use self::tiny::TINY_MODEL_NAME;

/// What weights are turned into while they load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantize {
    /// Nothing: weights stay as they are in the file, but for f16, which is kept as f32.
    #[default]
    None,
    /// Eight bits each and a scale for every 32, the embedding included.
    Q8_0,
    /// Four bits each, and a scale and a minimum for every 32, the embedding included. A matrix whose rows are no
    /// multiple of 256 long is quantised as [`Quantize::Q8_0`].
    Q4K,
}

/// The name is that of no way to quantise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("weights are quantised as none, q8_0 or q4k")]
pub struct UnknownQuantization;

impl Quantize {
    /// The name that it is chosen by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4k",
        }
    }
}

impl FromStr for Quantize {
    type Err = UnknownQuantization;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "none" => Ok(Self::None),
            "q8_0" => Ok(Self::Q8_0),
            "q4k" => Ok(Self::Q4K),
            _ => Err(UnknownQuantization),
        }
    }
}

/// Why a model cannot be loaded, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// `config.json` is missing, too large or not readable.
    #[error("cannot read config.json: {0}")]
    ReadConfig(#[source] io::Error),
    /// `config.json` is not a model's configuration.
    #[error("config.json is malformed: {0}")]
    MalformedConfig(#[source] serde_json::Error),
    /// A member of `config.json` is not as in any Gemma.
    #[error("config.json is not a gemma's: `{0}` is of another architecture")]
    NotGemma(&'static str),
    /// A number in `config.json` cannot be right.
    #[error("config.json is not a gemma's: `{0}` is out of bounds")]
    OutOfBounds(&'static str),
    /// The weights cannot be loaded.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// There are no tokens, or one is outside the vocabulary.
    #[error("the tokens are not of this model's vocabulary")]
    Tokens,
    /// The sequence is as long as the model or its blocks allow.
    #[error("the context is full")]
    ContextFull,
    /// The device has no kernels for this.
    #[error("the device has no kernels for {0}: use another one, or --device cpu")]
    NotOnDevice(&'static str),
    /// The device failed, or has too little memory.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The weights cannot be rounded.
    #[error("the model failed to compute")]
    Compute(#[from] candle_core::Error),
}

/// Why weights cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file is missing or not readable.
    #[error("cannot read the weights: {0}")]
    Read(#[from] io::Error),
    /// A file is not in the safetensors format.
    #[error("the weights are malformed: {0}")]
    Malformed(#[source] serde_json::Error),
    /// A GGUF file is malformed, or of a version that is not known.
    #[error("the weights are not in the gguf format, version 2 or 3")]
    NotGguf,
    /// A tensor of a GGUF file is of a type that is not supported.
    #[error("the tensor `{tensor}` is of the type {found}: use F32, F16, BF16, Q8_0, Q4_K or Q6_K")]
    Quantization {
        /// The tensor's name.
        tensor: String,
        /// What ggml calls its type.
        found: String,
    },
    /// A file is longer or shorter than its header says.
    #[error("the weights are incomplete: fetch them again")]
    Incomplete,
    /// A tensor is in none of the files.
    #[error("the weights lack the tensor `{0}`")]
    Missing(String),
    /// A tensor is not of the shape that `config.json` implies.
    #[error("the tensor `{0}` is not of the shape that config.json implies")]
    Shape(String),
    /// A tensor is of a type that is not supported.
    #[error("the tensor `{0}` is neither f32, f16 nor bf16")]
    Type(String),
}
