//! Everything that can go wrong, as one sentence with what to do, in the shape that the endpoint's clients read.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::dialect::BadBody;
use super::golden::BadAnswer;
use crate::client::{ClientError, Refusal};
use crate::protocol::ErrorCode;

/// OpenAI's SDKs repeat 408, 409, 429 and everything from 500 in silence, unless this header says "false".
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Whose clients read the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorShape {
    /// `{"error": {"message", "type", "param", "code"}}`
    OpenAi,
    /// `{"error": {"code": STATUS, "message", "type"}}`
    Llama,
    /// `{"error": "message"}`
    Ollama,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The body is no request of this endpoint.
    #[error("{0}")]
    BadBody(BadBody),
    /// A parameter is out of range, says the server.
    #[error("{0}")]
    BadParameter(String),
    /// The server has no room; a repetition may find some.
    #[error("the server is busy: try again in a second")]
    Busy,
    /// The body is too large.
    #[error("the request is larger than 1 MiB: send less of the file")]
    BodyTooLarge,
    /// The prompt does not fit the model's context.
    #[error("the prompt is too long for the model's 8192 tokens: send less context ({0})")]
    ContextTooLong(String),
    /// No whole answer in time.
    #[error("the server gave no whole answer in time: ask for fewer tokens")]
    Deadline,
    /// Another account of this machine.
    #[error(
        "the connection belongs to another account of this machine: start the proxy with --any-user to allow it"
    )]
    ForbiddenAccount,
    /// A name that is not this machine's.
    #[error("the Host header does not name this machine and port: use http://127.0.0.1:PORT")]
    ForbiddenHost,
    /// A web page of another origin.
    #[error(
        "the request comes from a web page of another origin: start the proxy with --allow-origin ORIGIN to allow it"
    )]
    ForbiddenOrigin,
    /// The proxy failed.
    #[error("internal failure: {0}")]
    Internal(&'static str),
    /// The path has another method.
    #[error("the path has another method")]
    MethodNotAllowed,
    /// The answer is forged, spliced or cut.
    #[error("the answer is not authentic: {0}; it was discarded")]
    NotAuthentic(String),
    /// The model does not complete code.
    #[error("the model cannot be used: {0}")]
    ModelFailed(BadAnswer),
    /// There is no session with a server now.
    #[error("not connected: {0}")]
    NotConnected(String),
    /// There is nothing at this path.
    #[error("{0}")]
    NotFound(&'static str),
    /// The server is not what the policy says.
    #[error("not verified: {0}")]
    NotVerified(String),
    /// The body does not come.
    #[error("the body of the request did not arrive in time")]
    SlowBody,
    /// The token is missing or wrong.
    #[error("the token is missing or wrong: send the proxy's token as `Authorization: Bearer TOKEN`")]
    Unauthorized,
    /// The server failed.
    #[error("the server failed: {0}")]
    Upstream(String),
}

impl Failure {
    /// What an error of the client library is to an editor.
    pub(super) fn of(error: &ClientError) -> Self {
        match error {
            ClientError::Untrusted(reason) => Self::NotVerified(reason.to_string()),
            ClientError::NotAuthentic(why) => Self::NotAuthentic(why.to_string()),
            ClientError::Refused(refusal) => Self::refused(refusal),
            ClientError::Unreachable(_)
            | ClientError::IssuerKeys(_)
            | ClientError::Wrap(_)
            | ClientError::TimedOut { .. } => Self::NotConnected(error.to_string()),
            _ => Self::Internal("the client cannot work: see `codeseal proxy status`"),
        }
    }

    fn refused(refusal: &Refusal) -> Self {
        let code = refusal.code.as_deref().unwrap_or_default();
        let is = |known: ErrorCode| code == known.as_str();
        if is(ErrorCode::ServerChanged) {
            return Self::NotConnected("another server answers now, and is being looked at first".to_owned());
        }
        if is(ErrorCode::EnvelopeRejected) {
            return Self::NotConnected(
                "the server cannot use the session's key, a new one is made".to_owned(),
            );
        }
        if is(ErrorCode::ClockSkew) {
            return Self::NotConnected(refusal.to_string());
        }
        if is(ErrorCode::Replayed) {
            return Self::Upstream("it has seen this request before: try again".to_owned());
        }
        match refusal.status {
            429 => Self::Busy,
            _ if is(ErrorCode::ReplaySetFull) => Self::Busy,
            _ if is(ErrorCode::ContextLengthExceeded) => Self::ContextTooLong(refusal.message.clone()),
            400 | 422 if refusal.sealed => Self::BadParameter(refusal.message.clone()),
            503 => Self::NotConnected(format!("the server says {code}: {}", refusal.message)),
            504 => Self::Deadline,
            _ => Self::Upstream(refusal.to_string()),
        }
    }

    /// The HTTP status.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadBody(_) | Self::BadParameter(_) | Self::ContextTooLong(_) => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::ForbiddenAccount | Self::ForbiddenHost | Self::ForbiddenOrigin | Self::NotVerified(_) => {
                StatusCode::FORBIDDEN
            }
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAuthentic(_) | Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::ModelFailed(_) | Self::NotConnected(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
        }
    }

    /// The stable name.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::BadBody(_) => "invalid_request",
            Self::BadParameter(_) => "invalid_parameter",
            Self::Busy => "server_busy",
            Self::BodyTooLarge => "payload_too_large",
            Self::ContextTooLong(_) => "context_length_exceeded",
            Self::Deadline => "deadline_exceeded",
            Self::ForbiddenAccount => "forbidden_account",
            Self::ForbiddenHost => "forbidden_host",
            Self::ForbiddenOrigin => "forbidden_origin",
            Self::Internal(_) => "internal",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ModelFailed(_) => "model_failed",
            Self::NotAuthentic(_) => "not_authentic",
            Self::NotConnected(_) => "not_connected",
            Self::NotFound(_) => "not_found",
            Self::NotVerified(_) => "not_verified",
            Self::SlowBody => "request_timeout",
            Self::Unauthorized => "invalid_token",
            Self::Upstream(_) => "server_failed",
        }
    }

    fn family(&self) -> &'static str {
        match self.status().as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The sentence that editors show. `page` is the status page's URL.
    pub(super) fn sentence(&self, page: &str) -> String {
        format!("codeseal: {self}. See {page}")
    }

    /// The JSON of this error.
    pub(super) fn json(&self, shape: ErrorShape, page: &str) -> Value {
        let message = self.sentence(page);
        match shape {
            ErrorShape::OpenAi => json!({
                "error": { "message": message, "type": self.family(), "param": null, "code": self.code() }
            }),
            ErrorShape::Llama => json!({
                "error": { "code": self.status().as_u16(), "message": message, "type": self.code() }
            }),
            ErrorShape::Ollama => json!({ "error": message }),
        }
    }

    /// The answer of an endpoint that failed before its first byte.
    pub(super) fn respond(&self, shape: ErrorShape, page: &str) -> Response {
        let mut response = Response::new(Body::from(self.json(shape, page).to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if *self == Self::Busy {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        } else {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if *self == Self::Unauthorized {
            // So that a browser asks for it when the status page is opened.
            headers
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"codeseal proxy token\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Untrusted;

    const PAGE: &str = "http://127.0.0.1:8012/";

    fn refusal(status: u16, code: ErrorCode, sealed: bool) -> Failure {
        let refusal = Refusal {
            status,
            code: Some(code.as_str().to_owned()),
            message: "do this".to_owned(),
            sealed,
            retry_after: None,
            clock_ahead: None,
        };
        Failure::of(&refusal.into())
    }

    /// The sentences as editors show them, each with the exit code of `codeseal verify` in front.
    const NOT_VERIFIED: &str = include_str!("../../tests/vectors/editors/not_verified.txt");

    #[test]
    fn each_reason_not_to_trust_a_server_is_one_sentence_with_a_place_to_look() {
        let sentence = |reason: Untrusted| {
            let failure = Failure::of(&reason.into());
            assert_eq!((failure.status().as_u16(), failure.code()), (403, "not_verified"));
            format!("{} {}", reason.exit_code(), failure.sentence(PAGE))
        };
        let sentences: Vec<String> = Untrusted::ALL.into_iter().map(sentence).collect();
        let golden: Vec<&str> = NOT_VERIFIED.lines().collect();
        assert_eq!(sentences, golden);
    }

    #[test]
    fn no_editor_ever_sees_421_or_409() {
        for (status, code, sealed, expected) in [
            (421, ErrorCode::ServerChanged, false, 503),
            (421, ErrorCode::ServerChanged, true, 503),
            (409, ErrorCode::Replayed, false, 502),
            (409, ErrorCode::ClockSkew, false, 503),
            (400, ErrorCode::EnvelopeRejected, false, 503),
            (429, ErrorCode::ServerBusy, true, 429),
            (503, ErrorCode::Draining, false, 503),
            (503, ErrorCode::ReplaySetFull, false, 429),
            (400, ErrorCode::ContextLengthExceeded, true, 400),
            (422, ErrorCode::InvalidParameter, true, 400),
            (504, ErrorCode::DeadlineExceeded, true, 504),
            (500, ErrorCode::Internal, true, 502),
        ] {
            assert_eq!(refusal(status, code, sealed).status().as_u16(), expected, "{}", code.as_str());
        }
    }

    #[test]
    fn only_a_busy_server_is_worth_another_try() {
        let header = |failure: &Failure| {
            let response = failure.respond(ErrorShape::OpenAi, PAGE);
            let headers = response.headers();
            (
                headers.get(SHOULD_RETRY).map(|value| value.to_str().unwrap().to_owned()),
                headers.get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned()),
            )
        };
        assert_eq!(header(&Failure::Busy), (None, Some("1".to_owned())));
        for failure in [Failure::Deadline, Failure::NotConnected(String::new()), Failure::Internal("x")] {
            assert_eq!(header(&failure), (Some("false".to_owned()), None));
        }
    }

    #[test]
    fn the_shape_is_the_endpoints() {
        let failure = Failure::NotConnected("x".to_owned());
        assert!(failure.json(ErrorShape::Ollama, PAGE)["error"].is_string());
        assert_eq!(failure.json(ErrorShape::Llama, PAGE)["error"]["code"], 503);
        assert_eq!(failure.json(ErrorShape::OpenAi, PAGE)["error"]["code"], "not_connected");
    }
}
