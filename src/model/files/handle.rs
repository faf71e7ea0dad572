//! A file that was opened, read at any position, and whether it is still the same.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

use super::super::layout::FileName;
use super::content::{self, FileProblem};
use super::place;

/// A file, and what it was when it was opened.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    file: Arc<File>,
    version: Version,
}

/// What changes when a file is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Handle {
    /// Opens the file `name` in `dir`, and checks what it begins with.
    ///
    /// # Errors
    /// [`FileProblem`]
    pub(super) fn open(dir: &Path, name: &FileName) -> Result<Self, FileProblem> {
        let file = place::open(&dir.join(name.as_str()))?;
        let version = Version::of(&file)?;
        let mut head = vec![0; content::HEAD_BYTES];
        let count = read_full(&file, &mut head).map_err(|error| FileProblem::of(&error))?;
        content::check(name, head.get(..count).unwrap_or_default(), version.length)?;
        if name.is_weights() {
            // They are read from end to end; a system that cannot read further ahead for that reads as it does.
            fadvise(&file, 0, None, Advice::Sequential).ok();
        }
        Ok(Self { file: Arc::new(file), version })
    }

    /// The file from its beginning.
    pub(super) fn reader(self) -> Reader {
        Reader { file: self.file, position: 0, length: self.version.length }
    }

    /// Checks that the file was not written to since it was opened.
    ///
    /// # Errors
    /// [`FileProblem::Changed`], or the system does not say.
    pub(super) fn check_unchanged(&self) -> Result<(), FileProblem> {
        if Version::of(&self.file)? == self.version { Ok(()) } else { Err(FileProblem::Changed) }
    }
}

impl Version {
    fn of(file: &File) -> Result<Self, FileProblem> {
        let metadata = file.metadata().map_err(|error| FileProblem::of(&error))?;
        Ok(Self {
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Reads from the beginning, as much as there is.
fn read_full(file: &File, to: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = to.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// A position in a file that others read at their own positions.
pub(super) struct Reader {
    file: Arc<File>,
    position: u64,
    length: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
