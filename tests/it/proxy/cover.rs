//! `--cover`: what the network sees of requests while the user types, and while they do not.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use codeseal::proxy::{Proxy, ProxyConfig, Rhythm};
use codeseal::server::Shaping;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Uri};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::schema::violations;
use super::{config, post, url};
use crate::harness::{Server, World, clean, http, until};

const PREFIX: &str = "def northwind_price(volume, discount):\n    floor_price = 41.75\n    ";
const SUFFIX: &str = "\n    return max(floor_price, price) * volume\n";

/// What the network sees of one exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    method: Method,
    path: String,
    accept: String,
    sent: usize,
    answer: String,
    received: usize,
}

/// An exchange while it goes on.
#[derive(Debug, Default)]
struct Exchange {
    received: AtomicUsize,
    /// Whether the proxy took the answer to its end.
    whole: AtomicBool,
}

/// All exchanges, in order.
type Log = Arc<Mutex<Vec<(Seen, Arc<Exchange>)>>>;

/// The network between the proxy and the server.
struct Network {
    url: String,
    seen: Log,
    _serving: AbortOnDropHandle<()>,
}

impl Network {
    async fn before(server: String) -> Self {
        let seen: Log = Arc::default();
        let log = Arc::clone(&seen);
        let forward = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            pass(Arc::clone(&log), format!("{server}{}", uri.path()), method, uri, headers, body)
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(forward);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, seen, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Exchanges so far.
    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Those after the first `skipped`, which must have ended, each read to its end.
    async fn ended_after(&self, skipped: usize) -> Vec<Seen> {
        let exchanges = || self.seen.lock().unwrap().iter().skip(skipped).cloned().collect::<Vec<_>>();
        until("all answers are read", async || {
            exchanges().iter().all(|(_, exchange)| exchange.whole.load(Ordering::SeqCst))
        })
        .await;
        let received = |exchange: &Exchange| exchange.received.load(Ordering::SeqCst);
        exchanges()
            .into_iter()
            .map(|(seen, exchange)| Seen { received: received(&exchange), ..seen })
            .collect()
    }
}

async fn pass(
    log: Log,
    to: String,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> impl axum::response::IntoResponse {
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let mut request = http().request(method.clone(), to).body(body.clone());
    for name in ["accept", "content-type", "x-codeseal-server", "x-codeseal-session"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.unwrap();
    let (status, kind) = (answer.status(), answer.headers().get("content-type").cloned());
    let kind = kind.map_or(String::new(), |kind| kind.to_str().unwrap().to_owned());
    let seen = Seen {
        method,
        path: uri.path().to_owned(),
        accept: header("accept"),
        sent: body.len(),
        answer: format!("{status} {kind}"),
        received: 0,
    };
    let exchange = Arc::new(Exchange::default());
    log.lock().unwrap().push((seen, Arc::clone(&exchange)));
    let counting = Arc::clone(&exchange);
    let counted = answer.bytes_stream().inspect(move |piece| {
        if let Ok(piece) = piece {
            counting.received.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    let end = stream::poll_fn(move |_| {
        exchange.whole.store(true, Ordering::SeqCst);
        std::task::Poll::Ready(None)
    });
    (status, [("content-type", kind)], Body::from_stream(counted.chain(end)))
}

/// A proxy with cover traffic, and the network before its server.
struct Desk {
    _world: World,
    server: Server,
    network: Network,
    _proxy: Proxy,
    url: String,
    /// Exchanges before the first request.
    skipped: usize,
}

impl Desk {
    async fn new(rhythm: Rhythm, change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let world = World::start().await;
        let mut server = world.config();
        server.shaping = Shaping::PaceAndLength(Duration::from_millis(20));
        server.limits.max_new_tokens = 4000;
        server.engine.max_waiting = 60;
        let server = Server::start(server).await;
        let network = Network::before(server.url("")).await;
        let mut config = config(&world, &network.url);
        config.cover = Some(rhythm);
        config.debounce = Duration::ZERO;
        change(&mut config);
        let proxy = Proxy::start(config).await.unwrap();
        proxy.ready().await;
        let url = url(&proxy);
        let skipped = network.count();
        Self { _world: world, server, network, _proxy: proxy, url, skipped }
    }

    async fn status(&self) -> Value {
        http().get(format!("{}/status", self.url)).send().await.unwrap().json().await.unwrap()
    }

    async fn empty_requests(&self) -> usize {
        self.status().await["cover"]["empty_requests"].as_u64().unwrap() as usize
    }

    async fn until_silent(&self) {
        until("the rhythm has ended", async || self.status().await["cover"]["running"] == false).await;
    }
}

/// A request whose text ends soon, whatever the machine is busy with.
fn infill(prefix: &str, tokens: usize) -> Value {
    json!({ "input_prefix": prefix, "input_suffix": SUFFIX, "n_predict": tokens, "t_max_predict_ms": 100 })
}

const FAST: Rhythm = Rhythm { interval: Duration::from_millis(100), idle: Duration::from_millis(1500) };

#[tokio::test]
async fn empty_requests_look_like_those_of_editors_and_end_when_typing_ends() {
    let desk = Desk::new(FAST, |_| ()).await;
    assert_eq!(desk.empty_requests().await, 0);
    // The first decides how many frames there are; a call that only reads, and one for a few tokens in one piece, have as many.
    let mut asked = 0;
    for (prefix, tokens) in [("", 100), ("x = 1\n    ", 0), ("x = 1\n    y", 3)] {
        let answer = post(&desk.url, "/infill", &infill(&format!("{PREFIX}{prefix}"), tokens)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        asked += 1;
    }
    desk.until_silent().await;
    let seen = desk.network.ended_after(desk.skipped).await;
    let schema: Value = serde_json::from_str(include_str!("../../../docs/status.schema.json")).unwrap();
    assert_eq!(violations(&schema, &schema, &desk.status().await, ""), Vec::<String>::new());
    let empty = desk.empty_requests().await;
    assert!(empty > 3, "{empty} empty requests");
    assert_eq!(seen.len(), asked + empty, "what leaves is one of both kinds");
    let first = seen.first().unwrap();
    assert_eq!((first.path.as_str(), first.accept.as_str()), ("/v1/completions", "text/event-stream"));
    assert_eq!(first.answer, "200 OK text/event-stream");
    assert!(first.received > 32 * 1400, "fewer than 32 frames: {first:?}");
    for other in &seen {
        assert_eq!(other, first);
    }
}

#[tokio::test]
async fn of_the_keys_between_two_beats_the_last_leaves() {
    // Longer than five requests take to arrive.
    let rhythm = Rhythm { interval: Duration::from_secs(5), idle: Duration::from_secs(6) };
    let desk = Arc::new(Desk::new(rhythm, |_| ()).await);
    // Begins the rhythm, and leaves at once.
    post(&desk.url, "/infill", &infill(PREFIX, 4)).await;
    let mut typed = PREFIX.to_owned();
    let mut keys = Vec::new();
    // Nothing that the model predicts.
    for (superseded, key) in "zqxwv".chars().enumerate() {
        typed.push(key);
        let (asking, body) = (Arc::clone(&desk), infill(&typed, 4));
        keys.push(tokio::spawn(async move { post(&asking.url, "/infill", &body).await }));
        until("the key waits alone", async || {
            let status = desk.status().await;
            status["cover"]["waiting"] == 1 && status["counts"]["superseded"] == superseded
        })
        .await;
    }
    let mut answered = 0;
    for key in keys {
        let answer = key.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
        answered += usize::from(answer.json()["tokens_predicted"].as_u64() > Some(0));
    }
    assert_eq!(answered, 1, "each key but the last is superseded");
    let real = desk.network.count() - desk.skipped - desk.empty_requests().await;
    assert_eq!(real, 2, "the first request, and that of the last key");
}

#[tokio::test]
async fn a_request_that_has_left_is_read_to_its_end_when_its_editor_leaves() {
    for stream in [true, false] {
        let desk = Desk::new(FAST, |config| config.whole_below = 0).await;
        // The model works on it until the deadline, far longer than the editor waits.
        let body = json!({
            "input_prefix": PREFIX, "input_suffix": SUFFIX, "n_predict": 100, "t_max_predict_ms": 700, "stream": stream,
        });
        let asking = tokio::spawn(http().post(format!("{}/infill", desk.url)).body(body.to_string()).send());
        until("it has left", async || desk.network.count() > desk.skipped).await;
        if stream {
            drop(asking.await.unwrap().unwrap());
        } else {
            asking.abort();
        }
        desk.until_silent().await;
        let seen = desk.network.ended_after(desk.skipped).await;
        let first = seen.first().unwrap();
        assert!(seen.iter().all(|other| other == first), "{seen:?}");
        let metrics = desk.server.metrics().await;
        assert!(!metrics.contains("endpoint=\"completions\",code=\"cancelled\""), "{metrics}");
    }
}

#[test]
fn a_request_that_is_sent_ahead_does_not_go_with_a_rhythm() {
    let key = "projects/p/locations/global/keyRings/r/cryptoKeys/k";
    let flags = ["proxy", "--server", "http://127.0.0.1:1", "--kms-key", key, "--cover", "--speculate"];
    let refused = clean(env!("CARGO_BIN_EXE_codeseal")).args(flags).output().unwrap();
    let why = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{why}");
    assert!(why.contains("--cover") && why.contains("--speculate"), "{why}");
}

/// A beat that is far away must not hide what is wrong.
#[tokio::test]
async fn what_is_wrong_with_the_server_is_told_at_once_and_nothing_leaves() {
    let world = World::start().await;
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut config = config(&world, &format!("http://{nowhere}"));
    config.cover = Some(Rhythm { interval: Duration::from_secs(3600), idle: Duration::from_secs(3600) });
    let proxy = Proxy::start(config).await.unwrap();
    proxy.tried().await;
    let url = url(&proxy);
    for _ in 0..3 {
        let body = json!({ "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 4 });
        let answer = post(&url, "/v1/completions", &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "not_connected"), "{}", answer.text);
    }
    let status: Value = http().get(format!("{url}/status")).send().await.unwrap().json().await.unwrap();
    assert_eq!((&status["cover"]["running"], &status["cover"]["empty_requests"]), (&json!(false), &json!(0)));
}

#[tokio::test]
async fn a_server_that_is_lost_gets_no_empty_requests() {
    let world = World::start().await;
    let server = world.server().await;
    let mut config = config(&world, &server.url(""));
    config.cover = Some(Rhythm { idle: Duration::from_secs(3600), ..FAST });
    let proxy = Proxy::start(config).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    let status =
        async || -> Value { http().get(format!("{url}/status")).send().await.unwrap().json().await.unwrap() };
    let empty_requests = async || status().await["cover"]["empty_requests"].as_u64().unwrap();
    post(&url, "/infill", &infill(PREFIX, 4)).await;
    until("empty requests leave", async || empty_requests().await > 1).await;
    server.service.shutdown().await;
    until("the loss is noticed", async || status().await["ready"] == false).await;
    let before = empty_requests().await;
    // An editor is told at once, and the rhythm goes on without anything that leaves.
    for _ in 0..5 {
        let answer = post(&url, "/infill", &infill(PREFIX, 4)).await;
        assert_eq!(answer.status, 503, "{}", answer.text);
    }
    assert_eq!((status().await["cover"]["running"].clone(), empty_requests().await), (json!(true), before));
}
