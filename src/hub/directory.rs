//! Models in a local directory: read where they are, without the network.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use tokio::fs;

use super::download::length;
use super::manifest::{ModelEntry, Pin};
use super::progress::Bar;
use super::verify::{ExpectedFile, check_names, read};
use super::{FetchOptions, FileName, HubError, unlocked};
use crate::model::{FilesError, ModelFiles};

/// Verifies the model at `path`, a directory or a GGUF file, as far as the manifest knows it.
///
/// `entry` is the one whose source is this very path. A model may also lie elsewhere than its entry says, as
/// in an image; so without one, the entry is looked for that has the same weights.
pub(super) async fn open(
    path: &Path,
    entry: Option<&ModelEntry>,
    options: &FetchOptions,
) -> Result<PathBuf, HubError> {
    let (dir, names) = whole(path).await?;
    let mut locked = entry.is_some_and(ModelEntry::is_locked);
    if let Some(entry) = entry {
        check(&dir, &names, entry, options).await?;
    } else {
        // Hashes take their time, so only where the lengths are right.
        for entry in options.manifest.models().iter().filter(|entry| entry.is_locked()) {
            if has_weights_of(&dir, &names, entry, options).await? {
                check(&dir, &names, entry, options).await?;
                locked = true;
                break;
            }
        }
    }
    if !locked {
        unlocked(options.require_locked)?;
    }
    Ok(path.to_owned())
}

/// Where the model at `path` is, and size and hash of all of its files, in the order of their names.
pub(super) async fn read_all(
    path: &Path,
    options: &FetchOptions,
) -> Result<(PathBuf, Vec<(FileName, Pin)>), HubError> {
    let (dir, names) = whole(path).await?;
    let mut total = 0;
    for name in &names {
        total += length(&dir.join(name.as_str())).await?;
    }
    let bar = options.progress.verifying(total);
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let found = read(dir.join(name.as_str()), bar.clone()).await?;
        files.push((name, found.pin));
    }
    Ok((dir, files))
}

/// The directory of the model at `path`, and the files that it is read from.
async fn whole(path: &Path) -> Result<(PathBuf, BTreeSet<FileName>), HubError> {
    let files = ModelFiles::at(path);
    let looking = tokio::task::spawn_blocking(move || {
        let (dir, layout) = files.whole()?;
        Ok::<_, FilesError>((dir.to_owned(), layout.files().clone()))
    });
    let interrupted = |_| HubError::Storage { kind: io::ErrorKind::Interrupted };
    Ok(looking.await.map_err(interrupted)??)
}

/// The files in `path` that have the name of a model file.
pub(super) async fn names(path: &Path) -> Result<BTreeSet<FileName>, HubError> {
    let mut entries = fs::read_dir(path).await.map_err(HubError::storage)?;
    let mut names = BTreeSet::new();
    while let Some(entry) = entries.next_entry().await.map_err(HubError::storage)? {
        names.extend(entry.file_name().to_str().and_then(|name| name.parse().ok()));
    }
    Ok(names)
}

/// Holds each file against its pin. Where an entry pins everything, a file that it does not know is wrong, too.
async fn check(
    path: &Path,
    names: &BTreeSet<FileName>,
    entry: &ModelEntry,
    options: &FetchOptions,
) -> Result<(), HubError> {
    check_names(entry, names)?;
    let pins = || entry.files.iter().filter_map(|file| Some((file.name.clone(), file.pin?)));
    let bar = options.progress.verifying(pins().map(|(_, pin)| pin.size).sum());
    for (name, pin) in pins() {
        check_file(path, name, pin, &bar).await?;
    }
    Ok(())
}

async fn has_weights_of(
    path: &Path,
    names: &BTreeSet<FileName>,
    entry: &ModelEntry,
    options: &FetchOptions,
) -> Result<bool, HubError> {
    let weights: Vec<_> = entry
        .files
        .iter()
        .filter(|file| file.name.is_weights())
        .filter_map(|file| Some((file.name.clone(), file.pin?)))
        .collect();
    for (name, pin) in &weights {
        if !names.contains(name) || length(&path.join(name.as_str())).await? != pin.size {
            return Ok(false);
        }
    }
    let bar = options.progress.verifying(weights.iter().map(|(_, pin)| pin.size).sum());
    for (name, pin) in weights {
        match check_file(path, name, pin, &bar).await {
            Ok(()) => {}
            Err(HubError::Mismatch { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

async fn check_file(path: &Path, name: FileName, pin: Pin, bar: &Bar) -> Result<(), HubError> {
    let path = path.join(name.as_str());
    let expected = ExpectedFile::pinned(name, pin);
    expected.check(&path, bar).await.map(|_| ())
}
