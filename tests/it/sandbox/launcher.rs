//! The launcher's directory: the token file over time, and the socket.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use codeseal::attestation::Claims;
use codeseal::sandbox::{Build, Fault, SOCKET, TOKEN_FILE};
use http::Method;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::wire::{self, Answer, Request};
use super::{PATIENCE, World};

const NONCE: &str = "0123456789abcdef0123456789abcdef0123456789a";

async fn ask(world: &World, request: Request) -> Answer {
    wire::http1(UnixStream::connect(world.sandbox.socket()).await.unwrap(), request).await
}

async fn post(world: &World, options: Value) -> Answer {
    ask(world, Request::post("/v1/token", options.to_string())).await
}

#[tokio::test]
async fn the_directory_is_as_in_a_container() {
    let world = World::new().await;
    let dir = world.dir.path().join("launcher");
    assert_eq!(world.sandbox.token_file(), dir.join(TOKEN_FILE));
    assert_eq!(world.sandbox.socket(), dir.join(SOCKET));
    let token = world.token();
    assert_eq!(token.trim(), token, "the file holds the token and nothing else");
    let claims = Claims::peek(&token).unwrap();
    assert_eq!(claims.aud, ["https://sts.googleapis.com"]);
    assert_eq!(claims.exp - claims.iat.unwrap(), 3600);
}

#[tokio::test]
async fn the_token_is_refreshed_before_it_expires_by_replacing_the_file() {
    let world = World::with(|config| config.token_lifetime = Duration::from_secs(2)).await;
    let file = world.sandbox.token_file().to_owned();
    let (before, inode) = (world.token(), std::fs::metadata(&file).unwrap().ino());
    // A reader finds a whole token at any time.
    let reader = tokio::task::spawn_blocking({
        let before = before.clone();
        move || {
            let since = std::time::Instant::now();
            while since.elapsed() < PATIENCE {
                let token = std::fs::read_to_string(&file).unwrap();
                Claims::peek(&token).unwrap();
                if token != before {
                    return std::fs::metadata(&file).unwrap().ino();
                }
            }
            panic!("the token was not refreshed");
        }
    });
    assert_ne!(reader.await.unwrap(), inode);
    assert!(Claims::peek(&world.token()).unwrap().exp > Claims::peek(&before).unwrap().exp);
    world.sandbox.shutdown().await;
}

#[tokio::test]
async fn the_file_can_be_expired_missing_or_junk_until_it_is_refreshed() {
    let world = World::new().await;
    let launcher = world.sandbox.launcher();
    let now = Claims::peek(&world.token()).unwrap().iat.unwrap();
    launcher.expire().unwrap();
    assert!(Claims::peek(&world.token()).unwrap().exp < now - 3000);
    launcher.remove().unwrap();
    assert!(!world.sandbox.token_file().exists());
    launcher.remove().unwrap();
    launcher.write_raw("junk").unwrap();
    assert_eq!(world.token(), "junk");
    launcher.refresh().unwrap();
    assert!(Claims::peek(&world.token()).unwrap().exp > now);
}

#[tokio::test]
async fn get_makes_a_new_attestation_and_a_preview_gives_the_file() {
    let world = World::new().await;
    world.sandbox.launcher().expire().unwrap();
    let answer = ask(&world, Request::get("/v1/token")).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["content-type"]),
        (200, &"text/html".parse().unwrap())
    );
    assert!(Claims::peek(answer.text()).unwrap().exp > Claims::peek(&world.token()).unwrap().exp);

    let preview = World::with(|config| config.launcher = Build::Preview).await;
    preview.sandbox.launcher().expire().unwrap();
    assert_eq!(ask(&preview, Request::get("/v1/token")).await.text(), preview.token());
    preview.sandbox.launcher().remove().unwrap();
    let answer = ask(&preview, Request::get("/v1/token")).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (404, "failed to get the token"));
}

#[tokio::test]
async fn post_makes_a_token_for_the_audience_with_the_nonces() {
    let world = World::new().await;
    let claims = async |nonces: &[&str]| {
        let options = json!({"audience": "https://employee.example", "nonces": nonces, "token_type": "OIDC"});
        let answer = post(&world, options).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        jsonwebtoken::dangerous::insecure_decode_claims::<Value>(answer.text()).unwrap()
    };
    let one = claims(&[NONCE]).await;
    assert_eq!((&one["aud"], &one["eat_nonce"]), (&json!("https://employee.example"), &json!(NONCE)));
    assert_eq!(claims(&[NONCE, "another nonce"]).await["eat_nonce"], json!([NONCE, "another nonce"]));
    assert_eq!(claims(&[]).await.get("eat_nonce"), None);
}

#[tokio::test]
async fn the_socket_refuses_as_the_real_one_does() {
    let world = World::new().await;
    let audience = "https://employee.example";
    for (options, message) in [
        (json!({"token_type": "OIDC"}), "use GET request for the default identity token"),
        (json!({"audience": audience}), "token_type is a required parameter"),
        (
            json!({"audience": audience, "token_type": "OIDC", "extra": 1}),
            "failed to parse POST body as TokenOptions",
        ),
        (json!([1]), "failed to parse POST body as TokenOptions"),
        (json!({"audience": audience, "token_type": "LIMITED_AWS"}), "only token_type OIDC"),
        (
            json!({"audience": audience, "token_type": "OIDC", "nonces": ["short"]}),
            "rpc error: code = InvalidArgument",
        ),
        (
            json!({"audience": audience, "token_type": "OIDC", "nonces": vec![NONCE; 7]}),
            "rpc error: code = InvalidArgument",
        ),
        (json!({"audience": "x".repeat(513), "token_type": "OIDC"}), "rpc error: code = InvalidArgument"),
    ] {
        let answer = post(&world, options).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.headers["content-type"], "text/html");
        assert!(answer.text().starts_with(message), "{}", answer.text());
    }
    let answer = ask(&world, Request::new(Method::PUT, "/v1/token", "")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (400, "TEE server received an invalid HTTP method: PUT")
    );
    assert_eq!(ask(&world, Request::get("/v1/intel/token")).await.status, 412);
}

#[tokio::test]
async fn an_attestation_service_that_is_down_fails_the_socket() {
    let world = World::new().await;
    let options = json!({"audience": "a", "token_type": "OIDC"});
    world.sandbox.faults().inject(Fault::LauncherStatus { status: 500 });
    assert_eq!(ask(&world, Request::get("/v1/token")).await.status, 500);
    assert_eq!(post(&world, options.clone()).await.status, 500);
    world.sandbox.faults().clear();
    assert_eq!(post(&world, options.clone()).await.status, 200);

    let preview = World::with(|config| config.launcher = Build::Preview).await;
    preview.sandbox.faults().inject(Fault::LauncherStatus { status: 500 });
    assert_eq!(post(&preview, options).await.status, 400);
}

#[tokio::test]
async fn an_attestation_service_that_is_down_stops_the_refresh_until_it_is_back() {
    let world = World::with(|config| config.token_lifetime = Duration::from_secs(1)).await;
    world.sandbox.faults().inject(Fault::LauncherStatus { status: 500 });
    let before = world.sandbox.ledger().counts().token_files;
    world.until(|counts| counts.failed_refreshes >= 2).await;
    assert_eq!(world.sandbox.ledger().counts().token_files, before);
    world.sandbox.faults().clear();
    world.until(|counts| counts.token_files > before).await;
}
