//! What stands for the candle backend in a program that is built without it: a [`Place`] that cannot be made, so that none of
//! the rest is ever called.
//!
//! The kernels compute everything on the CPU, and candle takes much of the time of a build.

use std::convert::Infallible;

use codeseal_kernels::cuda::DeviceError;
use codeseal_kernels::kv::BlockId;

use super::batch::Slice;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::gguf::Assumption;
use super::memory::MemoryNeeds;
use crate::model::{ModelError, Quantize};

/// A device of candle: none.
#[derive(Clone)]
pub struct Place(Infallible);

/// A model on a device of candle: none.
pub struct CandleModel(Infallible);

/// A sequence of such a model: none.
pub struct CandleSequence(Infallible);

/// Keys and values of such a model: none.
pub(crate) struct Cache(Infallible);

impl Place {
    /// # Errors
    /// Always: this program was built without candle.
    pub fn cpu() -> Result<Self, DeviceError> {
        Err(DeviceError::NoDevice(String::from(
            "this program was built without candle: build it with `--features candle`",
        )))
    }

    /// # Errors
    /// As [`Place::cpu`].
    pub fn cuda(_: usize) -> Result<Self, DeviceError> {
        Self::cpu()
    }

    pub(crate) fn name(&self) -> &str {
        match self.0 {}
    }

    pub(crate) fn free_bytes(&self) -> Option<u64> {
        match self.0 {}
    }

    pub(crate) fn is_exact(&self) -> bool {
        match self.0 {}
    }
}

impl CandleModel {
    /// # Errors
    /// None: it is never called.
    pub fn from_checkpoint(
        _: &mut Checkpoint,
        _: &str,
        _: Quantize,
        place: Place,
        _: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        match place.0 {}
    }

    pub(crate) fn needs(_: &Checkpoint, _: Quantize, place: &Place) -> MemoryNeeds {
        match place.0 {}
    }

    pub(crate) fn cache(&self, _: usize) -> Result<Cache, ModelError> {
        match self.0 {}
    }

    pub(crate) fn step(&self, _: &mut Cache, _: &[Slice<'_>]) -> Result<Vec<f32>, ModelError> {
        match self.0 {}
    }

    pub(crate) fn clear(&self, _: &mut Cache, _: BlockId) -> Result<(), ModelError> {
        match self.0 {}
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        match self.0 {}
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        match self.0 {}
    }

    pub(crate) fn place(&self) -> &Place {
        match self.0 {}
    }

    pub(crate) fn assumption(&self) -> Option<Assumption> {
        match self.0 {}
    }

    /// The types that the weights have in memory.
    pub fn weights_types(&self) -> String {
        match self.0 {}
    }

    /// Bytes of weights that are read to generate one token.
    pub fn bytes_per_token(&self) -> usize {
        match self.0 {}
    }

    pub(crate) fn kv_block_bytes(&self) -> usize {
        match self.0 {}
    }
}

impl Cache {
    pub(crate) fn blocks(&self) -> usize {
        match self.0 {}
    }
}
