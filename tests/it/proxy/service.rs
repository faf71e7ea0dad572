//! The proxy as a service: sockets of the service manager, units, bounds on clients, and a log of states.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use codeseal::proxy::Proxy;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use super::{Desk, config, post, url};
use crate::harness::{PATIENCE, World, clean, http, until};

const KEY: &str = "projects/p/locations/global/keyRings/r/cryptoKeys/k";

fn codeseal() -> Command {
    let mut command = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn systemd_takes_both_units_as_they_are_printed() {
    let output = codeseal().args(["proxy", "--unit", "systemd"]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (service, socket) = text.split_once("# ~/.config/systemd/user/codeseal-proxy.socket").unwrap();
    for line in
        ["[Socket]", "ListenStream=127.0.0.1:8012", "ListenStream=[::1]:8012", "WantedBy=sockets.target"]
    {
        assert!(socket.lines().any(|found| found == line), "{socket}");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("codeseal-proxy.service"), service).unwrap();
    std::fs::write(dir.path().join("codeseal-proxy.socket"), format!("# {socket}")).unwrap();
    let mut verify = Command::from(clean("systemd-analyze"));
    verify.args(["--user", "verify", "codeseal-proxy.service", "codeseal-proxy.socket"]);
    verify.current_dir(dir.path()).env("XDG_RUNTIME_DIR", dir.path()).env("HOME", dir.path());
    // A machine without systemd has read the lines above.
    let Ok(output) = verify.output().await else { return };
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{complaints}");
    assert!(!complaints.contains("codeseal-proxy"), "{complaints}");
}

/// The shell gives the socket the number that systemd would, and says whom it is for.
#[tokio::test]
async fn sockets_of_the_service_manager_are_served() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut command = Command::from(clean("sh"));
    command
        .args([
            "-c",
            "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 0</dev/null",
            env!("CARGO_BIN_EXE_codeseal"),
        ])
        .args(["proxy", "--server", "http://127.0.0.1:1", "--kms-key", KEY])
        .args(["--sandbox-endpoint", "http://127.0.0.1:1"])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.contains(&format!("http://{address}/")), "{line}");
    let status: Value =
        http().get(format!("http://{address}/status")).send().await.unwrap().json().await.unwrap();
    assert_eq!(status["ready"], false);
}

/// A state is one line, however many requests meet it.
#[tokio::test]
async fn a_dead_server_is_one_line_of_the_log_and_one_entry_of_the_status() {
    let mut child = codeseal()
        .args(["proxy", "--listen", "127.0.0.1:0", "--server", "http://127.0.0.1:1", "--kms-key", KEY])
        .args(["--sandbox-endpoint", "http://127.0.0.1:1"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let mut next =
        async || tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    let verdict = next().await;
    assert!(verdict.starts_with("not connected: ") && verdict.contains("tried again"), "{verdict}");
    assert_eq!(next().await, "next: codeseal proxy status");
    let url = line
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let body = json!({ "prompt": "x" });
    until("the state is known", async || {
        let answer = post(&url, "/v1/completions", &body).await;
        !answer.text.contains("the first attempt is under way")
    })
    .await;
    for _ in 0..200 {
        assert_eq!(post(&url, "/v1/completions", &body).await.status, 503);
    }
    let status: Value = http().get(format!("{url}/status")).send().await.unwrap().json().await.unwrap();
    assert_eq!(status["counts"]["clients"].as_array().unwrap().len(), 1, "{status}");
    child.start_kill().unwrap();
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
    let told = log.lines().filter(|line| line.contains("proxy_lost")).count();
    assert_eq!(told, 1, "{log}");
}

/// Behind a network that swallows everything no key waits for an attempt, or begins one.
#[tokio::test]
async fn offline_each_key_is_answered_from_what_is_known() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let attempts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&attempts);
    // Connections are taken and never answered.
    let _swallowing = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            held.push(stream);
        }
    }));
    let mut settings = config(&world, &server);
    // The one attempt outlasts the test, so an answer that waited for it would not come.
    settings.timing.attempt = PATIENCE * 10;
    let proxy = Proxy::start(settings).await.unwrap();
    let url = url(&proxy);
    until("the attempt is under way", async || attempts.load(Ordering::SeqCst) == 1).await;
    for path in ["/v1/completions", "/infill", "/api/generate"] {
        for _ in 0..30 {
            let answer = post(&url, path, &json!({ "prompt": "x", "input_prefix": "x" })).await;
            assert_eq!(answer.status, 503, "{path}: {}", answer.text);
        }
    }
    assert_eq!(attempts.load(Ordering::SeqCst), 1);
}

/// A client that sends requests and never reads must not keep its connection.
#[tokio::test]
async fn a_client_that_takes_no_answer_is_given_up() {
    let desk = Desk::with(|config| config.write_timeout = Duration::from_millis(100)).await;
    let mut stream = TcpStream::connect(desk.proxy.addresses().first().unwrap()).await.unwrap();
    let host = desk.url.strip_prefix("http://").unwrap();
    let request = format!("GET /page.js HTTP/1.1\r\nHost: {host}\r\n\r\n");
    // Answers fill both buffers; then the proxy ends the connection, and writing fails.
    let filling = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, filling).await.expect("the connection is ended");
    assert_eq!(desk.get("/health").await.status, 200);
}
