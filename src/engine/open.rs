//! From a model's files to an engine that runs.
//!
//! Must not touch: where the files come from.

use super::{Engine, EngineConfig, Handle, StartError, start};
use crate::model::{Model, ModelError, ModelFiles};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// Why a model's files make no engine.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The weights cannot be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The tokenizer cannot be loaded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Loads the model in `files`, calls it `name`, and starts an engine for it. Blocks for as long as that takes.
///
/// # Errors
/// [`OpenError`]
pub fn open(
    files: &ModelFiles,
    name: &str,
    config: EngineConfig,
) -> Result<(Handle, Engine, Tokenizer), OpenError> {
    let tokenizer = Tokenizer::from_files(files)?;
    let model = Model::from_files(files, name, |_, _| {})?;
    let (handle, engine) = start(model, config)?;
    Ok((handle, engine, tokenizer))
}
