//! What can go wrong on the employee's side, and the exit code that tells a script which it was.
//!
//! Must not touch: prompts, completions.

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use super::input::InputError;
use super::verify::Untrusted;
use crate::keys::WrapError;
use crate::protocol::{ErrorBody, ErrorCode, FrameError, Rejected};

/// The longest message of a server that is shown, in characters.
const MAX_MESSAGE_CHARS: usize = 300;

/// Why there is no completion.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The prompt cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The system failed: no randomness, no TLS set-up.
    #[error("internal failure: {0}")]
    Internal(&'static str),
    /// The answer did not come from whoever holds the session's key, or not whole.
    #[error("the answer is not authentic: {0}; do not use it")]
    NotAuthentic(#[from] NotAuthentic),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(ErrorKind),
    /// The issuer's keys, which attestation is verified with, cannot be had.
    #[error("cannot get the keys that verify attestation: {0}")]
    IssuerKeys(&'static str),
    /// The server said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no whole answer in time.
    #[error("no answer within {secs} s: try again, or raise --timeout-secs")]
    TimedOut {
        /// How long it was waited for.
        secs: u64,
    },
    /// There is no connection, or it ended before an answer began.
    #[error("cannot reach the server: {0}")]
    Unreachable(&'static str),
    /// The server is not what the policy says.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The session's key could not be wrapped.
    #[error("cannot wrap the session's key: {0}")]
    Wrap(#[from] WrapError),
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAuthentic {
    /// The connection ended in the middle of it.
    #[error("it was cut short")]
    Cut,
    /// A sealed stream is not what the server wrote.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// It opens, yet is not an answer of this protocol.
    #[error("it does not hold what this protocol says")]
    Malformed,
    /// It was not sealed under the session's key.
    #[error("it was not sealed under this session's key")]
    NotSealed,
    /// It is longer than an answer can be.
    #[error("it is longer than an answer can be")]
    TooLong,
    /// It answers another request.
    #[error("it answers another request")]
    WrongRequest,
}

/// The server's refusal, in words that are safe to print on a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, or the one inside the seal.
    pub status: u16,
    /// The protocol's code, if the server named one.
    pub code: Option<String>,
    /// What the server says to do.
    pub message: String,
    /// Whether the refusal came under the seal; otherwise anybody on the way may have written it.
    pub sealed: bool,
    /// After how long a repetition may succeed, if a wait can heal it.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal outside the seal: status, body and the `Retry-After` header as they came.
    pub(super) fn outside(status: u16, body: &[u8], retry_after: Option<&str>) -> Self {
        let error = serde_json::from_slice::<ErrorBody>(body).ok();
        let mut refusal = Self::new(status, error, false);
        if matches!(status, 429 | 503) {
            // Without a readable header: soon. The number of attempts is bounded anyway.
            let secs = retry_after.and_then(|text| text.trim().parse().ok()).unwrap_or(1);
            refusal.retry_after = Some(Duration::from_secs(secs));
        }
        refusal
    }

    /// A refusal under the seal.
    pub(super) fn sealed(status: u16, error: ErrorBody) -> Self {
        let mut refusal = Self::new(status, Some(error), true);
        if matches!(status, 429 | 503) {
            refusal.retry_after = refusal.retry_after.or(Some(Duration::from_secs(1)));
        }
        refusal
    }

    fn new(status: u16, error: Option<ErrorBody>, sealed: bool) -> Self {
        let (code, message) = match error {
            Some(ErrorBody { error }) => (Some(printable(&error.code)), printable(&error.message)),
            None => (None, String::from("the answer is not one of a codeseal server")),
        };
        let known = code.as_deref().and_then(known);
        Self {
            status: known.filter(|_| status == 200).map_or(status, ErrorCode::status),
            retry_after: known.and_then(ErrorCode::retry_after_secs).map(Duration::from_secs),
            code,
            message,
            sealed,
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server refused with status {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " ({code})")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl From<Rejected> for NotAuthentic {
    fn from(Rejected: Rejected) -> Self {
        Self::NotSealed
    }
}

impl From<Rejected> for ClientError {
    fn from(Rejected: Rejected) -> Self {
        Self::NotAuthentic(NotAuthentic::NotSealed)
    }
}

/// The exit code of `codeseal complete` and `codeseal verify` for this error; success is 0.
pub fn exit_code(error: &ClientError) -> u8 {
    match error {
        ClientError::Refused(_) => 1,
        ClientError::Input(_) => 2,
        ClientError::IssuerKeys(_) | ClientError::TimedOut { .. } | ClientError::Unreachable(_) => 3,
        ClientError::Untrusted(reason) => reason.exit_code(),
        ClientError::NotAuthentic(_) => 4,
        ClientError::Wrap(error) => match error {
            WrapError::Denied | WrapError::KeyUnusable | WrapError::Rejected => 1,
            WrapError::Unauthenticated => 2,
            WrapError::Timeout | WrapError::Unavailable => 3,
            WrapError::Corrupted => 4,
            WrapError::Setup => 70,
        },
        ClientError::Internal(_) | ClientError::Output(_) => 70,
    }
}

fn known(code: &str) -> Option<ErrorCode> {
    serde_json::from_value(serde_json::Value::from(code)).ok()
}

/// Foreign text without what could steer a terminal, and not without end.
fn printable(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(MAX_MESSAGE_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_cannot_steer_the_terminal_or_fill_it() {
        let body = ErrorCode::Internal.body(format!("\x1b[2J{}", "x".repeat(1000)));
        let refusal = Refusal::outside(500, &serde_json::to_vec(&body).unwrap(), None);
        assert!(!refusal.message.contains('\x1b'));
        assert_eq!(refusal.message.chars().count(), MAX_MESSAGE_CHARS);
    }

    #[test]
    fn the_header_says_when_to_come_back() {
        for (status, header, expected) in [
            (503, Some("7"), Some(7)),
            (503, Some("Wed, 21 Oct 2026 07:28:00 GMT"), Some(1)),
            (429, None, Some(1)),
            (500, Some("7"), None),
        ] {
            let refusal = Refusal::outside(status, b"<html>", header);
            assert_eq!(refusal.retry_after, expected.map(Duration::from_secs), "{status} {header:?}");
        }
    }
}
