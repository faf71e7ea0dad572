//! Counters of the proxy's work, the last request of each client and the last error: no text.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use http::header::USER_AGENT;
use serde::Serialize;

use super::error::Failure;
use super::keystrokes::ClientId;
use super::link::now;
use super::server_api::Counts;

/// How many clients are listed.
const MAX_CLIENTS: usize = 32;
/// The longest name of a client that is kept, in characters.
const MAX_NAME_CHARS: usize = 40;

/// All counts since the start.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    requests: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    superseded: AtomicU64,
    reused: AtomicU64,
    speculated: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    clients: Vec<ClientRow>,
    last_error: Option<ErrorRow>,
}

/// The last request of a client.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ClientRow {
    client: String,
    endpoint: &'static str,
    outcome: &'static str,
    requests: u64,
    /// In seconds since 1970.
    at: u64,
}

/// The last error that a client was given.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ErrorRow {
    code: &'static str,
    message: String,
    endpoint: &'static str,
    at: u64,
}

/// A copy of all of it.
#[derive(Debug, Serialize)]
pub(super) struct Readings {
    pub(super) requests: u64,
    pub(super) cancelled: u64,
    pub(super) failed: u64,
    pub(super) superseded: u64,
    /// Answers made of an earlier prediction, without the server.
    pub(super) reused: u64,
    /// Answers that were requested ahead, after an accept.
    pub(super) speculated: u64,
    pub(super) prompt_tokens: u64,
    /// Those of them that the server's prefix cache had.
    pub(super) cached_tokens: u64,
    pub(super) generated_tokens: u64,
    pub(super) clients: Vec<ClientRow>,
    pub(super) last_error: Option<ErrorRow>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    Reused,
    Superseded,
}

/// One request. If it is dropped without an end, its client has left.
#[derive(Debug)]
pub(super) struct Ticket {
    ledger: Arc<Ledger>,
    client: String,
    endpoint: &'static str,
    ended: bool,
}

impl Ledger {
    /// Begins a request.
    pub(super) fn begin(self: &Arc<Self>, headers: &HeaderMap, endpoint: &'static str) -> Ticket {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Ticket { ledger: Arc::clone(self), client: client_name(headers), endpoint, ended: false }
    }

    /// All counts.
    pub(super) fn read(&self) -> Readings {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Readings {
            requests: count(&self.requests),
            cancelled: count(&self.cancelled),
            failed: count(&self.failed),
            superseded: count(&self.superseded),
            reused: count(&self.reused),
            speculated: count(&self.speculated),
            prompt_tokens: count(&self.prompt_tokens),
            cached_tokens: count(&self.cached_tokens),
            generated_tokens: count(&self.generated_tokens),
            clients: rows.clients.clone(),
            last_error: rows.last_error.clone(),
        }
    }

    /// An answer was requested ahead. It is no request of a client's, and costs tokens all the same.
    pub(super) fn speculated(&self, counts: Counts) {
        self.speculated.fetch_add(1, Ordering::Relaxed);
        self.prompt_tokens.fetch_add(counts.prompt, Ordering::Relaxed);
        self.cached_tokens.fetch_add(counts.cached(), Ordering::Relaxed);
        self.generated_tokens.fetch_add(counts.completion, Ordering::Relaxed);
    }

    fn note(&self, client: &str, endpoint: &'static str, outcome: &'static str, failure: Option<&Failure>) {
        let at = now();
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let known = rows.clients.iter().position(|row| row.client == client);
        let requests = known.map_or(0, |index| rows.clients.remove(index).requests) + 1;
        rows.clients.insert(0, ClientRow { client: client.to_owned(), endpoint, outcome, requests, at });
        rows.clients.truncate(MAX_CLIENTS);
        if let Some(failure) = failure {
            rows.last_error =
                Some(ErrorRow { code: failure.code(), message: failure.to_string(), endpoint, at });
        }
    }
}

impl Ticket {
    /// The request has its answer.
    pub(super) fn end(mut self, outcome: Outcome, counts: Counts) {
        let ledger = &self.ledger;
        let name = match outcome {
            Outcome::Answered => "answered",
            Outcome::Reused => {
                ledger.reused.fetch_add(1, Ordering::Relaxed);
                "reused"
            }
            Outcome::Superseded => {
                ledger.superseded.fetch_add(1, Ordering::Relaxed);
                "superseded"
            }
        };
        ledger.prompt_tokens.fetch_add(counts.prompt, Ordering::Relaxed);
        ledger.cached_tokens.fetch_add(counts.cached(), Ordering::Relaxed);
        ledger.generated_tokens.fetch_add(counts.completion, Ordering::Relaxed);
        ledger.note(&self.client, self.endpoint, name, None);
        self.ended = true;
    }

    /// The request has failed.
    pub(super) fn fail(mut self, failure: &Failure) {
        self.ledger.failed.fetch_add(1, Ordering::Relaxed);
        self.ledger.note(&self.client, self.endpoint, failure.code(), Some(failure));
        self.ended = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.ended {
            self.ledger.cancelled.fetch_add(1, Ordering::Relaxed);
            self.ledger.note(&self.client, self.endpoint, "cancelled", None);
        }
    }
}

/// Tells clients apart by what they say they are.
pub(super) fn client_id(headers: &HeaderMap) -> ClientId {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    let mut hasher = DefaultHasher::new();
    headers.get(USER_AGENT).map(http::HeaderValue::as_bytes).hash(&mut hasher);
    ClientId(hasher.finish())
}

/// What a client calls itself, in harmless characters.
fn client_name(headers: &HeaderMap) -> String {
    let name = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("(no name)");
    let harmless = |character: &char| character.is_ascii_alphanumeric() || " ./_-()".contains(*character);
    name.chars().filter(harmless).take(MAX_NAME_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_ends_in_one_way() {
        let ledger = Arc::new(Ledger::default());
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, "Editor<script>/1.0 (x)".parse().unwrap());
        ledger.begin(&headers, "infill").end(Outcome::Answered, Counts { prompt: 7, ..Counts::default() });
        ledger.begin(&headers, "infill").fail(&Failure::Busy);
        drop(ledger.begin(&headers, "infill"));
        let read = ledger.read();
        assert_eq!((read.requests, read.failed, read.cancelled, read.prompt_tokens), (3, 1, 1, 7));
        let [row] = read.clients.as_slice() else { panic!("one client") };
        assert_eq!(
            (row.client.as_str(), row.outcome, row.requests),
            ("Editorscript/1.0 (x)", "cancelled", 3)
        );
        assert_eq!(read.last_error.unwrap().code, "server_busy");
    }
}
