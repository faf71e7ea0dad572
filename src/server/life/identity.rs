//! What this process runs: the hash of its executable, and that of the model's files.

use std::fs::File;
use std::io::{self, BufReader};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use crate::engine::ModelFiles;
use crate::protocol::Digest;
use crate::server::blocking::blocking;

/// How much of the executable is read at a time.
const CHUNK_BYTES: usize = 1 << 18;
/// The executable cannot change while it runs.
static BUILD: OnceLock<Digest> = OnceLock::new();

/// The hash of the executable that this process was started from, whatever is at its path by now.
///
/// # Errors
/// It cannot be read.
pub(crate) async fn build() -> io::Result<Digest> {
    let read = blocking(|| {
        if let Some(build) = BUILD.get() {
            return Ok(*build);
        }
        let mut hash = Sha256::new();
        io::copy(
            &mut BufReader::with_capacity(CHUNK_BYTES, File::open("/proc/self/exe")?),
            &mut Hashing(&mut hash),
        )?;
        Ok(*BUILD.get_or_init(|| Digest::new(hash.finalize().into())))
    });
    read.await.map_err(|_| io::Error::other("the hashing failed"))?
}

/// The hash of the model's files: of the bytes that were loaded, and of those that were not read yet.
///
/// # Errors
/// One of them cannot be read, or has changed.
pub(crate) async fn weights(files: ModelFiles) -> io::Result<Digest> {
    let read = blocking(move || Ok(Digest::new(files.digest()?)));
    read.await.map_err(|_| io::Error::other("the hashing failed"))?
}

struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
