//! What a manifest says of files, held against them: names, lengths and hashes. A file is read once, on a thread that may block.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::manifest::{ModelEntry, Pin, Sha256Hash};
use super::progress::Bar;
use super::{FileName, HubError};

const CHUNK_BYTES: usize = 1 << 20;

/// What a file turned out to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileHashes {
    pub(super) pin: Pin,
    /// Castagnoli CRC, which Cloud Storage keeps for every object.
    pub(super) crc32c: u32,
}

/// What is known of a file before it is read.
#[derive(Clone, Debug)]
pub(super) struct ExpectedFile {
    pub(super) name: FileName,
    /// In bytes.
    pub(super) size: u64,
    /// From the manifest.
    pub(super) sha256: Option<Sha256Hash>,
    /// From the listing of a bucket.
    pub(super) crc32c: Option<u32>,
    /// The version of an object in a bucket: one name can mean several.
    pub(super) generation: Option<u64>,
}

impl ExpectedFile {
    /// A file that the manifest pins.
    pub(super) fn pinned(name: FileName, pin: Pin) -> Self {
        Self { name, size: pin.size, sha256: Some(pin.sha256), crc32c: None, generation: None }
    }

    /// Reads `path` and holds it against what is known.
    ///
    /// # Errors
    /// [`HubError::Mismatch`] if it is another file, [`HubError::Storage`] if it cannot be read.
    pub(super) async fn check(&self, path: &Path, bar: &Bar) -> Result<Pin, HubError> {
        let found = read(path.to_owned(), bar.clone()).await?;
        let same = found.pin.size == self.size
            && self.sha256.is_none_or(|sha256| sha256 == found.pin.sha256)
            && self.crc32c.is_none_or(|crc32c| crc32c == found.crc32c);
        if same { Ok(found.pin) } else { Err(HubError::Mismatch { file: self.name.clone() }) }
    }
}

/// Refuses a model that lacks a file of `entry`, or has one that a locked entry does not know.
pub(super) fn check_names(entry: &ModelEntry, names: &BTreeSet<FileName>) -> Result<(), HubError> {
    if let Some(missing) = entry.files.iter().find(|file| !names.contains(&file.name)) {
        return Err(HubError::Missing { file: missing.name.clone() });
    }
    let foreign = names.iter().find(|name| entry.is_locked() && entry.pin(name).is_none());
    foreign.map_or(Ok(()), |file| Err(HubError::Mismatch { file: file.clone() }))
}

/// Reads `path` once.
pub(super) async fn read(path: PathBuf, bar: Bar) -> Result<FileHashes, HubError> {
    let reading = tokio::task::spawn_blocking(move || read_blocking(&path, &bar));
    let found = reading.await.map_err(|_| HubError::Storage { kind: io::ErrorKind::Interrupted })?;
    found.map_err(HubError::storage)
}

fn read_blocking(path: &Path, bar: &Bar) -> io::Result<FileHashes> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut sha256, mut crc32c, mut size) = (Sha256::new(), 0, 0);
    loop {
        let count = match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = chunk.get(..count).unwrap_or_default();
        sha256.update(bytes);
        crc32c = crc32c::crc32c_append(crc32c, bytes);
        size += bytes.len() as u64;
        bar.advance(bytes.len() as u64);
    }
    let pin = Pin { size, sha256: Sha256Hash::new(sha256.finalize().into()) };
    Ok(FileHashes { pin, crc32c })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Progress;

    #[tokio::test]
    async fn hashes_are_those_of_the_standards() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "123456789").unwrap();
        let found = read(file.path().to_owned(), Progress::silent().verifying(9)).await.unwrap();
        assert_eq!(found.pin.size, 9);
        // The check value of CRC-32C in its catalogue entry.
        assert_eq!(found.crc32c, 0xe306_9283);
        let sha256 = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        assert_eq!(found.pin.sha256.to_string(), sha256);
    }
}
