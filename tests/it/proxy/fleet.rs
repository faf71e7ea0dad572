//! Several servers: one is used until it fails, and then the next, without an editor seeing any of it.

use codeseal::proxy::Proxy;
use serde_json::json;

use super::between::{Between, Passes};
use super::verify::{good, verifying};
use super::{config, post, url};
use crate::harness::{World, until};

#[tokio::test]
async fn a_server_that_stops_is_replaced_by_the_next_without_a_failure() {
    let world = World::start().await;
    let (first, second) = (world.server().await, world.server().await);
    let mut settings = config(&world, &first.url(""));
    settings.servers.push(second.url("").parse().unwrap());
    let proxy = Proxy::start(settings).await.unwrap();
    proxy.ready().await;
    let url = url(&proxy);
    let served = async |server: &crate::harness::Server| {
        server.metrics().await.contains("codeseal_requests_total{endpoint=\"completions\",code=\"ok\"} ")
    };
    // Each has been tried once, so both are known to work.
    until("both are ready", async || served(&first).await && served(&second).await).await;
    let ask = async |number: usize| {
        let body = json!({ "prompt": format!("x = {number}\n"), "max_tokens": 2 });
        let answer = post(&url, "/v1/completions", &body).await;
        assert_eq!(answer.status, 200, "{number}: {}", answer.text);
    };
    for number in 0..20 {
        ask(number).await;
    }
    let stopping = tokio::spawn(first.service.shutdown());
    for number in 20..60 {
        ask(number).await;
    }
    stopping.await.unwrap();
    ask(60).await;
}

/// The second server is none of the policy's: it may not take the first one's place, and is not sent anything sealed.
#[tokio::test]
async fn a_server_that_is_not_verified_is_no_replacement() {
    let (world, elsewhere) = (World::start().await, World::start().await);
    let (server, other) = (world.server().await, elsewhere.server().await);
    let between = Between::start(other.url(""), Passes::All).await;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = verifying(&world, &server, &dir, &good());
    settings.servers.push(between.url.parse().unwrap());
    let proxy = Proxy::start(settings).await.unwrap();
    proxy.tried().await;
    let url = url(&proxy);
    let body = json!({ "prompt": "x", "max_tokens": 1 });
    for _ in 0..100 {
        assert_eq!(post(&url, "/v1/completions", &body).await.status, 200);
    }
    server.service.shutdown().await;
    for _ in 0..20 {
        assert!(matches!(post(&url, "/v1/completions", &body).await.status, 403 | 503));
    }
    assert!(between.calls().is_empty(), "a request went to a server that was not verified");
}
