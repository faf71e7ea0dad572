//! The files of a repository that may be used, and which lines are in which of them.
//!
//! Bounded: files, bytes and time. What was read before and has not changed is not read again.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ignore::{DirEntry, WalkBuilder};
use rustix::fs::OFlags;

use super::{now, secrets};
use crate::secret::Secret;

/// Names files that are never sent, in the syntax of `.gitignore`.
const IGNORE_FILE: &str = ".codesealignore";
/// The most files that are known.
pub(super) const MAX_FILES: usize = 50_000;
/// The longest file that is read, in bytes.
pub(super) const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Files whose lines are known, those that were changed last.
pub(super) const MAX_READ_FILES: usize = 2000;
/// The most entries of directories that are looked at: many may be none that can be used.
pub(super) const MAX_ENTRIES: usize = 100_000;
/// How long one walk may take.
pub(super) const MAX_WALK: Duration = Duration::from_secs(3);
/// Shorter lines do not tell files apart.
const MIN_LINE_BYTES: usize = 8;
/// A longer mean length of lines is that of data, or of generated code.
const MAX_MEAN_LINE_BYTES: usize = 200;

/// The files of a repository, and their lines.
#[derive(Debug, Default)]
pub(super) struct Index {
    files: HashMap<String, Entry>,
    /// Which file a line is in, if it is in one only.
    lines: HashMap<u64, Option<Arc<str>>>,
    /// Files by their names without extension.
    stems: HashMap<String, Vec<String>>,
    pub(super) work: Work,
    made: Option<Instant>,
    took: Duration,
    trouble: Option<String>,
}

/// What a walk has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Entries of directories that were looked at.
    pub(super) entries: usize,
    /// Files that were read.
    pub(super) read: usize,
}

/// One file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    bytes: u64,
    pub(super) modified: SystemTime,
    /// Hashes of its lines; `None` if it was not read, or cannot be used.
    lines: Option<Arc<[u64]>>,
}

impl Index {
    /// Walks through the repository at `root`, which is a canonical path, for at most `longest`. What `old` has read is not
    /// read again.
    pub(super) fn walk(root: &Path, old: &Self, longest: Duration) -> Self {
        let started = now();
        let mut index = Self::default();
        match index.list(root, started, longest) {
            Ok(()) => index.read(root, old, started, longest),
            // A rule that cannot be read might have named a secret, so nothing is used.
            Err(trouble) => index = Self { trouble: Some(trouble), ..Self::default() },
        }
        index.made = Some(now());
        index.took = started.elapsed();
        index
    }

    fn list(&mut self, root: &Path, started: Instant, longest: Duration) -> Result<(), String> {
        let mut builder = WalkBuilder::new(root);
        builder
            .follow_links(false)
            .same_file_system(true)
            .max_filesize(Some(MAX_FILE_BYTES))
            .add_custom_ignore_filename(IGNORE_FILE)
            .filter_entry(|entry| !is_nested_repository(entry));
        for entry in builder.build() {
            let is_full = self.files.len() >= MAX_FILES || self.work.entries >= MAX_ENTRIES;
            if is_full || started.elapsed() > longest {
                break;
            }
            self.work.entries += 1;
            // What cannot be looked at is not used.
            let Ok(entry) = entry else { continue };
            if let Some(error) = entry.error() {
                return Err(format!("an ignore file cannot be read, so no file is used: {error}"));
            }
            let is_file = entry.file_type().is_some_and(|kind| kind.is_file());
            let path = entry.path().strip_prefix(root).ok().and_then(Path::to_str);
            let (true, Some(path), Ok(metadata)) = (is_file, path, entry.metadata()) else { continue };
            if secrets::names(path) {
                continue;
            }
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            self.stems.entry(stem(path).to_owned()).or_default().push(path.to_owned());
            self.files.insert(path.to_owned(), Entry { bytes: metadata.len(), modified, lines: None });
        }
        Ok(())
    }

    /// Learns the lines of the files that were changed last.
    fn read(&mut self, root: &Path, old: &Self, started: Instant, longest: Duration) {
        let mut latest: Vec<(SystemTime, String)> =
            self.files.iter().map(|(path, entry)| (entry.modified, path.clone())).collect();
        latest.sort_unstable_by(|one, other| other.cmp(one));
        for (_, path) in latest.into_iter().take(MAX_READ_FILES) {
            let Some(entry) = self.files.get_mut(&path) else { continue };
            let known = old.files.get(&path);
            let unchanged =
                known.filter(|known| known.bytes == entry.bytes && known.modified == entry.modified);
            entry.lines = match unchanged.and_then(|known| known.lines.clone()) {
                Some(lines) => Some(lines),
                None if started.elapsed() > longest => None,
                None => {
                    self.work.read += 1;
                    text(root, &path).map(|text| text.expose().lines().filter_map(line_hash).collect())
                }
            };
            let name: Arc<str> = Arc::from(path);
            for &line in entry.lines.iter().flat_map(|lines| lines.iter()) {
                let owner = self.lines.entry(line).or_insert_with(|| Some(Arc::clone(&name)));
                if owner.as_ref().is_some_and(|owner| *owner != name) {
                    *owner = None;
                }
            }
        }
    }

    /// Whether it is time for another walk.
    pub(super) fn is_stale(&self, shortest: Duration, share: u32) -> bool {
        self.made.is_none_or(|made| made.elapsed() >= shortest.max(self.took * share))
    }

    /// How many files are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether the file at `path` may be used.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// The file at `path`, with its name as it is kept.
    pub(super) fn get(&self, path: &str) -> Option<(&str, &Entry)> {
        self.files.get_key_value(path).map(|(path, entry)| (path.as_str(), entry))
    }

    /// The files called `stem`, whatever their extension.
    pub(super) fn called(&self, stem: &str) -> &[String] {
        self.stems.get(stem).map(Vec::as_slice).unwrap_or_default()
    }

    /// The one file that has this line.
    pub(super) fn owner(&self, line: &str) -> Option<&str> {
        self.lines.get(&line_hash(line)?)?.as_deref()
    }

    /// Why nothing is used.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

/// The name that imports use: without extension, and that of the directory for `mod.rs` and the like.
fn stem(path: &str) -> &str {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.split('.').next().unwrap_or(name);
    if matches!(stem, "mod" | "__init__" | "index") {
        directory.rsplit('/').next().unwrap_or(stem)
    } else {
        stem
    }
}

fn is_nested_repository(entry: &DirEntry) -> bool {
    let is_directory = entry.file_type().is_some_and(|kind| kind.is_dir());
    entry.depth() > 0 && is_directory && entry.path().join(".git").exists()
}

fn line_hash(line: &str) -> Option<u64> {
    let line = line.trim();
    if line.len() < MIN_LINE_BYTES {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    Some(hasher.finish())
}

/// The text of the file at `path` below `root`, if it can be used: a regular file that no symbolic link leads to, code
/// and not data, and nothing in it that looks like a secret.
pub(super) fn text(root: &Path, path: &str) -> Option<Secret<String>> {
    let full = root.join(path);
    if full.canonicalize().ok()? != full {
        return None;
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(&full).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return None;
    }
    let mut bytes = Secret::new(Vec::with_capacity(usize::try_from(MAX_FILE_BYTES).ok()? + 1));
    file.take(MAX_FILE_BYTES + 1).read_to_end(bytes.expose_mut()).ok()?;
    let text = bytes.into_text()?;
    let is_code = !text.expose().contains('\0')
        && text.expose().len() / text.expose().lines().count().max(1) <= MAX_MEAN_LINE_BYTES;
    (is_code && !secrets::holds(text.expose())).then_some(text)
}
