//! The holes that are being filled: a newer request of the same client for the same file ends the older one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ClientId, head, tail};
use crate::secret::Secret;

/// How much of a text tells files apart, in bytes.
const TELLING_BYTES: usize = 96;

/// How far two keys are apart at most, in bytes: an accepted completion may be between them.
const NEAR_BYTES: usize = 512;

/// All holes that are being filled now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    /// Those that run, and those that ended within the time in which a newer one makes a burst.
    entries: Vec<Entry>,
    /// Keys that follow each other faster are a burst, such as a paste.
    debounce: Duration,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    client: ClientId,
    /// The beginning and the end of the text before the cursor, and the beginning of that after it.
    first: Secret<String>,
    last: Secret<String>,
    suffix: Secret<String>,
    length: usize,
    since: Instant,
    ended: bool,
    superseded: CancellationToken,
}

/// One of them; it is off the list when this is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    list: Arc<Mutex<List>>,
    number: u64,
    superseded: CancellationToken,
    /// How long to wait for a newer request, in a burst of them.
    pause: Option<Duration>,
}

impl Running {
    /// Holes whose requests follow each other faster than `debounce` become one.
    pub(crate) fn new(debounce: Duration) -> Self {
        Self(Arc::new(Mutex::new(List { debounce, ..List::default() })))
    }

    /// Notes a request, and ends those of the same client that it takes the place of.
    pub(crate) fn begin(&self, client: ClientId, before: &str, suffix: &str) -> Guard {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let debounce = list.debounce;
        list.entries.retain(|entry| !entry.ended || now.duration_since(entry.since) < debounce);
        let mut pause = None;
        for entry in list.entries.iter().filter(|entry| entry.client == client) {
            if entry.is_older(before, suffix) {
                entry.superseded.cancel();
                if now.duration_since(entry.since) < debounce {
                    pause = Some(debounce);
                }
            }
        }
        let number = list.next;
        list.next += 1;
        let superseded = CancellationToken::new();
        let owned = |text: &str| Secret::new(text.to_owned());
        list.entries.push(Entry {
            number,
            client,
            first: owned(head(before, TELLING_BYTES)),
            last: owned(tail(before, TELLING_BYTES)),
            suffix: owned(head(suffix, TELLING_BYTES)),
            length: before.len(),
            since: now,
            ended: false,
            superseded: superseded.clone(),
        });
        Guard { list: Arc::clone(&self.0), number, superseded, pause }
    }
}

impl Entry {
    /// Whether a request for a hole there is a later one for the same file. The very same one is not: it may be asked
    /// for several times at once.
    fn is_older(&self, before: &str, suffix: &str) -> bool {
        let (first, last, after) = (self.first.expose(), self.last.expose(), self.suffix.expose());
        let same = self.length == before.len()
            && before.ends_with(last.as_str())
            && head(suffix, TELLING_BYTES) == after;
        let same_suffix = head(suffix, TELLING_BYTES) == after;
        // Files may begin alike: a licence, the same imports. So the place must be nearly the same as well.
        let near = self.length.abs_diff(before.len()) <= NEAR_BYTES;
        let shared = first.len().min(before.len());
        let same_start = shared > 0 && head(before, shared) == head(first, shared);
        let told_apart = after.trim().len() >= TELLING_BYTES / 4 || self.length < TELLING_BYTES;
        let is_continued = last.trim().len() >= TELLING_BYTES / 4 && before.contains(last.as_str());
        !same && same_suffix && (is_continued || same_start && near && told_apart)
    }
}

impl Guard {
    /// Waits until a newer request takes this one's place.
    pub(crate) async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// In a burst, waits until no newer request can follow. The first request of a burst never waits.
    pub(crate) async fn settled(&self) {
        if let Some(pause) = self.pause {
            tokio::time::sleep(pause).await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let debounce = list.debounce;
        list.entries.retain(|entry| entry.number != self.number || entry.since.elapsed() < debounce);
        for entry in list.entries.iter_mut().filter(|entry| entry.number == self.number) {
            entry.ended = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ClientId = ClientId(1);
    const FILE: &str = "import os\n\ndef first(path):\n    return os.path.join(path, ";

    fn ends(before: &str, suffix: &str, client: ClientId) -> bool {
        let running = Running::default();
        let older = running.begin(ONE, FILE, "\n\nclass A:\n    pass\n");
        let _newer = running.begin(client, before, suffix);
        older.superseded.is_cancelled()
    }

    #[test]
    fn the_next_key_ends_the_request_of_the_last_one() {
        assert!(ends(&format!("{FILE}x"), "\n\nclass A:\n    pass\n", ONE));
        // A window that has moved on, at the end of a file.
        let suffix = "\n\nclass A:\n    pass\n";
        let window = "import a\nimport b\nimport contextlib\nimport dataclasses\n\nclass Window:\n    def first(self, path, other):\n        return self.";
        let running = Running::default();
        let older = running.begin(ONE, window, suffix);
        let _newer = running.begin(ONE, &format!("{}x", window.get(9..).unwrap()), suffix);
        assert!(older.superseded.is_cancelled());
        // A key that took something away.
        assert!(ends(FILE.get(..FILE.len() - 2).unwrap(), "\n\nclass A:\n    pass\n", ONE));
    }

    #[test]
    fn other_files_other_clients_and_the_same_request_are_left_alone() {
        assert!(!ends(&format!("{FILE}x"), "\n\nclass A:\n    pass\n", ClientId(2)));
        assert!(!ends("fn main() {\n    ", "\n}\n", ONE));
        let licence = "# Copyright of somebody, and the licence that is the same\n# in every file of the repository, word for word\n\n";
        let running = Running::default();
        let older = running.begin(ONE, &format!("{licence}def one():\n    return "), "");
        let _newer = running.begin(ONE, &format!("{licence}class Two:\n    def"), "");
        assert!(!older.superseded.is_cancelled());
        assert!(!ends(FILE, "\n\nclass A:\n    pass\n", ONE));
    }

    /// Of a paste the first and the last request are sent: the first cannot know that others follow.
    #[tokio::test(start_paused = true)]
    async fn only_requests_of_a_burst_wait_and_only_the_last_is_left() {
        const DEBOUNCE: Duration = Duration::from_millis(20);
        let running = Running::new(DEBOUNCE);
        let at = |typed: usize| format!("{FILE}{}", "x".repeat(typed));
        let waited = async |guard: &Guard| {
            let before = Instant::now();
            guard.settled().await;
            before.elapsed()
        };
        let first = running.begin(ONE, &at(0), "");
        assert_eq!(waited(&first).await, Duration::ZERO);
        let mut burst: Vec<Guard> = (1..10).map(|typed| running.begin(ONE, &at(typed), "")).collect();
        let last = burst.pop().unwrap();
        assert!(burst.iter().chain([&first]).all(|guard| guard.superseded.is_cancelled()));
        assert!(!last.superseded.is_cancelled());
        assert_eq!(waited(&last).await, DEBOUNCE);
        let slower = running.begin(ONE, &at(10), "");
        assert_eq!(waited(&slower).await, Duration::ZERO);
    }

    #[test]
    fn the_list_holds_only_what_runs() {
        let running = Running::default();
        drop(running.begin(ONE, FILE, ""));
        assert!(running.0.lock().unwrap().entries.is_empty());
    }
}
