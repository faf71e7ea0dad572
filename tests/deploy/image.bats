# What scripts/image.sh looks for in an image, on images that are made up here: no image is built.

bats_require_minimum_version 1.5.0

setup_file() {
  mkdir -p "$BATS_FILE_TMPDIR/bin"
  ln -s "$(python3 -c 'import sys; print(sys.executable)')" "$BATS_FILE_TMPDIR/bin/python3"
}

setup() {
  export PATH="$BATS_FILE_TMPDIR/bin:$PATH"
  SCRIPTS=$(cd "$BATS_TEST_DIRNAME/../../scripts" && pwd)
  ROOT=$BATS_TEST_TMPDIR/rootfs
  CONFIG=$BATS_TEST_TMPDIR/config.json
  LOCK=$BATS_TEST_TMPDIR/lock
  mkdir -p "$ROOT/usr/local/bin" "$ROOT/lib" "$ROOT/var/lib/dpkg/status.d" "$ROOT/etc/ssl/certs"
  mkdir -m 1777 "$ROOT/tmp"
  printf '\177ELF server' >"$ROOT/usr/local/bin/codeseal-server"
  printf '\177ELF library' >"$ROOT/lib/libc.so.6"
  echo "Package: libc6" >"$ROOT/var/lib/dpkg/status.d/libc6"
  echo "libc6 1 0000" >"$LOCK"
  config '{}'
}

# config JSON: that of a good image, with other members.
config() {
  python3 - "$1" >"$CONFIG" <<'PY'
import json, sys
good = {
    "User": "65532:65532", "ExposedPorts": {"8080/tcp": {}}, "Entrypoint": ["/usr/local/bin/codeseal-server"],
    "Env": ["PATH=/usr/bin", "LD_LIBRARY_PATH=/usr/local/nvidia/lib64", "CODESEAL_KMS_KEY=projects/p"],
}
print(json.dumps({"config": {**good, **json.loads(sys.argv[1])}}))
PY
}

check() { python3 "$SCRIPTS/image/check.py" "$CONFIG" "$ROOT" "$LOCK"; }

# refused TEXT: that the image is refused, and that this is said of it.
refused() {
  run -1 check
  [[ $output == *"$1"* ]] || { echo "$output"; false; }
}

@test "an image that holds the server and its libraries passes" {
  run -0 check
  [ -z "$output" ]
}

@test "a configuration that opens, runs or tells more is refused" {
  config '{"ExposedPorts": {"8080/tcp": {}, "9090/tcp": {}}}' && refused "ports:"
  config '{"ExposedPorts": {"8080": {}}}' && refused "ports:"
  config '{"User": ""}' && refused "user:"
  config '{"User": "nonroot"}' && refused "user:"
  config '{"Entrypoint": ["/bin/sh", "-c", "codeseal-server"]}' && refused "entry point:"
  config '{"Cmd": ["--listen"]}' && refused "arguments"
  config '{"Volumes": {"/data": {}}}' && refused "volumes"
  config '{"Env": ["RUST_LOG=debug"]}' && refused "RUST_LOG"
  config '{"Env": ["CODESEAL_API_TOKEN=x"]}' && refused "sounds like a secret"
}

@test "what helps an intruder is refused" {
  file() { printf '%s' "$2" >"$ROOT/$1"; }
  file usr/local/bin/sh '#!' && refused "usr/local/bin/sh: a shell" && rm "$ROOT/usr/local/bin/sh"
  printf '\177ELF' >"$ROOT/lib/helper" && refused "lib/helper: a program" && rm "$ROOT/lib/helper"
  file lib/hook '#!/bin/false' && refused "lib/hook: a program" && rm "$ROOT/lib/hook"
  ln -s libc.so.6 "$ROOT/lib/python3.11" && refused "interpreter" && rm "$ROOT/lib/python3.11"
  ln -s /nowhere "$ROOT/lib/lost" && refused "leads nowhere" && rm "$ROOT/lib/lost"
  chmod u+s "$ROOT/lib/libc.so.6" && refused "runs as somebody else" && chmod u-s "$ROOT/lib/libc.so.6"
  chmod o+w "$ROOT/lib" && refused "anybody may write" && chmod o-w "$ROOT/lib"
  mkfifo "$ROOT/lib/pipe" && refused "a pipe" && rm "$ROOT/lib/pipe"
  check
}

@test "secrets, the driver and traces of the build are refused" {
  # Not in one piece, or this file would hold one.
  printf -- '-----BEGIN %s-----\n%s\n' "PRIVATE KEY" "$(printf 'A%.0s' {1..64})" >"$ROOT/etc/ssl/certs/a.pem"
  refused "holds a private key" && rm "$ROOT/etc/ssl/certs/a.pem"
  : >"$ROOT/etc/id_ed25519" && refused "looks like a secret" && rm "$ROOT/etc/id_ed25519"
  : >"$ROOT/lib/libcuda.so.1" && refused "the driver's libraries" && rm "$ROOT/lib/libcuda.so.1"
  printf '\177ELF /home/me/codeseal/src/lib.rs' >"$ROOT/usr/local/bin/codeseal-server" && refused "where it was built"
}

@test "packages that are not those of the lock are refused" {
  echo "Package: bash" >"$ROOT/var/lib/dpkg/status.d/bash" && refused "packages:" && rm "$ROOT/var/lib/dpkg/status.d/bash"
  rm "$ROOT/usr/local/bin/codeseal-server" && refused "there is no server"
}

@test "the bill of materials names what is compiled in, with its hashes, and is the same every time" {
  bom() { python3 "$SCRIPTS/image/sbom.py" --features server --digest "sha256:$(printf '0%.0s' {1..64})"; }
  bom >"$BATS_TEST_TMPDIR/one"
  bom | cmp - "$BATS_TEST_TMPDIR/one"
  run -0 python3 - "$BATS_TEST_TMPDIR/one" "$SCRIPTS/image/runtime.lock" <<'PY'
import json, sys
bom = json.load(open(sys.argv[1]))
names = {c["name"] for c in bom["components"]}
refs = {c["bom-ref"] for c in bom["components"]} | {bom["metadata"]["component"]["bom-ref"]}
assert {"codeseal", "axum", "fernet", "google-cloud-kms-v1"} <= names, names
assert {line.split()[0] for line in open(sys.argv[2])} <= names, names
# What only tests, other features, or the build itself need is not in the program.
assert not {"criterion", "rcgen", "cudarc", "cc", "serde_derive"} & names, names
for component in bom["components"]:
    assert component["name"] == "codeseal" or component["hashes"], component
for dependency in bom["dependencies"]:
    assert {dependency["ref"], *dependency["dependsOn"]} <= refs, dependency
PY
}
