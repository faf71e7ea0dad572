#!/usr/bin/env bash
# A Fernet library refuses tokens that are older than a minute unless it is told otherwise.
#
# Package:  fernet 0.4.0 (npm)
# Expected: without a maximum age, the age is not checked: the specification verifies it "if the user has specified a maximum
#           age", and Python's cryptography and Rust's fernet do it like that. The token below is the
#           specification's own test vector (verify.json), of 1985.
# Seen:     "Invalid Token: TTL". The default is 60 seconds; `ttl: 0` turns the check off. What is decrypted at once in a test
#           fails in production when an answer takes longer.
# Last run: 2026-11-28, Node 20
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
npm install --silent --prefix "$folder" fernet@0.4.0 || exit 69
cat >"$folder/check.mjs" <<'EOF'
import fernet from "fernet";

const secret = new fernet.Secret("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=");
const token =
  "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";
const open = (options) => {
  try {
    return new fernet.Token({ secret, token, ...options }).decode();
  } catch (error) {
    return error.message;
  }
};
const [plain, unlimited] = [open({}), open({ ttl: 0 })];
console.log("fernet 0.4.0");
console.log("expected: hello, without a maximum age");
console.log(`seen:     ${plain}; with ttl 0: ${unlimited}`);
process.exit(plain === "Invalid Token: TTL" && unlimited === "hello" ? 0 : 1);
EOF
node "$folder/check.mjs"
