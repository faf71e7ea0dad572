//! The Gemma architecture.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | `config.json`, checked |
//! | [`gguf`] | the same from the metadata of a GGUF file |
//! | [`tensors`] | the table of tensors: names in both formats, shapes, and which parameter each is part of |
//! | [`checkpoint`] | a model's files, opened: configuration and tensors; their headers are parsed once |
//! | [`weights`] | the parameters, in whatever form they are kept, and loading them |
//! | [`forward`] | the forward pass on CPUs |
//! | [`device`] | the forward pass on CUDA devices, and the steps around it |
//! | `candle` | the forward pass in candle operations, on the CPU and on devices of candle; without the feature `candle` it is `without_candle.rs` |
//! | [`memory`] | how much memory a model takes |
//! | [`model`], [`sequence`] | a loaded model on CPUs |
//!
//! # The path of a weight
//!
//! From the file to the kernel in one direction; [`Weights::load`] is the loop:
//!
//! 1. Read: [`Checkpoint`] reads some rows of a tensor, in the order of the file, as [`checkpoint::Rows`]. Another thread
//!    hashes the same bytes meanwhile, so that the digest of the files needs no second pass.
//! 2. Find the parameter: [`Weights`] by the table in [`tensors`].
//! 3. Convert and pack: `kernels::cpu::Matrix::fill_rows` for CPUs, [`device::matrix`] for devices: dequantize, quantize if
//!    asked to, and arrange the rows as the kernels read them.
//! 4. Place: into the matrix that the forward pass multiplies with.

mod batch;
#[cfg(feature = "candle")]
mod candle;
#[cfg(not(feature = "candle"))]
#[path = "without_candle.rs"]
mod candle;
mod checkpoint;
mod config;
pub mod device;
mod forward;
mod gguf;
mod memory;
mod model;
mod random;
mod sequence;
mod tensors;
mod weights;

pub use self::batch::Slice;
pub(crate) use self::candle::Cache;
pub use self::candle::{CandleModel, CandleSequence, Place};
pub use self::checkpoint::Checkpoint;
pub use self::config::Config;
pub(crate) use self::device::{DeviceModel, DeviceSession, StepRoom};
pub(crate) use self::forward::Workspace;
pub use self::gguf::Assumption;
pub use self::memory::{MemoryNeeds, NotEnoughMemory};
pub use self::model::Model;
pub use self::sequence::Sequence;
pub use self::weights::{LayerWeights, Weights};
