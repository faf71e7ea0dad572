//! `codeseal verify` and `codeseal complete --verify`: every way of not being what the policy says has its own exit
//! code, and no key is wrapped for such a server.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use codeseal::attestation::verify::GOOGLE_ISSUER;
use codeseal::client::Untrusted;
use codeseal::protocol::{AttestationRequest, Digest, Evidence, Identity, ServerId, TokenType};
use codeseal::sandbox::{Sandbox, claims};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{PATIENCE, Server, World, clean, run_server, tiny};

/// What a dishonest or broken server makes of a request.
type Forge = Box<dyn Fn(&Sandbox, &AttestationRequest, &Identity) -> String + Send + Sync>;

/// A server that answers `/attestation` with whatever a test wants.
struct Forger {
    url: String,
    _serving: AbortOnDropHandle<()>,
}

struct Forging {
    world: Arc<World>,
    forge: Forge,
    version: String,
}

impl Forger {
    async fn start(world: &Arc<World>, forge: Forge) -> Self {
        Self::of_version(world, forge, "0").await
    }

    async fn of_version(world: &Arc<World>, forge: Forge, version: &str) -> Self {
        let forging = Arc::new(Forging { world: Arc::clone(world), forge, version: version.to_owned() });
        let router = Router::new().route("/attestation", post(forged)).with_state(forging);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving: JoinHandle<()> =
            tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, _serving: AbortOnDropHandle::new(serving) }
    }
}

fn identity() -> Identity {
    Identity {
        build: Digest::new([1; 32]),
        weights: Digest::new([2; 32]),
        server: "AwMDAwMDAwMDAwMDAwMDAw".parse::<ServerId>().unwrap(),
    }
}

async fn forged(
    State(forging): State<Arc<Forging>>,
    Json(request): Json<AttestationRequest>,
) -> Json<Evidence> {
    let identity = identity();
    let token = (forging.forge)(&forging.world.sandbox, &request, &identity);
    Json(Evidence { token, version: forging.version.clone(), identity })
}

/// The claims of an honest answer.
fn honest(base: Value, request: &AttestationRequest, identity: &Identity) -> Value {
    let mut claims = base;
    claims["aud"] = json!(request.audience);
    let nonces: Vec<String> = request.nonces.iter().cloned().chain(identity.nonces()).collect();
    claims["eat_nonce"] = json!(nonces);
    claims
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn sign(sandbox: &Sandbox, claims: &Value) -> String {
    sandbox.issuer().sign_between(claims, now(), now() + 3600).unwrap().expose().clone()
}

/// An answer that is honest but for one change of its claims.
fn but(base: fn() -> Value, change: impl Fn(&mut Value) + Send + Sync + 'static) -> Forge {
    Box::new(move |sandbox, request, identity| {
        let mut claims = honest(base(), request, identity);
        change(&mut claims);
        sign(sandbox, &claims)
    })
}

/// An employee's desk: a home with a policy in it.
struct Desk {
    world: Arc<World>,
    home: TempDir,
}

impl Desk {
    async fn new() -> Self {
        Self { world: Arc::new(World::start().await), home: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A policy for the sandbox's issuer, and for the image that all of its claims are about.
    fn policy(&self, profile: &str, more: &str) -> PathBuf {
        let digest = claims::tdx()["submods"]["container"]["image_digest"].as_str().unwrap().to_owned();
        let keys = if more.contains("pki") {
            self.write("root.pem", self.world.sandbox.issuer().root_pem());
            "pki_root = 'root.pem'".to_owned()
        } else if more.contains("jwks") {
            String::new()
        } else {
            format!("jwks = '{}/jwks'", self.world.sandbox.endpoint())
        };
        let text = format!("profile = '{profile}'\nimage_digests = ['{digest}']\n{keys}\n{more}\n");
        self.write("policy.toml", &text)
    }

    async fn run(&self, server: &str, arguments: &[&str]) -> Output {
        let mut command = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")));
        command
            .args(arguments)
            .env("HOME", self.home.path())
            .env("CODESEAL_SERVER", server)
            .env("CODESEAL_POLICY", self.home.path().join("policy.toml"))
            .env("CODESEAL_KMS_KEY", self.world.sandbox.kms_key())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if arguments[0] == "complete" {
            command.env("CODESEAL_SANDBOX_ENDPOINT", self.world.sandbox.endpoint());
        }
        tokio::time::timeout(PATIENCE, command.output()).await.expect("the client hangs").unwrap()
    }

    /// Refused, by `verify` with a report and by `complete --verify` before a key was wrapped.
    async fn refuses(&self, server: &str, reason: Untrusted) {
        let output = self.run(server, &["verify", "--json"]).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(i32::from(reason.exit_code())), "{reason:?}: {stderr}");
        assert!(stderr.contains(&reason.to_string()), "{stderr}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["trusted"], false);
        assert_eq!(report["refused"][0]["kind"], serde_json::to_value(reason).unwrap());
        let human = self.run(server, &["verify"]).await;
        assert!(String::from_utf8_lossy(&human.stdout).starts_with("NOT TRUSTED: "));

        let wrapped = self.world.sandbox.ledger().counts().encrypts().granted;
        let output = self.run(server, &["complete", "--verify", "x"]).await;
        assert_eq!(output.status.code(), Some(i32::from(reason.exit_code())), "{reason:?}");
        assert!(output.stdout.is_empty());
        assert_eq!(self.world.sandbox.ledger().counts().encrypts().granted, wrapped, "no key was wrapped");
    }

    async fn refuses_forged(&self, forge: Forge, reason: Untrusted) {
        let forger = Forger::start(&self.world, forge).await;
        self.refuses(&forger.url, reason).await;
    }

    async fn trusts_forged(&self, forge: Forge) -> Value {
        let forger = Forger::start(&self.world, forge).await;
        let output = self.run(&forger.url, &["verify", "--json"]).await;
        let (stdout, stderr) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }
}

#[tokio::test]
async fn a_real_server_is_trusted_and_says_what_is_not_proven() {
    let desk = Desk::new().await;
    let server = desk.world.server().await;
    desk.policy(
        "shielded-preview",
        "service_accounts = ['operator-svc@acme-operator.iam.gserviceaccount.com']",
    );
    let output = desk.run(&server.url(""), &["verify"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("trusted: "), "{text}");
    for line in [
        "✓ signature",
        "✓ freshness",
        "✓ image digest",
        "✓ service account",
        "- memory: a Shielded VM",
        "- GPU:",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let output = desk.run(&server.url(""), &["verify", "--json"]).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["trusted"], &report["encrypts_memory"]), (&json!(true), &json!(false)));
    let weights = report["server"]["weights"].as_str().unwrap().to_owned();

    let digest = ["models", "digest", "--model", tiny().to_str().unwrap()].map(String::from);
    assert_eq!(run_server(&digest).await.stdout.trim(), weights, "the same is computed without a server");

    // What was seen can be pinned, and another value is refused.
    desk.policy("shielded-preview", &format!("weights = ['{weights}']"));
    assert_eq!(desk.run(&server.url(""), &["verify"]).await.status.code(), Some(0));
    desk.policy("shielded-preview", &format!("weights = ['sha256:{}']", "0".repeat(64)));
    desk.refuses(&server.url(""), Untrusted::Weights).await;
    desk.policy("shielded-preview", &format!("builds = ['sha256:{}']", "0".repeat(64)));
    desk.refuses(&server.url(""), Untrusted::Build).await;
}

#[tokio::test]
async fn nothing_of_the_servers_reaches_the_terminal_unescaped() {
    const HOSTILE: &str =
        "\u{202e}\u{2066}\u{200b}\u{2028}\u{feff}\u{9b}31m\x1b[2J\x1b]0;x\x07\r\n\u{430}dmin";
    let desk = Desk::new().await;
    desk.policy("tdx", "");
    let hostile = || {
        but(claims::tdx, |claims| {
            claims["submods"]["gce"]["project_id"] = json!(HOSTILE);
            claims["submods"]["container"]["image_reference"] = json!(HOSTILE.repeat(100));
            claims["submods"]["container"]["image_signatures"] = json!([{ "key_id": HOSTILE }]);
            claims["google_service_accounts"] = json!([HOSTILE]);
            claims["submods"]["nvidia_gpu"] = json!({ "gpus": [{ "ueid": HOSTILE }] });
        })
    };
    let version = HOSTILE.repeat(10_000);
    let forger = Forger::of_version(&desk.world, hostile(), &version).await;
    let plain = |text: &str, more: &[char]| {
        let strange = text.chars().find(|c| !matches!(c, '\n' | ' '..='~') && !more.contains(c));
        assert_eq!(strange, None, "{text}");
        assert!(text.len() < 32 * 1024, "{}", text.len());
    };
    let output = desk.run(&forger.url, &["verify"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    plain(&text, &['✓', '✗']);
    // The version, the project, the image's name, its signer, the account and the GPU.
    let shown = text.lines().filter(|line| line.contains("\\u{202e}\\u{2066}\\u{200b}\\u{2028}"));
    assert_eq!(shown.count(), 6, "{text}");

    let output = desk.run(&forger.url, &["verify", "--json"]).await;
    let json = String::from_utf8(output.stdout).unwrap();
    plain(&json, &[]);
    serde_json::from_str::<Value>(&json).unwrap();

    // What a policy pins is shown as well when it was proven.
    desk.policy("tdx", &format!("projects = [{}]", json!(HOSTILE)));
    let output = desk.run(&forger.url, &["verify"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("✓ project"), "{text}");
    plain(&text, &['✓', '✗']);
}

#[tokio::test]
async fn a_token_of_type_pki_is_verified_by_the_pinned_root_and_by_no_other() {
    let desk = Desk::new().await;
    let server = desk.world.server().await;
    desk.policy("shielded-preview", "token_type = 'pki'");
    let output = desk.run(&server.url(""), &["verify"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    // The root of another issuer, and Google's own, do not vouch for it.
    let other = World::start().await;
    desk.write("root.pem", other.sandbox.issuer().root_pem());
    desk.refuses(&server.url(""), Untrusted::Chain).await;
    let text = std::fs::read_to_string(desk.home.path().join("policy.toml")).unwrap();
    desk.write("policy.toml", &text.replace("pki_root = 'root.pem'", ""));
    desk.refuses(&server.url(""), Untrusted::Chain).await;
}

#[tokio::test]
async fn a_pki_token_whose_payload_was_changed_is_refused() {
    let desk = Desk::new().await;
    desk.policy("tdx", "token_type = 'pki'");
    let forge: Forge = Box::new(|sandbox, request, identity| {
        let signed = |claims: &Value| {
            let token = sandbox.issuer().sign_as_between(TokenType::Pki, claims, now(), now() + 60);
            token.unwrap().expose().clone()
        };
        let claims = honest(claims::tdx(), request, identity);
        let (good, other) = (signed(&claims), signed(&claims::sev()));
        let parts: Vec<&str> = good.split('.').collect();
        format!("{}.{}.{}", parts[0], parts[1], other.rsplit('.').next().unwrap())
    });
    desk.refuses_forged(forge, Untrusted::Signature).await;
}

#[tokio::test]
async fn a_replayed_nonce_and_an_identity_that_is_not_bound_are_refused() {
    let desk = Desk::new().await;
    desk.policy("tdx", "");
    // A token that was made yesterday for another client's nonces.
    let replay = but(claims::tdx, |claims| claims["eat_nonce"][0] = json!("the-nonce-of-another-question"));
    desk.refuses_forged(replay, Untrusted::Nonce).await;
    // An honest server asked for a token that has a foreign identity's nonces among the client's own.
    let relayed =
        but(claims::tdx, |claims| claims["eat_nonce"].as_array_mut().unwrap().push(json!("one more")));
    desk.refuses_forged(relayed, Untrusted::Nonce).await;
    let unbound = but(claims::tdx, |claims| claims["eat_nonce"] = claims["eat_nonce"][0].clone());
    desk.refuses_forged(unbound, Untrusted::Nonce).await;
}

#[tokio::test]
async fn the_wrong_issuer_audience_or_time_is_refused() {
    let desk = Desk::new().await;
    desk.policy("tdx", "");
    let audience = but(claims::tdx, |claims| claims["aud"] = json!("https://sts.googleapis.com"));
    desk.refuses_forged(audience, Untrusted::Audience).await;
    let between = |from: i64, until: i64| -> Forge {
        Box::new(move |sandbox, request, identity| {
            let claims = honest(claims::tdx(), request, identity);
            let at = |seconds| now().saturating_add_signed(seconds);
            sandbox.issuer().sign_between(&claims, at(from), at(until)).unwrap().expose().clone()
        })
    };
    desk.refuses_forged(between(-7200, -3600), Untrusted::Expired).await;
    desk.refuses_forged(between(3600, 7200), Untrusted::NotYetValid).await;
    for (from, side) in [(-7200, "ahead of"), (3600, "behind")] {
        let forger = Forger::start(&desk.world, between(from, from + 600)).await;
        let output = desk.run(&forger.url, &["verify", "--json"]).await;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!((report["clock_ahead_secs"].as_i64().unwrap() + from).abs() < 60, "{report}");
        let text = String::from_utf8(desk.run(&forger.url, &["verify"]).await.stdout).unwrap();
        assert!(text.contains(&format!(" s {side} the time at which the token says it was made")), "{text}");
    }
    desk.policy("tdx", "issuer = 'https://issuer.example'");
    assert_ne!(GOOGLE_ISSUER, "https://issuer.example");
    desk.refuses_forged(but(claims::tdx, |_| ()), Untrusted::Issuer).await;
}

#[tokio::test]
async fn the_wrong_key_and_an_unknown_one_are_told_apart() {
    let desk = Desk::new().await;
    desk.policy("tdx", "");
    // Signed by another issuer, whose key has the same name.
    let other = World::start().await;
    let foreign: Forge =
        Box::new(move |_, request, identity| sign(&other.sandbox, &honest(claims::tdx(), request, identity)));
    desk.refuses_forged(foreign, Untrusted::Signature).await;

    let mut keys = serde_json::to_value(desk.world.sandbox.issuer().keys()).unwrap();
    keys["keys"][0]["kid"] = json!("rotated");
    desk.write("keys.json", &keys.to_string());
    desk.policy("tdx", "jwks = 'keys.json'");
    desk.refuses_forged(but(claims::tdx, |_| ()), Untrusted::UnknownKey).await;

    desk.policy("tdx", "");
    desk.refuses_forged(Box::new(|_, _, _| "junk".to_owned()), Untrusted::Malformed).await;
    let unsigned: Forge = Box::new(|sandbox, request, identity| {
        let claims = honest(claims::tdx(), request, identity);
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid = Some("sandbox-1".to_owned());
        let public = serde_json::to_vec(sandbox.issuer().keys()).unwrap();
        jsonwebtoken::encode(&header, &claims, &jsonwebtoken::EncodingKey::from_secret(&public)).unwrap()
    });
    desk.refuses_forged(unsigned, Untrusted::Algorithm).await;
}

#[tokio::test]
async fn a_vm_that_is_not_what_the_profile_says_is_refused_by_its_own_code() {
    let desk = Desk::new().await;
    desk.policy("tdx-h100", "");
    let report = desk.trusts_forged(but(claims::tdx_h100, |_| ())).await;
    assert_eq!(
        (&report["proven"]["profile"], &report["encrypts_memory"]),
        (&json!("tdx-h100"), &json!(true))
    );
    let container = "/submods/container";
    for (pointer, member, value, reason) in [
        ("", "dbgstat", json!("enabled"), Untrusted::DebugImage),
        ("", "secboot", json!(false), Untrusted::SecureBoot),
        ("", "hwmodel", json!("GCP_SHIELDED_VM"), Untrusted::Platform),
        ("", "swname", json!("HARDENED_SHIELDED"), Untrusted::Platform),
        ("", "tdx", json!({"gcp_attester_tcb_status": "OutOfDate"}), Untrusted::Firmware),
        (container, "env_override", json!({"LD_PRELOAD": "x"}), Untrusted::Overridden),
        (container, "cmd_override", json!(["--listen"]), Untrusted::Overridden),
        ("/submods/confidential_space", "support_attributes", json!(["USABLE"]), Untrusted::Support),
        ("/submods", "nvidia_gpu", Value::Null, Untrusted::Gpu),
        ("/submods/nvidia_gpu", "cc_mode", json!("DEVTOOLS"), Untrusted::Gpu),
        (container, "image_digest", json!(format!("sha256:{}", "0".repeat(64))), Untrusted::ImageDigest),
        (container, "image_digest", Value::Null, Untrusted::ImageDigest),
    ] {
        let forge = but(claims::tdx_h100, move |claims| {
            claims.pointer_mut(pointer).unwrap()[member] = value.clone();
        });
        desk.refuses_forged(forge, reason).await;
    }
}

#[tokio::test]
async fn shapes_that_real_tokens_have_are_taken_either_way() {
    let desk = Desk::new().await;
    desk.policy("tdx", "");
    // An object here, a list in the other fixture; and no GPU is asked for outside tdx-h100.
    assert!(claims::tdx()["tdx"].is_object() && claims::tdx_h100()["tdx"].is_array());
    desk.trusts_forged(but(claims::tdx, |_| ())).await;
    desk.trusts_forged(but(claims::tdx_h100, |_| ())).await;
    desk.policy("sev", "");
    desk.trusts_forged(but(claims::sev, |_| ())).await;
}

#[tokio::test]
async fn what_else_a_policy_can_pin_is_refused_by_its_own_code() {
    let desk = Desk::new().await;
    for (pin, reason) in [
        ("image_references = ['us-docker.pkg.dev/acme-primus/other']", Untrusted::ImageReference),
        (&format!("image_signers = ['{}']", "0".repeat(64)), Untrusted::ImageSigner),
        ("service_accounts = ['other@acme-operator.iam.gserviceaccount.com']", Untrusted::ServiceAccount),
        ("projects = ['other']", Untrusted::Project),
        ("gpus = ['1']", Untrusted::GpuIdentity),
    ] {
        desk.policy("tdx-h100", pin);
        desk.refuses_forged(but(claims::tdx_h100, |_| ()), reason).await;
    }
    let good = "image_references = ['us-docker.pkg.dev/acme-primus/codeseal/inference-server:latest']\n\
        image_signers = ['07f55b8dfc58822744d1132fd225d76f13e2259255ee0f9f926bc44040c56dd0']\n\
        service_accounts = ['x@y', 'operator-svc@acme-operator.iam.gserviceaccount.com']\n\
        projects = ['acme-operator']\ngpus = ['478176379286082186618948445787393647364802107249']";
    desk.policy("tdx-h100", good);
    let report = desk.trusts_forged(but(claims::tdx_h100, |_| ())).await;
    assert_eq!(report["proven"]["project"], "acme-operator");
}

#[tokio::test]
async fn what_is_missing_or_cannot_be_reached_is_no_verdict() {
    let desk = Desk::new().await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let server = desk.world.server().await;
    assert_eq!(desk.run(&server.url(""), &["verify"]).await.status.code(), Some(2), "there is no policy");
    assert_eq!(desk.run(&server.url(""), &["complete", "--verify", "x"]).await.status.code(), Some(2));
    desk.policy("shielded-preview", "");
    assert_eq!(desk.run(&closed, &["verify"]).await.status.code(), Some(3));
    desk.policy("shielded-preview", &format!("jwks = '{closed}/jwks'"));
    let output = desk.run(&server.url(""), &["verify"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("keys that verify attestation"));
    desk.write("policy.toml", "profile = 'tdx'\nimage_digest = 'x'");
    let output = desk.run(&server.url(""), &["verify"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 2 of the policy"));
}

#[tokio::test]
async fn a_verified_completion_is_the_same_completion() {
    let desk = Desk::new().await;
    let server = desk.world.server().await;
    desk.policy("shielded-preview", "");
    let plain = desk.run(&server.url(""), &["complete", "--max-tokens", "8", "def f():"]).await;
    assert_eq!(plain.status.code(), Some(0));
    for flags in [&["--verify"][..], &["--verify", "--stream"]] {
        let arguments = [&["complete", "--max-tokens", "8", "def f():"], flags].concat();
        let verified = desk.run(&server.url(""), &arguments).await;
        assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stderr));
        assert_eq!(verified.stdout, plain.stdout);
    }
    // The configuration file can ask for it, too.
    let file = desk.home.path().join(".config/codeseal");
    std::fs::create_dir_all(&file).unwrap();
    std::fs::write(file.join("config.toml"), "verify = true\n").unwrap();
    desk.policy("tdx", "");
    let output = desk.run(&server.url(""), &["complete", "def f():"]).await;
    assert_eq!(output.status.code(), Some(i32::from(Untrusted::Platform.exit_code())));
}

mod session {
    //! A session is bound to one verified server. With another server a new session begins.

    use codeseal::client::{Client, ClientError, CompletionOptions, Policy, Prompt, Verifier, Wire};
    use codeseal::keys::{Endpoint, WrapConfig};
    use codeseal::protocol::SESSION_HEADER;
    use codeseal::server::ServerConfig;
    use codeseal::server::Service;

    use super::*;
    use crate::harness::http;

    fn prompt() -> Prompt {
        Prompt { prefix: "def f():".to_owned().into(), suffix: None }
    }

    async fn client(desk: &Desk, server: &Server) -> Client {
        client_at(desk, &server.url("")).await
    }

    async fn client_at(desk: &Desk, url: &str) -> Client {
        let sandbox = &desk.world.sandbox;
        let keys = WrapConfig {
            key: sandbox.kms_key().parse().unwrap(),
            endpoint: Endpoint::Sandbox(sandbox.endpoint().to_owned()),
        };
        let policy = Policy::read(&desk.home.path().join("policy.toml")).unwrap();
        let origin = url.parse().unwrap();
        Client::connect_verified(&origin, keys, Verifier::new(policy)).await.unwrap()
    }

    async fn complete(client: &Client) -> Result<(), ClientError> {
        let options = CompletionOptions { max_tokens: Some(4), ..CompletionOptions::default() };
        let mut ignore = |_: Wire<'_>| {};
        client.complete(&prompt(), &options, &mut ignore).await.map(|_| ())
    }

    /// A server where another one was before.
    async fn replace(server: Server, config: ServerConfig) -> Server {
        let listen = server.service.address();
        server.service.shutdown().await;
        let mut service = Service::start(ServerConfig { listen, ..config }).await.unwrap();
        service.ready().await.unwrap();
        let server = Server { service, http: http() };
        server.until_ready().await;
        server
    }

    #[tokio::test]
    async fn a_verdict_is_good_for_the_session_and_another_server_is_verified_again() {
        let desk = Desk::new().await;
        desk.policy("shielded-preview", "");
        let server = desk.world.server().await;
        let client = client(&desk, &server).await;
        let attested = || desk.world.sandbox.ledger().counts().launcher.granted;
        let wrapped = || desk.world.sandbox.ledger().counts().encrypts().granted;
        let (attestations, keys) = (attested(), wrapped());
        for _ in 0..3 {
            complete(&client).await.unwrap();
        }
        assert_eq!((attested(), wrapped()), (attestations, keys), "once for the session");

        // The same image again, in a process of its own: verified, and then served under a key of its own.
        let server = replace(server, desk.world.config()).await;
        complete(&client).await.unwrap();
        assert_eq!((attested(), wrapped()), (attestations + 1, keys + 1));
        drop(server);
    }

    #[tokio::test]
    async fn a_server_that_is_no_longer_what_the_policy_says_gets_no_key() {
        let desk = Desk::new().await;
        desk.policy("shielded-preview", "");
        let server = desk.world.server().await;
        let client = client(&desk, &server).await;
        complete(&client).await.unwrap();
        let wrapped = desk.world.sandbox.ledger().counts().encrypts().granted;

        // The operator starts another image at the same address.
        let dir = tempfile::tempdir().unwrap();
        let digest = format!("sha256:{}", "0bad".repeat(16));
        let other = claims::with_image_digest(claims::shielded_preview(), &digest);
        let launcher = desk.world.sandbox.launch(other, dir.path()).await.unwrap();
        let mut config = desk.world.config();
        config.kms.token_file = launcher.token_file().to_owned();
        config.kms.token_socket = Some(launcher.socket().to_owned());
        let listen = server.service.address();
        server.service.shutdown().await;
        let mut service = Service::start(ServerConfig { listen, ..config }).await.unwrap();
        service.ready().await.unwrap();

        for _ in 0..2 {
            let error = complete(&client).await.unwrap_err();
            assert!(matches!(error, ClientError::Untrusted(Untrusted::ImageDigest)), "{error}");
        }
        assert_eq!(desk.world.sandbox.ledger().counts().encrypts().granted, wrapped);
    }

    /// Sends a session to one of two servers, by its tag alone.
    async fn balance(
        State(servers): State<Arc<[String; 2]>>,
        request: axum::extract::Request,
    ) -> (http::StatusCode, String) {
        let (parts, body) = request.into_parts();
        let tag = parts.headers.get(SESSION_HEADER).unwrap().to_str().unwrap();
        let server = &servers[usize::from_str_radix(tag.get(..2).unwrap(), 16).unwrap() % 2];
        let mut headers = parts.headers.clone();
        headers.remove(http::header::HOST);
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let sent =
            http().post(format!("{server}{}", parts.uri.path())).headers(headers).body(body).send().await;
        let answer = sent.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn behind_a_balancer_a_session_is_held_with_the_replica_that_was_verified() {
        let desk = Desk::new().await;
        desk.policy("shielded-preview", "");
        let (one, two) = (desk.world.server().await, desk.world.server().await);
        let servers = Arc::new([one.url(""), two.url("")].map(|url| url.trim_end_matches('/').to_owned()));
        let router = Router::new().fallback(balance).with_state(servers);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let _serving = AbortOnDropHandle::new(serving);

        let attested = || desk.world.sandbox.ledger().counts().launcher.granted;
        let before = attested();
        // With eight, a tag that changed would lead to the other replica all but once in 65536.
        for count in 1..=8 {
            let client = client_at(&desk, &url).await;
            complete(&client).await.unwrap();
            complete(&client).await.unwrap();
            assert_eq!(
                attested(),
                before + count,
                "the replica that was verified was not the one that answered"
            );
        }
    }
}
