//! A model's files: in a directory, one GGUF file, embedded in the binary, or random weights.
//!
//! Only files of the model's [`Layout`] can be opened, and the digest is over all of them: what is loaded is what the
//! digest covers. Each file is opened once, so that a file that is put in its place later is not read.

mod content;
mod handle;
mod meter;
mod place;
mod random;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sha2::{Digest as _, Sha256};

pub use self::content::FileProblem;
pub use self::meter::{LoadProgress, LoadTimes};
pub use self::place::PlaceProblem;

use self::handle::Handle;
use self::meter::Counted;
pub(super) use self::meter::{Meter, Part as MeterPart};
pub(super) use self::random::RandomWeights;
use super::layout::{CONFIG, FileName, Layout, LayoutError, SINGLE, TOKENIZER, WeightFiles};

/// How much of a file is hashed at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// The domain separator of the digest: it changes when the definition of the digest does.
const DIGEST_LABEL: &[u8] = b"codeseal weights v2";

/// The files of one model: configuration, tokenizer and weights.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    location: Location,
    /// Shared by all copies, so that all of them read the same files.
    shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
enum Location {
    /// A directory, or a GGUF file.
    Path(PathBuf),
    /// `config.json`, and random weights.
    Random(Arc<[u8]>, RandomWeights),
    #[cfg(any(test, feature = "sandbox"))]
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// What was found and opened so far.
#[derive(Debug, Default)]
struct Shared {
    found: OnceLock<place::Found>,
    files: Mutex<BTreeMap<FileName, Handle>>,
    /// The SHA-256 of the files that were read from end to end.
    hashes: Mutex<BTreeMap<FileName, [u8; 32]>>,
    meter: Arc<Meter>,
}

/// Why there is no model, or one of its files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The path that was named is that of no model.
    #[error("{path}: {problem}")]
    Place {
        /// As it was named.
        path: String,
        /// Why not.
        problem: PlaceProblem,
    },
    /// The files are not one model.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A file is not what it should be.
    #[error("{file} {problem}")]
    File {
        /// Its name.
        file: String,
        /// Why not.
        problem: FileProblem,
    },
}

impl From<FilesError> for io::Error {
    fn from(error: FilesError) -> Self {
        Self::other(error)
    }
}

/// A file that can be read at any position.
pub(super) trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

impl ModelFiles {
    /// The files of the model at `path`: a directory, or one GGUF file with `tokenizer.json` beside it. Nothing is
    /// read yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self::of(Location::Path(path.into()))
    }

    /// The files in `dir`, as [`ModelFiles::at`].
    pub fn directory(dir: impl Into<PathBuf>) -> Self {
        Self::at(dir)
    }

    /// What the model at `path` is called: as the directory, or as the GGUF file without the numbers of its parts.
    pub fn name_of(path: &Path) -> String {
        let name = path.file_name().unwrap_or(OsStr::new("model")).to_string_lossy();
        name.parse().map_or_else(|_| name.into_owned(), |name: FileName| name.title().to_owned())
    }

    /// `weights` that are generated as they are read, and `config` as `config.json`.
    pub(super) fn generated(config: Vec<u8>, weights: RandomWeights) -> Self {
        Self::of(Location::Random(config.into(), weights))
    }

    /// Files that are part of the binary.
    #[cfg(any(test, feature = "sandbox"))]
    pub(super) fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self::of(Location::Embedded(files))
    }

    /// The same files as if nothing had been read of them yet.
    pub(crate) fn afresh(&self) -> Self {
        Self::of(self.location.clone())
    }

    fn of(location: Location) -> Self {
        Self { location, shared: Arc::default() }
    }

    /// Which files there are. They are looked for once.
    ///
    /// # Errors
    /// There is no model, or more than one.
    pub(crate) fn layout(&self) -> Result<&Layout, FilesError> {
        self.found().map(|found| &found.layout)
    }

    /// Where the files are, and which, after each was opened and what it begins with was checked.
    ///
    /// # Errors
    /// A file is missing, the tokenizer included, or is not what its name says.
    pub(crate) fn whole(&self) -> Result<(&Path, &Layout), FilesError> {
        let found = self.found()?;
        match FileProblem::missing(TOKENIZER, &found.others) {
            problem @ FileProblem::SentencePiece if !found.layout.has(TOKENIZER) => {
                return Err(file_error(TOKENIZER, problem));
            }
            _ => found.layout.require_tokenizer()?,
        }
        for name in found.layout.files() {
            self.open(name.as_str())?;
        }
        Ok((&found.dir, &found.layout))
    }

    fn found(&self) -> Result<&place::Found, FilesError> {
        if let Some(found) = self.shared.found.get() {
            return Ok(found);
        }
        let of = |names: &[&str]| -> Result<place::Found, FilesError> {
            let known = names.iter().filter_map(|name| name.parse().ok()).collect();
            let others = names.iter().map(|name| (*name).to_owned()).collect();
            Ok(place::Found { dir: PathBuf::new(), layout: Layout::of(&known)?, others })
        };
        let found = match &self.location {
            Location::Path(path) => place::find(path)?,
            Location::Random(..) => of(&[CONFIG, SINGLE])?,
            #[cfg(any(test, feature = "sandbox"))]
            Location::Embedded(files) => of(&files.iter().map(|(name, _)| *name).collect::<Vec<_>>())?,
        };
        Ok(self.shared.found.get_or_init(|| found))
    }

    /// The name of a file of the layout.
    fn require(&self, name: &str) -> Result<FileName, FilesError> {
        let found = self.found()?;
        let known = found.layout.files().iter().find(|known| known.as_str() == name);
        let missing = || file_error(name, FileProblem::missing(name, &found.others));
        known.cloned().ok_or_else(missing)
    }

    /// Reads the file `name` as a whole.
    ///
    /// # Errors
    /// It is missing, not readable, or larger than `max_bytes`.
    pub(crate) fn read(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, FilesError> {
        let mut bytes = Vec::new();
        let read = self.open(name)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| file_error(name, FileProblem::of(&error)))?;
        if bytes.len() as u64 > max_bytes {
            return Err(file_error(name, FileProblem::TooLarge(max_bytes)));
        }
        // The digest is of what was given here, and nothing is read twice for it.
        self.record(&self.require(name)?, Sha256::digest(&bytes).into())?;
        Ok(bytes)
    }

    /// Opens the file `name`, which must be one of the layout's.
    ///
    /// # Errors
    /// It is missing, not readable, or begins as a file of another kind.
    pub(super) fn open(&self, name: &str) -> Result<Box<dyn ReadSeek>, FilesError> {
        let name = self.require(name)?;
        match &self.location {
            Location::Path(_) => Ok(self.counted(self.handle(&name)?.reader())),
            Location::Random(config, _) if name.as_str() == CONFIG => {
                Ok(self.counted(io::Cursor::new(Arc::clone(config))))
            }
            Location::Random(_, weights) => Ok(self.counted(weights.clone())),
            #[cfg(any(test, feature = "sandbox"))]
            Location::Embedded(files) => {
                let file = files.iter().find(|(known, _)| *known == name.as_str());
                let (_, bytes) = file.ok_or_else(|| file_error(name.as_str(), FileProblem::Missing))?;
                Ok(self.counted(io::Cursor::new(*bytes)))
            }
        }
    }

    fn counted(&self, inner: impl ReadSeek + 'static) -> Box<dyn ReadSeek> {
        Box::new(Counted::new(inner, Arc::clone(&self.shared.meter)))
    }

    /// The file `name`, opened now or before.
    fn handle(&self, name: &FileName) -> Result<Handle, FilesError> {
        let found = self.found()?;
        let mut files = self.shared.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = files.get(name) {
            return Ok(handle.clone());
        }
        let handle = Handle::open(&found.dir, name).map_err(|problem| file_error(name.as_str(), problem))?;
        files.insert(name.clone(), handle.clone());
        Ok(handle)
    }

    /// One hash over all files that a model is read from: each file's role and its SHA-256, in the order of the
    /// roles. A GGUF file's role does not depend on what it is called.
    ///
    /// # Errors
    /// There is no whole model, or a file cannot be read, or one changes meanwhile.
    pub fn digest(&self) -> Result<[u8; 32], FilesError> {
        let (_, layout) = self.whole()?;
        let mut hashes = BTreeMap::new();
        for name in layout.files() {
            hashes.insert(layout.role(name), self.sha256(name)?);
        }
        let mut all = Sha256::new();
        all.update(DIGEST_LABEL);
        for (role, hash) in hashes {
            // A role holds no zero byte, and a hash has one length: the parts cannot run into each other.
            all.update(b"\0");
            all.update(role.as_bytes());
            all.update(b"\0");
            all.update(hash);
        }
        self.check_unchanged()?;
        Ok(all.finalize().into())
    }

    /// The SHA-256 of a file. It is read now unless it was read from end to end before.
    ///
    /// # Errors
    /// It cannot be read, or has changed since it was.
    pub(crate) fn sha256(&self, name: &FileName) -> Result<[u8; 32], FilesError> {
        let known = self.shared.hashes.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some(hash) = known {
            return Ok(hash);
        }
        let hash = self.hash(name)?;
        self.record(name, hash)?;
        Ok(hash)
    }

    /// Notes the SHA-256 of all bytes of a file, which have just been read.
    ///
    /// # Errors
    /// They differ from those that were read before.
    pub(super) fn record(&self, name: &FileName, hash: [u8; 32]) -> Result<(), FilesError> {
        let mut hashes = self.shared.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        match hashes.insert(name.clone(), hash) {
            Some(before) if before != hash => Err(file_error(name.as_str(), FileProblem::Changed)),
            _ => Ok(()),
        }
    }

    /// How many bytes the file `name` has.
    ///
    /// # Errors
    /// It is missing, or cannot be read.
    pub(crate) fn length(&self, name: &FileName) -> Result<u64, FilesError> {
        let length = self.open(name.as_str())?.seek(SeekFrom::End(0));
        length.map_err(|error| file_error(name.as_str(), FileProblem::of(&error)))
    }

    /// Whether there is anything to hash: random weights have no digest.
    pub(super) fn are_hashed(&self) -> bool {
        !matches!(self.location, Location::Random(..))
    }

    /// Counts while weights are read.
    pub(super) fn meter(&self) -> &Meter {
        &self.shared.meter
    }

    /// How far the weights are read, on any thread.
    pub fn progress(&self) -> LoadProgress {
        self.shared.meter.progress()
    }

    /// Bytes that were read so far of all files together, headers and what was read again included.
    pub fn bytes_read(&self) -> u64 {
        self.shared.meter.bytes_read()
    }

    /// What reading the weights took so far.
    pub fn load_times(&self) -> LoadTimes {
        self.shared.meter.times()
    }

    fn hash(&self, name: &FileName) -> Result<[u8; 32], FilesError> {
        let mut hash = Sha256::new();
        let (mut file, mut chunk) = (self.open(name.as_str())?, vec![0; CHUNK_BYTES]);
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok(hash.finalize().into()),
                Ok(count) => hash.update(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(file_error(name.as_str(), FileProblem::of(&error))),
            }
        }
    }

    /// Checks that no file was written to since it was opened: what was hashed is then what was loaded.
    ///
    /// # Errors
    /// One was.
    pub fn check_unchanged(&self) -> Result<(), FilesError> {
        let files = self.shared.files.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, handle) in &*files {
            handle.check_unchanged().map_err(|problem| file_error(name.as_str(), problem))?;
        }
        Ok(())
    }

    /// Whether the weights are in GGUF files.
    ///
    /// # Errors
    /// There is no model.
    pub(super) fn is_gguf(&self) -> Result<bool, FilesError> {
        Ok(matches!(self.layout()?.weights(), WeightFiles::Gguf(_)))
    }

    /// Whether the model has the file `name`.
    ///
    /// # Errors
    /// There is no model.
    pub(super) fn has(&self, name: &str) -> Result<bool, FilesError> {
        Ok(self.layout()?.has(name))
    }

    /// The names of the files that were opened so far.
    #[cfg(test)]
    fn opened(&self) -> std::collections::BTreeSet<FileName> {
        self.shared.files.lock().unwrap().keys().cloned().collect()
    }
}

fn file_error(file: &str, problem: FileProblem) -> FilesError {
    FilesError::File { file: file.to_owned(), problem }
}

#[cfg(test)]
mod tests;
