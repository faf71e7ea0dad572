//! HTTP to the server: bounded connects, bounded answers, nothing followed, nothing repeated.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Uri;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use super::error::{ClientError, NotAuthentic, Refusal};
use super::idle::Idle;
use crate::protocol::{SERVER_HEADER, SESSION_HEADER, ServerId, SessionTag};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest sealed answer, in bytes: far more than any context gives.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// The longest refusal outside the seal, in bytes.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// How long the rest of an answer is read in the background: more than the 256 frames that streams on a slow server have.
const READ_ON_TIMEOUT: Duration = Duration::from_secs(60);
/// The path that answers whether the server runs, without a seal.
const LIVENESS_PATH: &str = "/livez";
/// The content type that tells a stream from an ordinary answer.
const EVENT_STREAM: &str = "text/event-stream";

/// Where the server is: scheme, host and port. Paths are the protocol's, so there is none here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(Uri);

/// The text is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be http://HOST[:PORT] or https://HOST[:PORT], without user, path or query")]
pub struct OriginError;

/// One HTTP client for one server.
#[derive(Debug)]
pub(super) struct Transport {
    http: reqwest::Client,
    origin: Origin,
    idle: Arc<Idle>,
}

/// The server that a request is meant for: sent as headers, in the clear.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recipient {
    /// Any other server refuses the request.
    pub(super) server: Option<ServerId>,
    /// What a load balancer keeps the requests of a session together by.
    pub(super) session: Option<SessionTag>,
}

/// An answer with status 200, its body not read yet.
pub(super) enum Incoming {
    /// A sealed answer in one piece.
    Whole(Body),
    /// Sealed frames as server-sent events.
    Stream(Body),
}

/// The bytes of an answer as they come.
pub(super) struct Body {
    /// None once it is read in the background.
    response: Option<reqwest::Response>,
    /// Where the connection is noted when the answer was read to its end.
    idle: Arc<Idle>,
    /// Set if it is read to its end even if it is dropped before. Dropped after that.
    read_on: Option<OwnedSemaphorePermit>,
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        // `Uri` drops a fragment silently.
        if text.contains(['#', '@']) {
            return Err(OriginError);
        }
        let uri: Uri = text.parse().map_err(|_| OriginError)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_bare = uri.path() == "/" && uri.query().is_none();
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        if is_http && is_bare && has_host { Ok(Self(uri)) } else { Err(OriginError) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.to_string().trim_end_matches('/'))
    }
}

impl Origin {
    fn is_loopback(&self) -> bool {
        let host = self.0.host().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

impl Transport {
    /// Sets up; connects to nothing yet.
    pub(super) fn new(origin: Origin) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would send the envelope to another server.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("codeseal/", env!("CARGO_PKG_VERSION")));
        if origin.is_loopback() {
            builder = builder.no_proxy();
        }
        if origin.0.scheme_str() == Some("http") {
            // No certificate is ever looked at, so a machine without any can still be used.
            builder = builder.tls_certs_only([]);
        }
        let http = builder
            .build()
            .map_err(|_| ClientError::Internal("cannot set up TLS: install the system's CA certificates"))?;
        Ok(Self { http, origin, idle: Arc::default() })
    }

    /// Sends `body` to `path` once.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if no answer begins, [`ClientError::Refused`] if its status is not 200.
    pub(super) async fn post(
        &self,
        path: &str,
        body: Vec<u8>,
        stream: bool,
        recipient: Recipient,
    ) -> Result<Incoming, ClientError> {
        let accept = if stream { EVENT_STREAM } else { "application/json" };
        let mut request = self.http.post(format!("{}{path}", self.origin)).header(ACCEPT, accept);
        if let Some(server) = recipient.server {
            request = request.header(SERVER_HEADER, server.to_string());
        }
        if let Some(session) = recipient.session {
            request = request.header(SESSION_HEADER, session.to_string());
        }
        self.idle.take();
        let sent = request.header(CONTENT_TYPE, "application/json").body(body).send().await;
        let response = sent.map_err(|error| ClientError::Unreachable(why(&error)))?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let status = response.status().as_u16();
        let body = |response| Body::new(response, &self.idle);
        if status != 200 {
            let retry_after = header(RETRY_AFTER).map(str::to_owned);
            // Whatever the body is, the refusal stands.
            let body = body(response).read(MAX_REFUSAL_BYTES).await.unwrap_or_default();
            return Err(Refusal::outside(status, &body, retry_after.as_deref(), unix_time()).into());
        }
        let is_stream = header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with(EVENT_STREAM));
        Ok(if is_stream { Incoming::Stream(body(response)) } else { Incoming::Whole(body(response)) })
    }

    /// Opens a connection for the next request, unless one is there or on its way.
    pub(super) async fn prepare(&self) {
        let Some(_preparing) = self.idle.prepare() else { return };
        let request = self.http.get(format!("{}{LIVENESS_PATH}", self.origin)).timeout(CONNECT_TIMEOUT);
        if let Ok(response) = request.send().await {
            let body = Body::new(response, &self.idle);
            // What it says does not matter: reading it to the end gives the connection back to the pool.
            body.read(MAX_REFUSAL_BYTES).await.ok();
        }
    }
}

impl Body {
    fn new(response: reqwest::Response, idle: &Arc<Idle>) -> Self {
        Self { response: Some(response), idle: Arc::clone(idle), read_on: None }
    }

    /// Reads it to its end even if it is dropped before, in the background: a connection that is closed in the middle of an answer
    /// shows the network that it was not wanted any more. `permit` is kept until the end.
    pub(super) fn read_on(&mut self, permit: OwnedSemaphorePermit) {
        self.read_on = Some(permit);
    }

    /// The next bytes, or `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, NotAuthentic> {
        let Some(response) = &mut self.response else { return Ok(None) };
        let chunk = response.chunk().await.map_err(|_| NotAuthentic::Cut)?;
        if chunk.is_none() {
            self.idle.give();
            self.read_on = None;
        }
        Ok(chunk)
    }

    /// Everything.
    pub(super) async fn whole(self) -> Result<Vec<u8>, NotAuthentic> {
        self.read(MAX_ANSWER_BYTES).await
    }

    async fn read(mut self, max: usize) -> Result<Vec<u8>, NotAuthentic> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if all.len() + chunk.len() > max {
                return Err(NotAuthentic::TooLong);
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let (Some(permit), Some(response)) = (self.read_on.take(), self.response.take()) else { return };
        // Without a runtime the process is about to end.
        let Ok(runtime) = Handle::try_current() else { return };
        let mut rest = Self::new(response, &self.idle);
        runtime.spawn(async move {
            let reading = async { while let Ok(Some(_)) = rest.chunk().await {} };
            tokio::time::timeout(READ_ON_TIMEOUT, reading).await.ok();
            drop(permit);
        });
    }
}

/// Seconds since 1970.
fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn why(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "it does not answer in time"
    } else if error.is_connect() {
        "no connection, check the address and the network"
    } else {
        "the connection ended before an answer began"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_an_address_and_nothing_else() {
        for (text, shown) in [
            ("http://h:8080", "http://h:8080"),
            ("http://h:8080/", "http://h:8080"),
            ("https://h", "https://h"),
            ("http://[::1]:8", "http://[::1]:8"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            "h:8080",
            "ftp://h",
            "http://h/v1",
            "http://h?x",
            "http://h#x",
            "http://u@h",
            "http://",
            "/x",
        ] {
            assert_eq!(wrong.parse::<Origin>(), Err(OriginError), "{wrong}");
        }
    }

    #[test]
    fn loopback_is_never_reached_through_a_proxy() {
        for (text, expected) in [
            ("http://127.0.0.9:1", true),
            ("http://[::1]:1", true),
            ("http://localhost:1", true),
            ("http://127.0.0.1.example.com", false),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().is_loopback(), expected, "{text}");
        }
    }
}
