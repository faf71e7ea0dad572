//! With a policy nothing is wrapped or sent unless the verdict is good, and the verdict is kept up in the background.

use std::time::Duration;

use codeseal::client::Policy;
use codeseal::proxy::{Proxy, ProxyConfig};
use codeseal::sandbox::{Fault, claims};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{config, post, url};
use crate::harness::{Server, World, http, until};

pub(super) const OTHER: &str = "sha256:0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad0bad";

/// The image that the sandbox's claims are about.
pub(super) fn good() -> String {
    claims::tdx()["submods"]["container"]["image_digest"].as_str().unwrap().to_owned()
}

/// Settings with a policy for the image `digest`.
pub(super) fn verifying(world: &World, server: &Server, dir: &TempDir, digest: &str) -> ProxyConfig {
    let path = dir.path().join("policy.toml");
    let jwks = world.sandbox.endpoint();
    let text = format!("profile = 'shielded-preview'\nimage_digests = ['{digest}']\njwks = '{jwks}/jwks'\n");
    std::fs::write(&path, text).unwrap();
    let policy = Some(Policy::read(&path).unwrap());
    let log = dir.path().join("verdicts");
    let policy_name = Some("policy.toml".to_owned());
    ProxyConfig { policy, policy_name, verdict_log: Some(log), ..config(world, &server.url("")) }
}

async fn status(url: &str) -> Value {
    http().get(format!("{url}/status")).send().await.unwrap().json().await.unwrap()
}

fn wrapped(world: &World) -> u64 {
    world.sandbox.ledger().counts().encrypts().granted
}

#[tokio::test]
async fn a_verified_server_is_shown_with_what_was_proven_and_what_was_not() {
    let (world, dir) = (World::start().await, tempfile::tempdir().unwrap());
    let server = world.server().await;
    let proxy = Proxy::start(verifying(&world, &server, &dir, &good())).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    assert_eq!(post(&url, "/v1/completions", &json!({ "prompt": "x", "max_tokens": 1 })).await.status, 200);
    let status = status(&url).await;
    let server = &status["servers"][0];
    assert_eq!((&server["state"], &status["exit_code"]), (&json!("verified"), &json!(0)), "{status}");
    assert_eq!(server["verdict"]["proven"]["image digest"], good().as_str(), "{status}");
    assert!(!server["verdict"]["not_proven"].as_array().unwrap().is_empty());
    assert!(server["next_check"].as_u64().unwrap() > status["now"].as_u64().unwrap());
    let log = std::fs::read_to_string(dir.path().join("verdicts")).unwrap();
    assert_eq!(log.lines().count(), 1);
    assert!(log.contains("\"outcome\":\"trusted\""), "{log}");
}

#[tokio::test]
async fn nothing_is_wrapped_for_a_server_that_is_not_what_the_policy_says() {
    let (world, dir) = (World::start().await, tempfile::tempdir().unwrap());
    let server = world.server().await;
    let before = wrapped(&world);
    let proxy = Proxy::start(verifying(&world, &server, &dir, OTHER)).await.unwrap();
    proxy.tried().await;
    let url = url(&proxy);
    for _ in 0..20 {
        let answer = post(&url, "/v1/completions", &json!({ "prompt": "canaryXq7" })).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "not_verified"));
        assert!(answer.text.contains("runs an image that the policy does not name"), "{}", answer.text);
    }
    assert_eq!(wrapped(&world), before);
    let status = status(&url).await;
    assert_eq!((&status["exit_code"], &status["servers"][0]["state"]), (&json!(27), &json!("not_verified")));
}

#[tokio::test]
async fn another_process_is_verified_before_it_is_sent_anything() {
    let (world, dir) = (World::start().await, tempfile::tempdir().unwrap());
    let server = world.server().await;
    let address = server.service.address();
    let proxy = Proxy::start(verifying(&world, &server, &dir, &good())).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    let process = async || status(&url).await["servers"][0]["verdict"]["server"]["id"].clone();
    let first = process().await;
    server.service.shutdown().await;
    let _second = Server::start(codeseal::server::ServerConfig { listen: address, ..world.config() }).await;
    let body = json!({ "prompt": "x", "max_tokens": 1 });
    until("the second one answers", async || post(&url, "/v1/completions", &body).await.status == 200).await;
    assert_ne!(process().await, first);
    let log = std::fs::read_to_string(dir.path().join("verdicts")).unwrap();
    assert!(log.lines().count() >= 2, "{log}");
}

#[tokio::test]
async fn the_key_is_renewed_while_requests_go_on() {
    let (world, dir) = (World::start().await, tempfile::tempdir().unwrap());
    let server = world.server().await;
    let mut settings = verifying(&world, &server, &dir, &good());
    settings.timing.renew_after = Duration::from_millis(30);
    let proxy = Proxy::start(settings).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    let before = wrapped(&world);
    until("three keys more", async || {
        let answer = post(&url, "/v1/completions", &json!({ "prompt": "x", "max_tokens": 1 })).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        wrapped(&world) >= before + 3
    })
    .await;
}

/// A verdict that is good stays so while the key service fails, and no request waits for the renewal.
#[tokio::test]
async fn a_renewal_that_fails_ends_no_session() {
    for fault in [Fault::KmsStatus { status: 503 }, Fault::KmsHang] {
        let (world, dir) = (World::start().await, tempfile::tempdir().unwrap());
        let server = world.server().await;
        let mut settings = verifying(&world, &server, &dir, &good());
        settings.timing.renew_after = Duration::from_millis(30);
        let proxy = Proxy::start(settings).await.unwrap();
        proxy.ready().await;
        let url = url(&proxy);
        world.sandbox.faults().inject(fault);
        for number in 0..100 {
            let body = json!({ "prompt": format!("x = {number}"), "max_tokens": 1 });
            let answer = post(&url, "/v1/completions", &body).await;
            assert_eq!(answer.status, 200, "{fault:?}: {}", answer.text);
        }
    }
}
