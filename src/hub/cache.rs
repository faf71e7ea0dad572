//! The cache of downloads: one directory for each source and revision, with verified files under their names.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use tokio::fs;

use super::directory;
use super::download::{download, length, remove};
use super::manifest::{ModelEntry, Pin};
use super::remote::Remote;
use super::source::ModelSource;
use super::verify::ExpectedFile;
use super::{FetchOptions, FileName, HubError};
use crate::model::Layout;

/// Held while a process changes the directory.
const LOCK: &str = ".lock";

/// A model in the cache.
pub(super) struct Fetched {
    pub(super) directory: PathBuf,
    /// With the revision that it turned out to be.
    pub(super) source: ModelSource,
    /// In the order of the names.
    pub(super) files: Vec<(FileName, Pin)>,
}

/// Fetches what is missing of `source`. What `entry` pins is held against it; a model that it pins as a whole
/// needs no network if the cache has it.
pub(super) async fn fetch(
    source: &ModelSource,
    entry: Option<&ModelEntry>,
    options: &FetchOptions,
) -> Result<Fetched, HubError> {
    // `find` has seen to it that a revision in `source` is also the entry's.
    let source = entry.filter(|entry| entry.source.commit().is_some()).map_or(source, |entry| &entry.source);
    let mut remote = Remote::new(source, options)?;
    let (source, expected) = match entry.filter(|entry| entry.is_locked()) {
        Some(entry) => (entry.source.clone(), pinned(entry)),
        None => {
            let source = remote.resolve().await?;
            (source, listed(&remote, entry).await?)
        }
    };

    let directory = options.cache_dir.join(source.cache_path());
    fs::create_dir_all(&directory).await.map_err(HubError::storage)?;
    let _lock = acquire(&directory.join(LOCK)).await?;
    let names = expected.iter().map(|file| file.name.clone()).collect();
    remove_others(&directory, &names).await?;
    let files = complete(&remote, expected, &directory, options).await?;
    Ok(Fetched { directory, source, files })
}

/// The directory of the model that `entry` locks, if it has all of its files, by their names and lengths, and no others.
pub(super) async fn whole(entry: &ModelEntry, options: &FetchOptions) -> Result<Option<PathBuf>, HubError> {
    let directory = options.cache_dir.join(entry.source.cache_path());
    if !fs::try_exists(&directory).await.unwrap_or(false) {
        return Ok(None);
    }
    let expected = pinned(entry);
    if directory::names(&directory).await? != expected.iter().map(|file| file.name.clone()).collect() {
        return Ok(None);
    }
    for file in &expected {
        if length(&directory.join(file.name.as_str())).await? != file.size {
            return Ok(None);
        }
    }
    Ok(Some(directory))
}

fn pinned(entry: &ModelEntry) -> Vec<ExpectedFile> {
    let pinned =
        entry.files.iter().filter_map(|file| Some(ExpectedFile::pinned(file.name.clone(), file.pin?)));
    pinned.collect()
}

/// The files that are there, with what an entry that is not locked as a whole pins of them.
async fn listed(remote: &Remote, entry: Option<&ModelEntry>) -> Result<Vec<ExpectedFile>, HubError> {
    let mut expected = remote.list().await?;
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    let names: BTreeSet<_> = expected.iter().map(|file| file.name.clone()).collect();
    // A source that lists nothing that is known is rather misnamed than incomplete.
    if names.is_empty() {
        return Err(HubError::NotFound);
    }
    let layout = Layout::of(&names)?;
    layout.require_tokenizer()?;
    // What the model is not read from is not fetched.
    expected.retain(|file| layout.files().contains(&file.name));
    let Some(entry) = entry else { return Ok(expected) };
    if let Some(missing) = entry.files.iter().find(|file| !layout.files().contains(&file.name)) {
        return Err(HubError::Missing { file: missing.name.clone() });
    }
    for file in &mut expected {
        if let Some(pin) = entry.pin(&file.name) {
            if pin.size != file.size {
                return Err(HubError::Mismatch { file: file.name.clone() });
            }
            file.sha256 = Some(pin.sha256);
        }
    }
    Ok(expected)
}

/// Verifies what the directory has and downloads the rest.
async fn complete(
    remote: &Remote,
    expected: Vec<ExpectedFile>,
    directory: &Path,
    options: &FetchOptions,
) -> Result<Vec<(FileName, Pin)>, HubError> {
    let mut files = Vec::with_capacity(expected.len());
    let mut missing = Vec::new();
    let bar = options.progress.verifying(expected.iter().map(|file| file.size).sum());
    for file in expected {
        let path = directory.join(file.name.as_str());
        // The length first: it costs nothing, and a file that is not there has none.
        let checked = if length(&path).await? == file.size && fs::try_exists(&path).await.unwrap_or(false) {
            file.check(&path, &bar).await
        } else {
            Err(HubError::Mismatch { file: file.name.clone() })
        };
        match checked {
            Ok(pin) => files.push((file.name, pin)),
            Err(HubError::Mismatch { .. }) => {
                remove(&path).await?;
                missing.push(file);
            }
            Err(error) => return Err(error),
        }
    }
    drop(bar);
    if !missing.is_empty() {
        let bar = options.progress.downloading(missing.iter().map(|file| file.size).sum());
        for file in missing {
            let pin = download(remote, &file, directory, &options.limits, &bar).await?;
            files.push((file.name, pin));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(files)
}

/// Removes model files of other versions, which a reader of the directory might take for this one's.
async fn remove_others(directory: &Path, names: &BTreeSet<FileName>) -> Result<(), HubError> {
    for other in directory::names(directory).await?.difference(names) {
        remove(&directory.join(other.as_str())).await?;
    }
    Ok(())
}

/// Takes the lock, which goes with the file that is returned.
async fn acquire(path: &Path) -> Result<File, HubError> {
    let options = fs::OpenOptions::new().create(true).write(true).truncate(false).open(path).await;
    let file = options.map_err(HubError::storage)?.into_std().await;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HubError::Busy),
        Err(TryLockError::Error(error)) => Err(HubError::storage(error)),
    }
}
