//! A server of the protocol whose answers the test writes: what no model says when it is asked to.

use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use codeseal::keys::Keys;
use codeseal::protocol::{
    Call, FrameWriter, MAX_EVENT_BYTES, PathKey, Reply, RequestId, SealedRequest, Token, WrappedDek,
};
use http::Uri;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::World;

/// What is answered to the body of a request to a path: the name of the model, and its text.
pub(super) type Script = fn(&str, &Value) -> (&'static str, &'static str);

/// It runs until it is dropped.
pub(super) struct Scripted {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<Value>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Scripted {
    /// A server that may unwrap the keys of `world`.
    pub(super) async fn start(world: &World, script: Script) -> Self {
        let keys = Arc::new(Keys::connect(world.config().kms).await.unwrap());
        let asked = Arc::<Mutex<Vec<Value>>>::default();
        let log = Arc::clone(&asked);
        let answer = move |uri: Uri, body: Bytes| {
            let (keys, log) = (Arc::clone(&keys), Arc::clone(&log));
            async move { answer(&keys, uri.path(), &body, script, &log).await }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer);
        let task = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { url, asked, _serving: AbortOnDropHandle::new(task) }
    }

    /// The bodies of the requests so far.
    pub(super) fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(
    keys: &Keys,
    path: &str,
    body: &[u8],
    script: Script,
    log: &Mutex<Vec<Value>>,
) -> ([(&'static str, &'static str); 1], Body) {
    let Ok(sealed) = serde_json::from_slice::<SealedRequest>(body) else {
        return ([("content-type", "text/plain")], Body::from("ok"));
    };
    let dek = keys.dek(&WrappedDek::parse(&sealed.wrapped_dek).unwrap()).await.unwrap();
    let token = Token::parse(sealed.ciphertext.as_bytes()).unwrap();
    let plaintext = dek.for_requests(path).open(&token).unwrap();
    let call = Call::decode(plaintext.expose()).unwrap();
    let body: Value = serde_json::from_str(call.body.get()).unwrap();
    let (model, text) = script(path, &body);
    let is_chat = path.ends_with("/chat/completions");
    let key = dek.for_answers(path);
    let answer = if body["stream"] == true {
        let stream = stream(&key, call.id, events(is_chat, model, text));
        ([("content-type", "text/event-stream")], Body::from(stream))
    } else {
        let whole = to_raw_value(&whole(is_chat, model, text)).unwrap();
        let reply = Reply { id: call.id, status: 200, body: whole }.seal(&key, 0).unwrap();
        ([("content-type", "application/json")], Body::from(serde_json::to_vec(&reply).unwrap()))
    };
    log.lock().unwrap().push(body);
    answer
}

fn usage() -> Value {
    json!({ "prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, "prompt_tokens_details": { "cached_tokens": 0 } })
}

fn envelope(model: &str, choices: &Value) -> Value {
    json!({ "id": "cmpl-1", "object": "x", "created": 1, "model": model, "choices": choices })
}

fn whole(is_chat: bool, model: &str, text: &str) -> Value {
    let message = json!({ "role": "assistant", "content": text });
    let choice = if is_chat {
        json!({ "index": 0, "message": message, "finish_reason": "stop" })
    } else {
        json!({ "index": 0, "text": text, "finish_reason": "stop" })
    };
    let mut answer = envelope(model, &json!([choice]));
    answer["usage"] = usage();
    answer
}

/// Pieces of the text, its end, and the counts.
fn events(is_chat: bool, model: &str, text: &str) -> Vec<Box<RawValue>> {
    let piece = |text: &str, finish: Value| {
        let choice = if is_chat {
            json!({ "index": 0, "delta": { "content": text }, "finish_reason": finish })
        } else {
            json!({ "index": 0, "text": text, "finish_reason": finish })
        };
        to_raw_value(&envelope(model, &json!([choice]))).unwrap()
    };
    let characters: Vec<char> = text.chars().collect();
    let pieces = characters.chunks(40).map(|piece| piece.iter().collect::<String>());
    let mut events: Vec<_> = pieces.map(|text| piece(&text, Value::Null)).collect();
    events.push(piece("", json!("stop")));
    let mut counts = envelope(model, &json!([]));
    counts["usage"] = usage();
    events.push(to_raw_value(&counts).unwrap());
    assert!(events.iter().all(|event| event.get().len() <= MAX_EVENT_BYTES));
    events
}

fn stream(key: &PathKey, id: RequestId, mut events: Vec<Box<RawValue>>) -> String {
    let mut writer = FrameWriter::new(id);
    let mut lines = String::new();
    while !events.is_empty() {
        let frame = writer.next_frame(&mut events, true).unwrap();
        lines += &format!("data: {}\n\n", key.seal(frame.expose()));
    }
    lines
}
