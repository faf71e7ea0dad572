//! One text by itself, with keys and values of its own: for whoever needs a model and no engine.

use std::sync::Arc;

use super::ModelError;
use super::forward::{Network, Slice, Workspace};
use crate::tokenizer::TokenId;
use codeseal_kernels::cpu::{BLOCK_TOKENS, BlockId, KvPool};

/// One text and the keys and values that the model keeps of it.
pub struct Sequence {
    network: Arc<Network>,
    pool: KvPool,
    table: Vec<BlockId>,
    workspace: Workspace,
    length: usize,
}

impl Sequence {
    pub(super) fn new(network: Arc<Network>) -> Self {
        let pool = KvPool::new(network.kv_shape(), 0);
        Self { network, pool, table: Vec::new(), workspace: Workspace::default(), length: 0 }
    }

    /// Appends `tokens` and returns the logits of the token that follows: one for each of the vocabulary.
    ///
    /// # Errors
    /// There are no tokens, one is outside the vocabulary, or the context is full.
    pub fn forward(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, ModelError> {
        let length = self.length + tokens.len();
        if length > self.network.config.context_length {
            return Err(ModelError::ContextFull);
        }
        self.pool.grow(length.div_ceil(BLOCK_TOKENS));
        self.table.extend((self.table.len()..self.pool.block_count()).map(|block| BlockId(block as u32)));
        let slice = Slice { tokens, position: self.length, blocks: &self.table, wanted: 1, prompt: length };
        let logits = self.network.step(&mut self.pool, &[slice], &mut self.workspace)?.to_vec();
        self.length = length;
        Ok(logits)
    }
}
