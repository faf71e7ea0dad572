//! What this process runs: the hash of its executable, and that of the model's files.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use crate::engine::ModelFiles;
use crate::protocol::{Digest, Identity, ServerId};
use crate::server::blocking::blocking;

/// The executable cannot change while it runs.
static BUILD: OnceLock<Digest> = OnceLock::new();

/// Reads executable and model once.
///
/// # Errors
/// One of them cannot be read.
pub(crate) async fn identify(server: ServerId, files: ModelFiles) -> io::Result<Identity> {
    let read =
        blocking(move || Ok(Identity { build: build()?, weights: Digest::new(files.digest()?), server }));
    read.await.map_err(|_| io::Error::other("the hashing failed"))?
}

/// The executable that this process was started from, whatever is at its path by now.
fn build() -> io::Result<Digest> {
    if let Some(build) = BUILD.get() {
        return Ok(*build);
    }
    let mut hash = Sha256::new();
    io::copy(&mut File::open("/proc/self/exe")?, &mut Hashing(&mut hash))?;
    Ok(*BUILD.get_or_init(|| Digest::new(hash.finalize().into())))
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
