//! Answers requests: guard, route, body, then the endpoint.

mod complete;
mod info;
mod pump;
mod relay;
mod routes;
mod speculate;
mod status;
mod texts;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE,
    VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

pub use self::relay::{Relayed, relay};
use self::routes::{Hint, Route};
pub(super) use self::speculate::Speculation;
use super::context::Repository;
use super::cover::Cover;
use super::error::Failure;
use super::keystrokes::{Running, Windows};
use super::ledger::Ledger;
use super::link::Fleet;
use super::listen::{self, Activity, Guard, Pass, Peer};
use super::page;
use super::server_api::Features;
use crate::protocol::HoleStart;
use crate::secret::Secret;

/// The largest body, in bytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How much of a larger one is read and discarded: a client that is still sending would not see the refusal.
const MAX_REFUSED_BYTES: usize = 16 * MAX_BODY_BYTES;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

const PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The state that all requests share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) fleet: Fleet,
    pub(super) guard: Guard,
    pub(super) ledger: Arc<Ledger>,
    pub(super) windows: Windows,
    pub(super) running: Running,
    pub(super) layout: HoleStart,
    pub(super) speculation: Speculation,
    /// The rhythm that requests leave at, if they do.
    pub(super) cover: Option<Arc<Cover>>,
    /// Whose files go with holes.
    pub(super) repository: Option<Arc<Repository>>,
    /// For a whole answer.
    pub(super) timeout: Duration,
    /// Streams of at most this many tokens are requested as whole answers.
    pub(super) whole_below: usize,
    /// What is said of the settings on the status page.
    pub(super) policy: Option<String>,
    /// Seconds since 1970.
    pub(super) started: u64,
}

/// The headers of a request, and its connection.
pub(super) struct Call {
    pub(super) headers: HeaderMap,
    /// The status page, as the client can reach it.
    pub(super) page: String,
    pub(super) activity: Activity,
}

impl Core {
    /// Where holes begin at a server with `features`.
    fn layout_for(&self, features: Features) -> HoleStart {
        if features.holes { self.layout } else { HoleStart::Cursor }
    }

    /// Answers one request.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        activity: Activity,
    ) -> Response {
        let (parts, body) = request.into_parts();
        let route = Route::of(&parts.method, parts.uri.path());
        let call = Call { headers: parts.headers, page: listen::page(peer.local), activity };
        let shape = route.error_shape();
        let is_preflight = parts.method == Method::OPTIONS;
        let pass = self.guard.check(&peer, &parts.uri, &call.headers, is_preflight);
        let (origin, mut response) = match pass {
            Err(failure) => {
                // A wrong token is an editor's wrong setting, and is counted. Foreign pages and accounts are not.
                if failure == Failure::Unauthorized
                    && !is_preflight
                    && let Some(endpoint) = route.endpoint()
                {
                    self.ledger.begin(&call.headers, endpoint).fail(&failure);
                }
                (None, failure.respond(shape, &call.page))
            }
            Ok(Pass { origin }) if is_preflight => (origin, preflight(&call.headers)),
            Ok(Pass { origin }) => {
                let answered = self.route(route, &parts.method, body, &call).await;
                (origin, answered.unwrap_or_else(|failure| failure.respond(shape, &call.page)))
            }
        };
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        match origin {
            Some(origin) => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                headers.insert(VARY, HeaderValue::from_static("origin"));
            }
            None => {
                headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
            }
        }
        response
    }

    async fn route(
        self: &Arc<Self>,
        route: Route,
        method: &Method,
        body: Incoming,
        call: &Call,
    ) -> Result<Response, Failure> {
        if !route.allows(method) {
            return Err(Failure::MethodNotAllowed);
        }
        if matches!(route, Route::Complete(_) | Route::Info(_) | Route::Playground) {
            self.fleet.touch();
        }
        match route {
            Route::Complete(endpoint) => {
                let ticket = self.ledger.begin(&call.headers, endpoint.name());
                let body = match read(body).await {
                    Ok(body) => body,
                    Err(failure) => {
                        ticket.fail(&failure);
                        return Err(failure);
                    }
                };
                // From here on the connection counts as busy.
                let _busy = call.activity.begin();
                complete::answer(self, endpoint, &body, call, ticket).await
            }
            Route::Info(info) => {
                let body = if *method == Method::POST { read(body).await? } else { Secret::default() };
                Ok(info::answer(self, &info, &body, call))
            }
            Route::Page(file) => Ok(page::answer(file)),
            Route::Status => Ok(json(&status::status(self))),
            Route::Playground => {
                let body = read(body).await?;
                let _busy = call.activity.begin();
                complete::playground(self, &body, self.ledger.begin(&call.headers, "playground")).await
            }
            Route::Wrong(hint @ Hint::Automatic) => Err(Failure::NotFound(hint.sentence())),
            Route::Wrong(hint) => {
                let failure = Failure::NotFound(hint.sentence());
                self.ledger.begin(&call.headers, hint.name()).fail(&failure);
                Err(failure)
            }
        }
    }
}

impl Call {
    /// Whether a browser asks for a page.
    pub(super) fn wants_html(&self) -> bool {
        let accept =
            self.headers.get_all(http::header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        accept.into_iter().any(|accept| accept.contains("text/html"))
    }
}

/// Reads a body within its bounds, whatever content type it claims to have.
async fn read(body: Incoming) -> Result<Secret<Vec<u8>>, Failure> {
    let collecting = async {
        let mut body = body;
        let mut length = 0;
        let mut bytes = Secret::new(Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Failure::SlowBody)?.into_data() else { continue };
            length += data.len();
            if length <= MAX_BODY_BYTES {
                bytes.extend(&data);
            } else if length > MAX_REFUSED_BYTES {
                break;
            }
        }
        if length > MAX_BODY_BYTES { Err(Failure::BodyTooLarge) } else { Ok(bytes) }
    };
    tokio::time::timeout(BODY_TIMEOUT, collecting).await.unwrap_or(Err(Failure::SlowBody))
}

/// JSON with status 200.
fn json(value: &Value) -> Response {
    respond("application/json", value.to_string())
}

fn respond(kind: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The answer to a browser that asks whether a page may send a request. Only a page that was allowed gets the header
/// that says whose it is.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    let allowed = asked
        .get("access-control-request-headers")
        .cloned()
        .unwrap_or(HeaderValue::from_static("authorization, content-type"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    if asked.contains_key("access-control-request-private-network") {
        headers.insert(PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    response
}
