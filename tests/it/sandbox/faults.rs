//! Faults on demand: each is seen by its callers, counted, and gone once it is cleared.

use std::time::Duration;

use bytes::Bytes;
use codeseal::sandbox::Fault;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::wire::{self, Request};
use super::{PATIENCE, World};

async fn order(world: &World, order: Value) -> Value {
    world.send(Request::post("/sandbox/faults", order.to_string())).await.ok()
}

/// An empty `DecryptRequest` over gRPC.
async fn grpc_decrypt(world: &World, token: &str) -> Result<Bytes, (u16, String)> {
    wire::grpc(world.sandbox.endpoint(), "Decrypt", b"", Some(token)).await
}

#[tokio::test]
async fn the_token_exchange_fails_as_asked() {
    let world = World::new().await;
    let faults = world.sandbox.faults();
    for status in [400, 403, 429, 500, 503] {
        faults.inject_next(1, Fault::StsStatus { status });
        assert_eq!(world.exchange(&world.token()).await.status.as_u16(), status);
    }
    faults.inject_next(1, Fault::StsGarbage);
    assert_eq!(world.exchange(&world.token()).await.ok().get("issued_token_type"), None);
    world.federated().await;
    let counts = world.sandbox.ledger().counts();
    assert_eq!((counts.sts.failed, counts.sts.granted, counts.faults), (6, 1, 6));
}

#[tokio::test]
async fn impersonation_fails_as_asked() {
    let world = World::new().await;
    let federated = world.federated().await;
    world.sandbox.faults().inject(Fault::IamStatus { status: 403 });
    let account = world.sandbox.service_account();
    for _ in 0..2 {
        let answer = world.impersonate(account, &federated).await;
        assert_eq!(answer.error(), (403, "PERMISSION_DENIED".to_owned()));
    }
    world.sandbox.faults().clear();
    world.impersonate(account, &federated).await.ok();
}

#[tokio::test]
async fn the_key_service_fails_as_asked_over_either_wire() {
    let world = World::new().await;
    let federated = world.federated().await;
    let ciphertext = world.encrypt("dek").await;
    for (fault, rest, grpc) in [
        (Fault::KmsStatus { status: 429 }, (429, "RESOURCE_EXHAUSTED"), 8),
        (Fault::KmsStatus { status: 500 }, (500, "INTERNAL"), 13),
        (Fault::KmsStatus { status: 503 }, (503, "UNAVAILABLE"), 14),
        (Fault::KmsKeyDisabled, (400, "FAILED_PRECONDITION"), 9),
        (Fault::KmsPermissionDenied, (403, "PERMISSION_DENIED"), 7),
    ] {
        world.sandbox.faults().inject_next(2, fault);
        let answer = world.decrypt(&federated, &ciphertext).await;
        assert_eq!(answer.error(), (rest.0, rest.1.to_owned()), "{fault:?}");
        assert_eq!(grpc_decrypt(&world, &federated).await.unwrap_err().0, grpc, "{fault:?}");
        world.decrypt(&federated, &ciphertext).await.ok();
    }
}

#[tokio::test]
async fn checksums_can_be_corrupted() {
    let world = World::new().await;
    let federated = world.federated().await;
    let ciphertext = world.encrypt("dek").await;
    world.sandbox.faults().inject(Fault::KmsCorruptCrc);
    let answer = world.decrypt(&federated, &ciphertext).await.ok();
    assert_ne!(answer["plaintextCrc32c"], crc32c::crc32c(b"dek").to_string());
    world.sandbox.faults().clear();
    let answer = world.decrypt(&federated, &ciphertext).await.ok();
    assert_eq!(answer["plaintextCrc32c"], crc32c::crc32c(b"dek").to_string());
}

#[tokio::test]
async fn answers_can_be_slow() {
    let world = World::new().await;
    world.sandbox.faults().inject_next(1, Fault::KmsSlow { delay_ms: 120 });
    world.sandbox.faults().inject_next(1, Fault::StsSlow { delay_ms: 120 });
    let since = std::time::Instant::now();
    world.encrypt("dek").await;
    world.federated().await;
    assert!(since.elapsed() >= Duration::from_millis(240));
}

#[tokio::test]
async fn what_hangs_is_served_once_the_fault_is_cleared() {
    let world = World::new().await;
    let federated = world.federated().await;
    let ciphertext = world.encrypt("dek").await;
    for fault in [Fault::KmsHang, Fault::StsHang, Fault::IamHang] {
        world.sandbox.faults().inject(fault);
        let before = world.sandbox.ledger().counts().faults;
        let hanging = async {
            let token = world.token();
            match fault {
                Fault::KmsHang => world.decrypt(&federated, &ciphertext).await,
                Fault::StsHang => world.exchange(&token).await,
                _ => world.impersonate(world.sandbox.service_account(), &federated).await,
            }
        };
        let clearing = async {
            world.until(|counts| counts.faults > before).await;
            world.sandbox.faults().clear();
        };
        let (answer, ()) =
            tokio::time::timeout(PATIENCE, futures_util::future::join(hanging, clearing)).await.unwrap();
        answer.ok();
    }
}

#[tokio::test]
async fn a_request_that_hangs_ends_with_its_caller_or_with_the_sandbox() {
    let world = World::new().await;
    world.sandbox.faults().inject(Fault::StsHang);
    let address = world.sandbox.endpoint().strip_prefix("http://").unwrap().to_owned();
    let body = wire::exchange_form(world.sandbox.wip_audience(), &world.token());
    let hang = |address: String, body: String| {
        tokio::spawn(async move {
            wire::http1(TcpStream::connect(address).await.unwrap(), Request::post("/v1/token", body)).await
        })
    };
    let leaver = hang(address.clone(), body.clone());
    world.until(|counts| counts.faults == 1).await;
    leaver.abort();
    assert!(leaver.await.unwrap_err().is_cancelled());
    // The call of the client that left was not counted, and the next one hangs again.
    let stayer = hang(address.clone(), body);
    world.until(|counts| counts.faults == 2).await;
    assert_eq!(world.sandbox.ledger().counts().sts.total(), 0);
    tokio::time::timeout(PATIENCE, world.sandbox.shutdown()).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, stayer).await.unwrap().unwrap_err().is_panic());
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn scripts_order_faults_over_http() {
    let world = World::new().await;
    let active = order(&world, json!({"fault": "kms_status", "status": 503, "times": 1})).await;
    assert_eq!(active, json!({"active": [{"fault": "kms_status", "status": 503, "times": 1}]}));
    assert_eq!(world.kms("encrypt", None, json!({"plaintext": "AAAA"})).await.status, 503);
    assert_eq!(world.send(Request::get("/sandbox/faults")).await.ok(), json!({"active": []}));

    order(&world, json!({"token_file": "missing"})).await;
    assert!(!world.sandbox.token_file().exists());
    order(&world, json!({"token_file": "expired", "fault": "launcher_status", "status": 500})).await;
    assert_eq!(world.exchange(&world.token()).await.json()["error"], "invalid_grant");
    order(&world, json!({"clear": true})).await;
    world.federated().await;

    let refused = world.send(Request::post("/sandbox/faults", r#"{"fault": "fire"}"#)).await;
    assert_eq!(refused.status, 400);
    let ledger = world.send(Request::get("/sandbox/ledger")).await.ok();
    assert_eq!(ledger["counts"]["sts"], json!({"granted": 1, "denied": 1, "failed": 0}));
    assert_eq!(ledger["last_exchange"]["verdict"], "granted");
}
