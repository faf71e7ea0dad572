//! `POST /attestation`: evidence for clients, requests that are refused, and the limits on unauthenticated callers.

use codeseal::attestation::Claims;
use codeseal::protocol::{Evidence, MAX_ATTESTATION_REQUEST_BYTES};
use codeseal::sandbox::Fault;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{Answer, Process, Server, World, http, until};

const PATH: &str = "/attestation";
const NONCE: &str = "0123456789abcdefghij";

fn request() -> Value {
    json!({ "audience": "codeseal:primus", "nonces": [NONCE] })
}

fn claims(answer: &Answer) -> (Evidence, Claims) {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let evidence: Evidence = serde_json::from_str(&answer.text).unwrap();
    let claims = Claims::peek(&evidence.token).unwrap();
    (evidence, claims)
}

/// Granted calls of the launcher's socket.
fn calls(world: &World) -> u64 {
    world.sandbox.ledger().counts().launcher.granted
}

#[tokio::test]
async fn a_token_repeats_the_clients_nonces_and_binds_the_process() {
    let world = World::start().await;
    let server = world.server().await;
    let body = json!({ "audience": "codeseal:primus", "nonces": [NONCE, "another-nonce"] });
    let (evidence, claims) = claims(&server.post(PATH, &body).await);
    assert_eq!(claims.aud, ["codeseal:primus"]);
    assert_eq!(claims.eat_nonce.len(), 5);
    assert!(evidence.identity.is_bound_by(&[NONCE.into(), "another-nonce".into()], &claims.eat_nonce));
    assert!(!evidence.identity.is_bound_by(&[NONCE.into()], &claims.eat_nonce));

    // Another process with the same build and the same model is the same in everything but its name.
    let other = world.server().await;
    let (other, _) = self::claims(&other.post(PATH, &body).await);
    assert_eq!(
        (other.identity.build, other.identity.weights),
        (evidence.identity.build, evidence.identity.weights)
    );
    assert_ne!(other.identity.server, evidence.identity.server);
}

#[tokio::test]
async fn a_token_of_type_pki_brings_its_certificates() {
    let world = World::start().await;
    let server = world.server().await;
    let mut body = request();
    body["token_type"] = json!("PKI");
    let (evidence, _) = claims(&server.post(PATH, &body).await);
    assert_eq!(jsonwebtoken::decode_header(&evidence.token).unwrap().x5c.unwrap().len(), 3);
}

#[tokio::test]
async fn no_token_is_given_that_google_or_anybody_else_would_take() {
    let world = World::start().await;
    let server = world.server().await;
    let before = calls(&world);
    for (audience, nonces, code) in [
        (json!("https://sts.googleapis.com"), json!([NONCE]), "invalid_parameter"),
        (json!(world.sandbox.wip_audience()), json!([NONCE]), "invalid_parameter"),
        (json!("codeseal:"), json!([NONCE]), "invalid_parameter"),
        (json!("codeseal:primus"), json!([]), "invalid_parameter"),
        (json!("codeseal:primus"), json!(["short"]), "invalid_parameter"),
        (json!("codeseal:primus"), json!([NONCE, NONCE, NONCE, NONCE]), "invalid_parameter"),
        (json!(7), json!([NONCE]), "invalid_request"),
        (json!("codeseal:primus"), json!(NONCE), "invalid_request"),
    ] {
        let answer = server.post(PATH, &json!({ "audience": audience, "nonces": nonces })).await;
        assert_eq!(answer.code(), code, "{audience} {nonces}");
        assert_eq!(answer.status, if code == "invalid_request" { 400 } else { 422 });
    }
    let mut unknown = request();
    unknown["token_typ"] = json!("PKI");
    assert_eq!(server.post(PATH, &unknown).await.code(), "invalid_request");
    assert_eq!(server.get(PATH).await.code(), "method_not_allowed");
    assert_eq!(calls(&world), before, "the launcher was not bothered");
}

#[tokio::test]
async fn a_body_is_small_or_refused() {
    let world = World::start().await;
    let server = world.server().await;
    let mut body = request();
    body["nonces"] = json!(["n".repeat(MAX_ATTESTATION_REQUEST_BYTES)]);
    let answer = server.post(PATH, &body).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "payload_too_large"));
}

#[tokio::test]
async fn one_call_of_the_launcher_answers_all_equal_requests() {
    let world = World::start().await;
    let server = world.server().await;
    let before = calls(&world);
    world.sandbox.faults().inject(Fault::LauncherHang);
    let body = request();
    let asking = join_all((0..10).map(|_| server.post(PATH, &body)));
    let releasing = async {
        until("all have arrived", async || server.metrics().await.contains("codeseal_requests_in_flight 10"))
            .await;
        world.sandbox.faults().clear();
    };
    let (answers, ()) = tokio::join!(asking, releasing);
    let first = claims(&answers[0]).0.token;
    assert!(answers.iter().all(|answer| claims(answer).0.token == first));
    assert_eq!(calls(&world), before + 1);
}

#[tokio::test]
async fn strangers_get_so_many_tokens_a_minute_and_no_more() {
    let world = World::start().await;
    let mut config = world.config();
    config.limits.max_attestations_per_minute = 6;
    let server = Server::start(config).await;
    assert_eq!(server.post(PATH, &request()).await.status, 200);
    let answer = server.post(PATH, &request()).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "server_busy"));
    assert_eq!(answer.retry_after, Some(1));
    // What employees ask for is not held up by it.
    let employee = world.employee().await;
    server.complete(&employee, "def busy():").await;
}

#[tokio::test]
async fn a_launcher_that_fails_is_said_and_heals() {
    let world = World::start().await;
    let server = world.server().await;
    world.sandbox.faults().inject(Fault::LauncherStatus { status: 500 });
    let answer = server.post(PATH, &request()).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "attestation_unavailable"));
    assert_eq!(answer.retry_after, Some(5));
    world.sandbox.faults().clear();
    claims(&server.post(PATH, &request()).await);
}

#[tokio::test]
async fn a_request_for_another_server_costs_no_key_and_no_answer() {
    let world = World::start().await;
    let server = world.server().await;
    let (evidence, _) = claims(&server.post(PATH, &request()).await);
    let employee = world.employee().await;
    let sealed = employee.seal("/v1/completions", &json!({ "prompt": "def x():", "max_tokens": 2 }));
    let send = async |named: &str| {
        let url = server.url("/v1/completions");
        let request = http().post(url).header("x-codeseal-server", named).json(&sealed.body);
        Answer::read(request.send().await.unwrap()).await
    };
    let unwrapped = world.sandbox.ledger().counts().decrypts().granted;
    for other in ["AwMDAwMDAwMDAwMDAwMDAw", "junk", ""] {
        let answer = send(other).await;
        assert_eq!((answer.status, answer.code().as_str()), (421, "server_changed"), "{other}");
    }
    assert_eq!(world.sandbox.ledger().counts().decrypts().granted, unwrapped);
    let answer = send(&evidence.identity.server.to_string()).await;
    assert_eq!(employee.open(sealed.id, &answer).0, 200);
}

/// An attacker on the network can remove the header, but not what is sealed.
#[tokio::test]
async fn a_sealed_request_for_another_server_is_refused_under_the_seal() {
    let world = World::start().await;
    let server = world.server().await;
    let (evidence, _) = claims(&server.post(PATH, &request()).await);
    let employee = world.employee().await;
    let body = json!({ "prompt": "def x():", "max_tokens": 2 });
    let other = "AwMDAwMDAwMDAwMDAwMDAw".parse().unwrap();
    for (named, status) in [(other, 421), (evidence.identity.server, 200)] {
        let sealed = employee.seal_for("/v1/completions", Some(named), &body);
        let answer = server.post("/v1/completions", &sealed.body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let (found, body) = employee.open(sealed.id, &answer);
        assert_eq!(found, status, "{body}");
    }
}

/// The token directory of the codelab's VM image has mode 0744: a user other than root cannot enter it.
#[tokio::test]
async fn a_directory_that_only_root_can_enter_says_what_to_do() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let world = World::start().await;
    let launcher = world.sandbox.token_file().parent().unwrap().to_owned();
    let outer = launcher.parent().unwrap().to_owned();
    let set_mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let flags = world.flags();
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let remains = if is_root {
        // Other users must be able to enter the directory, and to run the program.
        set_mode(&outer, 0o755);
        set_mode(&launcher, 0o744);
        let program = outer.join("codeseal-server");
        std::fs::copy(env!("CARGO_BIN_EXE_codeseal-server"), &program).unwrap();
        set_mode(&program, 0o755);
        Process::run_unprivileged(&program, &flags, &outer).await
    } else {
        // The owner without the right to enter is in the same place.
        set_mode(&launcher, 0o644);
        let remains = crate::harness::run_server(&flags).await;
        set_mode(&launcher, 0o755);
        remains
    };
    assert_eq!(remains.code, Some(78), "{}{}", remains.stdout, remains.stderr);
    for word in ["not readable for this user", "only root", "RUNTIME_USER=0"] {
        assert!(remains.stderr.contains(word), "{}", remains.stderr);
    }
    assert!(!remains.stderr.contains("attestation_verifier"), "no path in a message: {}", remains.stderr);
}
