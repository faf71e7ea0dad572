#!/usr/bin/env bash
# Google's KMS client for Rust does not retry Decrypt when the service is unavailable; the one for Python does.
#
# Packages: google-cloud-kms-v1 1.16.0 (Rust), google-cloud-kms 2.21.1 (Python)
# Expected: 503 UNAVAILABLE is retried in both. Decrypt changes nothing at the service, and the published retry settings of the
#           API, which Python's generated client has, name it.
# Seen:     Python asks again. The Rust client retries POST requests only if the caller says .with_idempotency(true) for the
#           request, and Decrypt is a POST: one request, and the error.
# Last run: 2026-11-29, Rust 1.95, Python 3.11. Needs Rust, a C compiler and Python; compiling takes most of the time.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
google-cloud-auth = "=1.18.0"
google-cloud-gax = "=1.15.0"
google-cloud-kms-v1 = "=1.16.0"
tokio = { version = "1", features = ["macros", "rt-multi-thread"] }

[profile.dev]
debug = false
incremental = false
TOML
cat >"$folder/src/main.rs" <<'RUST'
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_kms_v1::client::KeyManagementService;

/// Decrypts once; with a second argument, as an idempotent request.
#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let client = KeyManagementService::builder()
        .with_endpoint(format!("http://127.0.0.1:{}", arguments[1]))
        .with_credentials(anonymous::Builder::new().build())
        .build()
        .await
        .unwrap();
    let request =
        client.decrypt().set_name("projects/p/locations/l/keyRings/r/cryptoKeys/k").set_ciphertext("sealed");
    let request = if arguments.len() > 2 { request.with_idempotency(true) } else { request };
    println!("{}", if request.send().await.is_ok() { "plaintext" } else { "error" });
}
RUST
cat >"$folder/finding.py" <<'PY'
"""Runs a KMS that is unavailable at the first request of each client, and the clients."""
import http.server
import json
import subprocess
import sys
import threading

from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceRestTransport

NAME = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
requests = 0


class Kms(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global requests
        self.rfile.read(int(self.headers["content-length"]))
        requests += 1
        status, answer = 200, {"plaintext": "b3Blbg=="}
        if requests == 1:
            status, answer = 503, {"error": {"code": 503, "status": "UNAVAILABLE", "message": "try again"}}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def counted(decrypt):
    global requests
    requests = 0
    return decrypt(), requests


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kms)
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.server_address[1]


def rust(*more):
    run = subprocess.run([sys.argv[1], str(port), *more], check=True, capture_output=True, text=True)
    return run.stdout.strip()


def python():
    transport = KeyManagementServiceRestTransport(
        host=f"127.0.0.1:{port}", url_scheme="http", credentials=AnonymousCredentials())
    client = kms_v1.KeyManagementServiceClient(transport=transport)
    answer = client.decrypt(request={"name": NAME, "ciphertext": b"sealed"})
    return "plaintext" if answer.plaintext == b"open" else "error"


seen = {"Python": counted(python), "Rust": counted(rust), "Rust, idempotent": counted(lambda: rust("idempotent"))}
print("expected: the plaintext after two requests, of which the first got 503")
print("seen:    ", "; ".join(f"{name}: {result} after {count} request(s)" for name, (result, count) in seen.items()))
expected = {"Python": ("plaintext", 2), "Rust": ("error", 1), "Rust, idempotent": ("plaintext", 2)}
sys.exit(seen != expected)
PY
(cd "$folder" && cargo fetch --quiet) || exit 69
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-cloud-kms==2.21.1 || exit 69
CARGO_TARGET_DIR=$folder/target cargo build --quiet --manifest-path "$folder/Cargo.toml"
"$folder/venv/bin/python" "$folder/finding.py" "$folder/target/debug/finding"
