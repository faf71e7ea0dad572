//! One file from the network into the cache: resumed where it was cut, renamed once it is proven.

use std::io;
use std::path::Path;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::fs::{self, OpenOptions};
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter, SeekFrom};

use super::manifest::Pin;
use super::progress::Bar;
use super::remote::Remote;
use super::verify::ExpectedFile;
use super::{DownloadLimits, HubError};

/// A try that brought this many bytes more does not count as failed.
const GAIN_BYTES: u64 = 1 << 20;
const BUFFER_BYTES: usize = 1 << 20;
/// The longest pause before a repetition.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// How much of a file the bar shows: a try may begin before or after the end of the one before.
struct Shown<'a> {
    bar: &'a Bar,
    bytes: u64,
}

/// Fetches `file` into `directory`. Under its name stands either nothing or what the manifest says; beside it may
/// stand a `.part` for the next try.
///
/// # Errors
/// What the last try failed with. After [`HubError::Mismatch`] nothing of the file is left.
pub(super) async fn download(
    remote: &Remote,
    file: &ExpectedFile,
    directory: &Path,
    limits: &DownloadLimits,
    bar: &Bar,
) -> Result<Pin, HubError> {
    let path = directory.join(file.name.as_str());
    let part = directory.join(format!("{}.part", file.name));
    let (mut failures, mut restarted) = (0, false);
    let mut shown = Shown { bar, bytes: 0 };
    loop {
        let start = length(&part).await?;
        // More than the file has: left over from another one.
        let result = if start > file.size {
            Err(HubError::Mismatch { file: file.name.clone() })
        } else {
            receive(remote, file, &part, start, &mut shown).await
        };
        let result = match result {
            Ok(()) => file.check(&part, &Bar::none()).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(pin) => {
                fs::rename(&part, &path).await.map_err(HubError::storage)?;
                return Ok(pin);
            }
            Err(error @ HubError::Mismatch { .. }) => {
                remove(&part).await?;
                // What was there before may have been of another version, or the server ignored the range.
                if start == 0 || restarted {
                    return Err(error);
                }
                restarted = true;
            }
            Err(error) if error.is_transient() => {
                let gained = length(&part).await?.saturating_sub(start);
                failures = if gained >= GAIN_BYTES { 1 } else { failures + 1 };
                if failures >= limits.attempts {
                    return Err(error);
                }
                tokio::time::sleep(pause(limits.pause, failures)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Appends what is missing after `start` bytes, so that all of it is on the disk if this succeeds.
async fn receive(
    remote: &Remote,
    file: &ExpectedFile,
    part: &Path,
    start: u64,
    shown: &mut Shown<'_>,
) -> Result<(), HubError> {
    shown.reach(start);
    if start == file.size && file.size > 0 {
        return Ok(());
    }
    let mut opened = remote.open(file, start).await?;
    if opened.offset > start {
        return Err(HubError::Unreadable);
    }
    let output = OpenOptions::new().create(true).write(true).truncate(false).open(part).await;
    let mut output = output.map_err(HubError::storage)?;
    output.set_len(opened.offset).await.map_err(HubError::storage)?;
    output.seek(SeekFrom::Start(opened.offset)).await.map_err(HubError::storage)?;
    let mut output = BufWriter::with_capacity(BUFFER_BYTES, output);

    let mut length = opened.offset;
    let received = async {
        while let Some(chunk) = opened.body.try_next().await? {
            length += chunk.len() as u64;
            if length > file.size {
                return Err(HubError::Mismatch { file: file.name.clone() });
            }
            output.write_all(&chunk).await.map_err(HubError::storage)?;
            shown.reach(length);
        }
        if length == file.size { Ok(()) } else { Err(HubError::Truncated) }
    }
    .await;
    // What came before a cut is kept for the next try.
    output.flush().await.map_err(HubError::storage)?;
    output.get_ref().sync_all().await.map_err(HubError::storage)?;
    received
}

impl Shown<'_> {
    fn reach(&mut self, bytes: u64) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.bar.advance(more),
            None => self.bar.rewind(self.bytes - bytes),
        }
        self.bytes = bytes;
    }
}

/// The length of the file in bytes, 0 if there is none.
pub(super) async fn length(path: &Path) -> Result<u64, HubError> {
    match fs::metadata(path).await {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(HubError::storage(error)),
    }
}

/// Removes the file if it is there.
pub(super) async fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HubError::storage(error)),
        _ => Ok(()),
    }
}

/// Doubles with each failure.
fn pause(first: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let first = Duration::from_millis(500);
        let pauses = [1, 2, 3, 100].map(|failures| pause(first, failures).as_millis());
        assert_eq!(pauses, [500, 1000, 2000, 10_000]);
        assert_eq!(pause(Duration::ZERO, 5), Duration::ZERO);
    }
}
