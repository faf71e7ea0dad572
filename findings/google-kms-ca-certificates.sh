#!/usr/bin/env bash
# Google's KMS client for Rust cannot be made on a system without CA certificates, even for an endpoint without TLS.
#
# Packages: google-cloud-kms-v1 1.16.0 (Rust), reqwest 0.13 with rustls
# Expected: a client for an http:// endpoint, as an emulator or a test has it, needs no certificates; without them, a TLS handshake
#           fails, and only that.
# Seen:     build() fails at once: reqwest loads the system's certificates when its client is made, and refuses an empty store.
#           In a container FROM scratch a program that uses the client ends before its first request.
# Last run: 2026-11-29, Rust 1.95. Needs Rust and a C compiler; compiling takes most of the time.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src" "$folder/no-certificates"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
google-cloud-auth = "=1.18.0"
google-cloud-kms-v1 = "=1.16.0"
tokio = { version = "1", features = ["macros", "rt-multi-thread"] }

[profile.dev]
debug = false
incremental = false
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::error::Error as _;

use google_cloud_auth::credentials::anonymous;
use google_cloud_kms_v1::client::KeyManagementService;

#[tokio::main]
async fn main() {
    let credentials = anonymous::Builder::new().build();
    let made = KeyManagementService::builder().with_endpoint("http://127.0.0.1:9").with_credentials(credentials).build();
    match made.await {
        Ok(_) => println!("a client"),
        Err(error) => {
            let mut cause = error.source();
            while let Some(next) = cause.and_then(|error| error.source()) {
                cause = Some(next);
            }
            println!("an error: {}", cause.map(ToString::to_string).unwrap_or_default());
        }
    }
}
RUST
(cd "$folder" && cargo fetch --quiet) || exit 69
CARGO_TARGET_DIR=$folder/target cargo build --quiet --manifest-path "$folder/Cargo.toml"
with=$("$folder/target/debug/finding")
without=$(SSL_CERT_FILE=$folder/no-certificates/file SSL_CERT_DIR=$folder/no-certificates "$folder/target/debug/finding")
echo "expected: a client, with and without CA certificates"
echo "seen:     with them: $with; without: $without"
[ "$with" = "a client" ] && [[ $without == "an error: "* ]]
