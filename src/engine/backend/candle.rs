//! A model in candle, and its KV cache. It samples nothing: the caller does, with the logits.

use super::super::Platform;
use super::{Backend, Rows};
use crate::model::{Assumption, BackendKind, Cache, CandleModel, ModelError, Slice};
use codeseal_kernels::kv::BlockId;
use codeseal_kernels::sampling::RowSampler;

pub(in crate::engine) struct OnCandle {
    model: CandleModel,
    cache: Cache,
    /// The logits of the last step.
    logits: Vec<f32>,
    difference: Option<f32>,
}

impl OnCandle {
    /// `model` with `blocks` KV blocks. `difference` is to our kernels, if they were compared.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(in crate::engine) fn new(
        model: CandleModel,
        blocks: usize,
        difference: Option<f32>,
    ) -> Result<Self, ModelError> {
        Ok(Self { cache: model.cache(blocks)?, model, logits: Vec::new(), difference })
    }
}

impl Backend for OnCandle {
    fn step(&mut self, batch: &[Slice<'_>], _: &[Option<RowSampler>]) -> Result<Rows<'_>, ModelError> {
        self.logits = self.model.step(&mut self.cache, batch)?;
        Ok(Rows::logits(&self.logits, self.model.config().vocab_size))
    }

    fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        self.model.clear(&mut self.cache, block)
    }

    fn blocks(&self) -> usize {
        self.cache.blocks()
    }

    /// On the CPU a tensor of zeros takes no memory before it is written.
    fn unwritten_block_bytes(&self) -> Option<u64> {
        self.model.place().free_bytes().is_none().then(|| self.model.kv_block_bytes() as u64)
    }

    fn context_length(&self) -> usize {
        self.model.config().context_length
    }

    fn name(&self) -> &str {
        self.model.name()
    }

    fn platform(&self) -> Platform {
        Platform {
            device: self.model.place().name().to_owned(),
            kernels: String::from("candle"),
            weights: self.model.weights_types(),
            backend: BackendKind::Candle,
            difference: self.difference,
        }
    }

    fn assumption(&self) -> Option<Assumption> {
        self.model.assumption()
    }

    fn reads_as_it_generates(&self) -> bool {
        self.model.place().is_exact()
    }
}
