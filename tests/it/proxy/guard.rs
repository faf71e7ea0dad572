//! Loopback is no boundary: what pages, other names and other accounts send is refused before it is read.

use std::os::unix::process::CommandExt as _;

use codeseal::proxy::AccessToken;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::Desk;
use crate::harness::{Answer, PATIENCE, http};

/// Status and body of a request that is written by hand.
async fn raw(desk: &Desk, head: &str) -> String {
    let mut stream = TcpStream::connect(desk.proxy.addresses().first().unwrap()).await.unwrap();
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn only_this_machine_and_its_own_pages_are_let_in() {
    let desk = Desk::with(|config| {
        config.allowed_origins.push("https://editor.example".parse().unwrap());
    })
    .await;
    let here = desk.url.strip_prefix("http://").unwrap().to_owned();
    for (headers, status, code) in [
        (format!("Host: {here}"), "200", ""),
        (format!("Host: {here}\r\nSec-Fetch-Mode: cors"), "200", ""),
        (format!("Host: {here}\r\nOrigin: {}", desk.url), "200", ""),
        (format!("Host: {here}\r\nOrigin: https://editor.example\r\nSec-Fetch-Site: cross-site"), "200", ""),
        ("Host: evil.example".to_owned(), "403", "forbidden_host"),
        ("Host:".to_owned(), "403", "forbidden_host"),
        (format!("Host: {here}\r\nHost: {here}"), "403", "forbidden_host"),
        (format!("Host: {here}\r\nOrigin: http://evil.example"), "403", "forbidden_origin"),
        (format!("Host: {here}\r\nSec-Fetch-Site: cross-site"), "403", "forbidden_origin"),
        (format!("Host: {here}\r\nSec-Fetch-Site: same-site"), "403", "forbidden_origin"),
    ] {
        let answer = raw(&desk, &format!("GET /v1/models HTTP/1.1\r\n{headers}")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
        assert!(answer.contains(code), "{headers}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("x-content-type-options: nosniff"), "{answer}");
    }
    assert!(raw(&desk, "GET /v1/models HTTP/1.0").await.starts_with("HTTP/1.0 403 "));
    let elsewhere = format!("GET http://evil.example/v1/models HTTP/1.1\r\nHost: {here}");
    assert!(raw(&desk, &elsewhere).await.starts_with("HTTP/1.1 403 "));
}

#[tokio::test]
async fn a_preflight_is_answered_for_the_pages_that_were_allowed_only() {
    let desk = Desk::with(|config| {
        config.allowed_origins.push("https://editor.example".parse().unwrap());
        config.token = Some(AccessToken::new("a-token-of-some-length".to_owned()).unwrap());
    })
    .await;
    let preflight = async |origin: &str| {
        let request = http()
            .request(http::Method::OPTIONS, format!("{}/v1/completions", desk.url))
            .header("origin", origin)
            .header("sec-fetch-site", "cross-site")
            .header("access-control-request-method", "POST")
            .header("access-control-request-private-network", "true")
            .header("access-control-request-headers", "content-type");
        request.send().await.unwrap()
    };
    let allowed = preflight("https://editor.example").await;
    assert_eq!(allowed.status(), 204);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://editor.example");
    assert_eq!(allowed.headers()["access-control-allow-private-network"], "true");
    let refused = preflight("http://evil.example").await;
    assert_eq!(refused.status(), 403);
    assert!(!refused.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_token_is_demanded_of_every_path() {
    let token = "a-token-of-some-length";
    let desk = Desk::with(|config| config.token = Some(AccessToken::new(token.to_owned()).unwrap())).await;
    for path in ["/v1/models", "/status", "/", "/health", "/api/tags"] {
        assert_eq!(desk.get(path).await.status, 401, "{path}");
    }
    assert_eq!(desk.post("/api/generate", &json!({ "prompt": "x" })).await.status, 401);
    for (name, value) in
        [("authorization", "Bearer a-token-of-some-length"), ("x-api-key", token), ("api-key", token)]
    {
        let request = http().get(format!("{}/v1/models", desk.url)).header(name, value);
        assert_eq!(Answer::read(request.send().await.unwrap()).await.status, 200, "{name}");
    }
}

#[tokio::test]
async fn the_unix_socket_is_for_this_account() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.sock");
    let desk = Desk::with(|config| config.socket = Some(path.clone())).await;
    let mut stream = UnixStream::connect(desk.proxy.socket().unwrap()).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    desk.proxy.shutdown().await;
    assert!(!path.exists());
}

/// Needs root, which can change to another user.
#[tokio::test]
async fn another_account_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let desk = Desk::new().await;
    let url = format!("{}/v1/models", desk.url);
    let asking = tokio::task::spawn_blocking(move || {
        let mut curl = std::process::Command::new("curl");
        curl.env_clear().args(["--silent", "--max-time", "20", &url]).uid(65534).gid(65534).output()
    });
    // A machine without curl cannot play the other account.
    let Ok(output) = asking.await.unwrap() else { return };
    let answer = String::from_utf8(output.stdout).unwrap();
    assert!(answer.contains("forbidden_account"), "{answer} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(desk.get("/v1/models").await.status, 200);
}

/// Connections that never send a whole head take no place from those that do.
#[tokio::test]
async fn a_hundred_slow_connections_hold_no_one_up() {
    let desk = Desk::new().await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(desk.proxy.addresses().first().unwrap()).await.unwrap();
        stream.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: 127").await.unwrap();
        slow.push(stream);
    }
    let answer = desk.post("/v1/completions", &json!({ "prompt": "def f", "max_tokens": 2 })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    drop(slow);
}
