//! Where a model comes from, as it is written on the command line and in the manifest.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A local directory, or a GGUF file in one; never needs the network.
    Directory(PathBuf),
    /// A repository of the Hugging Face Hub: `hf://owner/name[@revision]`.
    HuggingFace {
        /// `owner/name`
        repo: String,
        /// A commit, branch or tag; without one, the manifest's, or else `main`.
        revision: Option<String>,
    },
    /// Objects of a public Cloud Storage bucket: `gs://bucket/prefix`.
    Bucket {
        /// The bucket.
        bucket: String,
        /// What stands before `/config.json`, without a slash at the end.
        prefix: String,
    },
}

/// The text names no model source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a model source is a directory, a GGUF file, hf://owner/name[@revision] or gs://bucket/prefix")]
pub struct InvalidSource;

impl ModelSource {
    /// Whether both name the same model, whatever the revision.
    pub(super) fn is_same_model(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::HuggingFace { repo: a, .. }, Self::HuggingFace { repo: b, .. }) => a == b,
            _ => self == other,
        }
    }

    /// The revision, if it is a commit and so can never mean anything else.
    pub(super) fn commit(&self) -> Option<&str> {
        match self {
            Self::HuggingFace { revision: Some(revision), .. } if is_commit(revision) => Some(revision),
            _ => None,
        }
    }

    /// Where downloads of it belong, relative to the root of the cache; a directory is its own place.
    pub(super) fn cache_path(&self) -> PathBuf {
        match self {
            Self::Directory(path) => path.clone(),
            Self::HuggingFace { repo, revision } => {
                PathBuf::from("hf").join(repo).join(revision.as_deref().unwrap_or("main"))
            }
            Self::Bucket { bucket, prefix } => PathBuf::from("gs").join(bucket).join(prefix),
        }
    }
}

impl FromStr for ModelSource {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        if let Some(rest) = text.strip_prefix("hf://") {
            let (repo, revision) = match rest.split_once('@') {
                Some((repo, revision)) => (repo, Some(revision)),
                None => (rest, None),
            };
            let (owner, name) = repo.split_once('/').ok_or(InvalidSource)?;
            let named = is_name(owner) && is_name(name) && revision.is_none_or(is_path);
            let (repo, revision) = (repo.to_owned(), revision.map(str::to_owned));
            return if named { Ok(Self::HuggingFace { repo, revision }) } else { Err(InvalidSource) };
        }
        if let Some(rest) = text.strip_prefix("gs://") {
            let (bucket, prefix) = rest.trim_end_matches('/').split_once('/').ok_or(InvalidSource)?;
            let named = is_name(bucket) && is_path(prefix);
            let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
            return if named { Ok(Self::Bucket { bucket, prefix }) } else { Err(InvalidSource) };
        }
        if text.is_empty() || text.contains("://") || text.contains(char::is_control) {
            return Err(InvalidSource);
        }
        Ok(Self::Directory(PathBuf::from(text)))
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::HuggingFace { repo, revision: None } => write!(f, "hf://{repo}"),
            Self::HuggingFace { repo, revision: Some(revision) } => write!(f, "hf://{repo}@{revision}"),
            Self::Bucket { bucket, prefix } => write!(f, "gs://{bucket}/{prefix}"),
        }
    }
}

/// Whether `revision` is a full commit hash.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// One part of a path, of the characters that names have, and never a way out of a directory.
fn is_name(text: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(safe) && text.bytes().any(|byte| byte != b'.')
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read_and_written_back() {
        for text in [
            "models/tiny",
            "/srv/models/code gemma",
            "hf://google/codegemma-2b",
            "hf://google/codegemma-2b@main",
            "hf://google/codegemma-2b@0123456789012345678901234567890123456789",
            "gs://vertex-model-garden-public-us/codegemma/codegemma-2b",
        ] {
            assert_eq!(text.parse::<ModelSource>().unwrap().to_string(), text);
        }
        let slash: ModelSource = "gs://bucket/a/b/".parse().unwrap();
        assert_eq!(slash, ModelSource::Bucket { bucket: "bucket".into(), prefix: "a/b".into() });
    }

    #[test]
    fn what_could_leave_the_cache_or_name_nothing_is_refused() {
        for text in [
            "",
            "hf://google",
            "hf://google/",
            "hf://google/a/b",
            "hf://../codegemma",
            "hf://google/..",
            "hf://google/a@",
            "hf://google/a@../../etc",
            "hf://google/a?b",
            "gs://bucket",
            "gs://bucket/",
            "gs://bucket//a",
            "gs://bucket/../a",
            "gs://../a",
            "s3://bucket/a",
            "https://example.com/a",
            "a\nb",
        ] {
            assert_eq!(text.parse::<ModelSource>(), Err(InvalidSource), "{text:?}");
        }
    }
}
