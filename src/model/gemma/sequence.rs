//! One sequence with a KV cache of its own, to use a model without an engine.

use std::sync::Arc;

use codeseal_kernels::cpu::KvPool;
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};

use super::super::error::ModelError;
use super::batch::Slice;
use super::forward::{Network, Workspace};
use crate::token::TokenId;

/// A sequence and its KV cache.
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

    /// Appends `tokens` and returns the logits after the last of them, `[vocabulary]`.
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
        let slice =
            Slice { tokens, position: self.length, blocks: &self.table, num_logits: 1, prompt: length };
        let logits = self.network.step(&mut self.pool, &[slice], &mut self.workspace)?.to_vec();
        self.length = length;
        Ok(logits)
    }
}
