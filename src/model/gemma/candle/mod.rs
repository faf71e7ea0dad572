//! Gemma in candle operations: a second forward pass, for every device that candle has.
//!
//! | file | holds |
//! |---|---|
//! | `network` | the forward pass, operation by operation |
//! | `cache` | keys and values in the engine's KV blocks |
//! | `linear` | a matrix in each type of weights |
//! | `weights` | from a checkpoint to tensors |
//! | `place` | the device, and the types there |
//!
//! It shares no arithmetic with the kernels, so each can be checked by the other. On the CPU the result of a row is bitwise
//! the same in any batch, with any prefix in the cache and in chunks of any size; whether it is of a prompt may change its
//! last bits ([`linear::Kinds`]).

mod cache;
mod linear;
mod network;
mod place;
#[cfg(test)]
mod tests;
mod weights;

use std::convert::Infallible;
use std::sync::Arc;

use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};

pub(crate) use self::cache::Cache;
use self::linear::Matrix;
use self::network::Network;
pub use self::place::Place;
use super::batch::Slice;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::gguf::Assumption;
use super::memory::MemoryNeeds;
use super::weights::{Weights, distinct};
use crate::model::{ModelError, ModelFiles, Quantize};
use crate::token::TokenId;

/// A model on a device of candle, without memory for keys and values.
pub struct CandleModel {
    name: String,
    network: Arc<Network>,
    assumption: Option<Assumption>,
}

/// A sequence with a KV cache of its own, to use a model without an engine.
pub struct CandleSequence {
    network: Arc<Network>,
    cache: Cache,
    table: Vec<BlockId>,
    length: usize,
}

impl CandleModel {
    /// Loads the model in `files` to `place` and calls it `name`. `progress` gets the bytes read and all bytes.
    ///
    /// # Errors
    /// A file is missing or malformed, or does not describe a Gemma; or the device has too little memory.
    pub fn from_files(
        files: &ModelFiles,
        name: &str,
        quantize: Quantize,
        place: Place,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        Self::from_checkpoint(&mut Checkpoint::open(files)?, name, quantize, place, progress)
    }

    /// Loads the model of `checkpoint`, as [`CandleModel::from_files`] does.
    ///
    /// # Errors
    /// As [`CandleModel::from_files`].
    pub fn from_checkpoint(
        checkpoint: &mut Checkpoint,
        name: &str,
        quantize: Quantize,
        place: Place,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let weights = weights::load(checkpoint, quantize, &place, progress)?;
        let network = Network::new(checkpoint.config().clone(), weights, place.clone());
        let network = Arc::new(network.map_err(|error| place.error(&error))?);
        Ok(Self { name: name.to_owned(), network, assumption: checkpoint.assumption() })
    }

    /// The memory that the model of `checkpoint` takes at `place` when it is loaded with `quantize`.
    pub(crate) fn needs(checkpoint: &Checkpoint, quantize: Quantize, place: &Place) -> MemoryNeeds {
        let bytes = |parameter, rows, columns| {
            let format = checkpoint.format(parameter, quantize);
            Ok::<_, Infallible>(weights::bytes_of(place, format, rows, columns))
        };
        let Ok(weights) = Weights::allocate(checkpoint.config(), bytes);
        let sizes: Vec<usize> = weights.matrices().copied().collect();
        // On the CPU prompts are multiplied with a copy of a layer's matrix; the embedding, which is the last, is not copied.
        let layers = sizes.split_last().map_or(&[][..], |(_, layers)| layers);
        let copy = layers.iter().max().filter(|_| place.device().is_cpu());
        MemoryNeeds::of_candle(
            checkpoint.config(),
            sizes.iter().chain(copy).sum(),
            Cache::block_bytes(checkpoint.config()),
        )
    }

    /// An empty sequence with room for `tokens` tokens, rounded up to whole KV blocks.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn sequence(&self, tokens: usize) -> Result<CandleSequence, ModelError> {
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        Ok(CandleSequence {
            network: Arc::clone(&self.network),
            cache: self.cache(blocks)?,
            table: (0..blocks as u32).map(BlockId).collect(),
            length: 0,
        })
    }

    /// `blocks` KV blocks for this model.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(crate) fn cache(&self, blocks: usize) -> Result<Cache, ModelError> {
        Cache::new(&self.network.config, blocks, self.place()).map_err(|error| self.place().error(&error))
    }

    /// Takes a step: appends the keys and values of `batch` to `cache`, and returns `[rows, vocabulary]` logits, where the
    /// rows are those that the slices ask for, slice by slice.
    ///
    /// # Errors
    /// A slice has no tokens, or one outside the vocabulary; it does not fit its blocks or the context; or the device failed.
    pub(crate) fn step(&self, cache: &mut Cache, batch: &[Slice<'_>]) -> Result<Vec<f32>, ModelError> {
        self.network.step(cache, batch)
    }

    /// Overwrites a KV block with zeros.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn clear(&self, cache: &mut Cache, block: BlockId) -> Result<(), ModelError> {
        cache.clear(block).map_err(|error| self.place().error(&error))
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.network.config
    }

    /// Where it computes.
    pub(crate) fn place(&self) -> &Place {
        &self.network.place
    }

    /// A member of the configuration that is in no file: see [`Checkpoint::assumption`].
    pub(crate) fn assumption(&self) -> Option<Assumption> {
        self.assumption
    }

    /// The types that the weights have in memory, as [`super::Model::weights_types`] has them.
    pub fn weights_types(&self) -> String {
        distinct(self.network.weights.matrices().map(Matrix::weights_type))
    }

    /// Bytes of weights that are read to generate one token: all matrices once.
    pub fn bytes_per_token(&self) -> usize {
        self.network.weights.matrices().map(Matrix::bytes).sum()
    }

    /// The size of a KV block, in bytes.
    pub(crate) fn kv_block_bytes(&self) -> usize {
        Cache::block_bytes(&self.network.config)
    }
}

impl CandleSequence {
    /// Appends `tokens` of the prompt and returns the logits after the last of them, `[vocabulary]`.
    ///
    /// # Errors
    /// There are no tokens, one is outside the vocabulary, the context or the sequence's room is full, or the device failed.
    pub fn forward(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, ModelError> {
        self.append(tokens, self.length + tokens.len())
    }

    /// Appends a generated token and returns the logits after it, `[vocabulary]`.
    ///
    /// # Errors
    /// As [`CandleSequence::forward`].
    pub fn decode(&mut self, token: TokenId) -> Result<Vec<f32>, ModelError> {
        self.append(&[token], self.length)
    }

    fn append(&mut self, tokens: &[TokenId], prompt: usize) -> Result<Vec<f32>, ModelError> {
        let slice = Slice { tokens, position: self.length, blocks: &self.table, num_logits: 1, prompt };
        let logits = self.network.step(&mut self.cache, &[slice])?;
        self.length += tokens.len();
        Ok(logits)
    }
}

impl Network {
    fn step(&self, cache: &mut Cache, batch: &[Slice<'_>]) -> Result<Vec<f32>, ModelError> {
        self.config.check_batch(batch)?;
        self.forward(cache, batch).map_err(|error| self.place.error(&error))
    }
}
