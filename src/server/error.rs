//! The one error type that the server answers with: a code, and a message that holds no secret.

use std::borrow::Cow;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};

use crate::protocol::openai::RequestError;
use crate::protocol::{ErrorBody, ErrorCode, Rejected};
use crate::server::admit::replay::ReplayError;

/// A code and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    code: ErrorCode,
    message: Cow<'static, str>,
    /// Seconds since 1970.
    server_time: Option<u64>,
    /// The member of the request that it is about.
    param: Option<Cow<'static, str>>,
}

impl ApiError {
    /// An error whose message says more than the code does; it must hold nothing that a user sent.
    pub(crate) fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), server_time: None, param: None }
    }

    /// A parameter is outside its range.
    pub(crate) fn parameter(message: &'static str) -> Self {
        Self::new(ErrorCode::InvalidParameter, message)
    }

    /// An envelope was sealed at `sealed`, and it is `now`, in seconds since 1970: more than `window` seconds apart.
    fn clock_skew(sealed: u64, now: u64, window: u64) -> Self {
        let (secs, side) = if sealed > now { (sealed - now, "ahead of") } else { (now - sealed, "behind") };
        let message = format!(
            "the envelope's timestamp is {secs} s {side} the server's clock, and may be {window} s: correct the \
             clock of the machine that sealed it, or send what was sealed sooner"
        );
        Self { server_time: Some(now), ..Self::new(ErrorCode::ClockSkew, message) }
    }

    /// The member `name` of the request is not what it may be; `problem` is read behind the name.
    pub(crate) fn member(name: impl Into<Cow<'static, str>>, problem: &str) -> Self {
        let name = name.into();
        let message = format!("{name} {problem}");
        Self { param: Some(name), ..Self::new(ErrorCode::InvalidParameter, message) }
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    /// The JSON of the answer, inside and outside the seal.
    pub(crate) fn body(&self) -> ErrorBody {
        let mut body = self.code.body(self.message.clone());
        body.error.server_time = self.server_time;
        match &self.param {
            Some(param) => body.about(param.clone()),
            None => body,
        }
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, message(code))
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotAnObject => Self::new(ErrorCode::InvalidRequest, error.to_string()),
            RequestError::Member { member, problem } => Self::member(member, problem),
        }
    }
}

impl From<Rejected> for ApiError {
    fn from(Rejected: Rejected) -> Self {
        ErrorCode::EnvelopeRejected.into()
    }
}

impl From<ReplayError> for ApiError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Seen => ErrorCode::Replayed.into(),
            ReplayError::Full => ErrorCode::ReplaySetFull.into(),
            ReplayError::NotFresh { sealed, now, window } => Self::clock_skew(sealed, now, window),
        }
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
        ErrorCode::ClockSkew => "the envelope's timestamp is too far from the server's clock: set the clock",
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
        ErrorCode::Replayed => "this envelope was seen before: seal the request again",
        ErrorCode::ReplaySetFull => "the server remembers as many envelopes as it can: retry later",
        ErrorCode::RequestTimeout => "the body did not arrive in time",
        ErrorCode::ServerBusy => "the server is overloaded: retry",
        ErrorCode::ServerChanged => "another server answers now: verify it, then seal the request again",
        ErrorCode::Starting => "the model is still loading: retry",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_printable_ascii_so_that_clients_need_not_escape_it() {
        for code in ErrorCode::ALL {
            let error = ApiError::from(code);
            assert!(error.message.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{code:?}");
        }
    }

    #[test]
    fn a_clock_that_is_off_is_told_by_how_much_and_in_which_direction() {
        for (sealed, now, expected) in [(4600, 1000, "3600 s ahead of"), (1000, 4600, "3600 s behind")] {
            let body = ApiError::from(ReplayError::NotFresh { sealed, now, window: 300 }).body();
            assert_eq!((body.error.code.as_str(), body.error.server_time), ("clock_skew", Some(now)));
            assert!(body.error.message.contains(expected), "{}", body.error.message);
        }
        let other = serde_json::to_string(&ApiError::from(ReplayError::Seen).body()).unwrap();
        assert!(other.contains("replayed") && !other.contains("server_time") && !other.contains("clock"));
        let rejected = ApiError::from(Rejected).body().error.message;
        assert!(!rejected.contains("clock") && !Rejected.to_string().contains("clock"));
    }
}
