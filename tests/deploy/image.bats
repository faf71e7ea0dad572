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
  printf '# snapshot 20261126T120000Z\nlibc6 1 0000\n' >"$LOCK"
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
  chmod u+s "$ROOT/lib/libc.so.6" && refused "runs as another user" && chmod u-s "$ROOT/lib/libc.so.6"
  chmod o+w "$ROOT/lib" && refused "writable for everyone" && chmod o-w "$ROOT/lib"
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
assert {line.split()[0] for line in open(sys.argv[2]) if line[0] != "#"} <= names, names
# What only tests, other features, the build itself or features of libraries that are off need is not in the program.
assert not {"candle-core", "criterion", "rcgen", "cudarc", "cc", "serde_derive", "quinn"} & names, names
for component in bom["components"]:
    # This repository's own crates have no hash in Cargo.lock.
    assert component["name"] in ("codeseal", "codeseal-kernels") or component["hashes"], component
for dependency in bom["dependencies"]:
    assert {dependency["ref"], *dependency["dependsOn"]} <= refs, dependency
PY
}

@test "the bill of materials of an image for GPUs names candle's kernels and the libraries of its backend, where they are in it" {
  bom() { python3 "$SCRIPTS/image/sbom.py" --features server,cuda --libraries "$1" --digest "sha256:$(printf '0%.0s' {1..64})"; }
  bom candle >"$BATS_TEST_TMPDIR/candle"
  bom none >"$BATS_TEST_TMPDIR/none"
  run -0 python3 - "$BATS_TEST_TMPDIR/candle" "$BATS_TEST_TMPDIR/none" <<'PY'
import json, sys
candle, none = ({c["name"]: c for c in json.load(open(path))["components"]} for path in sys.argv[1:])
assert {"candle-core", "candle-kernels", "cudarc"} <= set(candle) & set(none), sorted(candle)
assert set(candle) - set(none) == {"nvidia-cublas", "nvidia-curand"}, set(candle) - set(none)
assert all(len(candle[name]["hashes"][0]["content"]) == 64 for name in ("nvidia-cublas", "nvidia-curand"))
# It only compiles kernels.
assert "cudaforge" not in candle
PY
}

# The packages of the build's base. Stand-ins: mmdebstrap makes a root of $FOUND, a list of "name version", and writes down
# what it is called with; the snapshot archive is a directory.

base() { bash "$SCRIPTS/image/base.sh" "$@"; }

base_world() {
  export CODESEAL_LOCKS=$BATS_TEST_TMPDIR/locks CODESEAL_APT_SOURCES=$BATS_TEST_TMPDIR/apt
  export FOUND=$BATS_TEST_TMPDIR/found CALL=$BATS_TEST_TMPDIR/call
  mkdir -p "$CODESEAL_LOCKS" "$CODESEAL_APT_SOURCES/sources.list.d" "$BATS_TEST_TMPDIR/bin"
  printf '# snapshot 20261126T120000Z\ngcc 12.1\nlibc6 2.36-9\nlibgone 1\n' >"$CODESEAL_LOCKS/build.lock"
  printf '# snapshot 20261126T120000Z\nlibc6 2.36-9 0000\n' >"$CODESEAL_LOCKS/runtime.lock"
  printf 'gcc 12.1\nlibc6 2.36-9\nlibgone 1\n' >"$FOUND"
  ARCHIVE=$BATS_TEST_TMPDIR/archive
  mkdir -p "$ARCHIVE/debian/20261126T120000Z/dists/bookworm"
  echo "Suite: oldstable" >"$ARCHIVE/debian/20261126T120000Z/dists/bookworm/InRelease"
  cat >"$BATS_TEST_TMPDIR/bin/mmdebstrap" <<'SH'
#!/bin/bash
printf '%s\n' "$@" >"$CALL"
while [ "$1" != bookworm ]; do shift; done
root=$(mktemp -d "$BATS_TEST_TMPDIR/root.XXXXXX")
mkdir -p "$root/var/lib/dpkg"
awk '{printf "Package: %s\nStatus: install ok installed\nVersion: %s\n\n", $1, $2}' "$FOUND" >"$root/var/lib/dpkg/status"
tar -C "$root" -cf "$2" .
SH
  chmod +x "$BATS_TEST_TMPDIR/bin/mmdebstrap"
  export PATH="$BATS_TEST_TMPDIR/bin:$PATH"
}

@test "the base is of the locks' time where a snapshot archive can be reached" {
  base_world
  export CODESEAL_SNAPSHOT_ARCHIVE=file://$ARCHIVE/
  run -0 base "$BATS_TEST_TMPDIR/base.tar" "$BATS_TEST_TMPDIR/packages"
  [[ $output != *note:* ]] || { echo "$output"; false; }
  for part in "debian/20261126T120000Z bookworm" "debian/20261126T120000Z bookworm-updates" \
    "debian-security/20261126T120000Z bookworm-security"; do
    grep -qxF "deb [check-valid-until=no] file://$ARCHIVE/$part main" "$CALL" || { cat "$CALL"; false; }
  done
  cmp "$FOUND" "$BATS_TEST_TMPDIR/packages"
}

@test "where no snapshot archive can be reached, the packages that differ are named" {
  base_world
  printf 'gcc 12.1\nlibc6 2.36-10\nlibnew 3\n' >"$FOUND"
  for CODESEAL_SNAPSHOT_ARCHIVE in "file://$BATS_TEST_TMPDIR/nowhere" "http://127.0.0.1:9/archive" ""; do
    export CODESEAL_SNAPSHOT_ARCHIVE
    MIRROR=http://mirror.example/debian run -0 base "$BATS_TEST_TMPDIR/base.tar" "$BATS_TEST_TMPDIR/packages"
    for line in "  libc6: 2.36-9 → 2.36-10" "  libgone: 1 → none" "  libnew: none → 3" \
      "note: the digest will differ from that of a build with the locked packages"; do
      grep -qxF "$line" <<<"$output" || { echo "$output"; false; }
    done
    [[ $output != *"gcc: "* ]]
    [[ $output == *"not those of 20261126T120000Z"* ]]
    [ "$(tail -n 1 "$CALL")" = http://mirror.example/debian ]
  done
}

@test "a mirror that still has the locked packages costs a note and no warning about the digest" {
  base_world
  CODESEAL_SNAPSHOT_ARCHIVE="" run -0 base "$BATS_TEST_TMPDIR/base.tar" "$BATS_TEST_TMPDIR/packages"
  [[ $output == *"no snapshot archive is configured"* && $output != *"digest"* ]] || { echo "$output"; false; }
}

@test "the snapshot archive that apt's sources name in a comment is used" {
  base_world
  unset CODESEAL_SNAPSHOT_ARCHIVE
  printf 'Types: deb\n# http://127.0.0.1:9/archive/debian/20250520T000000Z\nURIs: http://mirror.example/debian\n' \
    >"$CODESEAL_APT_SOURCES/sources.list.d/debian.sources"
  run -0 base "$BATS_TEST_TMPDIR/base.tar" "$BATS_TEST_TMPDIR/packages"
  [[ $output == *"cannot be reached"* ]] || { echo "$output"; false; }
}

@test "locks without a time, or of two times, are refused" {
  base_world
  run -0 base --time
  [ "$output" = 20261126T120000Z ]
  printf '# snapshot 20261127T120000Z\nlibc6 2.36-9 0000\n' >"$CODESEAL_LOCKS/runtime.lock"
  run -1 base --time
  [[ $output == *"the other lock of 20261126T120000Z"* ]]
  printf 'libc6 2.36-9 0000\n' >"$CODESEAL_LOCKS/runtime.lock"
  run -1 base "$BATS_TEST_TMPDIR/base.tar" "$BATS_TEST_TMPDIR/packages"
  [[ $output == *"runtime.lock: the line '# snapshot TIME' is missing"* ]]
  [ ! -e "$CALL" ]
}

@test "the locks of this tree are of one time, and a package has one version in both" {
  run -0 env -u CODESEAL_LOCKS bash "$SCRIPTS/image/base.sh" --time
  [[ $output =~ ^[0-9]{8}T[0-9]{6}Z$ ]]
  while read -r name version _; do
    [ "$name" = "#" ] || grep -qxF "$name $version" "$SCRIPTS/image/build.lock" || { echo "$name $version"; false; }
  done <"$SCRIPTS/image/runtime.lock"
}

@test "a runtime package that the mirror no longer has is named with what it has now, and an archive replaces the mirror" {
  bin=$BATS_TEST_TMPDIR/bin
  export APT_ETC=$BATS_TEST_TMPDIR/etc
  mkdir -p "$bin" "$APT_ETC/sources.list.d"
  touch "$APT_ETC/sources.list.d/debian.sources"
  printf '#!/bin/sh\n[ "$1" = update ]\n' >"$bin/apt-get"
  printf '#!/bin/sh\necho "Package: libc6"\necho "Version: 2.36-10"\n' >"$bin/apt-cache"
  chmod +x "$bin"/*
  printf '# snapshot 20261126T120000Z\nlibc6 2.36-9 0000\n' >"$LOCK"
  PATH=$bin:$PATH run -1 sh "$SCRIPTS/image/root.sh" "$LOCK" "$BATS_TEST_TMPDIR/root"
  [[ $output == *"libc6: 2.36-9 → 2.36-10"*"digest will differ"* ]] || { echo "$output"; false; }
  [ -e "$APT_ETC/sources.list.d/debian.sources" ] && [ ! -e "$APT_ETC/sources.list" ]
  SNAPSHOT_ARCHIVE=http://archive.example/a PATH=$bin:$PATH run -1 sh "$SCRIPTS/image/root.sh" "$LOCK" "$BATS_TEST_TMPDIR/root"
  [ ! -e "$APT_ETC/sources.list.d" ]
  grep -qxF "deb [check-valid-until=no] http://archive.example/a/debian-security/20261126T120000Z bookworm-security main" \
    "$APT_ETC/sources.list"
}
