//! Models whose files are in place: held against the manifest once they were loaded, so that their bytes are read once.
//!
//! [`fetch`] hashes every file before it returns, and loading reads them all again. [`locate`] looks at names and lengths only.
//! What is missing it fetches; the rest is for [`Located::verify`], with the hashes of the very bytes that were loaded.

use std::collections::BTreeSet;
use std::io;

use super::manifest::{ModelEntry, Pin, Sha256Hash};
use super::source::ModelSource;
use super::verify::check_names;
use super::{FetchOptions, FileName, HubError, cache, fetch, unlocked};
use crate::model::{FilesError, ModelFiles};

/// A model whose files are in place but not yet verified.
#[derive(Debug)]
pub struct Located {
    files: ModelFiles,
    /// The entry of its source.
    own: Option<ModelEntry>,
    /// Locked entries that have weights of the same names and lengths.
    candidates: Vec<ModelEntry>,
    /// Whether it may serve without being locked; none if that was settled before.
    may_be_unlocked: Option<bool>,
}

/// Finds the files of the model of `source`, fetching what is missing.
///
/// # Errors
/// As [`fetch`], except that hashes of files that are there are not looked at.
pub async fn locate(source: &ModelSource, options: &FetchOptions) -> Result<Located, HubError> {
    let entry = options.manifest.find(source);
    let ModelSource::Directory(path) = source else {
        let cached = match entry.filter(|entry| entry.is_locked()) {
            Some(entry) => cache::whole(entry, options).await?,
            None => None,
        };
        let directory = match cached {
            Some(directory) => directory,
            None => fetch(source, options).await?,
        };
        let files = ModelFiles::at(directory);
        return Ok(Located { files, own: entry.cloned(), candidates: Vec::new(), may_be_unlocked: None });
    };
    let (files, own) = (ModelFiles::at(path), entry.cloned());
    let locked: Vec<_> =
        options.manifest.models().iter().filter(|entry| entry.is_locked()).cloned().collect();
    let require_locked = options.require_locked;
    let looking = tokio::task::spawn_blocking(move || {
        let names = files.whole()?.1.files().clone();
        let mut candidates = Vec::new();
        if let Some(entry) = &own {
            check_names(entry, &names)?;
            check_lengths(entry, &files)?;
        } else {
            for entry in locked {
                if has_lengths(&entry, &names, &files)? {
                    candidates.push(entry);
                }
            }
        }
        Ok(Located { files, own, candidates, may_be_unlocked: Some(!require_locked) })
    });
    let mut located: Located = looking.await.map_err(interrupted).flatten()?;
    if !located.own.as_ref().is_some_and(ModelEntry::is_locked) && located.candidates.is_empty() {
        unlocked(options.require_locked)?;
        located.may_be_unlocked = None;
    }
    Ok(located)
}

impl Located {
    /// The files. Load these, and not others of the same name: they are what [`Located::verify`] verifies.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// Whether the manifest pins any of them.
    pub fn is_pinned(&self) -> bool {
        self.own.iter().chain(&self.candidates).any(|entry| pins(entry).next().is_some())
    }

    /// Holds what was read of the files against the manifest; blocks to read those that were not.
    ///
    /// # Errors
    /// [`HubError::Mismatch`], or [`HubError::NotLocked`] where that is required.
    pub fn verify(&self) -> Result<(), HubError> {
        let files = &self.files;
        let names = files.layout()?.files();
        let mut locked = false;
        if let Some(entry) = &self.own {
            check_names(entry, names)?;
            check_hashes(entry, files)?;
            locked = entry.is_locked();
        }
        for entry in &self.candidates {
            if has_weights(entry, files)? {
                // The right weights with another configuration are a forgery.
                check_names(entry, names)?;
                check_hashes(entry, files)?;
                locked = true;
                break;
            }
        }
        match self.may_be_unlocked {
            Some(may) if !locked => unlocked(!may),
            _ => Ok(()),
        }
    }
}

fn interrupted<E>(_: E) -> HubError {
    HubError::Storage { kind: io::ErrorKind::Interrupted }
}

fn pins(entry: &ModelEntry) -> impl Iterator<Item = (&FileName, Pin)> {
    entry.files.iter().filter_map(|file| Some((&file.name, file.pin?)))
}

fn check_lengths(entry: &ModelEntry, files: &ModelFiles) -> Result<(), HubError> {
    for (name, pin) in pins(entry) {
        if files.length(name)? != pin.size {
            return Err(HubError::Mismatch { file: name.clone() });
        }
    }
    Ok(())
}

fn is_pinned_file(name: &FileName, pin: Pin, files: &ModelFiles) -> Result<bool, FilesError> {
    Ok(files.length(name)? == pin.size && Sha256Hash::new(files.sha256(name)?) == pin.sha256)
}

fn check_hashes(entry: &ModelEntry, files: &ModelFiles) -> Result<(), HubError> {
    for (name, pin) in pins(entry) {
        if !is_pinned_file(name, pin, files)? {
            return Err(HubError::Mismatch { file: name.clone() });
        }
    }
    Ok(files.check_unchanged()?)
}

fn has_lengths(entry: &ModelEntry, names: &BTreeSet<FileName>, files: &ModelFiles) -> Result<bool, HubError> {
    for (name, pin) in pins(entry).filter(|(name, _)| name.is_weights()) {
        if !names.contains(name) || files.length(name)? != pin.size {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has_weights(entry: &ModelEntry, files: &ModelFiles) -> Result<bool, HubError> {
    for (name, pin) in pins(entry).filter(|(name, _)| name.is_weights()) {
        if !is_pinned_file(name, pin, files)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::hub::Manifest;
    use crate::model::{Model, Quantize};
    use crate::tokenizer::Tokenizer;

    const FILES: [&str; 4] = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];

    fn model(dir: &Path) {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
        for name in FILES {
            std::fs::copy(tiny.join(name), dir.join(name)).unwrap();
        }
    }

    /// A manifest that locks the model in `dir`, whose source is `source`.
    fn manifest(dir: &Path, source: &str) -> Manifest {
        let mut text = format!("version = 1\n[[model]]\nsource = \"{source}\"\ndtype = \"f32\"\n");
        for name in FILES {
            let bytes = std::fs::read(dir.join(name)).unwrap();
            let hash = Sha256Hash::new(Sha256::digest(&bytes).into());
            let size = bytes.len();
            text += &format!("[[model.file]]\nname = \"{name}\"\nsize = {size}\nsha256 = \"{hash}\"\n");
        }
        text.parse().unwrap()
    }

    async fn located(dir: &Path, manifest: Manifest) -> Result<Located, HubError> {
        let options = FetchOptions { require_locked: true, ..FetchOptions::new(dir.join("cache"), manifest) };
        locate(&ModelSource::Directory(dir.to_owned()), &options).await
    }

    fn load(located: &Located) {
        Tokenizer::from_files(located.files()).unwrap();
        Model::from_files(located.files(), "tiny", Quantize::None, |_, _| {}).unwrap();
    }

    /// Bytes that this process has read, as the system counts them.
    fn bytes_read() -> u64 {
        let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
        io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn what_was_loaded_is_verified_without_another_pass() {
        for source in ["hf://owner/model@0123456789012345678901234567890123456789", "own"] {
            let dir = tempfile::tempdir().unwrap();
            model(dir.path());
            let source = if source == "own" { dir.path().to_str().unwrap() } else { source };
            let located = located(dir.path(), manifest(dir.path(), source)).await.unwrap();
            assert!(located.is_pinned());
            load(&located);
            let before = bytes_read();
            located.verify().unwrap();
            located.files().digest().unwrap();
            // The file that says how much was read is read, too.
            let read = bytes_read() - before;
            assert!(read < 4096, "{read} bytes were read again");
        }
    }

    #[tokio::test]
    async fn a_flipped_bit_anywhere_is_refused_after_loading_as_before() {
        let dir = tempfile::tempdir().unwrap();
        model(dir.path());
        let pinned = manifest(dir.path(), dir.path().to_str().unwrap());
        let path = dir.path().join("model.safetensors");
        let original = std::fs::read(&path).unwrap();
        for at in [original.len() - 1, original.len() / 2] {
            let mut changed = original.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            for loaded in [true, false] {
                let located = located(dir.path(), pinned.clone()).await.unwrap();
                if loaded {
                    load(&located);
                }
                let error = located.verify().unwrap_err();
                assert!(
                    matches!(&error, HubError::Mismatch { file } if file.as_str() == "model.safetensors")
                );
            }
        }
        // Other lengths and other files are refused before anything is loaded.
        std::fs::write(&path, &original[..original.len() - 1]).unwrap();
        assert!(matches!(located(dir.path(), pinned.clone()).await, Err(HubError::Mismatch { .. })));
        std::fs::write(&path, &original).unwrap();
        std::fs::write(dir.path().join("model.safetensors.index.json"), "{}").unwrap();
        assert!(matches!(located(dir.path(), pinned).await, Err(HubError::Mismatch { .. })));
    }

    #[tokio::test]
    async fn a_file_that_is_written_to_between_loading_and_verifying_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        model(dir.path());
        let located = located(dir.path(), manifest(dir.path(), dir.path().to_str().unwrap())).await.unwrap();
        load(&located);
        let path = dir.path().join("model.safetensors");
        std::fs::OpenOptions::new().append(true).open(path).unwrap().set_len(100).unwrap();
        assert!(matches!(located.verify(), Err(HubError::Files(_))));
    }

    #[tokio::test]
    async fn other_weights_of_the_same_length_are_another_model_and_the_right_ones_with_others_a_forgery() {
        let dir = tempfile::tempdir().unwrap();
        model(dir.path());
        let elsewhere = "hf://owner/model@0123456789012345678901234567890123456789";
        let pinned = manifest(dir.path(), elsewhere);
        let config = dir.path().join("generation_config.json");
        let original = std::fs::read(&config).unwrap();
        std::fs::write(&config, [original.as_slice(), b"\n"].concat()).unwrap();
        let found = located(dir.path(), pinned.clone()).await.unwrap();
        assert!(
            matches!(found.verify(), Err(HubError::Mismatch { file }) if file.as_str() == "generation_config.json")
        );
        std::fs::write(&config, original).unwrap();
        let path = dir.path().join("model.safetensors");
        let mut weights = std::fs::read(&path).unwrap();
        *weights.last_mut().unwrap() ^= 1;
        std::fs::write(&path, weights).unwrap();
        let found = located(dir.path(), pinned).await.unwrap();
        assert!(matches!(found.verify(), Err(HubError::NotLocked)));
        assert!(matches!(located(dir.path(), Manifest::default()).await, Err(HubError::NotLocked)));
    }
}
