//! The values that labels of metrics and fields of events can take: nothing that a user sends.

use serde::{Serialize, Serializer};

use crate::protocol::ErrorCode;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `/attestation`
    Attestation,
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/generate`
    Generate,
    /// Any path or method that the server does not have.
    Other,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestOutcome {
    /// The client went away first.
    Cancelled,
    /// With an error, inside or outside the seal.
    Failed(ErrorCode),
    /// Answered.
    Ok,
}

/// Which hardening steps worked.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Hardening {
    /// The core dump limit is zero.
    pub core_dumps_off: bool,
    /// Neither debuggers nor `/proc/PID/mem` read this process.
    pub undumpable: bool,
    /// Pages are locked as they are touched; only tried where no limit could make later allocations fail.
    pub memory_locked: bool,
}

impl Endpoint {
    /// The name in metrics and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attestation => "attestation",
            Self::ChatCompletions => "chat_completions",
            Self::Completions => "completions",
            Self::Generate => "generate",
            Self::Other => "other",
        }
    }
}

impl RequestOutcome {
    /// The name in metrics and events: `ok`, `cancelled`, or the error's code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Failed(code) => code.as_str(),
            Self::Ok => "ok",
        }
    }
}

impl Serialize for RequestOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
