#!/usr/bin/env bash
# Starts the server of an unpacked image as it would start in a VM, without network, and without a launcher:
#
#   scripts/image/start.sh OUT
#
# It must find all its libraries, run as its own user on a read-only root, and open no port without attestation.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1
fail() { printf 'start.sh: %s\n' "$*" >&2; exit 1; }
run() { timeout 60 unshare --net "$here/run.sh" "$@"; }

libraries=$(chroot "$out/rootfs" /lib64/ld-linux-x86-64.so.2 --list /usr/local/bin/codeseal-server) || fail "a library is missing: $libraries"
version=$(run "$out" -- --version) || fail "it does not start"

status=0
said=$(run "$out" 2>&1) || status=$?
# An image without resource names can be looked at, and not be used.
if grep -q '"CODESEAL_KMS_KEY="' "$out/config.json"; then
  [ "$status" = 64 ] || fail "without a key it ends with $status instead of 64: $said"
else
  [ "$status" = 78 ] || fail "without a token it ends with $status instead of 78: $said"
fi
# A build with the sandbox would be one whose operator could have the token sent elsewhere.
said=$(run "$out" -- --sandbox-endpoint http://127.0.0.1:1 2>&1) && fail "it takes --sandbox-endpoint"
grep -q "unexpected argument '--sandbox-endpoint'" <<<"$said" || fail "it was built with the sandbox"
printf '%s starts on a read-only root; without attestation it ends with %s\n' "$version" "$status"
