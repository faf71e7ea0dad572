//! A server in between: it sees what a watcher of the line sees, and decides how much of each answer passes.

use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Uri};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::http;

/// How much of an answer passes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Passes {
    /// Everything.
    All,
    /// This many frames of a stream, and then the connection breaks. Whole answers pass.
    Cut(usize),
    /// This many frames of a stream, and then nothing more. Whole answers do not pass.
    Hold(usize),
}

/// One sealed call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) accept: String,
    pub(crate) sent: Bytes,
    pub(crate) received: Bytes,
}

/// It runs until it is dropped.
pub(crate) struct Between {
    pub(crate) url: String,
    passes: Arc<Mutex<Passes>>,
    calls: Arc<Mutex<Vec<Call>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Between {
    /// Passes requests on to `server`.
    pub(crate) async fn start(server: String, passes: Passes) -> Self {
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        let passes = Arc::new(Mutex::new(passes));
        let (log, rule) = (Arc::clone(&calls), Arc::clone(&passes));
        let forward = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let target = uri.path_and_query().map(|target| target.as_str()).unwrap_or_default();
            let (url, log) = (format!("{server}{target}"), Arc::clone(&log));
            let passes = *rule.lock().unwrap();
            async move { pass(method, url, headers, body, passes, &log).await }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(forward);
        let task = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { url, passes, calls, _serving: AbortOnDropHandle::new(task) }
    }

    /// From now on so much passes. A proxy connects by a stream, too.
    pub(crate) fn set(&self, passes: Passes) {
        *self.passes.lock().unwrap() = passes;
    }

    /// The calls for completions so far, with the server's whole answers.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

async fn pass(
    method: Method,
    url: String,
    headers: HeaderMap,
    sent: Bytes,
    passes: Passes,
    log: &Mutex<Vec<Call>>,
) -> (http::StatusCode, [(&'static str, String); 1], Body) {
    let is_call = method == Method::POST && url.ends_with("/v1/completions");
    let mut request = http().request(method, url).body(sent.clone());
    for name in ["accept", "content-type", "x-codeseal-server", "x-codeseal-session"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.unwrap();
    let header = |headers: &HeaderMap, name: &str| {
        headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let (status, kind) = (answer.status(), header(answer.headers(), "content-type"));
    let received = answer.bytes().await.unwrap();
    if is_call {
        let accept = header(&headers, "accept");
        log.lock().unwrap().push(Call { accept, sent, received: received.clone() });
    }
    let is_stream = kind == "text/event-stream";
    let body = match passes {
        Passes::Cut(count) if is_stream => {
            // hyper flushes what it has when a body is pending; without that the error would discard the frames.
            let cut = async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            };
            Body::from_stream(frames(&received, count).chain(stream::once(cut)))
        }
        Passes::Hold(count) if is_call => {
            let count = if is_stream { count } else { 0 };
            Body::from_stream(frames(&received, count).chain(stream::pending()))
        }
        _ => Body::from(received),
    };
    (status, [("content-type", kind)], body)
}

/// The first frames of a stream.
fn frames(
    whole: &Bytes,
    count: usize,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + use<> {
    let text = std::str::from_utf8(whole).unwrap();
    let length: usize = text.split_inclusive("\n\n").take(count).map(str::len).sum();
    stream::iter([Ok(whole.slice(..length))])
}
