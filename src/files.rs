//! Small files that are read as a whole: regular files only, within a bound, and without ever waiting for a writer.
//!
//! `open` of a named pipe waits for a writer, a device may never end, and a file may be of any length. A path
//! that is configured by mistake must be an error with a name, not a process that hangs.
//!
//! Allowed modules: secret.
//! Forbidden: tokio.

use std::fmt;
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use crate::secret::Secret;

/// Where the files are that are open already.
const SHELL_PATHS: [&str; 3] = ["/dev/fd", "/dev/stdin", "/proc/self/fd"];

/// Why a file was not read. It never holds the path or the content.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system does not open or read it.
    #[error("{}", .0.kind())]
    Io(#[from] io::Error),
    /// It is something else than a regular file.
    #[error("it is {0}, not a regular file")]
    NotAFile(Kind),
    /// It is longer than it can rightly be.
    #[error("it is longer than {max} bytes")]
    TooLong {
        /// The bound, in bytes.
        max: u64,
    },
    /// It is not text.
    #[error("it is not UTF-8")]
    NotUtf8,
}

/// What a path names that is no regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A named pipe.
    Pipe,
    /// A Unix socket.
    Socket,
    /// A character or block device.
    Device,
    /// None of these.
    Unknown,
}

impl ReadError {
    /// What the system says, if it is the system that refused; the nearest kind of error otherwise.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io(error) => error.kind(),
            Self::NotAFile(Kind::Directory) => io::ErrorKind::IsADirectory,
            Self::NotAFile(_) => io::ErrorKind::InvalidInput,
            Self::TooLong { .. } => io::ErrorKind::FileTooLarge,
            Self::NotUtf8 => io::ErrorKind::InvalidData,
        }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => error,
            error => Self::new(error.kind(), error.to_string()),
        }
    }
}

/// Opens the regular file at `path`; links are followed. Returns its length in bytes as well.
///
/// # Errors
/// [`ReadError::NotAFile`], or the system does not open it.
pub fn open(path: &Path) -> Result<(File, u64), ReadError> {
    // Without a writer at the other end of a pipe, and without the device being ready, this returns at once. For a
    // regular file it changes nothing.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path);
    let file = match opened {
        Ok(file) => file,
        // A socket cannot be opened at all, and some devices cannot.
        Err(error) => match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() && !metadata.is_dir() => {
                return Err(ReadError::NotAFile(Kind::of(metadata.file_type())));
            }
            _ => return Err(error.into()),
        },
    };
    // Of what was opened, not of what is at the path by now.
    let metadata = file.metadata()?;
    if metadata.is_file() {
        Ok((file, metadata.len()))
    } else {
        Err(ReadError::NotAFile(Kind::of(metadata.file_type())))
    }
}

/// Reads the regular file at `path`, which may have up to `max` bytes.
///
/// # Errors
/// [`ReadError`]
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    read_into(path, max, &mut bytes)?;
    Ok(bytes)
}

/// As [`read`], and also reads what the shell passes as an open file: `<(command)` and `/dev/stdin`. For files that a user
/// names on the command line.
///
/// # Errors
/// [`ReadError`]
pub fn read_argument(path: &Path, max: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    open_argument(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max { Err(ReadError::TooLong { max }) } else { Ok(bytes) }
}

/// As [`open`], and also opens what the shell passes as an open file.
///
/// # Errors
/// As [`open`].
pub fn open_argument(path: &Path) -> Result<File, ReadError> {
    if SHELL_PATHS.iter().any(|passed| path.starts_with(passed)) {
        // The writer of such a pipe is there already, and a terminal is what the user asked for.
        Ok(File::open(path)?)
    } else {
        open(path).map(|(file, _)| file)
    }
}

/// As [`read`], for text.
///
/// # Errors
/// [`ReadError`]
pub fn read_text(path: &Path, max: u64) -> Result<String, ReadError> {
    String::from_utf8(read(path, max)?).map_err(|_| ReadError::NotUtf8)
}

/// As [`read`], for what must be wiped.
///
/// # Errors
/// [`ReadError`]
pub fn read_secret(path: &Path, max: u64) -> Result<Secret<Vec<u8>>, ReadError> {
    let mut bytes = Secret::new(Vec::new());
    read_into(path, max, bytes.expose_mut())?;
    Ok(bytes)
}

fn read_into(path: &Path, max: u64, bytes: &mut Vec<u8>) -> Result<(), ReadError> {
    let (file, length) = open(path)?;
    if length > max {
        return Err(ReadError::TooLong { max });
    }
    // The final capacity at once: growing would leave unwiped copies behind. Files of /proc say that they have no bytes,
    // and any file can grow meanwhile.
    bytes.reserve_exact(usize::try_from(length).unwrap_or(0).saturating_add(1));
    file.take(max.saturating_add(1)).read_to_end(bytes)?;
    if bytes.len() as u64 > max { Err(ReadError::TooLong { max }) } else { Ok(()) }
}

impl Kind {
    fn of(file_type: FileType) -> Self {
        if file_type.is_dir() {
            Self::Directory
        } else if file_type.is_fifo() {
            Self::Pipe
        } else if file_type.is_socket() {
            Self::Socket
        } else if file_type.is_char_device() || file_type.is_block_device() {
            Self::Device
        } else {
            Self::Unknown
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "a directory",
            Self::Pipe => "a named pipe",
            Self::Socket => "a socket",
            Self::Device => "a device",
            Self::Unknown => "something unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        symlink(path("pipe"), path("link to a pipe")).unwrap();
        symlink("/dev/zero", path("link to a device")).unwrap();
        for (name, kind) in [
            ("pipe", Kind::Pipe),
            ("link to a pipe", Kind::Pipe),
            ("socket", Kind::Socket),
            ("directory", Kind::Directory),
            ("link to a device", Kind::Device),
        ] {
            let error = read(&path(name), 10).unwrap_err();
            assert!(matches!(error, ReadError::NotAFile(found) if found == kind), "{name}: {error:?}");
        }
        let missing = read(&path("missing"), 10).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_the_shell_passes_is_read_through_its_pipe() {
        use std::io::Write as _;
        use std::os::fd::AsRawFd as _;
        let (reader, mut writer) = std::io::pipe().unwrap();
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        writer.write_all(b"12345").unwrap();
        drop(writer);
        assert!(matches!(read(Path::new(&path), 5), Err(ReadError::NotAFile(Kind::Pipe))));
        assert_eq!(read_argument(Path::new(&path), 5).unwrap(), b"12345");
        assert!(matches!(read_argument(Path::new("/dev/zero"), 5), Err(ReadError::NotAFile(Kind::Device))));
    }

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert!(matches!(read(&path, 4), Err(ReadError::TooLong { max: 4 })));
        std::fs::write(&path, b"\xff").unwrap();
        assert!(matches!(read_text(&path, 4), Err(ReadError::NotUtf8)));
        // A gigabyte that takes no place on the disk.
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(matches!(read(&path, 1 << 20), Err(ReadError::TooLong { .. })));
        // It says that it has no bytes.
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
        assert!(matches!(read(Path::new("/proc/self/status"), 4), Err(ReadError::TooLong { .. })));
    }
}
