#!/usr/bin/env bash
# The error event of a broken completion stream never arrives: hyper drops what it has not written when the body fails.
#
# Package:  hyper 1.12.0 (Rust), server, HTTP/1.1
# Expected: a body that yields an event and then an error sends the event, then breaks the connection off. Proxies of language
#           models end a failed stream in this way, so that clients see the reason and do not take the text for whole.
# Seen:     if both are ready in the same poll, the connection ends and the event is never sent. If the body is pending once
#           between the two, hyper flushes, and the event arrives.
# Last run: 2026-11-29, Rust 1.95. Needs Rust; compiling takes most of the time.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
bytes = "=1.12.1"
futures-util = { version = "=0.3.34", default-features = false, features = ["std"] }
http-body-util = "=0.1.5"
hyper = { version = "=1.12.0", features = ["http1", "server"] }
hyper-util = { version = "=0.1.21", features = ["tokio"] }
tokio = { version = "=1.54.1", features = ["io-util", "macros", "net", "rt"] }

[profile.dev]
debug = false
incremental = false
EOF
cat >"$folder/src/main.rs" <<'EOF'
use std::convert::Infallible;
use std::io::Error;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a client reads until the connection ends.
async fn received(pending_between: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (served, _) = listener.accept().await.unwrap();
    let service = service_fn(move |_| async move {
        let event = stream::iter([Ok(Frame::data(Bytes::from("data: {\"error\": \"reason\"}\n\n")))]);
        let error = stream::once(async move {
            if pending_between {
                tokio::task::yield_now().await;
            }
            Err(Error::other("broken"))
        });
        Ok::<_, Infallible>(Response::new(StreamBody::new(Box::pin(event.chain(error)))))
    });
    let serving = tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(served), service));
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.ok();
    serving.await.unwrap().ok();
    String::from_utf8(bytes).unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("expected: the event arrives in both cases");
    let [at_once, after_pending] = [received(false).await, received(true).await].map(|text| text.contains("reason"));
    println!("seen:     error in the same poll: {at_once}; error after the body was pending once: {after_pending}");
    std::process::exit(i32::from((at_once, after_pending) != (false, true)));
}
EOF
(cd "$folder" && cargo fetch --quiet) || exit 69
# Beside the packages, and not in a target directory of the caller's.
CARGO_TARGET_DIR=$folder/target cargo run --quiet --manifest-path "$folder/Cargo.toml"
