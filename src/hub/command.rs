//! `codeseal-server models`, as typed, and the directory that downloads go to.

use std::path::PathBuf;

use clap::Subcommand;

use super::source::ModelSource;

/// The subcommands of `codeseal-server models`. No `Debug`: it may hold a token.
#[derive(Subcommand)]
pub enum ModelsCommand {
    /// Print the hash over a model's files, which `/attestation` binds and a client's policy can pin
    Digest {
        /// The model's directory, or a GGUF file
        #[arg(long, value_name = "PATH")]
        model: PathBuf,
    },

    /// Download a model where you trust the network, and write its hashes into the manifest
    Lock {
        /// hf://owner/name, with @revision if need be, gs://bucket/prefix, a directory or a GGUF file
        #[arg(long, value_name = "SOURCE")]
        model: ModelSource,

        /// The manifest to complete
        #[arg(long, value_name = "FILE", default_value = "models/manifest.toml")]
        manifest: PathBuf,

        /// Where the files are kept
        #[arg(long, env = "CODESEAL_MODEL_CACHE", value_name = "DIR")]
        model_cache: Option<PathBuf>,

        /// For models whose licence has to be accepted on the Hugging Face Hub
        #[arg(long, env = "HF_TOKEN", value_name = "TOKEN", hide_env_values = true)]
        hugging_face_token: Option<String>,
    },
}

/// A model has to be downloaded, and there is no directory for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no home directory to keep models in: name one with --model-cache")]
pub struct NoModelCache;

/// The directory that `source` is kept in: the one that is `named`, else `user_cache`. A model in a directory is read
/// where it is and needs neither.
///
/// # Errors
/// [`NoModelCache`]
pub fn cache_for(
    source: &ModelSource,
    named: Option<PathBuf>,
    user_cache: Option<PathBuf>,
) -> Result<PathBuf, NoModelCache> {
    match source {
        ModelSource::Directory(_) => Ok(named.unwrap_or_default()),
        ModelSource::HuggingFace { .. } | ModelSource::Bucket { .. } => {
            named.or(user_cache).ok_or(NoModelCache)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_needs_no_cache() {
        let cache = cache_for(&"models/tiny".parse().unwrap(), None, None).unwrap();
        assert_eq!(cache, PathBuf::new());
        let source = "hf://google/codegemma-2b".parse().unwrap();
        assert_eq!(cache_for(&source, Some("/cache".into()), None).unwrap(), PathBuf::from("/cache"));
        assert_eq!(cache_for(&source, None, Some("/user".into())).unwrap(), PathBuf::from("/user"));
        assert_eq!(cache_for(&source, None, None), Err(NoModelCache));
    }
}
