//! Single steps of a model with random weights on a device, for `benches/gpu.rs`, which measures them beside others.

use std::time::Duration;

use super::subject::{Facts, OnCandle, OnDevice, Room, Subject};
use super::{BenchError, PREFILL_TOKENS, Texts};
use crate::model::{CandleModel, Checkpoint, ModelError, ModelFiles, Place, Quantize};
use codeseal_kernels::cuda::Device;
use codeseal_kernels::kv::BLOCK_TOKENS;

/// A model with random weights on a device, and room for its steps.
pub struct DeviceSteps {
    subject: Box<dyn Subject>,
    facts: Facts,
    length: usize,
}

impl DeviceSteps {
    /// A model of the shape that `config`, a `config.json`, describes, with room for `batch` sequences of `length` tokens. The
    /// weights are made on `device`, and kept as `quantize` says.
    ///
    /// # Errors
    /// There are no kernels for the shape, its context is shorter than `length`, or the device has too little
    /// memory.
    pub fn random<D: Device + 'static>(
        device: D,
        config: Vec<u8>,
        quantize: Quantize,
        batch: usize,
        length: usize,
    ) -> Result<Self, BenchError> {
        let (model, facts) =
            OnDevice::load(device, &ModelFiles::random(config)?, "random weights", quantize, true)?;
        let limit = model.config().context_length;
        if length > limit {
            return Err(BenchError::NoRoom { limit });
        }
        Ok(Self { subject: Box::new(OnDevice::new(model, room(batch, length))?), facts, length })
    }

    /// As [`DeviceSteps::random`], computed by candle on the CUDA device with this number. How fast its memory is, is not
    /// measured.
    ///
    /// # Errors
    /// As there, and candle does not open the device.
    pub fn candle(
        number: usize,
        config: Vec<u8>,
        quantize: Quantize,
        batch: usize,
        length: usize,
    ) -> Result<Self, BenchError> {
        let place = Place::cuda(number).map_err(ModelError::from)?;
        let mut checkpoint = Checkpoint::open(&ModelFiles::random(config)?)?;
        let model =
            CandleModel::from_checkpoint(&mut checkpoint, "random weights", quantize, place, |_, _| {})?;
        let limit = model.config().context_length;
        if length > limit {
            return Err(BenchError::NoRoom { limit });
        }
        let facts = OnCandle::facts(&model);
        Ok(Self { subject: Box::new(OnCandle::new(model, room(batch, length))?), facts, length })
    }

    /// How many bytes a second a copy on the device reads and writes.
    pub fn bytes_per_second(&self) -> f64 {
        self.facts.bytes_per_second.unwrap_or_default()
    }

    /// How many bytes a decode step reads: the weights, and the keys and values of `batch` sequences of `depth` tokens.
    pub fn bytes_of_step(&self, batch: usize, depth: usize) -> usize {
        self.facts.weight_bytes + batch * depth * self.facts.kv_bytes_per_token
    }

    /// Reads a prompt of `tokens` tokens. Returns how long that took, its next token included.
    ///
    /// # Errors
    /// The device fails.
    pub fn prefill(&mut self, tokens: usize) -> Result<Duration, BenchError> {
        Ok(Texts::new(&mut *self.subject, 1, self.length).read(tokens)?)
    }

    /// Adds `steps` tokens to each of `batch` sequences, from `depth` tokens on. What lies before them in the KV cache is not
    /// filled in: the time does not depend on it. Returns how long that took.
    ///
    /// # Errors
    /// The device fails.
    pub fn decode(&mut self, batch: usize, depth: usize, steps: usize) -> Result<Duration, BenchError> {
        let mut texts = Texts::new(&mut *self.subject, batch, self.length);
        texts.go_back(depth);
        let mut elapsed = Duration::ZERO;
        for _ in 0..steps {
            elapsed += texts.step()?;
        }
        Ok(elapsed)
    }
}

fn room(batch: usize, length: usize) -> Room {
    Room { blocks: batch * length.div_ceil(BLOCK_TOKENS), rows: PREFILL_TOKENS, batch }
}
