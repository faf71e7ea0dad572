//! From a model's files to an engine that runs.

use super::thread::step_room;
use super::{DeviceChoice, Engine, EngineConfig, Handle, StartError, memory, start, start_on};
use crate::machine::Available;
use crate::model::{Model, ModelError, ModelFiles, Needs, Quantize};
use crate::telemetry;
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
        DeviceChoice::Auto => match CudaDevice::missing() {
            None => Some(0),
            Some(reason) => {
                telemetry::emit(telemetry::Event::DeviceFallback { reason });
                None
            }
        },
    }
}

/// Refuses a model that takes more memory than is available, before its weights are read.
///
/// # Errors
/// [`StartError::NotEnoughMemory`]
fn check_memory(config: &EngineConfig, needs: &Needs) -> Result<(), StartError> {
    memory::check(config, needs, step_room(config), Available::now())
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
        None => {
            check_memory(&config, &Needs::of(files, quantize)?)?;
            start(Model::from_files(files, name, quantize, |_, _| {})?, config)?
        }
    };
    Ok((handle, engine, tokenizer))
}
