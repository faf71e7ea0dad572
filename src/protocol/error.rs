//! Errors of the protocol: one shape, a closed set of codes, no oracle.

use serde::{Deserialize, Serialize};

/// Something about an envelope is wrong.
///
/// It carries no detail on purpose: bad base64, a forged token, a foreign key and a bad padding must look
/// the same to the sender, or the server becomes a decryption oracle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the envelope was rejected: check the key, the encoding and the path that it was sealed for")]
pub struct Rejected;

/// Every error that the server can answer with: the closed set of `error.code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The launcher's token has expired, and there is no fresh one.
    AttestationExpired,
    /// The launcher makes no token to order now.
    AttestationUnavailable,
    /// The envelope's timestamp is too far from the server's clock.
    ClockSkew,
    /// The prompt and the tokens asked for do not fit the model's context.
    ContextLengthExceeded,
    /// The request did not finish within its deadline.
    DeadlineExceeded,
    /// The server is shutting down; another replica will answer.
    Draining,
    /// Base64, Fernet, the key, the KMS ciphertext or the path is wrong; deliberately one code for all.
    EnvelopeRejected,
    /// The server failed; nothing is known about why outside its own log.
    Internal,
    /// A parameter is outside its documented range.
    InvalidParameter,
    /// The body is not the JSON that this path takes.
    InvalidRequest,
    /// Cloud KMS or the token exchange cannot be reached, or refuses this workload.
    KeyServiceUnavailable,
    /// The DEK was wrapped under a version of the KMS key that is disabled or destroyed.
    KeyVersionDisabled,
    /// The method is not one that this path takes.
    MethodNotAllowed,
    /// There is nothing at this path.
    NotFound,
    /// The body is larger than the server takes.
    PayloadTooLarge,
    /// This very envelope was seen before.
    Replayed,
    /// The server remembers as many envelopes as it can, and lets none in unremembered.
    ReplaySetFull,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The queue is full: backpressure.
    ServerBusy,
    /// The request was meant for another process than this one.
    ServerChanged,
    /// The model is still loading.
    Starting,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::AttestationExpired,
        Self::AttestationUnavailable,
        Self::ClockSkew,
        Self::ContextLengthExceeded,
        Self::DeadlineExceeded,
        Self::Draining,
        Self::EnvelopeRejected,
        Self::Internal,
        Self::InvalidParameter,
        Self::InvalidRequest,
        Self::KeyServiceUnavailable,
        Self::KeyVersionDisabled,
        Self::MethodNotAllowed,
        Self::NotFound,
        Self::PayloadTooLarge,
        Self::Replayed,
        Self::ReplaySetFull,
        Self::RequestTimeout,
        Self::ServerBusy,
        Self::ServerChanged,
        Self::Starting,
    ];

    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::ContextLengthExceeded | Self::EnvelopeRejected | Self::InvalidRequest => 400,
            Self::KeyVersionDisabled => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::ClockSkew | Self::Replayed => 409,
            Self::PayloadTooLarge => 413,
            Self::ServerChanged => 421,
            Self::InvalidParameter => 422,
            Self::ServerBusy => 429,
            Self::Internal => 500,
            Self::AttestationExpired
            | Self::AttestationUnavailable
            | Self::Draining
            | Self::KeyServiceUnavailable
            | Self::ReplaySetFull
            | Self::Starting => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// Seconds after which a repetition may succeed, for the codes that a wait can heal.
    pub fn retry_after_secs(self) -> Option<u64> {
        match self {
            Self::ServerBusy => Some(1),
            Self::Draining | Self::KeyServiceUnavailable => Some(2),
            Self::AttestationUnavailable | Self::Starting => Some(5),
            Self::AttestationExpired | Self::ReplaySetFull => Some(30),
            _ => None,
        }
    }

    /// The family that OpenAI's clients look at.
    pub fn kind(self) -> &'static str {
        match self.status() {
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            503 => "service_unavailable_error",
            _ => "server_error",
        }
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttestationExpired => "attestation_expired",
            Self::AttestationUnavailable => "attestation_unavailable",
            Self::ClockSkew => "clock_skew",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Draining => "draining",
            Self::EnvelopeRejected => "envelope_rejected",
            Self::Internal => "internal",
            Self::InvalidParameter => "invalid_parameter",
            Self::InvalidRequest => "invalid_request",
            Self::KeyServiceUnavailable => "key_service_unavailable",
            Self::KeyVersionDisabled => "key_version_disabled",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotFound => "not_found",
            Self::PayloadTooLarge => "payload_too_large",
            Self::Replayed => "replayed",
            Self::ReplaySetFull => "replay_set_full",
            Self::RequestTimeout => "request_timeout",
            Self::ServerBusy => "server_busy",
            Self::ServerChanged => "server_changed",
            Self::Starting => "starting",
        }
    }

    /// The body for this code; `message` must say what to do and hold nothing that a user sent.
    pub fn body(self, message: impl Into<String>) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                kind: self.kind().to_owned(),
                code: self.as_str().to_owned(),
                message: message.into(),
                server_time: None,
                param: None,
            },
        }
    }
}

impl ErrorBody {
    /// The same about the member `param` of the request.
    #[must_use]
    pub fn about(mut self, param: impl Into<String>) -> Self {
        self.error.param = Some(param.into());
        self
    }
}

/// `{"error": {"type", "code", "message"}}`, with `server_time` for [`ErrorCode::ClockSkew`], inside and outside the seal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The only member, as in OpenAI's API.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// The family, see [`ErrorCode::kind`].
    #[serde(rename = "type")]
    pub kind: String,
    /// The code, see [`ErrorCode::as_str`]; a text, because a newer server may send one that is unknown here.
    pub code: String,
    /// What to do about it.
    pub message: String,
    /// The server's clock in seconds since 1970, where the error is about clocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<u64>,
    /// The member of the request that it is about, if it is about one: `messages[2].content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
}
