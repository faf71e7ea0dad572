#!/usr/bin/env bash
# hf-hub 1.0 returns the page of an HTTP error as the downloaded file, and keeps it in its cache.
#
# Package:  hf-hub 1.0.0 (Rust), download_file()
# Expected: an error, if the GET of a file is answered with 403: a link to a storage service has expired, or a proxy refuses it.
#           huggingface_hub for Python raises.
# Seen:     only the HEAD request's status is looked at. The body of the 403 is written to the cache as the file, Ok with its path
#           is returned, and the next call finds it there and asks for nothing but a HEAD.
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
hf-hub = "=1.0.0"
tokio = { version = "1", features = ["macros", "rt-multi-thread"] }

[profile.dev]
debug = false
incremental = false
TOML
cat >"$folder/src/main.rs" <<'RUST'
use hf_hub::HFClient;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let client = HFClient::builder().endpoint(arguments[1].clone()).cache_dir(&arguments[2]).build().unwrap();
    let file = client.model("owner", "name").download_file().filename("config.json").send().await;
    match file {
        Ok(path) => println!("Ok: {}", std::fs::read_to_string(path).unwrap()),
        Err(_) => println!("an error"),
    }
}
RUST
cat >"$folder/server.py" <<'PY'
import http.server
import os
import sys

FILE, PAGE = b'{"model_type": "gemma"}', b"<html>forbidden</html>"


class Hub(http.server.BaseHTTPRequestHandler):
    def answer(self, status, length):
        self.send_response(status)
        self.send_header("etag", '"0123456789abcdef0123456789abcdef01234567"')
        self.send_header("x-repo-commit", "89abcdef0123456789abcdef0123456789abcdef")
        self.send_header("content-length", str(length))
        self.end_headers()
        print(self.command, file=open(sys.argv[1] + "/requests", "a"), flush=True)

    def do_HEAD(self):
        self.answer(200, len(FILE))

    def do_GET(self):
        self.answer(403, len(PAGE))
        self.wfile.write(PAGE)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
print(server.server_address[1], file=open(sys.argv[1] + "/port.new", "w"), flush=True)
os.rename(sys.argv[1] + "/port.new", sys.argv[1] + "/port")
server.serve_forever()
PY
(cd "$folder" && cargo fetch --quiet) || exit 69
CARGO_TARGET_DIR=$folder/target cargo build --quiet --manifest-path "$folder/Cargo.toml"
python3 "$folder/server.py" "$folder" &
server=$!
until [ -e "$folder/port" ]; do kill -0 "$server"; sleep 0.1; done
download() { HF_TOKEN_PATH=/dev/null "$folder/target/debug/finding" "http://127.0.0.1:$(cat "$folder/port")" "$folder/cache"; }
first=$(download) second=$(download)
echo "expected: an error, twice"
echo "seen:     $first; then $second; requests: $(paste -sd ' ' "$folder/requests")"
[ "$first" = "Ok: <html>forbidden</html>" ] && [ "$second" = "$first" ]
