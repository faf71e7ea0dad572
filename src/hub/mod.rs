//! Where models come from: `hf://`, `gs://` or a directory, each file held against the manifest.
//!
//! A directory never needs the network, and neither does a locked model that the cache already has.
//!
//! Allowed modules: files, model, secret, telemetry.
//! Forbidden: axum.

mod cache;
mod command;
mod directory;
mod download;
mod gcs;
mod hf;
mod http;
mod locate;
mod lock;
mod manifest;
mod progress;
mod remote;
mod source;
mod verify;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use self::command::{ModelsCommand, NoModelCache, cache_for};
pub use self::locate::{Located, locate};
pub use self::lock::lock;
pub use self::manifest::{Dtype, FileEntry, Manifest, ManifestError, ModelEntry, NotAHash, Pin, Sha256Hash};
pub use self::progress::{Loading, Progress};
pub use self::source::{InvalidSource, ModelSource};

pub use crate::model::{FileName, NotAModelFile};

use crate::model::{FilesError, LayoutError};
use crate::secret::Secret;
use crate::telemetry::{Event, emit};

/// How models are fetched.
#[derive(Debug)]
pub struct FetchOptions {
    /// Where downloads are kept.
    pub cache_dir: PathBuf,
    /// What is known of models.
    pub manifest: Manifest,
    /// Refuses a model unless the manifest pins every byte of it.
    pub require_locked: bool,
    /// Where progress is shown.
    pub progress: Progress,
    /// Sent to the Hugging Face Hub, which asks for one where a licence has to be accepted.
    pub hugging_face_token: Option<Secret<String>>,
    /// The servers that downloads come from.
    pub endpoints: Endpoints,
    /// How long to wait for what.
    pub limits: DownloadLimits,
}

/// The servers that downloads come from. Only code can change them: an operator who could would choose the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Serves `hf://`.
    pub hugging_face: String,
    /// Serves `gs://`.
    pub cloud_storage: String,
}

/// How long a download waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownloadLimits {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub answer: Duration,
    /// For the next piece of a body.
    pub stall: Duration,
    /// Before the first repetition; doubles with each.
    pub pause: Duration,
    /// Tries in a row that bring next to nothing.
    pub attempts: u32,
}

/// Why there is no verified model.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Another process holds the cache of this model.
    #[error("another process is fetching this model: wait for it or choose another cache directory")]
    Busy,
    /// HTTPS cannot be set up.
    #[error("cannot set up HTTPS: check that CA certificates are installed")]
    Client,
    /// A file of a local model cannot be used.
    #[error(transparent)]
    Files(FilesError),
    /// The files are not one model.
    #[error(transparent)]
    Layout(LayoutError),
    /// The manifest does not parse.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file that a model needs is not there.
    #[error("the model lacks {file}: complete it or choose another source")]
    Missing {
        /// The file.
        file: FileName,
    },
    /// A file is not what the manifest or the listing says.
    #[error(
        "{file} is not the file that the manifest or the source names: fetch the model again or lock it again"
    )]
    Mismatch {
        /// The file.
        file: FileName,
    },
    /// The source has nothing of that name.
    #[error(
        "the model source has no such model, revision or file: check its name and that its terms are accepted"
    )]
    NotFound,
    /// Every byte has to be pinned and is not.
    #[error(
        "the manifest does not pin this model: run `codeseal-server models lock` and build with the result"
    )]
    NotLocked,
    /// The server refuses or fails.
    #[error("the model source answers with status {status}: check access and token, or try again later")]
    Status {
        /// HTTP status.
        status: u16,
    },
    /// The disk fails.
    #[error("cannot read or write the model on disk ({kind}): check space and permissions")]
    Storage {
        /// What the operating system says.
        kind: io::ErrorKind,
    },
    /// The token cannot be sent.
    #[error("the Hugging Face token has characters that no HTTP header can carry: check HF_TOKEN")]
    Token,
    /// No answer in time.
    #[error("the model source did not answer in time: try again, finished parts are kept")]
    TimedOut,
    /// The body was cut.
    #[error("the model source ended a file too early: try again, finished parts are kept")]
    Truncated,
    /// No connection, or it broke.
    #[error("cannot reach the model source: check the network, finished parts are kept")]
    Unreachable,
    /// The answer is not of the form that it must have.
    #[error("the model source gives an answer that makes no sense: check its name or try again later")]
    Unreadable,
    /// The weights are not in a form that is known.
    #[error("the weights are neither safetensors of bf16, f16 or f32 nor GGUF: convert them")]
    Weights,
}

/// Gives a local directory with the model of `source`, or the GGUF file that it names, each of its files verified as far as the manifest pins it.
///
/// # Errors
/// [`HubError`]; what is then left in the cache is only what the next fetch can go on from.
pub async fn fetch(source: &ModelSource, options: &FetchOptions) -> Result<PathBuf, HubError> {
    let entry = options.manifest.find(source);
    if let ModelSource::Directory(path) = source {
        return directory::open(path, entry, options).await;
    }
    if !entry.is_some_and(ModelEntry::is_locked) {
        unlocked(options.require_locked)?;
    }
    Ok(cache::fetch(source, entry, options).await?.directory)
}

/// What to do about a model that the manifest does not pin.
fn unlocked(require_locked: bool) -> Result<(), HubError> {
    if require_locked {
        return Err(HubError::NotLocked);
    }
    emit(Event::ModelNotLocked);
    Ok(())
}

impl FetchOptions {
    /// Options to fetch into `cache_dir` by `manifest`, from the real servers, without progress output.
    pub fn new(cache_dir: PathBuf, manifest: Manifest) -> Self {
        Self {
            cache_dir,
            manifest,
            require_locked: false,
            progress: Progress::silent(),
            hugging_face_token: None,
            endpoints: Endpoints::default(),
            limits: DownloadLimits::default(),
        }
    }
}

impl Default for Endpoints {
    fn default() -> Self {
        Self {
            hugging_face: "https://huggingface.co".to_owned(),
            cloud_storage: "https://storage.googleapis.com".to_owned(),
        }
    }
}

impl Default for DownloadLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            pause: Duration::from_millis(500),
            attempts: 5,
        }
    }
}

impl From<LayoutError> for HubError {
    fn from(error: LayoutError) -> Self {
        match error {
            LayoutError::Missing { file } => Self::Missing { file },
            error => Self::Layout(error),
        }
    }
}

impl From<FilesError> for HubError {
    fn from(error: FilesError) -> Self {
        match error {
            FilesError::Layout(error) => error.into(),
            error => Self::Files(error),
        }
    }
}

impl HubError {
    fn storage(error: io::Error) -> Self {
        Self::Storage { kind: error.kind() }
    }

    /// Whether the same request may succeed in a moment.
    fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut | Self::Truncated | Self::Unreachable => true,
            Self::Status { status } => matches!(status, 408 | 429 | 500..),
            _ => false,
        }
    }
}
