#!/usr/bin/env bash
# The Rust crate refuses a Fernet token from a clock that is ahead by more than a minute, though no time to live is asked for.
#
# Packages: fernet 0.2.2 (Rust), Fernet::decrypt; cryptography 50.0.2 (Python), Fernet.decrypt
# Expected: the plaintext. The specification looks at the timestamp only if the user has a maximum age, and so does Python.
# Seen:     decrypt() of the Rust crate, which takes no time to live, compares the timestamp with the clock as well: a token that
#           is 90 seconds ahead gives the one opaque DecryptionError that a wrong key gives, too. One that is 45 seconds ahead
#           opens.
# Last run: 2026-11-29, Rust 1.95, Python 3.11. Needs Rust, a C compiler and Python.
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
fernet = { version = "=0.2.2", default-features = false, features = ["rustcrypto"] }
TOML
cat >"$folder/src/main.rs" <<'RUST'
/// Opens the token that is the second argument with the key that is the first.
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let opened = fernet::Fernet::new(&arguments[1]).unwrap().decrypt(&arguments[2]);
    println!("{}", if opened.is_ok() { "opens" } else { "refuses" });
}
RUST
cat >"$folder/finding.py" <<'PY'
import subprocess
import sys
import time

from cryptography.fernet import Fernet, InvalidToken

key = Fernet.generate_key()


def python(token):
    try:
        return "opens" if Fernet(key).decrypt(token) == b"text" else "differs"
    except InvalidToken:
        return "refuses"


def rust(token):
    return subprocess.run([sys.argv[1], key, token], check=True, capture_output=True, text=True).stdout.strip()


seen = {}
for ahead in (0, 45, 90):
    token = Fernet(key).encrypt_at_time(b"text", int(time.time()) + ahead)
    seen[ahead] = (python(token), rust(token))
print("expected: both open a token of any time")
print("seen:    ", "; ".join(f"{ahead} s ahead: Python {python}, Rust {rust}" for ahead, (python, rust) in seen.items()))
sys.exit(seen != {0: ("opens", "opens"), 45: ("opens", "opens"), 90: ("opens", "refuses")})
PY
(cd "$folder" && cargo fetch --quiet) || exit 69
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cryptography==50.0.2 || exit 69
CARGO_TARGET_DIR=$folder/target cargo build --quiet --manifest-path "$folder/Cargo.toml"
"$folder/venv/bin/python" "$folder/finding.py" "$folder/target/debug/finding"
