//! What the engine needs of a model.

use crate::kernels::cpu::{BlockId, KvPool};
use crate::model::{Model, ModelError, Slice, Workspace};

/// A model as the engine sees it: blocks for keys and values, and steps over a batch.
pub(super) trait Backend: Send + 'static {
    /// Reads what `batch` adds to its sequences and returns the wanted logits: slice by slice, token by token, one for
    /// each of the vocabulary.
    ///
    /// # Errors
    /// A token is outside the vocabulary, a sequence does not fit its blocks, or the device failed.
    fn step(&mut self, batch: &[Slice<'_>]) -> Result<&[f32], ModelError>;

    /// Overwrites a block with zeros.
    fn clear(&mut self, block: BlockId);

    /// How many blocks there are.
    fn blocks(&self) -> usize;

    /// How many logits a token has.
    fn vocab_size(&self) -> usize;

    /// The longest sequence, in tokens.
    fn context_length(&self) -> usize;

    /// The model's name.
    fn name(&self) -> &str;
}

/// A model on the CPU, and its blocks.
pub(super) struct Cpu {
    model: Model,
    pool: KvPool,
    workspace: Workspace,
}

impl Cpu {
    /// `model` with so many blocks.
    pub(super) fn new(model: Model, blocks: usize) -> Self {
        Self { pool: model.kv_pool(blocks), model, workspace: Workspace::default() }
    }
}

impl Backend for Cpu {
    fn step(&mut self, batch: &[Slice<'_>]) -> Result<&[f32], ModelError> {
        self.model.step(&mut self.pool, batch, &mut self.workspace)
    }

    fn clear(&mut self, block: BlockId) {
        self.pool.clear(block);
    }

    fn blocks(&self) -> usize {
        self.pool.len()
    }

    fn vocab_size(&self) -> usize {
        self.model.config().vocab_size
    }

    fn context_length(&self) -> usize {
        self.model.context_length()
    }

    fn name(&self) -> &str {
        self.model.name()
    }
}
