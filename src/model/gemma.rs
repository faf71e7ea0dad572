//! A loaded model.

use std::path::Path;
use std::sync::Arc;

use super::config::{Config, check_generation};
use super::files::ModelFiles;
use super::forward::{Network, Slice, Workspace};
use super::gguf::Assumption;
use super::layout::{CONFIG, GENERATION};
use super::needs::Needs;
use super::parameters::Parameters;
use super::sequence::Sequence;
use super::weights::gguf_config;
use super::{ModelError, Quantize};
use codeseal_kernels::cpu::KvPool;

/// The largest configuration that is read, in bytes.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// The shape of the model in `files`.
///
/// # Errors
/// A file is missing or malformed, or does not describe a Gemma.
pub(super) fn read_config(files: &ModelFiles) -> Result<Config, ModelError> {
    if files.has(GENERATION)? {
        let json = files.read(GENERATION, MAX_CONFIG_BYTES)?;
        check_generation(&json).map_err(ModelError::in_file(GENERATION))?;
    }
    let Some((stated, gguf)) = gguf_config(files)? else {
        let json = files.read(CONFIG, MAX_CONFIG_BYTES)?;
        return Config::parse(&json).map_err(ModelError::in_file(CONFIG));
    };
    let beside = if files.has(CONFIG)? { Some(files.read(CONFIG, MAX_CONFIG_BYTES)?) } else { None };
    // Without a config.json beside it, what is wrong stands in the GGUF file.
    let blamed = if beside.is_some() { CONFIG } else { &gguf };
    stated.with(beside.as_deref()).map_err(ModelError::in_file(blamed))
}

impl ModelFiles {
    /// What no file says of the model, so that Gemma's default is taken for it.
    ///
    /// # Errors
    /// A GGUF file is malformed, or does not describe a Gemma.
    pub fn assumption(&self) -> Result<Option<Assumption>, ModelError> {
        if self.has(CONFIG)? {
            return Ok(None);
        }
        Ok(gguf_config(self)?.and_then(|(stated, _)| stated.assumption()))
    }
}

/// Each of `types` once, in the order of their coming, with `+` between them.
pub(super) fn distinct(types: impl Iterator<Item = &'static str>) -> String {
    let mut seen = Vec::new();
    for found in types {
        if !seen.contains(&found) {
            seen.push(found);
        }
    }
    seen.join("+")
}

/// A loaded model. Sequences share its weights.
pub struct Model {
    name: String,
    network: Arc<Network>,
}

impl Model {
    /// Loads the model at `path`, a directory or a GGUF file, as it is and calls it `name`. `progress` hears the bytes
    /// read and the bytes there are.
    ///
    /// # Errors
    /// A file is missing or malformed, or does not describe a Gemma.
    pub fn load(path: &Path, name: &str, progress: impl FnMut(u64, u64)) -> Result<Self, ModelError> {
        Self::from_files(&ModelFiles::at(path), name, Quantize::None, progress)
    }

    /// Loads a model from among `files`, as [`Model::load`] does from a directory.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_files(
        files: &ModelFiles,
        name: &str,
        quantize: Quantize,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let config = read_config(files)?;
        let parameters = Parameters::load(files, &config, quantize, progress)?;
        let network = Arc::new(Network::new(config, parameters));
        Ok(Self { name: name.to_owned(), network })
    }

    /// An empty sequence. It costs nothing until tokens are appended, and knows nothing of other sequences.
    pub fn sequence(&self) -> Sequence {
        Sequence::new(Arc::clone(&self.network))
    }

    /// So many blocks for keys and values of this model.
    pub(crate) fn kv_pool(&self, blocks: usize) -> KvPool {
        KvPool::new(self.network.kv_shape(), blocks)
    }

    /// How many bytes a block of such a pool takes.
    pub(crate) fn kv_block_bytes(&self) -> usize {
        self.network.kv_shape().block_bytes()
    }

    /// Reads what `batch` adds to its sequences, whose keys and values are in `pool`, and returns the wanted logits:
    /// slice by slice, token by token, one for each of the vocabulary.
    ///
    /// # Errors
    /// A slice has no tokens, or one outside the vocabulary; or it does not fit into its blocks or the context.
    pub(crate) fn step<'w>(
        &self,
        pool: &mut KvPool,
        batch: &[Slice<'_>],
        workspace: &'w mut Workspace,
    ) -> Result<&'w [f32], ModelError> {
        self.network.step(pool, batch, workspace)
    }

    /// What the model is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.network.config
    }

    /// The longest sequence, in tokens.
    pub fn context_length(&self) -> usize {
        self.network.config.context_length
    }

    /// What the model takes of this machine's memory.
    pub(crate) fn needs(&self) -> Needs {
        Needs::new(self.config(), self.bytes_per_token())
    }

    /// The types that the weights have in memory, such as `bf16`, or `q4k+q8_0` where there are two.
    pub fn weights_types(&self) -> String {
        distinct(self.network.parameters.weights_types())
    }

    /// How many bytes of weights are read to make one token.
    pub fn bytes_per_token(&self) -> usize {
        self.network.parameters.bytes()
    }
}
