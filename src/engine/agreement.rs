//! Whether our kernels compute what candle computes: the steps of [`super::witness`] on a model's first layers.

use super::backend::candle::OnCandle;
use super::backend::{Cpu, OnDevice};
use super::witness::{LAYERS, Plan, TOLERANCE};
use super::{StartError, memory};
use crate::machine::Available;
use crate::model::{
    CandleModel, Checkpoint, DeviceModel, MemoryNeeds, Model, ModelError, ModelFiles, Place, Quantize,
};
use codeseal_kernels::cuda::{Device, DeviceError};

/// A model's first layers in memory, on which our kernels are compared with candle.
pub struct Witness {
    layers: Checkpoint,
    plan: Plan,
    place: Place,
}

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Agreement {
    /// The largest difference of a logit, in root mean squares of the logits of its row; infinite if one is not a number.
    Difference(f32),
    /// The kernels failed, or there are none for the model; the reason.
    Failure(String),
}

impl Agreement {
    /// The largest difference of sound kernels: see `engine/witness.rs` for the reasons.
    pub const BOUND: f32 = TOLERANCE;

    /// Whether the kernels may serve.
    pub fn is_within_bound(&self) -> bool {
        matches!(self, Self::Difference(difference) if *difference <= Self::BOUND)
    }

    /// The difference, if there is one.
    pub fn difference(&self) -> Option<f32> {
        match self {
            Self::Difference(difference) => Some(*difference),
            Self::Failure(_) => None,
        }
    }
}

impl Witness {
    /// Reads the first layers of the model in `files`. candle computes at `place`.
    ///
    /// # Errors
    /// The model cannot be read, or there is too little memory.
    pub fn open(files: &ModelFiles, place: Place) -> Result<Self, StartError> {
        Self::new(&mut Checkpoint::open(files).map_err(StartError::load)?, place)
    }

    /// As [`Witness::open`], for the model of `checkpoint`.
    ///
    /// # Errors
    /// As [`Witness::open`].
    pub(super) fn new(checkpoint: &mut Checkpoint, place: Place) -> Result<Self, StartError> {
        memory::check_witness(checkpoint.first_layers_bytes(LAYERS), Available::now())?;
        let layers = checkpoint.first_layers(LAYERS).map_err(StartError::load)?;
        Ok(Self { plan: Plan::new(layers.config()), layers, place })
    }

    /// How many layers are compared.
    pub fn layers(&self) -> usize {
        self.layers.config().num_layers
    }

    /// Compares the kernels of the CPU with candle, both with weights of `quantize`.
    ///
    /// # Errors
    /// candle fails, or there is too little memory.
    pub fn cpu(&mut self, quantize: Quantize) -> Result<Agreement, StartError> {
        self.check_memory(&MemoryNeeds::of(&self.layers, quantize))?;
        let (blocks, room) = (self.plan.blocks(), self.plan.room());
        let kernels = Model::from_checkpoint(&mut self.layers, "", quantize, |_, _| {})
            .and_then(|model| self.plan.run(&mut Cpu::new(model, blocks, room)));
        self.compare(kernels, quantize)
    }

    /// Compares the kernels on `device` with candle, both with weights of `quantize`.
    ///
    /// # Errors
    /// candle fails, or the device or the host has too little memory.
    pub fn device<D: Device + 'static>(
        &mut self,
        device: D,
        quantize: Quantize,
    ) -> Result<Agreement, StartError> {
        let (blocks, room) = (self.plan.blocks(), self.plan.room());
        let kernels = DeviceModel::from_checkpoint(device, &mut self.layers, "", quantize, |_, _| {})
            .and_then(|model| OnDevice::new(model, blocks, room, None))
            .and_then(|mut backend| self.plan.run(&mut backend));
        self.compare(kernels, quantize)
    }

    /// Compares the logits of the kernels, whose memory is free by now, with those of candle.
    fn compare(
        &mut self,
        kernels: Result<Vec<f32>, ModelError>,
        quantize: Quantize,
    ) -> Result<Agreement, StartError> {
        let kernels = match kernels {
            Ok(logits) => logits,
            Err(error) if is_of_kernels(&error) => return Ok(Agreement::Failure(error.to_string())),
            Err(error) => return Err(StartError::load(error)),
        };
        if self.place.free_bytes().is_none() {
            self.check_memory(&CandleModel::needs(&self.layers, quantize, &self.place))?;
        }
        let (blocks, place) = (self.plan.blocks(), self.place.clone());
        let candle = CandleModel::from_checkpoint(&mut self.layers, "", quantize, place, |_, _| {})
            .and_then(|model| OnCandle::new(model, blocks, None))
            .and_then(|mut backend| self.plan.run(&mut backend))
            .map_err(StartError::load)?;
        Ok(Agreement::Difference(self.plan.difference(&kernels, &candle)))
    }

    /// Refuses what does not fit into the memory of the host.
    fn check_memory(&self, needs: &MemoryNeeds) -> Result<(), StartError> {
        let (blocks, room) = (self.plan.blocks() as u64, self.plan.room());
        let scratch = needs.scratch(room.rows, room.num_logits);
        let kv = needs.kv_block.saturating_mul(blocks);
        Ok(needs.check(kv, scratch, Available::now(), memory::WITNESS_ADVICE)?)
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
