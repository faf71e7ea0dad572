//! From the attestation token to the plaintext, and the callers that are refused on the way.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use codeseal::attestation::verify::{Expected, GOOGLE_ISSUER, VerifyError, verify};
use codeseal::sandbox::{Principal, Sandbox, SandboxConfig, SandboxError, Verdict, claims};
use serde_json::json;

use super::World;
use super::wire::{self, Request};

/// The code and the description of a refused exchange.
async fn refused(world: &World, subject_token: &str) -> (u16, String, String) {
    let answer = world.exchange(subject_token).await;
    let text = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
    (answer.status.as_u16(), text("error"), text("error_description"))
}

fn last_verdict(sandbox: &Sandbox) -> Verdict {
    sandbox.ledger().last_exchange().unwrap().verdict
}

#[tokio::test]
async fn an_attested_workload_opens_what_an_employee_sealed() {
    let world = World::new().await;
    let ciphertext = world.encrypt("the dek").await;
    let federated = world.federated().await;
    let answer = world.decrypt(&federated, &ciphertext).await.ok();
    assert_eq!(answer["plaintext"], BASE64_STANDARD.encode("the dek"));

    let account = world.sandbox.service_account();
    let impersonated = world.impersonate(account, &federated).await.ok();
    assert!(impersonated["expireTime"].as_str().unwrap().ends_with('Z'));
    let token = impersonated["accessToken"].as_str().unwrap();
    assert_eq!(world.decrypt(token, &ciphertext).await.ok()["plaintext"], BASE64_STANDARD.encode("the dek"));

    let counts = world.sandbox.ledger().counts();
    assert_eq!((counts.sts.granted, counts.iam.granted), (1, 1));
    assert_eq!(counts.encrypt[&Principal::Anonymous].granted, 1);
    assert_eq!(counts.decrypt[&Principal::Federated].granted, 1);
    assert_eq!(counts.decrypt[&Principal::ServiceAccount].granted, 1);
    let exchange = world.sandbox.ledger().last_exchange().unwrap();
    assert_eq!(exchange.verdict, Verdict::Granted);
    let looked: Vec<_> = exchange.claims.iter().map(|claim| claim.path.as_str()).collect();
    let paths = [
        "swname",
        "hwmodel",
        "submods.container.image_digest",
        "submods.container.image_reference",
        "google_service_accounts",
    ];
    assert_eq!(looked, paths);
    assert_eq!(exchange.claims[1].value, Some(json!("GCP_SHIELDED_VM")));
    world.sandbox.shutdown().await;
}

#[tokio::test]
async fn the_answer_of_an_exchange_has_what_the_auth_library_wants() {
    let world = World::with(|config| config.access_token_lifetime = Duration::from_secs(77)).await;
    let answer = world.exchange(&world.token()).await.ok();
    assert_eq!(answer["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(77)));
}

#[tokio::test]
async fn the_wrong_image_gets_no_token_and_the_ledger_says_why() {
    let world = World::new().await;
    let wrong = claims::with_image_digest(claims::shielded_preview(), "sha256:0000");
    let launcher = world.sandbox.launch(wrong, &world.dir.path().join("wrong")).await.unwrap();
    let token = std::fs::read_to_string(launcher.token_file()).unwrap();
    let (status, error, description) = refused(&world, &token).await;
    assert_eq!((status, error.as_str()), (400, "unauthorized_client"));
    assert_eq!(description, "The given credential is rejected by the attribute condition.");
    let Verdict::ConditionNotMet(unmet) = last_verdict(&world.sandbox) else { panic!("not the condition") };
    assert!(unmet.clause.unwrap().starts_with("assertion.submods.container.image_digest == "));
    let exchange = world.sandbox.ledger().last_exchange().unwrap();
    assert!(exchange.claims.iter().any(|claim| claim.value == Some(json!("sha256:0000"))));
    world.federated().await;
    launcher.shutdown().await;
}

#[tokio::test]
async fn a_missing_claim_denies() {
    let world = World::new().await;
    let mut without = claims::shielded_preview();
    without["submods"].as_object_mut().unwrap().remove("container");
    world.sandbox.launcher().write_token(without, Duration::from_secs(60)).unwrap();
    assert_eq!(refused(&world, &world.token()).await.1, "unauthorized_client");
    let Verdict::ConditionNotMet(unmet) = last_verdict(&world.sandbox) else { panic!("not the condition") };
    assert!(unmet.not_evaluable);
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let world = World::new().await;
    world.sandbox.launcher().expire().unwrap();
    assert_eq!(refused(&world, &world.token()).await.1, "invalid_grant");
    assert_eq!(last_verdict(&world.sandbox), Verdict::BadToken { why: VerifyError::Expired });
    world.sandbox.launcher().refresh().unwrap();
    world.federated().await;
}

#[tokio::test]
async fn a_forged_token_is_refused() {
    let world = World::new().await;
    let other = World::new().await;
    assert_eq!(refused(&world, &other.token()).await.1, "invalid_grant");
    assert_eq!(last_verdict(&world.sandbox), Verdict::BadToken { why: VerifyError::Signature });

    let token = world.token();
    let mut parts: Vec<_> = token.split('.').collect();
    let better = BASE64_URL_SAFE_NO_PAD.encode(json!({"hwmodel": "GCP_INTEL_TDX"}).to_string());
    parts[1] = &better;
    assert_eq!(refused(&world, &parts.join(".")).await.1, "invalid_grant");
    assert_eq!(refused(&world, "no token").await.1, "invalid_grant");
}

#[tokio::test]
async fn a_token_for_another_audience_is_refused() {
    let world = World::new().await;
    let mut claims = claims::shielded_preview();
    claims["aud"] = json!("https://employee.example");
    let token = world.sandbox.issuer().sign(&claims, Duration::from_secs(60)).unwrap();
    assert_eq!(refused(&world, token.expose()).await.1, "invalid_grant");
    assert_eq!(last_verdict(&world.sandbox), Verdict::BadToken { why: VerifyError::Audience });
}

#[tokio::test]
async fn an_exchange_for_another_pool_or_of_another_kind_is_refused() {
    let world = World::new().await;
    let good = wire::exchange_form(world.sandbox.wip_audience(), &world.token());
    for (from, to, error) in [
        ("trusted-workloads", "other-pool", "invalid_target"),
        ("grant-type%3Atoken-exchange", "grant-type%3Ajwt-bearer", "unsupported_grant_type"),
        ("token-type%3Ajwt", "token-type%3Asaml2", "invalid_request"),
        ("subject_token=", "other=", "invalid_request"),
        ("scope=", "other=", "invalid_scope"),
    ] {
        let answer = world.send(Request::post("/v1/token", good.replace(from, to))).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (400, &json!(error)), "{to}");
    }
}

#[tokio::test]
async fn only_a_federated_token_becomes_the_service_account_and_no_other() {
    let world = World::new().await;
    let account = world.sandbox.service_account();
    let federated = world.federated().await;
    let employee = world.sandbox.employee_token().unwrap();
    let denied = (403, "PERMISSION_DENIED".to_owned());
    assert_eq!(world.impersonate(account, employee.expose()).await.error(), denied);
    assert_eq!(
        world.impersonate("other@acme-primus.iam.gserviceaccount.com", &federated).await.error(),
        denied
    );
    let path = format!("/v1/projects/-/serviceAccounts/{account}:generateAccessToken");
    let anonymous = world.send(Request::post(&path, "{}")).await;
    assert_eq!(anonymous.error(), (401, "UNAUTHENTICATED".to_owned()));
    let too_long = json!({"scope": ["s"], "lifetime": "3601s"}).to_string();
    let answer = world.send(Request::post(&path, too_long).bearer(&federated)).await;
    assert_eq!(answer.error(), (400, "INVALID_ARGUMENT".to_owned()));
}

#[tokio::test]
async fn a_condition_of_ones_own_replaces_the_codelabs() {
    let world = World::with(|config| {
        config.claims = Some(claims::tdx_h100());
        config.condition = Some("assertion.submods.nvidia_gpu.cc_mode == 'ON'".to_owned());
    })
    .await;
    world.federated().await;
    world.sandbox.launcher().write_token(claims::tdx(), Duration::from_secs(60)).unwrap();
    assert_eq!(refused(&world, &world.token()).await.1, "unauthorized_client");
}

/// The exchange decides as `codeseal policy test` does: no key for an error or where there is no verdict.
#[tokio::test]
async fn a_condition_that_is_an_error_or_undecided_denies() {
    let denied = async |condition: &str| {
        let world = World::with(|config| config.condition = Some(condition.to_owned())).await;
        assert_eq!(refused(&world, &world.token()).await.1, "unauthorized_client");
        let Verdict::ConditionNotMet(unmet) = last_verdict(&world.sandbox) else {
            panic!("not the condition")
        };
        unmet
    };
    assert!(denied("assertion.oemid - 1u == 11128u").await.not_evaluable);
    let unmet = denied("assertion.iat + 60 < assertion.exp || assertion.iat + 60 >= assertion.exp").await;
    assert!(
        unmet.to_string().contains("undecided") && unmet.to_string().contains("(number-reading)"),
        "{unmet}"
    );
    let world = World::with(|config| {
        config.condition = Some(
            "int(assertion.iat) < int(assertion.exp) && assertion.hwmodel.matches('^\\\\w+$')".to_owned(),
        );
    })
    .await;
    world.federated().await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_the_start() {
    let dir = tempfile::TempDir::new().unwrap();
    let start = async |change: fn(&mut SandboxConfig)| {
        let mut config = SandboxConfig::for_tests(dir.path().join("launcher"));
        change(&mut config);
        Sandbox::start(config).await.err().unwrap()
    };
    let error = start(|config| config.condition = Some("assertion.".to_owned())).await;
    assert!(matches!(error, SandboxError::Condition(_)), "{error}");
    let error = start(|config| config.condition = Some("asserton.secboot".to_owned())).await;
    assert!(error.to_string().contains("did you mean `assertion`?"), "{error}");
    let error = start(|config| config.claims = Some(json!([]))).await;
    assert!(matches!(error, SandboxError::Claims), "{error}");
    let error = start(|config| config.dir.push("long".repeat(30))).await;
    assert!(matches!(error, SandboxError::Socket(_)), "{error}");
}

#[tokio::test]
async fn the_published_keys_verify_the_tokens() {
    let world = World::new().await;
    let discovery = world.send(Request::get("/.well-known/openid-configuration")).await.ok();
    assert_eq!(discovery["issuer"], GOOGLE_ISSUER);
    assert_eq!(discovery["jwks_uri"], "http://localhost/jwks");
    let keys = serde_json::from_value(world.send(Request::get("/jwks")).await.ok()).unwrap();
    let expected = Expected::new(GOOGLE_ISSUER, "https://sts.googleapis.com");
    let verified = verify(&world.token(), &keys, &expected).unwrap();
    assert_eq!(verified.claims.hwmodel.as_deref(), Some("GCP_SHIELDED_VM"));
    assert!(verified.claims.eat_nonce.is_empty());
}

#[tokio::test]
async fn it_says_where_everything_is() {
    let world = World::new().await;
    let described = world.sandbox.describe();
    assert_eq!(described["endpoint"], world.sandbox.endpoint());
    for name in ["kms_key", "token_file", "socket", "wip_audience", "service_account"] {
        assert!(!described[name].as_str().unwrap().is_empty(), "{name}");
    }
}
