//! What the proxy does between two keys: bursts, repeated brackets, warm connections, the completion after an accept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use codeseal::proxy::Proxy;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::{Desk, config, post, url};
use crate::harness::{ENDLESS, Server, World, http, until};

const PREFIX: &str =
    "def northwind_price(volume, discount):\n    floor_price = 41.75\n    list_price = 77.50\n    ";
const SUFFIX: &str = "\n    return max(floor_price, price) * volume\n";

async fn counts(url: &str) -> Value {
    let status: Value = http().get(format!("{url}/status")).send().await.unwrap().json().await.unwrap();
    status["counts"].clone()
}

fn infill(prefix: &str, suffix: &str) -> Value {
    json!({ "input_prefix": prefix, "input_suffix": suffix, "n_predict": 12 })
}

/// Finished requests of the server, as its metrics count them.
async fn served(server: &Server) -> u64 {
    let metrics = server.metrics().await;
    let lines =
        metrics.lines().filter(|line| line.starts_with("codeseal_requests_total{endpoint=\"completions\""));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// What llama.vim sends while the user reads: the answer is empty, and the next key finds the prompt in the cache.
#[tokio::test]
async fn a_call_that_only_reads_the_prompt_leaves_it_in_the_servers_cache() {
    let desk = Desk::new().await;
    let prefix = PREFIX.repeat(8);
    let body =
        json!({ "input_prefix": prefix, "input_suffix": SUFFIX, "n_predict": 0, "t_max_predict_ms": 1 });
    let read = desk.post("/infill", &body).await.json();
    assert_eq!((&read["content"], &read["tokens_predicted"]), (&json!(""), &json!(0)), "{read}");
    let before = counts(&desk.url).await;
    desk.post("/infill", &infill(&prefix, SUFFIX)).await;
    let after = counts(&desk.url).await;
    let more = |name: &str| after[name].as_u64().unwrap() - before[name].as_u64().unwrap();
    let (all, cached) = (more("prompt_tokens"), more("cached_tokens"));
    assert!(all > 100 && cached * 10 >= all * 9, "{cached} of {all} tokens were in the cache");
}

#[tokio::test]
async fn at_a_clients_deadline_it_gets_what_there_is() {
    let world = World::start().await;
    let mut server_config = world.config();
    server_config.limits.max_new_tokens = 4000;
    let server = Server::start(server_config).await;
    let proxy = Proxy::start(config(&world, &server.url(""))).await.unwrap();
    proxy.ready().await;
    // Greedy, the model repeats itself to the end of its context, which takes far longer.
    let body = json!({ "input_prefix": "x", "input_suffix": "", "n_predict": 4000, "t_max_predict_ms": 250 });
    let answer = post(&url(&proxy), "/infill", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.json()["tokens_predicted"].as_u64().unwrap() < 4000, "{}", answer.text);
}

#[tokio::test]
async fn of_a_paste_only_the_first_and_the_last_request_reach_the_server() {
    let desk = Arc::new(Desk::with(|config| config.debounce = Duration::from_millis(500)).await);
    let before = served(&desk.server).await;
    let asking = (0..12).map(|typed| {
        let (desk, prefix) = (Arc::clone(&desk), format!("{PREFIX}{}", "x".repeat(typed)));
        tokio::spawn(async move { desk.post("/infill", &infill(&prefix, SUFFIX)).await.status })
    });
    for answer in futures_util::future::join_all(asking).await {
        assert_eq!(answer.unwrap(), 200);
    }
    until("all have ended", async || served(&desk.server).await > before).await;
    let reached = served(&desk.server).await - before;
    assert!((1..=2).contains(&reached), "{reached} requests reached the server");
    assert!(counts(&desk.url).await["superseded"].as_u64().unwrap() >= 10);
}

/// The suffix begins with the end of what the model writes, so the server's own text would repeat it.
#[tokio::test]
async fn a_bracket_that_stands_after_the_cursor_is_not_repeated() {
    for whole_below in [0, 64] {
        let desk = Desk::with(|config| config.whole_below = whole_below).await;
        let mut shown = 0;
        for prefix in ["print(sum([1, 2", "print(len(items", "value = max(a, b", "x = [a, b", "foo(bar(1"] {
            for suffix in [")\n", "))\n", "]\n", "])\n"] {
                let own =
                    desk.expected(json!({ "prompt": prefix, "suffix": suffix, "max_tokens": 12 })).await;
                let body = json!({ "prompt": prefix, "suffix": suffix, "max_tokens": 12, "stream": whole_below == 0 });
                let answer = desk.post("/v1/completions", &body).await;
                let text = if whole_below == 0 { texts(&answer.text) } else { whole(&answer.json()) };
                assert!(own.starts_with(&text), "{own:?} {text:?}");
                // What is missing is what stands after the cursor.
                let missing = own.strip_prefix(&text).unwrap();
                assert!(suffix.starts_with(missing), "{own:?} {text:?}");
                shown += usize::from(!missing.is_empty());
                // Clients that write the markers themselves get what the model writes.
                let marked = format!("<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>");
                let raw =
                    desk.post("/completion", &json!({ "prompt": marked, "n_predict": 12 })).await.json();
                assert_eq!(raw["content"], own.as_str());
            }
        }
        assert!(shown > 0, "no answer of the model repeats a bracket: choose other prefixes");
    }
}

fn whole(answer: &Value) -> String {
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

fn texts(stream: &str) -> String {
    let data = stream.split_terminator("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let json = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    json.filter_map(|event| event["choices"][0]["text"].as_str().map(String::from)).collect()
}

#[tokio::test]
async fn after_an_accept_the_next_completion_is_there_if_that_is_wanted() {
    for speculate in [false, true] {
        let desk = Desk::with(|config| config.speculate = speculate).await;
        let ask = async |prefix: &str| {
            desk.post("/infill", &infill(prefix, SUFFIX)).await.json()["content"].as_str().unwrap().to_owned()
        };
        let mut text = PREFIX.to_owned();
        // The first answer, and the one after it was accepted.
        for _ in 0..2 {
            text += &ask(&text).await;
        }
        if speculate {
            until("the next one is there", async || counts(&desk.url).await["speculated"] == 1).await;
        }
        let expected = desk.expected(json!({ "prompt": text, "suffix": SUFFIX, "max_tokens": 12 })).await;
        let got = ask(&text).await;
        assert!(expected.starts_with(&got) && !got.is_empty(), "{expected:?} {got:?}");
        assert_eq!(counts(&desk.url).await["reused"], u64::from(speculate), "speculate: {speculate}");
    }
}

/// A relay that counts connections, and those on which a sealed request came first.
struct Relay {
    url: String,
    opened: Arc<AtomicUsize>,
    /// Connections that a request had to open for itself.
    opened_by_requests: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl Relay {
    async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (opened, by_requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (Arc::clone(&opened), Arc::clone(&by_requests));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, (opened, by_requests)) = (server.clone(), counters.clone());
                tokio::spawn(async move { pass(client, &server, &opened, &by_requests).await });
            }
        });
        let _accepting = AbortOnDropHandle::new(accepting);
        Self { url, opened, opened_by_requests: by_requests, _accepting }
    }
}

async fn pass(client: TcpStream, server: &str, opened: &AtomicUsize, by_requests: &AtomicUsize) {
    let server = TcpStream::connect(server).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // A request is longer than what is read first, so both directions go on at the same time.
    let requests = async {
        let mut first = vec![0; 4096];
        let length = from_client.read(&mut first).await?;
        if first.starts_with(b"POST /v1/") {
            by_requests.fetch_add(1, Ordering::SeqCst);
        }
        to_server.write_all(&first[..length]).await?;
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let answers = async {
        let mut first = vec![0; 4096];
        let length = from_server.read(&mut first).await?;
        to_client.write_all(&first[..length]).await?;
        opened.fetch_add(1, Ordering::SeqCst);
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(requests, answers).ok();
}

#[tokio::test]
async fn a_cancelled_request_costs_the_next_key_no_new_connection() {
    let world = World::start().await;
    let mut server_config = world.config();
    server_config.limits.max_new_tokens = 4000;
    server_config.engine.draft_tokens = 0;
    let server = Server::start(server_config).await;
    let relay = Relay::start(server.service.address().to_string()).await;
    let proxy = Proxy::start(config(&world, &relay.url)).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    // The first request opens what the next ones use.
    post(&url, "/v1/completions", &json!({ "prompt": "x", "max_tokens": 1 })).await;
    let opened = || relay.opened.load(Ordering::SeqCst);
    let mut known = opened();
    let by_requests = relay.opened_by_requests.load(Ordering::SeqCst);
    for round in 0..100 {
        let body = json!({ "prompt": ENDLESS, "max_tokens": 4000 }).to_string();
        let asking = tokio::spawn(http().post(format!("{url}/v1/completions")).body(body).send());
        until("the server works", async || {
            server.metrics().await.contains("codeseal_num_requests_running 1")
        })
        .await;
        asking.abort();
        until("the server has stopped", async || {
            server.metrics().await.contains("codeseal_num_requests_running 0")
        })
        .await;
        until("another connection waits", async || opened() > known || round == 0).await;
        known = opened();
    }
    assert_eq!(relay.opened_by_requests.load(Ordering::SeqCst), by_requests);
}
