//! The one error that the server answers with: a code, and a message that is safe to show to anybody.

use std::borrow::Cow;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use crate::protocol::{ErrorBody, ErrorCode, Rejected};

/// A code and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    code: ErrorCode,
    message: Cow<'static, str>,
}

impl ApiError {
    /// An error whose message says more than the code does; it must hold nothing that a user sent.
    pub(super) fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// A parameter is outside its range.
    pub(super) fn parameter(message: &'static str) -> Self {
        Self::new(ErrorCode::InvalidParameter, message)
    }

    pub(super) fn code(&self) -> ErrorCode {
        self.code
    }

    /// The JSON of the answer, inside and outside the seal.
    pub(super) fn body(&self) -> ErrorBody {
        self.code.body(self.message.clone())
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, message(code))
    }
}

impl From<Rejected> for ApiError {
    fn from(Rejected: Rejected) -> Self {
        ErrorCode::EnvelopeRejected.into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body())).into_response();
        if let Some(seconds) = self.code.retry_after_secs() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn message(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::AttestationExpired => "the attestation token has expired: retry later",
        ErrorCode::AttestationUnavailable => "the launcher makes no attestation token now: retry",
        ErrorCode::ContextLengthExceeded => "the prompt does not fit the model's context: shorten it",
        ErrorCode::DeadlineExceeded => "the request took too long: ask for fewer tokens",
        ErrorCode::Draining => "the server is shutting down: retry",
        ErrorCode::EnvelopeRejected => {
            "the envelope was rejected: check the key, the encoding and the path that it was sealed for"
        }
        ErrorCode::Internal => "the server failed",
        ErrorCode::InvalidParameter => "a parameter is outside its range",
        ErrorCode::InvalidRequest => "the body is not the JSON that this path takes",
        ErrorCode::KeyServiceUnavailable => "the key service is unavailable: retry",
        ErrorCode::KeyVersionDisabled => {
            "the key was wrapped under a KMS key version that is disabled or destroyed: wrap a new key"
        }
        ErrorCode::MethodNotAllowed => "this path takes another method",
        ErrorCode::NotFound => "there is nothing at this path",
        ErrorCode::PayloadTooLarge => "the body is too large",
        ErrorCode::Replayed => "this envelope was seen before or is too old: seal the request again",
        ErrorCode::ReplaySetFull => "the server remembers as many envelopes as it can: retry later",
        ErrorCode::RequestTimeout => "the body did not arrive in time",
        ErrorCode::ServerBusy => "the server has as much work as it takes: retry",
        ErrorCode::ServerChanged => "another server answers now: verify it, then seal the request again",
        ErrorCode::Starting => "the model is still loading: retry",
    }
}
