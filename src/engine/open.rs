//! From a model's files to an engine that runs.

use super::phases::{Phases, timed};
use super::thread::step_room;
use super::{
    BackendChoice, DeviceChoice, Engine, EngineConfig, Handle, StartError, memory, start, start_candle,
    start_on, start_witnessed,
};
use crate::machine::Available;
use crate::model::{Checkpoint, MemoryNeeds, Model, ModelError, ModelFiles, Place, Quantize, lower_priority};
use crate::telemetry;
use crate::tokenizer::{Tokenizer, TokenizerError};
use codeseal_kernels::cuda::CudaDevice;

/// Why no engine could be started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The weights cannot be loaded.
    #[error(transparent)]
    Model(ModelError),
    /// The engine did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The tokenizer cannot be loaded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl From<ModelError> for OpenError {
    fn from(error: ModelError) -> Self {
        match error {
            // No other files would help.
            ModelError::Threads(error) => Self::Start(StartError::Threads(error)),
            error => Self::Model(error),
        }
    }
}

/// An engine for a model, and the model's tokenizer.
pub type EngineParts = (Handle, Engine, Tokenizer);

/// What makes an engine of a model's files, as [`open`] does.
pub type Open = fn(&ModelFiles, &str, Quantize, EngineConfig) -> Result<EngineParts, OpenError>;

/// The number of the CUDA device, or none for CPUs.
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
fn check_memory(config: &EngineConfig, needs: &MemoryNeeds) -> Result<(), StartError> {
    memory::check(config, needs, step_room(config), Available::now())
}

/// Loads the model in `files` with `quantize`, calls it `name`, and starts an engine for it. Blocks until it is ready.
///
/// # Errors
/// [`OpenError`]
pub fn open(
    files: &ModelFiles,
    name: &str,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<EngineParts, OpenError> {
    // The tokenizer of a large vocabulary takes as long as a gigabyte of weights.
    let loading = files.clone();
    let tokenizer = std::thread::Builder::new()
        .name("tokenizer".into())
        .spawn(move || {
            lower_priority();
            timed(|| Tokenizer::from_files(&loading))
        })
        .map_err(StartError::Thread)?;
    let started = start_engine(files, name, quantize, config);
    let (tokenizer, parsing) = tokenizer.join().map_err(|_| StartError::Panicked)?;
    // What is wrong with the tokenizer comes first, whichever was done first.
    let tokenizer = tokenizer?;
    let (mut handle, engine) = started?;
    handle.set_phases(Phases { tokenizer: parsing, ..handle.phases() });
    Ok((handle, engine, tokenizer))
}

fn start_engine(
    files: &ModelFiles,
    name: &str,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<(Handle, Engine), OpenError> {
    match (device(config.device), config.backend) {
        (None, BackendChoice::Candle) => {
            let place = Place::cpu().map_err(StartError::Device)?;
            return Ok(start_candle(place, files, name, quantize, config)?);
        }
        (Some(number), BackendChoice::Candle) => {
            let place = Place::cuda(number).map_err(StartError::Device)?;
            return Ok(start_candle(place, files, name, quantize, config)?);
        }
        (Some(number), BackendChoice::Kernels) => {
            let open = move || CudaDevice::open(number);
            return Ok(start_on(open, files.clone(), name, quantize, config)?);
        }
        (Some(number), BackendChoice::Auto) => {
            CudaDevice::find(number).map_err(StartError::Device)?;
            // Where candle has no CUDA, its CPU checks the kernels.
            let place = Place::cuda(number).or_else(|_| Place::cpu()).map_err(StartError::Device)?;
            let open = move || CudaDevice::open(number);
            return Ok(start_witnessed(open, place, files, name, quantize, config)?);
        }
        (None, BackendChoice::Auto | BackendChoice::Kernels) => {}
    }
    let load = || -> Result<Model, OpenError> {
        let mut checkpoint = Checkpoint::open(files)?;
        check_memory(&config, &MemoryNeeds::of(&checkpoint, quantize))?;
        Ok(Model::from_checkpoint(&mut checkpoint, name, quantize, |_, _| {})?)
    };
    let (model, weights) = timed(load);
    let (mut handle, engine) = start(model?, config)?;
    handle.set_phases(Phases { weights, ..handle.phases() });
    Ok((handle, engine))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model whose files may be at fault is verified and loaded once more.
    #[test]
    fn threads_that_cannot_be_started_are_no_fault_of_the_files() {
        let refused = || {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(1);
            let built = builder.spawn_handler(|_| Err(std::io::ErrorKind::WouldBlock.into())).build();
            ModelError::Threads(built.err().unwrap())
        };
        assert!(matches!(OpenError::from(refused()), OpenError::Start(StartError::Threads(_))));
        assert!(matches!(StartError::load(refused()), StartError::Threads(_)));
    }
}
