//! Files of the repository that go with a hole: those that its file imports, and those that were edited lately.
//!
//! A request never waits for the disk: it uses what was read in the background, and goes without if there is nothing yet.
//! What git or `.codesealignore` ignores, what looks like a secret, and what is outside the repository is never read.

mod choose;
mod imports;
mod index;
mod secrets;
mod which;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use self::choose::Chosen;
use self::index::Index;
use super::dialect::{ContextFile, Hole};

/// The shortest time between two walks through the repository.
const MIN_REFRESH: Duration = Duration::from_secs(5);
/// A walk may take one part in this many of the time.
const WALK_SHARE: u32 = 20;
/// How long the files of a prompt stay as they are. Each change makes the server read the prompt again.
const CHOICE_AGE: Duration = Duration::from_secs(30);
/// Files whose holes were filled lately.
const MAX_RECENT: usize = 8;
/// Files that there is a choice for.
const MAX_CHOICES: usize = 32;

/// The work tree of a git repository.
#[derive(Debug)]
pub struct Repository {
    root: PathBuf,
    index: Mutex<Arc<Index>>,
    state: Mutex<State>,
    /// Whether a thread reads in the background.
    reading: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// The latest first.
    recent: VecDeque<String>,
    choices: BTreeMap<String, Chosen>,
    /// What went into the last prompt.
    shown: Vec<Shown>,
}

/// A file that went into the last prompt: its name and length, never its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Shown {
    path: String,
    bytes: usize,
}

/// There is no repository to take files from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("needs a directory inside a git repository: name one with --work-tree")]
pub struct NoRepository;

impl Repository {
    /// The repository that `directory` is in. Nothing of it is read yet.
    ///
    /// # Errors
    /// [`NoRepository`]
    pub fn open(directory: &Path) -> Result<Self, NoRepository> {
        let directory = directory.canonicalize().map_err(|_| NoRepository)?;
        let root = directory.ancestors().find(|parent| parent.join(".git").exists());
        Ok(Self {
            root: root.ok_or(NoRepository)?.to_owned(),
            index: Mutex::default(),
            state: Mutex::default(),
            reading: AtomicBool::new(false),
        })
    }

    /// Puts files in front of `hole`, which the text `before` stands in front of, as far as they have been read.
    pub(super) fn add(self: &Arc<Self>, hole: &mut Hole, before: &str) {
        let index = Arc::clone(&lock(&self.index));
        let file = which::file(&index, &self.root, hole, before);
        let mut state = lock(&self.state);
        state.shown.clear();
        if let Some(file) = file {
            state.recent.retain(|recent| recent != file);
            state.recent.push_front(file.to_owned());
            state.recent.truncate(MAX_RECENT);
            if let Some(chosen) = state.choices.get(file) {
                let own: Vec<&str> = hole.context.iter().map(|file| file.path.expose().as_str()).collect();
                // A file that has been ignored or removed since is left out at once.
                let wanted = |file: &&ContextFile| {
                    let path = file.path.expose();
                    index.contains(path) && !own.iter().any(|own| own.ends_with(path.as_str()))
                };
                let files: Vec<ContextFile> =
                    chosen.files.iter().filter(wanted).map(ContextFile::copy).collect();
                let shown = files
                    .iter()
                    .map(|file| Shown { path: file.path.expose().clone(), bytes: file.text.expose().len() });
                state.shown = shown.collect();
                hole.context.splice(0..0, files);
            }
        }
        let stale_choice = file
            .filter(|file| state.choices.get(*file).is_none_or(|chosen| chosen.made.elapsed() >= CHOICE_AGE));
        let stale_choice = stale_choice.map(str::to_owned);
        drop(state);
        if index.is_stale(MIN_REFRESH, WALK_SHARE) || stale_choice.is_some() {
            self.read(stale_choice);
        }
    }

    /// Walks and reads in the background, one thread at a time.
    fn read(self: &Arc<Self>, file: Option<String>) {
        if self.reading.swap(true, Ordering::AcqRel) {
            return;
        }
        let repository = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let old = Arc::clone(&lock(&repository.index));
            if old.is_stale(MIN_REFRESH, WALK_SHARE) {
                *lock(&repository.index) = Arc::new(Index::walk(&repository.root, &old, index::MAX_WALK));
            }
            if let Some(file) = file {
                repository.choose(&file);
            }
            repository.reading.store(false, Ordering::Release);
        });
    }

    fn choose(&self, file: &str) {
        let index = Arc::clone(&lock(&self.index));
        let recent: Vec<String> = lock(&self.state).recent.iter().cloned().collect();
        let chosen = Chosen::make(&self.root, &index, file, &recent);
        let mut state = lock(&self.state);
        if state.choices.len() >= MAX_CHOICES && !state.choices.contains_key(file) {
            let oldest = state.choices.iter().min_by_key(|(_, chosen)| chosen.made);
            if let Some(oldest) = oldest.map(|(path, _)| path.clone()) {
                state.choices.remove(&oldest);
            }
        }
        state.choices.insert(file.to_owned(), chosen);
    }

    /// The files that went into the last prompt.
    pub(super) fn shown(&self) -> Vec<Shown> {
        lock(&self.state).shown.clone()
    }

    /// Why no file is used, if there is a reason.
    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.index).trouble().map(str::to_owned)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When something was made.
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
