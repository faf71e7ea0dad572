//! What happens around a session: the golden request, the next key, a warm start after a pause, changes of the server.

use std::time::Duration;

use codeseal::model::ModelFiles;
use codeseal::proxy::{Golden, Proxy};
use codeseal::server::{ModelOrigin, ServerConfig};
use serde_json::{Value, json};

use super::between::{Between, Passes};
use super::verify::{good, verifying};
use super::{Desk, config, post, url};
use crate::harness::{Answer, PATIENCE, Server, World, http, tiny, until};

const PREFIX: &str =
    "def northwind_price(volume, discount):\n    floor_price = 41.75\n    list_price = 77.50\n    ";

async fn status(url: &str) -> Value {
    http().get(format!("{url}/status")).send().await.unwrap().json().await.unwrap()
}

fn wrapped(world: &World) -> u64 {
    world.sandbox.ledger().counts().encrypts().granted
}

fn golden(expected: &str) -> Golden {
    Golden::new(PREFIX.to_owned(), "\n".to_owned(), expected.to_owned()).unwrap()
}

#[tokio::test]
async fn a_model_whose_golden_answer_is_another_is_not_used_and_the_status_says_so() {
    let desk = Desk::new().await;
    let expected = desk.expected(json!({ "prompt": PREFIX, "suffix": "\n", "max_tokens": 6 })).await;
    let mut settings = config(&desk.world, &desk.server.url(""));
    settings.golden = golden(&expected);
    let proxy = Proxy::start(settings).await.unwrap();
    proxy.ready().await;
    assert_eq!(
        post(&url(&proxy), "/v1/completions", &json!({ "prompt": "x", "max_tokens": 1 })).await.status,
        200
    );

    let mut settings = config(&desk.world, &desk.server.url(""));
    settings.golden = golden(&format!("not {expected}"));
    let proxy = Proxy::start(settings).await.unwrap();
    proxy.tried().await;
    let url = url(&proxy);
    let answer = post(&url, "/v1/completions", &json!({ "prompt": "canaryXq7" })).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "model_failed"), "{}", answer.text);
    assert!(answer.text.contains("golden request is not the expected text"), "{}", answer.text);
    let status = status(&url).await;
    assert_eq!((&status["ready"], &status["servers"][0]["state"]), (&json!(false), &json!("model_failed")));
    assert_eq!(status["exit_code"], 1);
}

/// A server that shapes its traffic keeps a whole answer back until a stream of as many tokens would have ended, and sends
/// the text of a stream first. Here only its first frames ever arrive.
#[tokio::test]
async fn connecting_waits_for_the_text_of_one_stream_and_not_for_its_end() {
    let world = World::start().await;
    let server = world.server().await;
    // Eight tokens of the golden request, a frame for each step, and the end.
    let between = Between::start(server.url(""), Passes::Hold(12)).await;
    let proxy = Proxy::start(config(&world, &between.url)).await.unwrap();
    tokio::time::timeout(PATIENCE, proxy.ready()).await.expect("the proxy connects");
    let calls = between.calls();
    let kinds: Vec<&str> = calls.iter().map(|call| call.accept.as_str()).collect();
    assert_eq!(kinds, ["text/event-stream"]);
    let model = status(&url(&proxy)).await["servers"][0]["model"].clone();
    assert_eq!(model, "codegemma-tiny", "the model's name comes with the stream");
}

#[tokio::test]
async fn the_next_key_is_wrapped_ahead_and_used_for_the_next_session() {
    let (world, dir) = (World::start().await, tempfile::tempdir().unwrap());
    let server = world.server().await;
    let address = server.service.address();
    let proxy = Proxy::start(verifying(&world, &server, &dir, &good())).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    until("the next key is wrapped", async || wrapped(&world) == 2).await;
    let body = json!({ "prompt": "x", "max_tokens": 1 });
    for _ in 0..20 {
        assert_eq!(post(&url, "/v1/completions", &body).await.status, 200);
    }
    assert_eq!(wrapped(&world), 2);
    // Another process: a new session, under the key that is there already, and one more is wrapped for the next.
    server.service.shutdown().await;
    let _second = Server::start(ServerConfig { listen: address, ..world.config() }).await;
    until("the second one answers", async || post(&url, "/v1/completions", &body).await.status == 200).await;
    until("one key more", async || wrapped(&world) == 3).await;
}

/// A request for a health path stands for any sign of a client; the server's cache of keys is of no length here, so that
/// each sealed request makes it unwrap.
#[tokio::test]
async fn after_a_pause_the_first_sign_of_a_client_warms_the_session_up() {
    let world = World::start().await;
    let mut server_config = world.config();
    server_config.kms.cache.ttl = Duration::ZERO;
    let server = Server::start(server_config).await;
    for (idle_after, warms) in [(Duration::from_secs(600), false), (Duration::ZERO, true)] {
        let mut settings = config(&world, &server.url(""));
        settings.timing.idle_after = idle_after;
        let proxy = Proxy::start(settings).await.unwrap();
        proxy.ready().await;
        let url = url(&proxy);
        let sent = async || status(&url).await["servers"][0]["sealed_bytes_sent"].as_u64().unwrap();
        let unwrapped = || world.sandbox.ledger().counts().decrypts().granted;
        let before = (sent().await, unwrapped());
        assert_eq!(http().get(format!("{url}/health")).send().await.unwrap().status(), 200);
        if warms {
            until("the server has unwrapped the key", async || {
                sent().await > before.0 && unwrapped() > before.1
            })
            .await;
        } else {
            assert_eq!((sent().await, unwrapped()), before);
        }
        // The page asks for the status all the time, and is no sign of a client.
        let after = sent().await;
        status(&url).await;
        assert!(warms || sent().await == after);
    }
}

/// The embedded model in another directory; one byte more makes its weights others.
fn other_weights(dir: &std::path::Path) -> ModelOrigin {
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(tiny().join(name), dir.join(name)).unwrap();
    }
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text + "\n").unwrap();
    // The manifest knows the embedded model by its weights, and refuses another configuration beside them.
    ModelOrigin::Files { name: String::from("other"), files: ModelFiles::at(dir) }
}

#[tokio::test]
async fn a_change_within_the_policy_is_shown_and_refused_if_the_first_is_pinned() {
    let (world, models) = (World::start().await, tempfile::tempdir().unwrap());
    let server = world.server().await;
    let address = server.service.address();
    let (open, pinned) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let noticing = Proxy::start(verifying(&world, &server, &open, &good())).await.unwrap();
    let mut settings = verifying(&world, &server, &pinned, &good());
    settings.pin_first = true;
    let pinning = Proxy::start(settings).await.unwrap();
    for proxy in [&noticing, &pinning] {
        proxy.ready().await;
        assert_eq!(status(&url(proxy)).await["servers"][0]["changes"], json!([]));
    }
    server.service.shutdown().await;
    let model = other_weights(models.path());
    let second = Server::start(ServerConfig { listen: address, model, ..world.config() }).await;
    let body = json!({ "prompt": "x", "max_tokens": 1 });
    let asked = async |proxy: &Proxy| -> Answer { post(&url(proxy), "/v1/completions", &body).await };
    until("the second one answers", async || asked(&noticing).await.status == 200).await;
    let changes = status(&url(&noticing)).await["servers"][0]["changes"].clone();
    assert_eq!((&changes[0]["what"], changes.as_array().unwrap().len()), (&json!("weights"), 1), "{changes}");
    assert_ne!(changes[0]["before"], changes[0]["after"]);

    until("the change is refused", async || asked(&pinning).await.status == 403).await;
    let answer = asked(&pinning).await;
    assert_eq!(answer.code(), "not_verified");
    assert!(answer.text.contains("the server's weights changed from sha256:"), "{}", answer.text);
    assert!(answer.text.contains("--pin-first"), "{}", answer.text);
    // The log has it, so that a restart does not accept it.
    let log = std::fs::read_to_string(pinned.path().join("verdicts")).unwrap();
    assert!(log.contains("\"outcome\":\"changed\""), "{log}");
    drop(pinning);
    let mut settings = verifying(&world, &second, &pinned, &good());
    settings.pin_first = true;
    let again = Proxy::start(settings).await.unwrap();
    again.tried().await;
    assert_eq!(asked(&again).await.status, 403);
}
