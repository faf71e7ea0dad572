//! A loaded model on CPUs.

use std::path::Path;
use std::sync::Arc;

use codeseal_kernels::cpu::{KvPool, Matrix};

use super::super::error::ModelError;
use super::super::files::ModelFiles;
use super::super::quantize::Quantize;
use super::batch::Slice;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::forward::{Network, Workspace};
use super::gguf::Assumption;
use super::memory::MemoryNeeds;
use super::sequence::Sequence;
use super::weights::distinct;

/// A loaded model. Sequences share its weights.
pub struct Model {
    name: String,
    network: Arc<Network>,
    assumption: Option<Assumption>,
}

impl Model {
    /// Loads the model at `path`, a directory or a GGUF file, without quantizing it, and calls it `name`. `progress` gets
    /// the bytes read and all bytes.
    ///
    /// # Errors
    /// As [`Model::from_checkpoint`].
    pub fn load(path: &Path, name: &str, progress: impl FnMut(u64, u64)) -> Result<Self, ModelError> {
        Self::from_files(&ModelFiles::at(path), name, Quantize::None, progress)
    }

    /// Loads the model in `files`, as [`Model::load`] does from a directory.
    ///
    /// # Errors
    /// As [`Model::from_checkpoint`].
    pub fn from_files(
        files: &ModelFiles,
        name: &str,
        quantize: Quantize,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        Self::from_checkpoint(&mut Checkpoint::open(files)?, name, quantize, progress)
    }

    /// Loads the model of `checkpoint` and calls it `name`. `progress` gets the bytes read and all bytes.
    ///
    /// # Errors
    /// A file is missing or malformed, or does not describe a Gemma.
    pub fn from_checkpoint(
        checkpoint: &mut Checkpoint,
        name: &str,
        quantize: Quantize,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let network = Arc::new(Network::load(checkpoint, quantize, progress)?);
        Ok(Self { name: name.to_owned(), network, assumption: checkpoint.assumption() })
    }

    /// An empty sequence. It takes no memory until tokens are appended, and shares no state with others.
    pub fn sequence(&self) -> Sequence {
        Sequence::new(Arc::clone(&self.network))
    }

    /// A pool of `blocks` KV blocks for this model.
    pub(crate) fn kv_pool(&self, blocks: usize) -> KvPool {
        KvPool::new(self.network.kv_shape(), blocks)
    }

    /// The size of a block of such a pool, in bytes.
    pub(crate) fn kv_block_bytes(&self) -> usize {
        self.network.kv_shape().block_bytes()
    }

    /// Takes a step: appends the keys and values of `batch` to `pool`, and returns `[rows, vocabulary]` logits, where the
    /// rows are those that the slices ask for, slice by slice.
    ///
    /// # Errors
    /// A slice has no tokens, or one outside the vocabulary; or it does not fit its blocks or the context.
    pub(crate) fn step<'w>(
        &self,
        pool: &mut KvPool,
        batch: &[Slice<'_>],
        workspace: &'w mut Workspace,
    ) -> Result<&'w [f32], ModelError> {
        self.network.step(pool, batch, workspace)
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.network.config
    }

    /// A member of the configuration that is in no file: see [`Checkpoint::assumption`].
    pub(crate) fn assumption(&self) -> Option<Assumption> {
        self.assumption
    }

    /// The longest sequence, in tokens.
    pub fn context_length(&self) -> usize {
        self.network.config.context_length
    }

    /// The memory that the model takes.
    pub(crate) fn needs(&self) -> MemoryNeeds {
        MemoryNeeds::new(self.config(), self.bytes_per_token(), self.kv_block_bytes())
    }

    /// The types that the weights have in memory, such as `bf16`, or `q4k+q8_0` where there are two.
    pub fn weights_types(&self) -> String {
        distinct(self.network.weights.matrices().map(Matrix::weights_type))
    }

    /// Bytes of weights that are read to generate one token: all matrices once.
    pub fn bytes_per_token(&self) -> usize {
        self.network.weights.matrices().map(Matrix::bytes).sum()
    }
}
