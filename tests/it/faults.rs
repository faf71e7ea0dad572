//! Every fault of the key plane, seen by an employee: the status while it lasts, and then, without a restart, the
//! answer to the very same envelope. What could be served meanwhile is served.

use std::time::Duration;

use codeseal::keys::Timeouts;
use codeseal::sandbox::Fault;
use codeseal::server::ServerConfig;
use codeseal::server::Service;
use serde_json::json;

use crate::harness::{Server, World, http};

const PATH: &str = "/v1/completions";

/// Something breaks, and how an outsider sees it.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Injected(Fault),
    TokenExpired,
    TokenMissing,
}

impl Trouble {
    fn begin(self, world: &World) {
        match self {
            Self::Injected(fault) => world.sandbox.faults().inject(fault),
            Self::TokenExpired => world.sandbox.launcher().expire().unwrap(),
            Self::TokenMissing => world.sandbox.launcher().remove().unwrap(),
        }
    }

    fn end(self, world: &World) {
        match self {
            Self::Injected(_) => world.sandbox.faults().clear(),
            Self::TokenExpired | Self::TokenMissing => world.sandbox.launcher().refresh().unwrap(),
        }
    }
}

/// Waits that make a hanging service a fault soon, and no wait after a failure.
fn hasty(world: &World) -> ServerConfig {
    let mut config = world.config();
    config.kms.timeouts = Timeouts {
        overall: Duration::from_secs(3),
        exchange: Duration::from_secs(2),
        exchange_attempt: Duration::from_millis(300),
        kms_attempt: Duration::from_millis(300),
        launcher: Duration::from_millis(300),
        backoff: Duration::from_millis(10),
        pause_after_failure: Duration::ZERO,
    };
    config.kms.cache.disabled_ttl = Duration::ZERO;
    config.kms.token_socket = None;
    config.kms.impersonate = Some(world.sandbox.service_account().parse().unwrap());
    config
}

/// Breaks the key plane for a server that runs, and sends one envelope before and after the mending. What a new key is
/// answered with meanwhile is 503 and `code`.
async fn recovers(trouble: Trouble, code: &str) {
    recovers_from(trouble, 503, code).await;
}

async fn recovers_from(trouble: Trouble, status: u16, code: &str) {
    let world = World::start().await;
    let server = Server::start(hasty(&world)).await;
    let cached = world.employee().await;
    server.complete(&cached, "def before():").await;
    let employee = world.employee().await;
    let sealed = employee.seal(PATH, &json!({"prompt": "def after():", "max_tokens": 4}));

    trouble.begin(&world);
    world.sandbox.revoke_access_tokens();
    let refused = server.post(PATH, &sealed.body).await;
    assert_eq!((refused.status, refused.code().as_str()), (status, code), "{trouble:?}");
    assert_eq!(refused.retry_after.is_some_and(|seconds| seconds > 0), status == 503, "{trouble:?}");
    assert_eq!(server.get("/livez").await.status, 200, "{trouble:?}");
    // The key of a running session is cached: its requests need no other service.
    server.complete(&cached, "def meanwhile():").await;

    trouble.end(&world);
    let served = server.post(PATH, &sealed.body).await;
    assert_eq!(served.status, 200, "{trouble:?}: {}", served.text);
    assert_eq!(employee.open(sealed.id, &served).0, 200, "{trouble:?}");
    server.until_ready().await;
}

#[tokio::test]
async fn an_expired_token() {
    recovers(Trouble::TokenExpired, "attestation_expired").await;
}

#[tokio::test]
async fn a_missing_token() {
    recovers(Trouble::TokenMissing, "key_service_unavailable").await;
}

#[tokio::test]
async fn an_sts_that_refuses() {
    recovers(Trouble::Injected(Fault::StsStatus { status: 400 }), "key_service_unavailable").await;
}

#[tokio::test]
async fn an_sts_that_fails() {
    recovers(Trouble::Injected(Fault::StsStatus { status: 500 }), "key_service_unavailable").await;
}

#[tokio::test]
async fn an_sts_that_hangs() {
    recovers(Trouble::Injected(Fault::StsHang), "key_service_unavailable").await;
}

#[tokio::test]
async fn an_impersonation_that_is_refused() {
    recovers(Trouble::Injected(Fault::IamStatus { status: 403 }), "key_service_unavailable").await;
}

#[tokio::test]
async fn a_kms_whose_quota_is_spent() {
    recovers(Trouble::Injected(Fault::KmsStatus { status: 429 }), "key_service_unavailable").await;
}

#[tokio::test]
async fn a_kms_that_is_down() {
    recovers(Trouble::Injected(Fault::KmsStatus { status: 503 }), "key_service_unavailable").await;
}

#[tokio::test]
async fn a_kms_that_hangs() {
    recovers(Trouble::Injected(Fault::KmsHang), "key_service_unavailable").await;
}

#[tokio::test]
async fn a_kms_whose_answers_are_corrupted() {
    recovers(Trouble::Injected(Fault::KmsCorruptCrc), "key_service_unavailable").await;
}

#[tokio::test]
async fn a_key_that_is_disabled() {
    recovers_from(Trouble::Injected(Fault::KmsKeyDisabled), 403, "key_version_disabled").await;
}

#[tokio::test]
async fn a_grant_that_is_missing() {
    recovers(Trouble::Injected(Fault::KmsPermissionDenied), "key_service_unavailable").await;
}

#[tokio::test]
async fn a_slow_kms_only_takes_longer() {
    let world = World::start().await;
    let server = Server::start(hasty(&world)).await;
    world.sandbox.faults().inject(Fault::KmsSlow { delay_ms: 100 });
    let employee = world.employee().await;
    server.complete(&employee, "def slow():").await;
}

#[tokio::test]
async fn one_failure_is_retried_unseen() {
    let world = World::start().await;
    let mut config = hasty(&world);
    // A probe would meet the fault in place of the request.
    config.watch_interval = Duration::from_secs(3600);
    let server = Server::start(config).await;
    for fault in [Fault::KmsStatus { status: 503 }, Fault::KmsCorruptCrc, Fault::KmsHang] {
        let employee = world.employee().await;
        world.sandbox.faults().inject_next(1, fault);
        server.complete(&employee, "def retried():").await;
        assert!(world.sandbox.faults().active().is_empty(), "{fault:?} did not strike");
    }
}

#[tokio::test]
async fn a_server_that_starts_into_an_outage_heals() {
    let world = World::start().await;
    let employee = world.employee().await;
    world.sandbox.faults().inject(Fault::KmsStatus { status: 503 });
    let mut service = Service::start(hasty(&world)).await.unwrap();
    service.ready().await.unwrap();
    let server = Server { service, http: http() };
    assert_eq!(server.get("/readyz").await.status, 503);
    world.sandbox.faults().clear();
    server.until_ready().await;
    server.complete(&employee, "def healed():").await;
}
