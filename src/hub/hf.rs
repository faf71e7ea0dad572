//! Models of the Hugging Face Hub, through the `hf-hub` crate.
//!
//! Its cache is not used: it keeps an HTTP error page as if it were the file, and checks no hash. Its streams do
//! check the status and take a range, so that a download here resumes where it was cut.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError, HFRepository, RepoTypeModel};

use super::download::within;
use super::remote::{MAX_LISTED, Opened, client};
use super::source::{ModelSource, is_commit};
use super::verify::Wanted;
use super::{FetchOptions, HubError};

/// `hf-hub` looks for a token in the environment and in the home directory unless it is given one; one that cannot
/// be a header it gives up silently. So this is how to send none.
const NO_TOKEN: &str = "\n";

/// A repository at one revision.
pub(super) struct Hf {
    repo: HFRepository<RepoTypeModel>,
    name: String,
    revision: String,
    answer: Duration,
    stall: Duration,
}

impl Hf {
    /// Prepares access to the repository `name`, `owner/name`.
    pub(super) fn new(name: &str, revision: Option<&str>, options: &FetchOptions) -> Result<Self, HubError> {
        let (owner, model) = name.split_once('/').ok_or(HubError::NotFound)?;
        let endpoint = options.endpoints.hugging_face.as_str();
        let token = options.hugging_face_token.as_ref().map_or(NO_TOKEN, |token| token.expose().trim());
        let token = if token.is_empty() { NO_TOKEN } else { token };
        let client = HFClient::builder()
            .endpoint(endpoint)
            .token(token)
            .client(client(endpoint, options)?)
            .user_agent("codeseal")
            .cache_dir(&options.cache_dir)
            .cache_enabled(false)
            // Repetitions are counted in one place, the download.
            .retry_max_attempts(0)
            .build()
            .map_err(|_| HubError::Client)?;
        Ok(Self {
            repo: client.model(owner, model),
            name: name.to_owned(),
            revision: revision.unwrap_or("main").to_owned(),
            answer: options.limits.answer,
            stall: options.limits.stall,
        })
    }

    /// Turns a branch or tag into the commit that it is now.
    pub(super) async fn resolve(&mut self) -> Result<ModelSource, HubError> {
        if !is_commit(&self.revision) {
            let info = within(self.answer, self.repo.info().revision(self.revision.clone()).send()).await?;
            let commit = info.map_err(failure)?.sha.filter(|sha| is_commit(sha));
            self.revision = commit.ok_or(HubError::Unreadable)?;
        }
        Ok(ModelSource::HuggingFace { repo: self.name.clone(), revision: Some(self.revision.clone()) })
    }

    /// The model files of the repository's root.
    pub(super) async fn list(&self) -> Result<Vec<Wanted>, HubError> {
        let mut tree = Box::pin(
            self.repo
                .list_tree()
                .revision(self.revision.clone())
                .limit(MAX_LISTED)
                .send()
                .map_err(failure)?,
        );
        let mut files = Vec::new();
        while let Some(entry) = within(self.answer, tree.try_next()).await?.map_err(failure)? {
            let RepoTreeEntry::File { size, path, .. } = entry else { continue };
            if let Ok(name) = path.parse() {
                files.push(Wanted { name, size, sha256: None, crc32c: None, generation: None });
            }
        }
        Ok(files)
    }

    /// Starts to receive `file` from `offset` on.
    ///
    /// Whether the server heeded the range is not to be seen here: if not, the length or the hash will be wrong,
    /// and the download starts over.
    pub(super) async fn open(&self, file: &Wanted, offset: u64) -> Result<Opened, HubError> {
        let range = (offset > 0).then_some(offset..file.size);
        let opening = self
            .repo
            .download_file_stream()
            .filename(file.name.as_str())
            .revision(self.revision.clone())
            .maybe_range(range)
            .send();
        let (_, body) = within(self.answer, opening).await?.map_err(failure)?;
        let stall = self.stall;
        let body = futures_util::stream::unfold(body, move |mut body| async move {
            let chunk = match within(stall, body.next()).await {
                Ok(chunk) => chunk?.map_err(failure),
                Err(error) => Err(error),
            };
            Some((chunk, body))
        });
        Ok(Opened { offset, body: body.boxed() })
    }
}

/// The kind of an error, without the addresses and bodies that the crate's own messages hold.
fn failure(error: HFError) -> HubError {
    match &error {
        HFError::Http { context }
        | HFError::AuthRequired { context }
        | HFError::Forbidden { context }
        | HFError::Conflict { context }
        | HFError::RateLimited { context, .. } => HubError::Status { status: context.status.as_u16() },
        HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
            HubError::NotFound
        }
        HFError::Request { source, .. } if source.is_timeout() => HubError::TimedOut,
        HFError::Request { .. } | HFError::Io(_) | HFError::Xet { .. } => HubError::Unreachable,
        _ => HubError::Unreadable,
    }
}
