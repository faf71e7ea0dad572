//! Where a model's files are read from: a directory, the binary itself, or nowhere.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ModelError;
use super::config::Config;
use super::random::RandomWeights;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

use sha2::{Digest as _, Sha256};

/// How much of a file is hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The files of one model: `config.json`, `tokenizer.json` and the weights.
#[derive(Clone, Debug)]
pub struct ModelFiles(Place);

#[derive(Clone, Debug)]
enum Place {
    Directory(PathBuf),
    /// `config.json`, and weights that are drawn.
    Random(Arc<[u8]>, RandomWeights),
    #[cfg(any(test, feature = "sandbox"))]
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// A file that is read here and there.
pub(super) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

impl ModelFiles {
    /// The files in `dir`. Nothing is read yet.
    pub fn directory(dir: impl Into<PathBuf>) -> Self {
        Self(Place::Directory(dir.into()))
    }

    /// Random weights in the shape that `config`, the content of a `config.json`, describes. There is no tokenizer.
    ///
    /// # Errors
    /// It describes no Gemma.
    pub fn random(config: Vec<u8>) -> Result<Self, ModelError> {
        let weights = RandomWeights::new(&Config::parse(&config)?)?;
        Ok(Self(Place::Random(config.into(), weights)))
    }

    /// Files that are part of the binary.
    #[cfg(any(test, feature = "sandbox"))]
    pub(super) fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self(Place::Embedded(files))
    }

    /// Reads the file `name` as a whole.
    ///
    /// # Errors
    /// It is missing, not readable, or larger than `max_bytes`.
    pub(crate) fn read(&self, name: &str, max_bytes: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max_bytes {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the file is larger than it can rightly be",
            ));
        }
        Ok(bytes)
    }

    /// Opens the file `name`, which is one of the model's own: never a path.
    pub(super) fn open(&self, name: &str) -> io::Result<Box<dyn ReadSeek>> {
        if Path::new(name).file_name().is_none_or(|file_name| file_name != name) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a model's file is named by a path"));
        }
        match &self.0 {
            Place::Directory(dir) => Ok(Box::new(File::open(dir.join(name))?)),
            Place::Random(config, _) if name == CONFIG => Ok(Box::new(io::Cursor::new(Arc::clone(config)))),
            Place::Random(_, weights) if name == WEIGHTS => Ok(Box::new(weights.clone())),
            Place::Random(..) => Err(io::ErrorKind::NotFound.into()),
            #[cfg(any(test, feature = "sandbox"))]
            Place::Embedded(files) => {
                let (_, bytes) =
                    files.iter().find(|(known, _)| *known == name).ok_or(io::ErrorKind::NotFound)?;
                Ok(Box::new(io::Cursor::new(*bytes)))
            }
        }
    }

    /// One hash over all files that a model is read from: configuration, tokenizer and weights.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn digest(&self) -> io::Result<[u8; 32]> {
        let mut all = Sha256::new();
        all.update(b"codeseal weights v1");
        let names = self.names()?;
        if names.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no model in that place"));
        }
        for name in names {
            let mut hash = Sha256::new();
            let (mut file, mut chunk) = (self.open(&name)?, vec![0; CHUNK_BYTES]);
            loop {
                match file.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(count) => hash.update(chunk.get(..count).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            // A name holds no zero byte, and a hash has one length: the parts cannot run into each other.
            all.update(b"\0");
            all.update(name.as_bytes());
            all.update(b"\0");
            all.update(hash.finalize());
        }
        Ok(all.finalize().into())
    }

    /// The names of the files that are read, in their order.
    fn names(&self) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        match &self.0 {
            Place::Directory(dir) => {
                for entry in std::fs::read_dir(dir)? {
                    names.extend(entry?.file_name().into_string().ok());
                }
            }
            Place::Random(..) => names.extend([CONFIG, WEIGHTS].map(str::to_owned)),
            #[cfg(any(test, feature = "sandbox"))]
            Place::Embedded(files) => names.extend(files.iter().map(|(name, _)| (*name).to_owned())),
        }
        names.retain(|name| {
            matches!(name.as_str(), "config.json" | "tokenizer.json" | "model.safetensors.index.json")
                || name.ends_with(".safetensors")
        });
        Ok(names)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match &self.0 {
            Place::Directory(dir) => dir.join(name).is_file(),
            Place::Random(..) => name == CONFIG || name == WEIGHTS,
            #[cfg(any(test, feature = "sandbox"))]
            Place::Embedded(files) => files.iter().any(|(known, _)| *known == name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit_and_no_further() {
        let files = ModelFiles::embedded(&[("a", b"12345")]);
        assert_eq!(files.read("a", 5).unwrap(), b"12345");
        assert_eq!(files.read("a", 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(files.read("b", 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_digest_is_of_the_names_and_the_contents_of_what_is_read() {
        let digest = |files| ModelFiles::embedded(files).digest().unwrap();
        let one = digest(&[("config.json", b"1"), ("tokenizer.json", b"2")]);
        assert_eq!(one, digest(&[("tokenizer.json", b"2"), ("config.json", b"1"), ("README.md", b"3")]));
        assert_ne!(one, digest(&[("config.json", b"2"), ("tokenizer.json", b"1")]));
        assert_ne!(one, digest(&[("config.json", b"1")]));
        assert_eq!(ModelFiles::embedded(&[]).digest().unwrap_err().kind(), io::ErrorKind::NotFound);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "1").unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), "2").unwrap();
        std::fs::write(dir.path().join("notes.json"), "3").unwrap();
        assert_eq!(one, ModelFiles::directory(dir.path()).digest().unwrap());
    }

    #[test]
    fn a_directory_gives_no_file_outside_it() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("model");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(dir.path().join("outside"), "").unwrap();
        std::fs::write(inner.join("inside"), "").unwrap();
        let files = ModelFiles::directory(&inner);
        assert!(files.read("inside", 0).unwrap().is_empty());
        for name in ["../outside", "/etc/hostname", "..", ".", "", "inside/"] {
            assert!(files.read(name, 1024).is_err(), "{name:?}");
        }
    }
}
