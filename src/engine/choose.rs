//! Which backend serves: candle where it is asked for, or where the kernels do not agree with it.

use super::agreement::{Agreement, Witness};
use super::backend::candle::OnCandle;
use super::backend::{Backend, OnDevice};
use super::phases::{Phases, timed};
use super::thread::{on_device, spawn, spawn_boxed, step_room};
use super::{BackendKind, Engine, EngineConfig, Handle, StartError, memory};
use crate::machine::Available;
use crate::model::{CandleModel, Checkpoint, DeviceModel, ModelFiles, Place, Quantize, device};
use crate::telemetry;
use codeseal_kernels::cuda::{Device, DeviceError};

/// A model's files, and what is made of them.
struct Source {
    files: ModelFiles,
    name: String,
    quantize: Quantize,
    place: Place,
}

/// Loads the model in `files` to `place` with `quantize`, calls it `name`, and starts an engine that computes with candle.
/// Blocks until it is ready.
///
/// # Errors
/// The model cannot be loaded or fails its self-test, there is too little memory, or a thread cannot be started.
pub fn start_candle(
    place: Place,
    files: &ModelFiles,
    name: &str,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<(Handle, Engine), StartError> {
    let source = Source { files: files.clone(), name: name.to_owned(), quantize, place };
    let (backend, weights) = timed(|| source.candle(&mut source.open()?, &config, None));
    let backend = backend?;
    let (mut handle, engine) = spawn(move || Ok(backend), config)?;
    handle.set_phases(Phases { weights, ..handle.phases() });
    Ok((handle, engine))
}

/// As [`super::start_on`], if the kernels agree with candle on the device that `open` opens; if not, as [`start_candle`]. They are
/// compared on the model's first layers before the model is loaded; of its files, only the tensors of these are read for that.
///
/// # Errors
/// As [`super::start_on`] and [`start_candle`].
pub fn start_witnessed<D: Device + 'static>(
    open: impl Fn() -> Result<D, DeviceError> + Send + 'static,
    place: Place,
    files: &ModelFiles,
    name: &str,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<(Handle, Engine), StartError> {
    let source = Source { files: files.clone(), name: name.to_owned(), quantize, place };
    let make = move || -> Result<Box<dyn Backend>, StartError> {
        let device = open()?;
        let mut checkpoint = source.open()?;
        let agreement = source.compare(device, &mut checkpoint)?;
        let (backend, reason) = match &agreement {
            Agreement::Difference(_) if agreement.is_within_bound() => (BackendKind::Kernels, "agreement"),
            Agreement::Difference(_) => (BackendKind::Candle, "difference"),
            Agreement::Failure(_) => (BackendKind::Candle, "failure"),
        };
        let (backend_name, difference) = (backend.as_str(), agreement.difference());
        telemetry::emit(telemetry::Event::BackendChosen { backend: backend_name, reason, difference });
        let difference = Some(difference.unwrap_or(f32::INFINITY));
        Ok(match backend {
            BackendKind::Kernels => {
                Box::new(source.kernels(open()?, &mut checkpoint, &config, difference)?)
            }
            BackendKind::Candle => Box::new(source.candle(&mut checkpoint, &config, difference)?),
        })
    };
    spawn_boxed(make, config)
}

impl Source {
    fn open(&self) -> Result<Checkpoint, StartError> {
        Checkpoint::open(&self.files).map_err(StartError::load)
    }

    /// Compares the kernels on `device` with candle. Only the tensors that this takes are read of `checkpoint`, once for both.
    fn compare<D: Device + 'static>(
        &self,
        device: D,
        checkpoint: &mut Checkpoint,
    ) -> Result<Agreement, StartError> {
        // Nothing is read for a model without kernels.
        if let Err(error) = device::check(checkpoint.config(), self.quantize) {
            return Ok(Agreement::Failure(error.to_string()));
        }
        Witness::new(checkpoint, self.place.clone())?.device(device, self.quantize)
    }

    fn kernels<D: Device + 'static>(
        &self,
        device: D,
        checkpoint: &mut Checkpoint,
        config: &EngineConfig,
        difference: Option<f32>,
    ) -> Result<OnDevice, StartError> {
        let model = DeviceModel::from_checkpoint(device, checkpoint, &self.name, self.quantize, |_, _| {});
        on_device(model.map_err(StartError::load)?, config, difference)
    }

    fn candle(
        &self,
        checkpoint: &mut Checkpoint,
        config: &EngineConfig,
        difference: Option<f32>,
    ) -> Result<OnCandle, StartError> {
        let needs = CandleModel::needs(checkpoint, self.quantize, &self.place);
        if self.place.free_bytes().is_none() {
            memory::check(config, &needs, step_room(config), Available::now())?;
        }
        let place = self.place.clone();
        let model = CandleModel::from_checkpoint(checkpoint, &self.name, self.quantize, place, |_, _| {});
        let model = model.map_err(StartError::load)?;
        let available = match self.place.free_bytes() {
            Some(bytes) => bytes / 10 * 9,
            None => memory::automatic(&needs, Available::now()),
        };
        let (bytes, length) = (model.kv_block_bytes(), model.config().context_length);
        let blocks = memory::blocks(config, bytes, length, available)?;
        Ok(OnCandle::new(model, blocks, difference)?)
    }
}
