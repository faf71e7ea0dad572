//! The KMS client and the DEK cache against the sandbox: every fault, and that it heals without a restart.

use std::sync::Arc;
use std::time::{Duration, Instant};

use codeseal::keys::{
    CacheLimits, Endpoint, KeyError, KeyService, Keys, KmsConfig, Status, Timeouts, WrapConfig, WrapError,
    Wrapper,
};
use codeseal::protocol::{Dek, ErrorCode, Namespace, WrappedDek};
use codeseal::sandbox::{Fault, Sandbox, SandboxConfig, VersionChange, claims};
use futures_util::future::{join, join_all};
use serde_json::json;

/// Generous, so that a busy machine does not turn one fault into another.
const PATIENT: Timeouts = Timeouts {
    overall: Duration::from_secs(10),
    exchange: Duration::from_secs(5),
    exchange_attempt: Duration::from_secs(2),
    kms_attempt: Duration::from_secs(2),
    launcher: Duration::from_secs(2),
    backoff: Duration::from_millis(10),
    // The very next request after a fault is gone must succeed.
    pause_after_failure: Duration::ZERO,
};

/// For faults that hang.
const HASTY: Timeouts = Timeouts {
    exchange_attempt: Duration::from_millis(200),
    kms_attempt: Duration::from_millis(200),
    launcher: Duration::from_millis(200),
    ..PATIENT
};

const WIP_AUDIENCE: &str = "//iam.googleapis.com/projects/210987654321/locations/global/\
    workloadIdentityPools/trusted-workloads/providers/attestation-verifier";

/// One sandbox, the server's keys and the employee's wrapper.
struct Bench {
    sandbox: Sandbox,
    keys: Keys,
    wrapper: Wrapper,
    _dir: tempfile::TempDir,
}

/// How the workload is set up.
#[derive(Clone, Copy)]
struct Setup {
    impersonate: bool,
    socket: bool,
    timeouts: Timeouts,
}

const DIRECT: Setup = Setup { impersonate: false, socket: false, timeouts: PATIENT };
const IMPERSONATING: Setup = Setup { impersonate: true, ..DIRECT };
const WITH_SOCKET: Setup = Setup { socket: true, ..DIRECT };

impl Bench {
    async fn new(setup: Setup) -> Self {
        Self::with(setup, |_| ()).await
    }

    async fn with(setup: Setup, change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = SandboxConfig::for_tests(dir.path());
        change(&mut config);
        let sandbox = Sandbox::start(config).await.unwrap();
        let keys = Keys::connect(kms_config(&sandbox, setup)).await.unwrap();
        let wrapper = wrapper(&sandbox, sandbox.kms_key()).await;
        Self { sandbox, keys, wrapper, _dir: dir }
    }

    /// A fresh DEK's namespace, which tells it from others, and its wrapping.
    async fn wrap(&self) -> (Namespace, WrappedDek) {
        let dek = Dek::generate().unwrap();
        (dek.namespace(), self.wrapper.wrap(&dek).await.unwrap())
    }

    /// Whether a fresh DEK comes through.
    async fn works(&self) {
        let (namespace, wrapped) = self.wrap().await;
        assert_eq!(self.keys.dek(&wrapped).await.unwrap().namespace(), namespace);
    }

    fn decrypts(&self) -> u64 {
        self.sandbox.ledger().counts().decrypts().total()
    }
}

fn kms_config(sandbox: &Sandbox, setup: Setup) -> KmsConfig {
    KmsConfig {
        key: sandbox.kms_key().parse().unwrap(),
        wip_audience: sandbox.wip_audience().parse().unwrap(),
        token_file: sandbox.token_file().to_owned(),
        token_socket: setup.socket.then(|| sandbox.socket().to_owned()),
        impersonate: setup.impersonate.then(|| sandbox.service_account().parse().unwrap()),
        endpoint: Endpoint::Sandbox(sandbox.endpoint().to_owned()),
        timeouts: setup.timeouts,
        // A version that was disabled is asked about again at once.
        cache: CacheLimits {
            disabled_ttl: Duration::ZERO,
            // Tests ask as fast as they can.
            calls_per_minute: 1_000_000,
            calls_at_once: 1_000_000,
            ..CacheLimits::default()
        },
    }
}

async fn wrapper(sandbox: &Sandbox, key: &str) -> Wrapper {
    let endpoint = Endpoint::Sandbox(sandbox.endpoint().to_owned());
    Wrapper::connect(WrapConfig { key: key.parse().unwrap(), endpoint }).await.unwrap()
}

/// The same keys, from before the fault until after it: `expected` while it lasts, the DEK as soon as it is gone.
/// The fault strikes twice: a server that has just started, and one that holds an access token which is revoked.
/// Requests leave the status alone; a probe finds out.
async fn heals(setup: Setup, expected: KeyError, break_it: impl Fn(&Sandbox), mend: impl Fn(&Sandbox)) {
    let bench = Bench::new(setup).await;
    for before in [Status::Untried, Status::Ok] {
        let (namespace, wrapped) = bench.wrap().await;
        break_it(&bench.sandbox);
        let start = Instant::now();
        assert_eq!(bench.keys.dek(&wrapped).await.unwrap_err(), expected);
        assert!(start.elapsed() <= setup.timeouts.overall, "{:?}", start.elapsed());
        assert_eq!(bench.keys.status(), before, "one request decides");
        let (probed, status) = match expected {
            KeyError::KeyVersionDisabled => (KeyError::KeyUnusable, Status::Failing(KeyError::KeyUnusable)),
            // KMS refuses a probe's bytes, so there is no plaintext whose checksum could be wrong.
            KeyError::Corrupted => {
                bench.keys.probe().await.unwrap();
                mend(&bench.sandbox);
                assert_eq!(bench.keys.dek(&wrapped).await.unwrap().namespace(), namespace);
                bench.sandbox.revoke_access_tokens();
                continue;
            }
            // Another replica would not do better.
            KeyError::QuotaSpent(KeyService::Kms) => (expected, Status::Ok),
            error if error.code() == ErrorCode::EnvelopeRejected => unreachable!("no fault of the service"),
            error => (error, Status::Failing(error)),
        };
        assert_eq!(bench.keys.probe().await.unwrap_err(), probed);
        assert_eq!(bench.keys.status(), status);
        mend(&bench.sandbox);
        assert_eq!(bench.keys.dek(&wrapped).await.unwrap().namespace(), namespace);
        bench.keys.probe().await.unwrap();
        assert_eq!(bench.keys.status(), Status::Ok);
        bench.sandbox.revoke_access_tokens();
    }
}

async fn heals_from(setup: Setup, expected: KeyError, fault: Fault) {
    let timeouts = if matches!(expected, KeyError::Timeout(_)) { HASTY } else { PATIENT };
    let setup = Setup { timeouts, ..setup };
    heals(setup, expected, |sandbox| sandbox.faults().inject(fault), |sandbox| sandbox.faults().clear())
        .await;
}

/// With and without impersonation.
async fn heals_both_ways(expected: KeyError, fault: Fault) {
    join(heals_from(DIRECT, expected, fault), heals_from(IMPERSONATING, expected, fault)).await;
}

#[tokio::test]
async fn a_wrapped_key_comes_back_with_and_without_impersonation() {
    for setup in [DIRECT, IMPERSONATING] {
        let bench = Bench::new(setup).await;
        assert_eq!(bench.keys.status(), Status::Untried);
        bench.works().await;
        let counts = bench.sandbox.ledger().counts();
        let iam = u64::from(setup.impersonate);
        assert_eq!((counts.sts.granted, counts.iam.granted, counts.decrypts().granted), (1, iam, 1));
    }
}

#[tokio::test]
async fn two_hundred_requests_of_one_session_cost_one_call_of_each_service() {
    let bench = Bench::new(IMPERSONATING).await;
    let (namespace, wrapped) = bench.wrap().await;
    for dek in join_all((0..200).map(|_| bench.keys.dek(&wrapped))).await {
        assert_eq!(dek.unwrap().namespace(), namespace);
    }
    let counts = bench.sandbox.ledger().counts();
    assert_eq!((counts.sts.total(), counts.iam.total(), counts.decrypts().total()), (1, 1, 1));
}

#[tokio::test]
async fn many_sessions_at_once_share_one_token_exchange() {
    let bench = Bench::new(DIRECT).await;
    let wrapped = join_all((0..40).map(|_| bench.wrap())).await;
    for outcome in join_all(wrapped.iter().map(|(_, wrapped)| bench.keys.dek(wrapped))).await {
        outcome.unwrap();
    }
    let counts = bench.sandbox.ledger().counts();
    assert_eq!((counts.sts.total(), counts.decrypts().total()), (1, 40));
}

#[tokio::test]
async fn heals_from_a_missing_token_file() {
    let (remove, refresh) =
        (|s: &Sandbox| s.launcher().remove().unwrap(), |s: &Sandbox| s.launcher().refresh().unwrap());
    heals(DIRECT, KeyError::AttestationMissing, remove, refresh).await;
}

#[tokio::test]
async fn heals_from_an_expired_token() {
    let (expire, refresh) =
        (|s: &Sandbox| s.launcher().expire().unwrap(), |s: &Sandbox| s.launcher().refresh().unwrap());
    heals(DIRECT, KeyError::AttestationExpired, expire, refresh).await;
    assert_eq!(KeyError::AttestationExpired.code(), ErrorCode::AttestationExpired);
}

#[tokio::test]
async fn heals_from_a_token_file_that_holds_something_else() {
    let junk = |s: &Sandbox| s.launcher().write_raw("half a tok").unwrap();
    heals(DIRECT, KeyError::AttestationMissing, junk, |s| s.launcher().refresh().unwrap()).await;
}

#[tokio::test]
async fn the_socket_stands_in_for_the_file() {
    let bench = Bench::new(WITH_SOCKET).await;
    for break_it in [codeseal::sandbox::Launcher::remove, codeseal::sandbox::Launcher::expire] {
        break_it(bench.sandbox.launcher()).unwrap();
        bench.sandbox.revoke_access_tokens();
        bench.works().await;
    }
    assert_eq!(
        bench.sandbox.ledger().counts().launcher.granted,
        1,
        "its token is kept for as long as it is good"
    );
}

#[tokio::test]
async fn heals_when_neither_file_nor_socket_has_a_token() {
    let hasty = Setup { timeouts: HASTY, ..WITH_SOCKET };
    let broken = |fault| {
        move |sandbox: &Sandbox| {
            sandbox.launcher().expire().unwrap();
            sandbox.faults().inject(fault);
        }
    };
    // The file too: a token that the socket gave would be kept, and outlive the next fault.
    let mend = |sandbox: &Sandbox| {
        sandbox.faults().clear();
        sandbox.launcher().refresh().unwrap();
    };
    join(
        heals(WITH_SOCKET, KeyError::AttestationExpired, broken(Fault::LauncherStatus { status: 500 }), mend),
        heals(hasty, KeyError::AttestationExpired, broken(Fault::LauncherHang), mend),
    )
    .await;
}

#[tokio::test]
async fn heals_from_a_refused_exchange() {
    heals_both_ways(KeyError::ExchangeRefused, Fault::StsStatus { status: 400 }).await;
}

#[tokio::test]
async fn heals_from_a_failing_sts() {
    let down = KeyError::Unavailable(KeyService::Sts);
    heals_both_ways(down, Fault::StsStatus { status: 500 }).await;
    heals_from(DIRECT, KeyError::QuotaSpent(KeyService::Sts), Fault::StsStatus { status: 429 }).await;
    heals_from(DIRECT, down, Fault::StsGarbage).await;
}

#[tokio::test]
async fn heals_from_a_hanging_sts() {
    heals_both_ways(KeyError::Timeout(KeyService::Sts), Fault::StsHang).await;
}

#[tokio::test]
async fn heals_from_a_refused_impersonation() {
    heals_from(IMPERSONATING, KeyError::ImpersonationRefused, Fault::IamStatus { status: 403 }).await;
}

#[tokio::test]
async fn heals_from_a_failing_or_hanging_impersonation() {
    join(
        heals_from(IMPERSONATING, KeyError::Unavailable(KeyService::Iam), Fault::IamStatus { status: 503 }),
        heals_from(IMPERSONATING, KeyError::Timeout(KeyService::Iam), Fault::IamHang),
    )
    .await;
}

#[tokio::test]
async fn heals_from_a_failing_kms() {
    for status in [500, 503] {
        let down = KeyError::Unavailable(KeyService::Kms);
        heals_from(DIRECT, down, Fault::KmsStatus { status }).await;
    }
}

#[tokio::test]
async fn heals_from_a_spent_quota_which_is_no_reason_not_to_be_ready() {
    let spent = KeyError::QuotaSpent(KeyService::Kms);
    heals_from(DIRECT, spent, Fault::KmsStatus { status: 429 }).await;
}

#[tokio::test]
async fn heals_from_a_hanging_kms() {
    heals_from(DIRECT, KeyError::Timeout(KeyService::Kms), Fault::KmsHang).await;
}

#[tokio::test]
async fn heals_from_answers_with_a_wrong_checksum() {
    heals_from(DIRECT, KeyError::Corrupted, Fault::KmsCorruptCrc).await;
}

#[tokio::test]
async fn heals_from_a_disabled_key() {
    heals_both_ways(KeyError::KeyVersionDisabled, Fault::KmsKeyDisabled).await;
}

#[tokio::test]
async fn heals_from_a_missing_grant() {
    heals_both_ways(KeyError::Denied, Fault::KmsPermissionDenied).await;
    assert_eq!(KeyError::Denied.code(), ErrorCode::KeyServiceUnavailable);
}

#[tokio::test]
async fn a_request_that_a_retry_can_serve_is_served() {
    let bench = Bench::new(Setup { timeouts: HASTY, ..IMPERSONATING }).await;
    for fault in [
        Fault::StsStatus { status: 503 },
        Fault::StsGarbage,
        Fault::StsHang,
        Fault::IamStatus { status: 429 },
        Fault::IamHang,
        Fault::KmsStatus { status: 429 },
        Fault::KmsStatus { status: 503 },
        Fault::KmsHang,
        Fault::KmsCorruptCrc,
    ] {
        let (_, wrapped) = bench.wrap().await;
        bench.sandbox.revoke_access_tokens();
        bench.sandbox.faults().inject_next(1, fault);
        bench.keys.dek(&wrapped).await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert!(bench.sandbox.faults().active().is_empty(), "{fault:?} did not strike");
    }
}

#[tokio::test]
async fn a_slow_kms_is_waited_for() {
    let bench = Bench::new(DIRECT).await;
    let (_, wrapped) = bench.wrap().await;
    bench.sandbox.faults().inject(Fault::KmsSlow { delay_ms: 100 });
    bench.keys.dek(&wrapped).await.unwrap();
    assert_eq!(bench.decrypts(), 1);
}

#[tokio::test]
async fn a_held_token_and_cached_keys_outlive_every_fault() {
    let bench = Bench::new(IMPERSONATING).await;
    let (_, wrapped) = bench.wrap().await;
    bench.keys.dek(&wrapped).await.unwrap();
    let fresh = bench.wrap().await.1;
    bench.sandbox.launcher().expire().unwrap();
    bench.sandbox.faults().inject(Fault::StsStatus { status: 400 });
    bench.keys.dek(&fresh).await.unwrap();
    bench.sandbox.faults().inject(Fault::KmsHang);
    bench.keys.dek(&wrapped).await.unwrap();
}

#[tokio::test]
async fn short_lived_tokens_are_replaced_unnoticed() {
    // The sandbox's IAM cuts the lifetime without a word, so only KMS says that the token has expired.
    let bench =
        Bench::with(IMPERSONATING, |config| config.access_token_lifetime = Duration::from_secs(1)).await;
    bench.works().await;
    let expired = async {
        while bench.sandbox.ledger().counts().sts.granted < 2 {
            bench.works().await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), expired).await.unwrap();
}

#[tokio::test]
async fn a_wrong_provider_and_an_unmet_condition_are_two_reasons() {
    let bench = Bench::new(DIRECT).await;
    let (_, wrapped) = bench.wrap().await;
    let elsewhere = WIP_AUDIENCE.replace("trusted-workloads", "other-pool").parse().unwrap();
    let config = KmsConfig { wip_audience: elsewhere, ..kms_config(&bench.sandbox, DIRECT) };
    let keys = Keys::connect(config).await.unwrap();
    assert_eq!(keys.dek(&wrapped).await.unwrap_err(), KeyError::ProviderUnknown);

    bench.sandbox.launcher().write_token(claims::tdx(), Duration::from_secs(60)).unwrap();
    assert_eq!(bench.keys.dek(&wrapped).await.unwrap_err(), KeyError::ConditionNotMet);

    let mut for_somebody_else = claims::shielded_preview();
    for_somebody_else["aud"] = json!("https://employee.example");
    let token = bench.sandbox.issuer().sign(&for_somebody_else, Duration::from_secs(60)).unwrap();
    bench.sandbox.launcher().write_raw(token.expose()).unwrap();
    assert_eq!(bench.keys.dek(&wrapped).await.unwrap_err(), KeyError::TokenRefused);

    let errors = [KeyError::ProviderUnknown, KeyError::ConditionNotMet, KeyError::TokenRefused];
    let reasons = errors.map(KeyError::as_str);
    assert_eq!(reasons, ["provider_unknown", "condition_not_met", "token_refused"]);
    assert!(errors.iter().all(|error| error.code() == ErrorCode::KeyServiceUnavailable));
}

#[tokio::test]
async fn only_the_versions_that_are_disabled_give_no_key() {
    let bench = Bench::new(DIRECT).await;
    let (key, sandbox) = (bench.sandbox.kms_key(), &bench.sandbox);
    let (old, wrapped_by_old) = bench.wrap().await;
    assert!(sandbox.rotate_key(key).unwrap().name.ends_with("/cryptoKeyVersions/2"));
    let (new, wrapped_by_new) = bench.wrap().await;
    for (change, usable) in [
        (VersionChange::Disable, false),
        (VersionChange::Enable, true),
        (VersionChange::Destroy, false),
        (VersionChange::Restore, false),
        (VersionChange::Erase, false),
    ] {
        sandbox.change_version(key, Some(1), change).unwrap();
        // Without a cache.
        let keys = Keys::connect(kms_config(sandbox, DIRECT)).await.unwrap();
        match keys.dek(&wrapped_by_old).await {
            Ok(dek) if usable => assert_eq!(dek.namespace(), old),
            outcome => assert_eq!((outcome.err(), usable), (Some(KeyError::KeyVersionDisabled), false)),
        }
        assert_eq!(keys.dek(&wrapped_by_new).await.unwrap().namespace(), new);
        keys.probe().await.unwrap();
    }
}

#[tokio::test]
async fn made_up_keys_do_not_spend_the_quota() {
    let bench = Bench::new(DIRECT).await;
    let cache = CacheLimits { calls_per_minute: 1, calls_at_once: 5, ..CacheLimits::default() };
    let keys = Keys::connect(KmsConfig { cache, ..kms_config(&bench.sandbox, DIRECT) }).await.unwrap();
    let (_, known) = bench.wrap().await;
    keys.dek(&known).await.unwrap();
    let mut refused = Vec::new();
    for number in 0..20_u8 {
        refused.push(keys.dek(&WrappedDek::new(vec![number; 80]).unwrap()).await.unwrap_err());
    }
    assert_eq!(bench.decrypts(), 5);
    assert_eq!(refused[..4], [KeyError::Rejected; 4]);
    assert_eq!(refused[4..], [KeyError::Overloaded; 16]);
    assert_eq!(KeyError::Overloaded.code(), ErrorCode::ServerBusy);
    keys.dek(&known).await.unwrap();
    keys.probe().await.unwrap();
}

#[tokio::test]
async fn a_workload_of_another_image_gets_no_key() {
    let bench = Bench::new(DIRECT).await;
    let dir = tempfile::tempdir().unwrap();
    let digest = format!("sha256:{}", "0".repeat(64));
    let other = claims::with_image_digest(claims::shielded_preview(), &digest);
    let launcher = bench.sandbox.launch(other, dir.path()).await.unwrap();
    let token_file = launcher.token_file().to_owned();
    let config = KmsConfig { token_file, ..kms_config(&bench.sandbox, DIRECT) };
    let keys = Keys::connect(config).await.unwrap();
    let (_, wrapped) = bench.wrap().await;
    assert_eq!(keys.dek(&wrapped).await.unwrap_err(), KeyError::ConditionNotMet);
    assert_eq!(bench.decrypts(), 0);
}

#[tokio::test]
async fn what_is_no_dek_of_this_key_is_rejected_and_kms_is_asked_once() {
    let bench = Bench::new(DIRECT).await;
    let other_key = "projects/acme-primus/locations/global/keyRings/codeseal/cryptoKeys/other";
    bench.sandbox.add_key(other_key).unwrap();
    let foreign = wrapper(&bench.sandbox, other_key).await.wrap(&Dek::generate().unwrap()).await.unwrap();
    let junk = WrappedDek::new(b"junk".to_vec()).unwrap();
    let no_dek = encrypt_raw(&bench.sandbox, "no key").await;
    for (asked, wrapped) in [(1, &foreign), (2, &junk), (3, &no_dek)] {
        for _ in 0..3 {
            assert_eq!(bench.keys.dek(wrapped).await.unwrap_err(), KeyError::Rejected);
        }
        assert_eq!(bench.decrypts(), asked);
    }
    assert_eq!(KeyError::Rejected.code(), ErrorCode::EnvelopeRejected);
    assert_eq!(bench.keys.status(), Status::Untried, "only probes count");
    bench.works().await;
}

#[tokio::test]
async fn connecting_needs_no_service_and_recovers_when_they_start() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let dir = tempfile::tempdir().unwrap();
    let key = codeseal::sandbox::DEFAULT_KMS_KEY;
    let keys = Keys::connect(KmsConfig {
        key: key.parse().unwrap(),
        // The sandbox's, which is not running yet.
        wip_audience: WIP_AUDIENCE.parse().unwrap(),
        token_file: dir.path().join(codeseal::sandbox::TOKEN_FILE),
        token_socket: None,
        impersonate: None,
        endpoint: Endpoint::Sandbox(format!("http://{address}")),
        timeouts: PATIENT,
        cache: CacheLimits::default(),
    })
    .await
    .unwrap();
    assert_eq!(keys.probe().await.unwrap_err(), KeyError::AttestationMissing);
    let config = SandboxConfig { listen: address, ..SandboxConfig::for_tests(dir.path()) };
    let sandbox = Sandbox::start(config).await.unwrap();
    assert_eq!(sandbox.wip_audience(), WIP_AUDIENCE);
    keys.probe().await.unwrap();
    sandbox.shutdown().await;
    // The token from before is still good, so it is KMS that cannot be reached.
    assert_eq!(keys.probe().await.unwrap_err(), KeyError::Unavailable(KeyService::Kms));
}

#[tokio::test]
async fn a_probe_finds_out_what_requests_would_meet() {
    let bench = Bench::new(IMPERSONATING).await;
    bench.keys.probe().await.unwrap();
    assert_eq!(bench.keys.status(), Status::Ok);
    for (fault, error) in [
        (Fault::KmsPermissionDenied, KeyError::Denied),
        (Fault::KmsKeyDisabled, KeyError::KeyUnusable),
        (Fault::KmsStatus { status: 503 }, KeyError::Unavailable(KeyService::Kms)),
    ] {
        bench.sandbox.faults().inject(fault);
        assert_eq!(bench.keys.probe().await.unwrap_err(), error);
        assert_eq!(bench.keys.status(), Status::Failing(error));
        bench.sandbox.faults().clear();
        bench.keys.probe().await.unwrap();
        assert_eq!(bench.keys.status(), Status::Ok);
    }
}

#[tokio::test]
async fn a_caller_that_leaves_does_not_cost_the_others_their_key() {
    let bench = Bench::new(DIRECT).await;
    let (_, wrapped) = bench.wrap().await;
    let keys = Arc::new(bench.keys);
    bench.sandbox.faults().inject(Fault::KmsSlow { delay_ms: 200 });
    let leader = tokio::spawn({
        let (keys, wrapped) = (keys.clone(), wrapped.clone());
        async move { keys.dek(&wrapped).await.map(drop) }
    });
    let struck = bench.sandbox.ledger().until(|counts| counts.faults > 0);
    tokio::time::timeout(Duration::from_secs(5), struck).await.unwrap();
    leader.abort();
    keys.dek(&wrapped).await.unwrap();
    assert_eq!(bench.sandbox.ledger().counts().decrypts().total(), 1);
}

#[tokio::test]
async fn wrapping_is_retried_and_checked() {
    let bench = Bench::new(DIRECT).await;
    for fault in [Fault::KmsStatus { status: 429 }, Fault::KmsStatus { status: 503 }, Fault::KmsCorruptCrc] {
        bench.sandbox.faults().inject_next(1, fault);
        bench.works().await;
        assert!(bench.sandbox.faults().active().is_empty(), "{fault:?} did not strike");
    }
    let dek = Dek::generate().unwrap();
    for (fault, error) in [
        (Fault::KmsPermissionDenied, WrapError::Denied),
        (Fault::KmsKeyDisabled, WrapError::KeyUnusable),
        (Fault::KmsCorruptCrc, WrapError::Corrupted),
    ] {
        bench.sandbox.faults().inject(fault);
        assert_eq!(bench.wrapper.wrap(&dek).await.unwrap_err(), error);
        bench.sandbox.faults().clear();
    }
    let unknown = "projects/acme-primus/locations/global/keyRings/codeseal/cryptoKeys/unknown";
    let unknown = wrapper(&bench.sandbox, unknown).await;
    assert_eq!(unknown.wrap(&dek).await.unwrap_err(), WrapError::KeyUnusable);
}

/// Has KMS wrap something that is no DEK, as another program's client might.
async fn encrypt_raw(sandbox: &Sandbox, text: &str) -> WrappedDek {
    use base64::Engine as _;
    let url = format!("{}/v1/{}:encrypt", sandbox.endpoint(), sandbox.kms_key());
    let plaintext = base64::prelude::BASE64_STANDARD.encode(text);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.post(url).json(&json!({"plaintext": plaintext})).send().await.unwrap();
    let answer: serde_json::Value = answer.json().await.unwrap();
    WrappedDek::parse(answer["ciphertext"].as_str().unwrap()).unwrap()
}
