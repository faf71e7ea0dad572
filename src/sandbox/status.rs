//! Google's canonical error codes and their JSON shape.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

/// The canonical codes that the sandbox answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidArgument = 3,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// An error as Google's APIs state it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: Code,
    /// The HTTP status, where a fault asks for one that is not the code's own.
    http: Option<StatusCode>,
    pub(super) message: String,
}

impl Code {
    fn http(self) -> StatusCode {
        match self {
            Self::InvalidArgument | Self::FailedPrecondition => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl Status {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, http: None, message: message.into() }
    }

    /// The error that goes with an HTTP status that a fault asks for.
    pub(super) fn of_http(http: StatusCode) -> Self {
        let code = match http.as_u16() {
            400 => Code::InvalidArgument,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::NotFound,
            429 => Code::ResourceExhausted,
            501 => Code::Unimplemented,
            502..=504 => Code::Unavailable,
            _ => Code::Internal,
        };
        Self { code, http: Some(http), message: "a fault that was asked for".to_owned() }
    }

    /// No token, or one that is not (or no longer) known.
    pub(super) fn unauthenticated() -> Self {
        Self::new(
            Code::Unauthenticated,
            "Request had invalid authentication credentials. Expected OAuth 2 access token.",
        )
    }
}

impl IntoResponse for Status {
    fn into_response(self) -> Response {
        let http = self.http.unwrap_or_else(|| self.code.http());
        let error = json!({"code": http.as_u16(), "message": self.message, "status": self.code.name()});
        (http, Json(json!({"error": error}))).into_response()
    }
}
