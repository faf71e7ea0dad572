//! Models: their files, the formats of weight files, and one folder per architecture.
//!
//! | module | holds |
//! |---|---|
//! | `layout`, `files` | which files make a model, and reading them |
//! | `stream`, `priority` | reading the files of weights once: hashed and packed beside each other |
//! | `format` | headers of safetensors and GGUF files: names, shapes, types and offsets of tensors |
//! | `gemma` | the Gemma architecture: configuration, table of tensors, checkpoint, forward pass on CPUs, devices and in candle |
//! | `backend` | which implementation of the forward pass is used |
//!
//! Another architecture is another folder beside `gemma`; the formats and files know none.
//!
//! Allowed modules: machine, prompt, token.
//! Forbidden: axum, tokio.

mod backend;
mod error;
mod files;
mod format;
mod gemma;
mod layout;
mod named;
mod priority;
mod quantize;
mod stream;
#[cfg(any(test, feature = "sandbox"))]
mod tiny;

pub use self::backend::{BackendChoice, BackendKind, BackendNameError};
pub use self::error::{ModelError, WeightsError};
pub use self::files::{FileProblem, FilesError, LoadProgress, LoadTimes, ModelFiles, PlaceProblem};
pub use self::gemma::{
    Assumption, CandleModel, CandleSequence, Checkpoint, Config, LayerWeights, MemoryNeeds, Model,
    NotEnoughMemory, Place, Sequence, Slice, Weights, device,
};
pub(crate) use self::gemma::{Cache, DeviceModel, DeviceSession, StepRoom, Workspace};
pub use self::layout::{FileName, Layout, LayoutError, NotAModelFile};
pub(crate) use self::priority::lower as lower_priority;
pub use self::quantize::{Quantize, UnknownQuantization};
#[cfg(any(test, feature = "sandbox"))]
pub use self::tiny::TINY_MODEL_NAME;
