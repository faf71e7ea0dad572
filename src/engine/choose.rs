//! Which backend serves: candle where it is asked for, or where the kernels do not agree with it.

use super::backend::candle::OnCandle;
use super::backend::{Backend, OnDevice};
use super::phases::{Phases, timed};
use super::thread::{on_device, spawn, spawn_boxed, step_room};
use super::witness::{LAYERS, Plan, TOLERANCE};
use super::{BackendKind, Engine, EngineConfig, Handle, StartError, memory};
use crate::machine::Available;
use crate::model::{CandleModel, Checkpoint, DeviceModel, ModelError, ModelFiles, Place, Quantize};
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
    let (backend, weights) = timed(|| source.candle(&config, None));
    let backend = backend?;
    let (mut handle, engine) = spawn(move || Ok(backend), config)?;
    handle.set_phases(Phases { weights, ..handle.phases() });
    Ok((handle, engine))
}

/// As [`super::start_on`], if the kernels agree with candle on the device that `open` opens; if not, as [`start_candle`]. They are
/// compared on the model's first layers before the model is loaded.
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
        let difference = source.difference(open()?)?;
        let (backend, reason) = match difference {
            Some(difference) if difference <= TOLERANCE => (BackendKind::Kernels, "agreement"),
            Some(_) => (BackendKind::Candle, "difference"),
            None => (BackendKind::Candle, "failure"),
        };
        let backend_name = backend.as_str();
        telemetry::emit(telemetry::Event::BackendChosen { backend: backend_name, reason, difference });
        let difference = difference.unwrap_or(f32::INFINITY);
        Ok(match backend {
            BackendKind::Kernels => Box::new(source.kernels(open()?, &config, difference)?),
            BackendKind::Candle => Box::new(source.candle(&config, Some(difference))?),
        })
    };
    spawn_boxed(make, config)
}

impl Source {
    /// The largest difference between the kernels on `device` and candle: see [`Plan::difference`]. None if the kernels fail,
    /// or if there are none for the model.
    fn difference<D: Device + 'static>(&self, device: D) -> Result<Option<f32>, StartError> {
        let mut checkpoint = Checkpoint::open(&self.files).map_err(StartError::load)?;
        checkpoint.keep_layers(LAYERS);
        let plan = Plan::new(checkpoint.config());
        // One after the other: the first's memory is free for the second.
        let kernels =
            DeviceModel::from_checkpoint(device, &mut checkpoint, &self.name, self.quantize, |_, _| {})
                .and_then(|model| OnDevice::new(model, plan.blocks(), plan.room(), None))
                .and_then(|mut backend| plan.run(&mut backend));
        let kernels = match kernels {
            Ok(logits) => logits,
            Err(error) if is_of_kernels(&error) => return Ok(None),
            Err(error) => return Err(StartError::load(error)),
        };
        let candle = CandleModel::from_checkpoint(
            &mut checkpoint,
            &self.name,
            self.quantize,
            self.place.clone(),
            |_, _| {},
        );
        let candle = candle
            .and_then(|model| OnCandle::new(model, plan.blocks(), None))
            .and_then(|mut backend| plan.run(&mut backend))
            .map_err(StartError::load)?;
        Ok(Some(plan.difference(&kernels, &candle)))
    }

    fn kernels<D: Device + 'static>(
        &self,
        device: D,
        config: &EngineConfig,
        difference: f32,
    ) -> Result<OnDevice, StartError> {
        let model = DeviceModel::load(device, &self.files, &self.name, self.quantize, |_, _| {});
        on_device(model.map_err(StartError::load)?, config, Some(difference))
    }

    fn candle(&self, config: &EngineConfig, difference: Option<f32>) -> Result<OnCandle, StartError> {
        let mut checkpoint = Checkpoint::open(&self.files).map_err(StartError::load)?;
        let needs = CandleModel::needs(&checkpoint, self.quantize, &self.place);
        if self.place.free_bytes().is_none() {
            memory::check(config, &needs, step_room(config), Available::now())?;
        }
        let place = self.place.clone();
        let model =
            CandleModel::from_checkpoint(&mut checkpoint, &self.name, self.quantize, place, |_, _| {});
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

/// Whether it is the kernels that fail, or lack a shape: another implementation may compute the model on the same device.
fn is_of_kernels(error: &ModelError) -> bool {
    match error {
        ModelError::NotOnDevice(_) => true,
        ModelError::Device(error) => matches!(error, DeviceError::Failed(_) | DeviceError::Shape { .. }),
        _ => false,
    }
}
