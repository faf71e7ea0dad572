//! An attacker between client and server (man in the middle), who can do anything but open the seal.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use codeseal::protocol::{Dek, ErrorCode, SESSION_HEADER};
use futures_util::stream;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::http;

/// What is done to the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tamper {
    /// The first request is turned away, without reaching the server.
    BusyOnce,
    /// The request is refused because the clocks differ by this many seconds.
    ClockSkew(i64),
    /// The connection ends in the middle of the answer.
    CutConnection,
    /// The first frame does not arrive.
    DropFirst,
    /// The last frame does not arrive.
    DropLast,
    /// The request comes back as the answer.
    Echo,
    /// One bit of the first token is another one.
    FlipBit,
    /// The answer is a web page.
    Garbage,
    /// The answer is sealed, under a key that is not the session's.
    OtherKey,
    /// The answer is an error page.
    Refuse,
    /// The last frame arrives twice.
    RepeatLast,
    /// The first two frames change places.
    SwapFirst,
}

/// The one in between.
pub(super) struct Between {
    pub(super) url: String,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    server: String,
    tamper: Tamper,
    requests: Mutex<Vec<Value>>,
    sessions: Mutex<Vec<String>>,
}

impl Between {
    pub(super) async fn start(server: &str, tamper: Tamper) -> Self {
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            tamper,
            requests: Mutex::default(),
            sessions: Mutex::default(),
        });
        let router = Router::new().fallback(handle).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, _task: AbortOnDropHandle::new(task) }
    }

    /// What a load balancer would tell sessions apart by, of each request.
    pub(super) fn sessions(&self) -> Vec<String> {
        self.shared.sessions.lock().unwrap().clone()
    }

    /// The bodies that came, in order.
    pub(super) fn requests(&self) -> Vec<Value> {
        self.shared.requests.lock().unwrap().clone()
    }
}

async fn handle(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let turn = {
        let mut requests = shared.requests.lock().unwrap();
        requests.push(serde_json::from_slice(&body).unwrap());
        requests.len()
    };
    let session = headers.get(SESSION_HEADER).unwrap().to_str().unwrap();
    shared.sessions.lock().unwrap().push(session.to_owned());
    match shared.tamper {
        Tamper::BusyOnce if turn == 1 => {
            let busy = Response::builder().status(429).header(RETRY_AFTER, "0");
            return busy.body(Body::from("{}")).unwrap();
        }
        Tamper::ClockSkew(ahead) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let mut body = ErrorCode::ClockSkew.body("\u{202e}no");
            body.error.server_time = Some(now.saturating_add_signed(-ahead));
            let body = serde_json::to_vec(&body).unwrap();
            return Response::builder().status(409).body(Body::from(body)).unwrap();
        }
        Tamper::Echo => return Response::new(Body::from(body)),
        Tamper::Garbage => return Response::new(Body::from("<html>Welcome to the hotel's network</html>")),
        Tamper::Refuse => {
            return Response::builder().status(500).body(Body::from("\x1b[2J<html>canary</html>")).unwrap();
        }
        _ => {}
    }
    let request = http().post(format!("{}/v1/completions", shared.server)).body(body);
    let accept = headers.get(ACCEPT).unwrap().clone();
    let answer = request.header(ACCEPT, accept).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let kind = answer.headers().get(CONTENT_TYPE).unwrap().clone();
    let is_stream = kind.to_str().unwrap().starts_with("text/event-stream");
    let text = answer.text().await.unwrap();
    let body = if is_stream { tampered_stream(&text, shared.tamper) } else { tampered(&text, shared.tamper) };
    Response::builder().header(CONTENT_TYPE, kind).body(body).unwrap()
}

fn tampered(answer: &str, tamper: Tamper) -> Body {
    let mut answer: Value = serde_json::from_str(answer).unwrap();
    let token = answer["ciphertext"].as_str().unwrap();
    match tamper {
        Tamper::BusyOnce => {}
        Tamper::OtherKey => answer["ciphertext"] = json!(under_another_key()),
        Tamper::FlipBit => answer["ciphertext"] = json!(flipped(token)),
        Tamper::CutConnection => return cut(answer.to_string()),
        other => unreachable!("{other:?} is for streams"),
    }
    Body::from(answer.to_string())
}

fn tampered_stream(answer: &str, tamper: Tamper) -> Body {
    let mut frames: Vec<String> = answer.split_terminator("\n\n").map(str::to_owned).collect();
    assert!(frames.len() >= 3, "too few frames to play with");
    match tamper {
        Tamper::BusyOnce => {}
        Tamper::DropFirst => drop(frames.remove(0)),
        Tamper::DropLast => drop(frames.pop()),
        Tamper::RepeatLast => frames.extend(frames.last().cloned()),
        Tamper::SwapFirst => frames.swap(0, 1),
        Tamper::FlipBit => {
            frames[0] = format!("data: {}", flipped(frames[0].strip_prefix("data: ").unwrap()))
        }
        Tamper::OtherKey => frames[0] = format!("data: {}", under_another_key()),
        Tamper::CutConnection => {
            frames.pop();
            return cut(frames.concat());
        }
        other => unreachable!("{other:?} is not for streams"),
    }
    Body::from(frames.iter().map(|frame| format!("{frame}\n\n")).collect::<String>())
}

/// Half of `text`, and then a connection that ends without the end of the body.
fn cut(mut text: String) -> Body {
    text.truncate(text.len() / 2);
    Body::from_stream(stream::unfold(Some(text), |text| async {
        let Some(text) = text else {
            // What was written before is only sent on when the body makes it wait.
            tokio::task::yield_now().await;
            return Some((Err(std::io::Error::other("cut")), None));
        };
        Some((Ok(text), None))
    }))
}

fn under_another_key() -> String {
    Dek::generate().unwrap().for_answers("/v1/completions").seal(&[b' '; 1024])
}

fn flipped(token: &str) -> String {
    let mut bytes = token.as_bytes().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] = if bytes[middle] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).unwrap()
}
