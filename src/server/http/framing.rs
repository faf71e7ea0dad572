//! Requests whose length or target could be read in two ways: they are refused, and their connection is closed.
//!
//! hyper refuses most by itself (RFC 9112, sections 2.2, 5 and 6): two lengths, a length that is no number, folded lines,
//! blanks before the colon, a transfer coding that does not end in `chunked`. Here is what it lets through.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{CONNECTION, EXPECT, HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, Version};

use crate::protocol::ErrorCode;
use crate::server::error::ApiError;
use crate::server::observation::Observation;
use crate::server::state::App;
use crate::telemetry::Endpoint;

/// The head of the request as it came over the wire, where that is known.
#[derive(Clone)]
pub(crate) struct RawHead(pub(crate) Arc<[u8]>);

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// 400: it breaks a rule of HTTP.
    Malformed(&'static str),
    /// 501: a transfer coding other than `chunked`.
    UnknownCoding,
    /// 417: it expects something other than `100-continue`.
    Expectation,
}

/// The middleware.
pub(crate) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let raw = request.extensions().get::<RawHead>().map_or(&[][..], |RawHead(head)| head);
    let fault = fault(request.version(), request.headers(), raw);
    match fault {
        Ok(()) => next.run(request).await,
        Err(fault) => {
            Observation::start(&app, Endpoint::Other).failed(ErrorCode::InvalidRequest);
            fault.answer()
        }
    }
}

impl Fault {
    fn answer(self) -> Response {
        let (status, message) = match self {
            Self::Malformed(message) => (StatusCode::BAD_REQUEST, message),
            Self::UnknownCoding => {
                (StatusCode::NOT_IMPLEMENTED, "transfer-encoding may be chunked and nothing else")
            }
            Self::Expectation => {
                (StatusCode::EXPECTATION_FAILED, "expect may be 100-continue and nothing else")
            }
        };
        let mut response = ApiError::new(ErrorCode::InvalidRequest, message).into_response();
        *response.status_mut() = status;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

fn fault(version: Version, headers: &HeaderMap, raw: &[u8]) -> Result<(), Fault> {
    transfer_encoding(headers, raw)?;
    host(version, headers)?;
    let is_known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    // HTTP/1.0 has no expectations: they are to be ignored.
    if version != Version::HTTP_10 && !headers.get_all(EXPECT).iter().all(is_known) {
        return Err(Fault::Expectation);
    }
    Ok(())
}

fn transfer_encoding(headers: &HeaderMap, raw: &[u8]) -> Result<(), Fault> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(first) = codings.next() else { return Ok(()) };
    let all = || {
        headers
            .get_all(TRANSFER_ENCODING)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
    };
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    if !all().all(is_chunked) {
        return Err(Fault::UnknownCoding);
    }
    if codings.next().is_some() || !first.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Fault::Malformed("transfer-encoding must be chunked, once"));
    }
    // hyper has removed the length from the headers, and closes the connection after the answer.
    if has_length(raw) {
        return Err(Fault::Malformed("a request has either a content-length or a transfer-encoding"));
    }
    Ok(())
}

/// Whether a line of the head is a content-length.
fn has_length(head: &[u8]) -> bool {
    let lines = head.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).skip(1);
    lines.take_while(|line| !line.is_empty()).any(|line| {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        name.eq_ignore_ascii_case(b"content-length")
    })
}

/// HTTP/1.1 asks for exactly one host line. What it says is of no use here, but others on the way may go by it.
fn host(version: Version, headers: &HeaderMap) -> Result<(), Fault> {
    let mut hosts = headers.get_all(HOST).iter();
    let fault = Err(Fault::Malformed("there must be one host line, with a host or nothing in it"));
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_10 => Ok(()),
        (Some(host), None) if host.is_empty() => Ok(()),
        (Some(host), None) => match Authority::try_from(host.as_bytes()) {
            Ok(authority) if !authority.as_str().contains('@') => Ok(()),
            _ => fault,
        },
        _ => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(version: Version, lines: &[(&'static str, &'static str)], raw: &[u8]) -> Result<(), Fault> {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        fault(version, &headers, raw)
    }

    #[test]
    fn a_coding_is_chunked_and_nothing_else() {
        let host = ("host", "x");
        let check = |lines: &[_]| faulty(Version::HTTP_11, lines, b"");
        assert_eq!(check(&[host, ("transfer-encoding", "Chunked")]), Ok(()));
        for codings in ["gzip, chunked", "identity,chunked", "chunked;q=1", "", ",chunked"] {
            let found = check(&[host, ("transfer-encoding", codings)]);
            assert_eq!(found, Err(Fault::UnknownCoding), "{codings}");
        }
        for lines in [vec!["chunked, chunked"], vec!["chunked", "chunked"]] {
            let lines: Vec<_> = lines.into_iter().map(|value| ("transfer-encoding", value)).collect();
            assert!(matches!(check(&[&lines[..], &[host]].concat()), Err(Fault::Malformed(_))));
        }
        let two = [host, ("transfer-encoding", "identity"), ("transfer-encoding", "chunked")];
        assert_eq!(check(&two), Err(Fault::UnknownCoding));
    }

    #[test]
    fn a_length_beside_a_coding_is_found_in_the_head_only() {
        let lines = [("host", "x"), ("transfer-encoding", "chunked")];
        let check = |raw: &[u8]| faulty(Version::HTTP_11, &lines, raw);
        assert!(check(b"POST / HTTP/1.1\r\nContent-LENGTH: 3\r\n\r\n").is_err());
        assert!(check(b"POST / HTTP/1.1\nhost: x\ncontent-length:3\n\n").is_err());
        assert!(check(b"POST / HTTP/1.1\r\nx: content-length: 3\r\n\r\ncontent-length: 3\r\n").is_ok());
    }

    #[test]
    fn there_is_one_host() {
        let check = |version, lines: &[_]| faulty(version, lines, b"").is_ok();
        for good in ["x", "x:80", "[::1]:80", "127.0.0.1", ""] {
            assert!(check(Version::HTTP_11, &[("host", good)]), "{good}");
        }
        for bad in ["x y", "u@x", "x/y", "x:80:80"] {
            assert!(!check(Version::HTTP_11, &[("host", bad)]), "{bad}");
        }
        assert!(!check(Version::HTTP_11, &[]) && check(Version::HTTP_10, &[]));
        assert!(!check(Version::HTTP_11, &[("host", "x"), ("host", "x")]));
        assert!(!check(Version::HTTP_10, &[("host", "x"), ("host", "y")]));
    }

    #[test]
    fn an_expectation_is_100_continue() {
        let check = |version, value| faulty(version, &[("host", "x"), ("expect", value)], b"");
        assert_eq!(check(Version::HTTP_11, "100-Continue"), Ok(()));
        assert_eq!(check(Version::HTTP_11, "200-ok"), Err(Fault::Expectation));
        assert_eq!(check(Version::HTTP_10, "200-ok"), Ok(()));
    }
}
