//! Which files go with a file: those that it imports and those that were edited lately, within a bound of bytes.
//!
//! The order is by the time of the last change, the oldest first: a file that is saved leaves those before it in the
//! server's prefix cache.

use std::path::Path;
use std::time::{Instant, SystemTime};

use super::index::{Index, text};
use super::{imports, now};
use crate::proxy::dialect::ContextFile;
use crate::secret::Secret;

/// Files at most.
const MAX_FILES: usize = 8;
/// Bytes of one file: its beginning, which has its imports and definitions.
const MAX_FILE_BYTES: usize = 4 * 1024;
/// Bytes of all files.
const MAX_BYTES: usize = 12 * 1024;

/// The files that go with one file.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) files: Vec<ContextFile>,
    pub(super) made: Instant,
}

impl Chosen {
    /// Reads what goes with `file`. `recent` are the files of the last requests.
    pub(super) fn make(root: &Path, index: &Index, file: &str, recent: &[String]) -> Self {
        let own = text(root, file);
        let imported =
            own.as_ref().map(|own| imports::imported(index, file, own.expose())).unwrap_or_default();
        let mut chosen: Vec<(SystemTime, ContextFile)> = Vec::new();
        let mut room = MAX_BYTES;
        for path in imported.into_iter().chain(recent.iter().map(String::as_str)) {
            let taken = chosen.iter().any(|(_, file)| file.path.expose() == path);
            if path == file || taken || chosen.len() >= MAX_FILES {
                continue;
            }
            let Some((_, entry)) = index.get(path) else { continue };
            let Some(text) = text(root, path) else { continue };
            let kept = beginning(text.expose(), MAX_FILE_BYTES.min(room));
            if kept.trim().is_empty() {
                continue;
            }
            room -= kept.len();
            let (path, text) = (Secret::new(path.to_owned()), Secret::new(kept.to_owned()));
            chosen.push((entry.modified, ContextFile { path, text }));
        }
        chosen.sort_by(|(one, first), (other, second)| {
            (one, first.path.expose()).cmp(&(other, second.path.expose()))
        });
        Self { files: chosen.into_iter().map(|(_, file)| file).collect(), made: now() }
    }
}

/// The first `bytes` of `text`, whole lines only.
fn beginning(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let head = text.get(..end).unwrap_or_default();
    head.rfind('\n').and_then(|at| head.get(..=at)).unwrap_or_default()
}
