//! From a model's files to an engine that runs.
//!
//! Must not touch: where the files come from.

use super::{DeviceChoice, Engine, EngineConfig, Handle, StartError, start, start_on};
use crate::model::{Model, ModelError, ModelFiles, Quantize};
use crate::tokenizer::{Tokenizer, TokenizerError};
use codeseal_kernels::cuda::CudaDevice;

/// Why a model's files make no engine.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The weights cannot be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The tokenizer cannot be loaded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// An engine for a model, and the model's tokenizer.
pub type Opened = (Handle, Engine, Tokenizer);

/// What makes an engine of a model's files, as [`open`] does.
pub type Open = fn(&ModelFiles, &str, Quantize, EngineConfig) -> Result<Opened, OpenError>;

/// The number of the CUDA device that is meant, or none for the processors.
fn device(choice: DeviceChoice) -> Option<usize> {
    match choice {
        DeviceChoice::Cpu => None,
        DeviceChoice::Cuda(number) => Some(number),
        DeviceChoice::Auto => CudaDevice::is_there().then_some(0),
    }
}

/// Loads the model in `files`, quantised as `quantize` says, calls it `name`, and starts an engine for it. Blocks for as long as that takes.
///
/// # Errors
/// [`OpenError`]
pub fn open(
    files: &ModelFiles,
    name: &str,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<Opened, OpenError> {
    let tokenizer = Tokenizer::from_files(files)?;
    let (handle, engine) = match device(config.device) {
        Some(number) => start_on(move || CudaDevice::open(number), files.clone(), name, quantize, config)?,
        None => start(Model::from_files(files, name, quantize, |_, _| {})?, config)?,
    };
    Ok((handle, engine, tokenizer))
}
