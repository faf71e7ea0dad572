//! The holes that are being filled: a newer request of the same client for the same file ends the older one.

use std::sync::{Arc, Mutex, PoisonError};

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
    entries: Vec<Entry>,
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
    superseded: CancellationToken,
}

/// One of them; it is off the list when this is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    list: Arc<Mutex<List>>,
    number: u64,
    superseded: CancellationToken,
}

impl Running {
    /// Notes a request, and ends those of the same client that it takes the place of.
    pub(crate) fn begin(&self, client: ClientId, before: &str, suffix: &str) -> Guard {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in list.entries.iter().filter(|entry| entry.client == client) {
            if entry.is_older(before, suffix) {
                entry.superseded.cancel();
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
            superseded: superseded.clone(),
        });
        Guard { list: Arc::clone(&self.0), number, superseded }
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
        let goes_on = last.trim().len() >= TELLING_BYTES / 4 && before.contains(last.as_str());
        !same && same_suffix && (goes_on || same_start && near && told_apart)
    }
}

impl Guard {
    /// Waits until a newer request takes this one's place.
    pub(crate) async fn superseded(&self) {
        self.superseded.cancelled().await;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.entries.retain(|entry| entry.number != self.number);
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

    #[test]
    fn the_list_holds_only_what_runs() {
        let running = Running::default();
        drop(running.begin(ONE, FILE, ""));
        assert!(running.0.lock().unwrap().entries.is_empty());
    }
}
