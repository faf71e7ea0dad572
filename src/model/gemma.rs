//! Gemma's forward pass, by `candle-transformers`, in f32.
//!
//! f32 throughout because the library computes the rotary embedding in the type of the weights, and bf16 cannot
//! tell positions apart above 256.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::gemma;

use super::config::Config;
use super::files::ModelFiles;
use super::{ModelError, weights};
use crate::tokenizer::TokenId;

/// Where the configuration is read from.
const CONFIG: &str = "config.json";
/// The largest `config.json` that is read, in bytes.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// A loaded model. Sequences share its weights.
pub struct Model {
    config: Config,
    name: String,
    /// Has read nothing: every sequence begins as a clone of it.
    blank: gemma::Model,
}

/// One text and the keys and values that the model keeps of it.
pub struct Sequence {
    model: gemma::Model,
    vocab_size: usize,
    context_length: usize,
    length: usize,
}

impl Model {
    /// Loads the model in `dir` and calls it `name`. `progress` hears the bytes read and the bytes there are.
    ///
    /// # Errors
    /// A file is missing or malformed, or does not describe a Gemma.
    pub fn load(dir: &Path, name: &str, progress: impl FnMut(u64, u64)) -> Result<Self, ModelError> {
        Self::from_files(&ModelFiles::directory(dir), name, progress)
    }

    /// Loads a model from among `files`, as [`Model::load`] does from a directory.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_files(
        files: &ModelFiles,
        name: &str,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let json = files.read(CONFIG, MAX_CONFIG_BYTES).map_err(ModelError::ReadConfig)?;
        let config = Config::parse(&json)?;
        let tensors = weights::load(files, &config, progress)?;
        let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let blank = gemma::Model::new(false, &config.to_candle(), weights)?;
        Ok(Self { config, name: name.to_owned(), blank })
    }

    /// An empty sequence. It costs nothing until tokens are appended, and knows nothing of other sequences.
    pub fn sequence(&self) -> Sequence {
        Sequence {
            model: self.blank.clone(),
            vocab_size: self.config.vocab_size,
            context_length: self.config.context_length,
            length: 0,
        }
    }

    /// What the model is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The longest sequence, in tokens.
    pub fn context_length(&self) -> usize {
        self.config.context_length
    }
}

impl Sequence {
    /// Appends `tokens` and returns the logits of the token that follows: one for each of the vocabulary.
    ///
    /// # Errors
    /// There are no tokens, one is outside the vocabulary, the context is full, or the device failed.
    pub fn forward(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, ModelError> {
        let ids: Vec<u32> = tokens.iter().map(|id| id.0).collect();
        if ids.is_empty() || ids.iter().any(|&id| id as usize >= self.vocab_size) {
            return Err(ModelError::Tokens);
        }
        if self.length + ids.len() > self.context_length {
            return Err(ModelError::ContextFull);
        }
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let logits = self.model.forward(&input, self.length)?;
        self.length += tokens.len();
        Ok(logits.flatten_all()?.to_vec1()?)
    }
}
