//! What can go wrong on the employee's side, and the exit code that tells a script which it was.

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use super::input::InputError;
use super::printable::printable;
use super::verify::untrusted::Untrusted;
use crate::keys::WrapError;
use crate::protocol::{ErrorBody, ErrorCode, FrameError, REPLAY_WINDOW_SECS, Rejected};

/// The longest wait that a server can ask for: far beyond any that is begun.
const MAX_RETRY_AFTER_SECS: u64 = 24 * 60 * 60;

/// Why there is no completion.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The prompt cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The system failed: no random numbers, no TLS set-up.
    #[error("internal failure: {0}")]
    Internal(&'static str),
    /// The answer was not sealed under the session's key, or is incomplete.
    #[error("the answer is not authentic: {0}; do not use it")]
    NotAuthentic(#[from] NotAuthentic),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(ErrorKind),
    /// The issuer's public keys, which verify the attestation, cannot be fetched or read.
    #[error("cannot get the keys that verify attestation: {0}")]
    IssuerKeys(&'static str),
    /// The server refused the request.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The whole answer did not arrive in time.
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
    /// Whether the refusal was sealed. If not, anyone on the network may have written it.
    pub sealed: bool,
    /// After how long a repetition may succeed, if a wait can heal it.
    pub retry_after: Option<Duration>,
    /// How many seconds this machine's clock is ahead of the server's, if that is why.
    pub clock_ahead: Option<i128>,
}

impl Refusal {
    /// A refusal outside the seal: status, body and the `Retry-After` header as they came at `now`, in seconds since
    /// 1970.
    pub(super) fn outside(status: u16, body: &[u8], retry_after: Option<&str>, now: u64) -> Self {
        let error = serde_json::from_slice::<ErrorBody>(body).ok();
        let server_time = error.as_ref().and_then(|body| body.error.server_time);
        let mut refusal = Self::new(status, error, false);
        if refusal.code.as_deref() == Some(ErrorCode::ClockSkew.as_str()) {
            refusal.clock_ahead = server_time.map(|server| i128::from(now) - i128::from(server));
        }
        if matches!(status, 429 | 503) {
            // Without a readable header: soon. The number of attempts is bounded anyway.
            let secs = retry_after.and_then(|text| text.trim().parse().ok()).unwrap_or(1);
            refusal.retry_after = Some(Duration::from_secs(u64::min(secs, MAX_RETRY_AFTER_SECS)));
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
            clock_ahead: None,
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
        let Some(ahead) = self.clock_ahead else { return write!(f, ": {}", self.message) };
        let (secs, side) = (ahead.unsigned_abs(), if ahead < 0 { "behind" } else { "ahead of" });
        if secs > u128::from(REPLAY_WINDOW_SECS) / 2 {
            // Not sealed, so anyone on the network may have written it: no reason to trust the other clock.
            write!(
                f,
                ": this machine's clock is {secs} s {side} the server's: compare it with a source that you trust \
                 and correct it; the same request fails until the clocks agree"
            )
        } else {
            write!(f, ": the request was too long on its way, the clocks agree within {secs} s: try again")
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_cannot_steer_the_terminal_or_fill_it() {
        let mut body = ErrorCode::Internal.body(format!("\x1b[2J\u{202e}{}", "x".repeat(1000)));
        body.error.code = "\u{2066}\n\u{200b}".repeat(1000);
        let outside = Refusal::outside(500, &serde_json::to_vec(&body).unwrap(), None, 0);
        for refusal in [outside, Refusal::sealed(500, body)] {
            let shown = refusal.to_string();
            assert!(shown.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{shown}");
            assert!(shown.len() < 4096 && shown.contains("\\u{1b}[2J\\u{202e}xx"), "{shown}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_told_by_how_much_and_in_which_direction() {
        let refusal = |server_time, now| {
            let mut body = ErrorCode::ClockSkew.body("set the clock");
            body.error.server_time = server_time;
            Refusal::outside(409, &serde_json::to_vec(&body).unwrap(), None, now)
        };
        for (server, now, expected) in [
            (1000, 4600, "this machine's clock is 3600 s ahead of the server's"),
            (4600, 1000, "this machine's clock is 3600 s behind the server's"),
            (u64::MAX, 0, "18446744073709551615 s behind the server's"),
            (1000, 1001, "try again"),
        ] {
            let refusal = refusal(Some(server), now);
            assert!(refusal.to_string().contains(expected), "{refusal}");
            assert_eq!(refusal.retry_after, None);
        }
        assert!(refusal(None, 0).to_string().ends_with("(clock_skew): set the clock"));
        // Another error's time is not looked at.
        let mut body = ErrorCode::Replayed.body("seen");
        body.error.server_time = Some(1000);
        let replayed = Refusal::outside(409, &serde_json::to_vec(&body).unwrap(), None, 4600);
        assert_eq!((replayed.clock_ahead, replayed.to_string().contains("clock")), (None, false));
    }

    #[test]
    fn the_header_says_when_to_come_back() {
        for (status, header, expected) in [
            (503, Some("7"), Some(7)),
            (503, Some("Wed, 21 Oct 2026 07:28:00 GMT"), Some(1)),
            (429, None, Some(1)),
            (429, Some("18446744073709551615"), Some(MAX_RETRY_AFTER_SECS)),
            (500, Some("7"), None),
        ] {
            let refusal = Refusal::outside(status, b"<html>", header, 0);
            assert_eq!(refusal.retry_after, expected.map(Duration::from_secs), "{status} {header:?}");
        }
    }
}
