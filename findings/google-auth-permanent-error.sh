#!/usr/bin/env bash
# Credentials of a workload identity that fail once with a permanent error stay failed after its cause is gone.
#
# Package:  google-cloud-auth 1.18.0 (Rust, Google's own), credentials::external_account
# Expected: each request for a token tries again, as google-auth for Python does: a subject token that had expired is replaced by
#           its owner, a condition of the pool is corrected, a missing file appears.
# Seen:     a background task exchanges tokens ahead. The first answer of the token service that is not 408, 429 or 5xx ends
#           the task: every later call returns that first error within a millisecond, and the token service is not asked
#           again. Only new credentials recover.
# Last run: 2026-11-29, Rust 1.95. Needs Rust, a C compiler and Python; compiling takes most of the time.
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
google-cloud-auth = "=1.18.0"
http = "1"
serde_json = "1"
tokio = { version = "1", features = ["macros", "rt-multi-thread", "time"] }

[profile.dev]
debug = false
incremental = false
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::time::{Duration, Instant};

use google_cloud_auth::credentials::external_account;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (port, subject_token) = (&arguments[1], &arguments[2]);
    let credentials = external_account::Builder::new(serde_json::json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/v",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("http://127.0.0.1:{port}/v1/token"),
        "credential_source": { "file": subject_token },
    }))
    .with_scopes(["https://www.googleapis.com/auth/cloud-platform"])
    .build()
    .unwrap();
    for _ in 0..4 {
        let began = Instant::now();
        let token = credentials.headers(http::Extensions::new()).await;
        println!("call: {} after {:?}", if token.is_ok() { "a token" } else { "an error" }, began.elapsed());
        // Longer than the pause after an error that is not permanent.
        tokio::time::sleep(Duration::from_secs(11)).await;
    }
}
RUST
# The token service: refuses the first exchange, and grants all others.
cat >"$folder/server.py" <<'PY'
import http.server
import json
import os
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    exchanges = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        Handler.exchanges += 1
        granted = Handler.exchanges > 1
        answer = {"error": "invalid_grant", "error_description": "the subject token has expired"}
        if granted:
            answer = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer",
                      "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
        body = json.dumps(answer).encode()
        self.send_response(200 if granted else 400)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        print(Handler.exchanges, file=open(sys.argv[1] + "/exchanges", "w"), flush=True)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], file=open(sys.argv[1] + "/port.new", "w"), flush=True)
os.rename(sys.argv[1] + "/port.new", sys.argv[1] + "/port")
server.serve_forever()
PY
(cd "$folder" && cargo fetch --quiet) || exit 69
CARGO_TARGET_DIR=$folder/target cargo build --quiet --manifest-path "$folder/Cargo.toml"
echo "a.subject.token" >"$folder/token"
python3 "$folder/server.py" "$folder" &
server=$!
until [ -e "$folder/port" ]; do kill -0 "$server"; sleep 0.1; done
"$folder/target/debug/finding" "$(cat "$folder/port")" "$folder/token" >"$folder/calls"
echo "expected: an error, then tokens: the token service refuses the first exchange only"
echo "seen:     $(paste -sd ';' "$folder/calls"); exchanges: $(cat "$folder/exchanges")"
[ "$(grep -c 'an error' "$folder/calls")" = 4 ] && [ "$(cat "$folder/exchanges")" = 1 ]
