//! What a place on the network must be able to do: list a model's files and send one from any byte on.

use super::gcs::Gcs;
use super::hf::Hf;
use super::http::OpenedFile;
use super::source::ModelSource;
use super::verify::ExpectedFile;
use super::{FetchOptions, HubError};

/// A place on the network that has a model.
pub(super) enum Remote {
    Bucket(Gcs),
    Hub(Hf),
}

impl Remote {
    /// Prepares access to `source`.
    ///
    /// # Errors
    /// [`HubError::NotFound`] if it is a directory.
    pub(super) fn new(source: &ModelSource, options: &FetchOptions) -> Result<Self, HubError> {
        match source {
            ModelSource::Directory(_) => Err(HubError::NotFound),
            ModelSource::HuggingFace { repo, revision } => {
                Hf::new(repo, revision.as_deref(), options).map(Self::Hub)
            }
            ModelSource::Bucket { bucket, prefix } => Gcs::new(bucket, prefix, options).map(Self::Bucket),
        }
    }

    /// The source with its revision resolved to what it means now.
    pub(super) async fn resolve(&mut self) -> Result<ModelSource, HubError> {
        match self {
            Self::Bucket(gcs) => Ok(gcs.source()),
            Self::Hub(hf) => hf.resolve().await,
        }
    }

    /// The model files that are there, in any order.
    pub(super) async fn list(&self) -> Result<Vec<ExpectedFile>, HubError> {
        match self {
            Self::Bucket(gcs) => gcs.list().await,
            Self::Hub(hf) => hf.list().await,
        }
    }

    /// Starts to receive `file` from the byte `offset` on, which is less than its size.
    pub(super) async fn open(&self, file: &ExpectedFile, offset: u64) -> Result<OpenedFile, HubError> {
        match self {
            Self::Bucket(gcs) => gcs.open(file, offset).await,
            Self::Hub(hf) => hf.open(file, offset).await,
        }
    }
}
