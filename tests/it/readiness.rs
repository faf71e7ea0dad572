//! Readiness is what the server's own probes find. No request, whatever is in it, makes a replica leave a load balancer.

use std::time::Duration;

use codeseal::protocol::WrappedDek;
use codeseal::sandbox::{Fault, VersionChange};
use serde_json::json;

use crate::harness::{Employee, Server, World, http, until};

const PATH: &str = "/v1/completions";

fn envelope(wrapped: WrappedDek, employee: &Employee) -> serde_json::Value {
    json!({ "wrapped_dek": wrapped.to_base64(), "ciphertext": employee.seal(PATH, &json!({})).body["ciphertext"] })
}

#[tokio::test]
async fn a_key_of_a_disabled_version_is_its_senders_trouble_only() {
    let world = World::start().await;
    let mut config = world.config();
    config.kms.cache.disabled_ttl = Duration::ZERO;
    let server = Server::start(config).await;
    let key = world.sandbox.kms_key();
    let old = world.employee().await;
    world.sandbox.rotate_key(key).unwrap();
    let new = world.employee().await;
    for change in [VersionChange::Disable, VersionChange::Destroy] {
        world.sandbox.change_version(key, Some(1), change).unwrap();
        for _ in 0..20 {
            let refused = server.post(PATH, &old.seal(PATH, &json!({ "prompt": "x" })).body).await;
            assert_eq!((refused.status, refused.code().as_str()), (403, "key_version_disabled"));
            assert_eq!(refused.retry_after, None);
            assert_eq!(server.get("/readyz").await.status, 200);
        }
    }
    server.complete(&new, "def served():").await;
    let metrics = server.metrics().await;
    assert!(
        metrics.contains(r#"codeseal_key_failures_total{reason="key_version_disabled"} 40"#),
        "{metrics}"
    );

    world.sandbox.change_version(key, Some(1), VersionChange::Restore).unwrap();
    world.sandbox.change_version(key, Some(1), VersionChange::Enable).unwrap();
    server.complete(&old, "def enabled_again():").await;
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn whatever_kms_answers_to_a_request_the_server_stays_ready() {
    let world = World::start().await;
    let mut config = world.config();
    // No probe between the start and the end of this test.
    config.watch_interval = Duration::from_secs(3600);
    config.kms.timeouts.kms_attempt = Duration::from_millis(100);
    config.kms.timeouts.overall = Duration::from_secs(2);
    let server = Server::start(config).await;
    let employee = world.employee().await;
    let faults = [
        Fault::KmsKeyDisabled,
        Fault::KmsPermissionDenied,
        Fault::KmsCorruptCrc,
        Fault::KmsHang,
        Fault::KmsStatus { status: 401 },
        Fault::KmsStatus { status: 404 },
        Fault::KmsStatus { status: 429 },
        Fault::KmsStatus { status: 500 },
        Fault::KmsStatus { status: 503 },
    ];
    for (number, fault) in (0..).zip(faults) {
        world.sandbox.faults().inject(fault);
        let wrapped = WrappedDek::new(vec![number; 80]).unwrap();
        let refused = server.post(PATH, &envelope(wrapped, &employee)).await;
        assert!((400..=599).contains(&refused.status), "{fault:?}: {}", refused.status);
        assert_eq!(server.get("/readyz").await.status, 200, "{fault:?}");
        world.sandbox.faults().clear();
    }
    server.complete(&employee, "def after():").await;
}

#[tokio::test]
async fn an_outage_is_found_and_its_end_too_without_a_request() {
    let world = World::start().await;
    let server = world.server().await;
    for (fault, reason) in [
        (Fault::KmsStatus { status: 503 }, "kms_unavailable"),
        (Fault::KmsPermissionDenied, "denied"),
        (Fault::KmsStatus { status: 404 }, "key_unusable"),
    ] {
        world.sandbox.faults().inject(fault);
        until("the server is not ready", async || server.get("/readyz").await.status == 503).await;
        assert_eq!(server.get("/readyz").await.code(), "key_service_unavailable", "{fault:?}");
        let reason = format!("codeseal_key_failures_total{{reason=\"{reason}\"}}");
        let metrics = server.metrics().await;
        assert!(metrics.contains(&reason), "{reason}: {metrics}");
        world.sandbox.faults().clear();
        server.until_ready().await;
    }
}

#[tokio::test]
async fn a_spent_quota_keeps_no_replica_from_those_whose_key_is_known() {
    let world = World::start().await;
    let server = world.server().await;
    let employee = world.employee().await;
    server.complete(&employee, "def before():").await;
    world.sandbox.faults().inject(Fault::KmsStatus { status: 429 });
    let before = world.sandbox.ledger().counts().decrypts().failed;
    // Some probes have met it.
    until("probes are refused", async || world.sandbox.ledger().counts().decrypts().failed > before + 8)
        .await;
    assert_eq!(server.get("/readyz").await.status, 200);
    server.complete(&employee, "def meanwhile():").await;
}

#[tokio::test]
async fn versions_are_changed_over_the_control_interface() {
    let world = World::start().await;
    let url = format!("{}/sandbox/keys", world.sandbox.endpoint());
    let order = async |order: serde_json::Value| {
        let answer = http().post(&url).json(&order).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
    };
    let states = |body: &serde_json::Value| {
        let versions = body["versions"].as_array().unwrap().iter();
        let one = |version: &serde_json::Value| {
            (version["state"].as_str().unwrap().to_owned(), version["primary"].as_bool().unwrap())
        };
        versions.map(one).collect::<Vec<_>>()
    };
    let state = |state: &str, primary| (state.to_owned(), primary);
    let (status, body) = order(json!({ "rotate": true })).await;
    assert_eq!((status, states(&body)), (200, vec![state("ENABLED", false), state("ENABLED", true)]));
    let (status, body) = order(json!({ "change": "disable", "version": 1 })).await;
    assert_eq!((status, states(&body)), (200, vec![state("DISABLED", false), state("ENABLED", true)]));
    let (status, body) = order(json!({ "change": "destroy" })).await;
    assert_eq!(
        (status, states(&body)),
        (200, vec![state("DISABLED", false), state("DESTROY_SCHEDULED", true)])
    );
    let listed: serde_json::Value = http().get(&url).send().await.unwrap().json().await.unwrap();
    assert_eq!(listed, body);
    for (bad, status) in [
        (json!({}), 400),
        (json!({ "rotate": true, "change": "enable" }), 400),
        (json!({ "rotate": true, "version": 1 }), 400),
        (json!({ "change": "burn" }), 400),
        (json!({ "change": "enable", "versoin": 1 }), 400),
        (json!({ "change": "enable", "version": 2 }), 400),
        (json!({ "change": "enable", "version": 9 }), 404),
        (json!({ "change": "enable", "key": "other" }), 404),
    ] {
        assert_eq!(order(bad.clone()).await.0, status, "{bad}");
    }
}
