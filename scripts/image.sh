#!/usr/bin/env bash
# Builds the image of the Dockerfile without a Docker daemon and without a registry, checks it, and writes its bill of
# materials. Needs Debian 12, root, buildah and mmdebstrap, the Rust of rust-toolchain.toml, and `codeseal`.
#
#   scripts/image.sh [--out DIR] [--features LIST] [--build-arg NAME=VALUE]... [--manifest FILE] [--prove]
#   scripts/image.sh --relock
#
#   --out        where everything goes: oci/ (the image), rootfs/ (unpacked), sbom.json, digest [target/image]
#   --features   server,cuda (the default), or server
#   --build-arg  for the Dockerfile, as with Docker: CUDA_LIBRARIES=none leaves out candle's libraries
#   --manifest   instead of models/manifest.toml: a server of a production profile starts only with a locked model
#   --prove      build once more, all of it, in another directory; fail unless the digest is the same. What --out holds
#                already of the same sources and arguments is the first of the two
#   --relock     update scripts/image/*.lock to the current packages
#
# Variables: CODESEAL_SNAPSHOT_ARCHIVE and MIRROR (of Debian, see scripts/image/base.sh), CODESEAL (the program that lints),
# SOURCE_DATE_EPOCH (the age of every file; 0).
#
# The base of the build is made by scripts/image/base.sh, with the Rust that is installed here; the image itself is made by
# the Dockerfile and by nothing else. Crates are fetched before, held against Cargo.lock, and read from a directory.
set -euo pipefail
cd "$(dirname "$0")/.."
here=scripts/image
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}
umask 022

RUNTIME_PACKAGES=(ca-certificates gcc-12-base libc6 libgcc-s1)

say() { printf '%s\n' "$*" >&2; }
die() { say "image.sh: $*"; exit 1; }
usage() { sed -n '5,6s/^# *//p' "$0" >&2; exit 64; }

out=target/image features=server,cuda libraries=candle manifest=models/manifest.toml prove=0 relock=0 arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --out | --features | --build-arg | --manifest)
      [ $# -ge 2 ] || usage
      case $1 in
        --out) out=$2 ;;
        --features) features=$2 ;;
        --build-arg)
          arguments+=(--build-arg "$2")
          [[ $2 != CUDA_LIBRARIES=* ]] || libraries=${2#*=} ;;
        --manifest) manifest=$2 ;;
      esac
      shift ;;
    --prove) prove=1 ;;
    --relock) relock=1 ;;
    *) usage ;;
  esac
  shift
done
# Without the feature nothing is taken.
[[ ,$features, == *,cuda,* ]] || libraries=none
[[ ,$features, != *,sandbox,* ]] || die "an image with the sandbox is no image for production"

[ "$(id -u)" = 0 ] || die "run it as root"
for program in buildah mmdebstrap python3; do
  command -v "$program" >/dev/null || die "$program is missing: apt-get install buildah mmdebstrap python3"
done
mkdir -p "$out"
out=$(realpath "$out")

# buildah_in DIR …: buildah with its storage in DIR.
buildah_in() {
  local dir=$1
  shift
  buildah --root "$dir/storage" --runroot "$dir/run" --storage-driver "$(storage_driver)" "$@"
}

# Overlays cannot be stacked in every container; plain copies work everywhere and are slow.
storage_driver() {
  if [ -z "${driver:-}" ]; then
    local try
    try=$(mktemp -d "$out/try.XXXXXX")
    mkdir "$try/lower" "$try/upper" "$try/work" "$try/merged"
    driver=vfs
    if mount -t overlay overlay -o "lowerdir=$try/lower,upperdir=$try/upper,workdir=$try/work" "$try/merged" 2>/dev/null; then
      umount "$try/merged"
      driver=overlay
    fi
    rm -rf "$try"
  fi
  printf '%s' "$driver"
}

# import_base DIR: the image localhost/codeseal-build of DIR/build.tar, Rust, and, if asked for, nvcc and candle's libraries.
import_base() {
  local dir=$1 container sysroot
  sysroot=$(rustc --print sysroot)
  container=$(buildah_in "$dir" from scratch)
  buildah_in "$dir" add --quiet "$container" "$dir/build.tar" / >/dev/null
  buildah_in "$dir" add --quiet "$container" "$sysroot/bin/cargo" "$sysroot/bin/rustc" /usr/local/rust/bin/ >/dev/null
  buildah_in "$dir" add --quiet "$container" "$sysroot/lib" /usr/local/rust/lib >/dev/null
  printf '[net]\noffline = true\n' >"$dir/cargo-config.toml"
  buildah_in "$dir" add --quiet "$container" "$dir/cargo-config.toml" /usr/local/cargo/config.toml >/dev/null
  if [[ ,$features, == *,cuda,* ]]; then
    scripts/cuda-toolkit.sh target/cuda >&2
    buildah_in "$dir" add --quiet "$container" target/cuda /opt/cuda >/dev/null
  fi
  if [ "$libraries" = candle ]; then
    scripts/cuda-libraries.sh target/cuda-libraries >&2
    buildah_in "$dir" add --quiet "$container" target/cuda-libraries /opt/cuda-libraries >/dev/null
  fi
  buildah_in "$dir" config --env CARGO_HOME=/usr/local/cargo \
    --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  buildah_in "$dir" commit --quiet --rm "$container" localhost/codeseal-build >/dev/null
}

# context DIR: what the Dockerfile copies, and the Dockerfile.
context() {
  local paths=(Dockerfile .dockerignore Cargo.toml Cargo.lock benches kernels models src scripts/cuda-toolkit.sh
    scripts/cuda-toolkit.requirements scripts/cuda-stubs.py scripts/cuda-nvcc.sh scripts/cuda-bf16.cuh
    scripts/cuda-libraries.sh scripts/cuda-libraries.requirements scripts/image/root.sh scripts/image/runtime.lock)
  rm -rf "$1"
  mkdir -p "$1"
  # Without what git ignores, if there is a git: such as compiled Python.
  { git ls-files -z --cached --others --exclude-standard -- "${paths[@]}" 2>/dev/null || find "${paths[@]}" -type f -print0; } |
    tar -c --null -T - | tar -x -C "$1"
  cp "$manifest" "$1/models/manifest.toml"
}

# inputs: a hash of what is built, and how.
inputs() {
  local dir
  dir=$(mktemp -d "$out/inputs.XXXXXX")
  context "$dir/context"
  (cd "$dir/context" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) >"$dir/list"
  printf '%s\n' "$features" "$SOURCE_DATE_EPOCH" "${arguments[*]-}" >>"$dir/list"
  sha256sum <"$dir/list" | cut -d ' ' -f 1
  rm -rf "$dir"
}

# build DIR: everything from nothing; leaves DIR/oci and DIR/digest.
build() {
  local dir=$1
  # A build that was cut short may have left mounts.
  [ ! -d "$dir/storage" ] || buildah_in "$dir" rm --all >/dev/null 2>&1 || true
  rm -rf "$dir/storage" "$dir/run" "$dir/oci"
  mkdir -p "$dir"
  "$here/base.sh" "$dir/build.tar" "$dir/build.packages"
  import_base "$dir"
  context "$dir/context"
  say "image: $features"
  buildah_in "$dir" build --isolation chroot --network host --layers=false --format oci --quiet \
    --timestamp "$SOURCE_DATE_EPOCH" --volume "$cargo_home/registry:/usr/local/cargo/registry:ro" \
    --build-arg BUILD_IMAGE=localhost/codeseal-build --build-arg "FEATURES=$features" ${arguments[@]+"${arguments[@]}"} \
    --tag localhost/codeseal "$dir/context" >"$dir/build.log" 2>&1 || { tail -n 30 "$dir/build.log" >&2; die "the build fails"; }
  buildah_in "$dir" push --quiet localhost/codeseal "oci:$dir/oci:codeseal" >/dev/null
  python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["manifests"][0]["digest"])' "$dir/oci/index.json" >"$dir/digest"
  buildah_in "$dir" rmi --all --force >/dev/null
  rm -rf "$dir/storage" "$dir/run" "$dir/build.tar"
}

relock() {
  local dir=$out/relock container time
  mkdir -p "$dir"
  time=$(date -u +%Y%m%dT%H%M%SZ)
  "$here/base.sh" "$dir/build.tar" "$dir/build.packages" --at "$time"
  { echo "# snapshot $time" && cat "$dir/build.packages"; } >"$dir/build.lock"
  container=$(buildah_in "$dir" from scratch)
  buildah_in "$dir" add --quiet "$container" "$dir/build.tar" / >/dev/null
  buildah_in "$dir" add --quiet "$container" "$here/root.sh" /root.sh >/dev/null
  { echo "# snapshot $time" &&
    buildah_in "$dir" run --isolation chroot --network host "$container" -- sh /root.sh --lock "${RUNTIME_PACKAGES[@]}"; } >"$dir/runtime.lock"
  buildah_in "$dir" rm --all >/dev/null
  # Both or none: one time is in both.
  mv "$dir/build.lock" "$dir/runtime.lock" "$here/"
  rm -rf "$dir"
  say "written: $here/runtime.lock and $here/build.lock, of $time"
}

if [ "$relock" = 1 ]; then
  relock
  exit 0
fi

codeseal=${CODESEAL:-}
for known in target/debug/codeseal target/release/codeseal; do
  [ -n "$codeseal" ] || [ ! -x "$known" ] || codeseal=$known
done
[ -n "$codeseal" ] || die "no codeseal to lint with: cargo build --bin codeseal"

# Cargo holds what it downloads against Cargo.lock. A directory of its own, since what lies in a user's may be changed.
cargo_home=$out/cargo
CARGO_HOME=$cargo_home cargo fetch --quiet --locked --target x86_64-unknown-linux-gnu

now=$(inputs)
if [ "$prove" = 1 ] && [ -d "$out/oci" ] && [ "$(cat "$out/inputs" 2>/dev/null)" = "$now" ]; then
  say "built already: $out/oci"
else
  began=$SECONDS
  rm -rf "$out/oci" "$out/inputs"
  build "$out/build"
  cp -a "$out/build/oci" "$out/oci"
  cp "$out/build/digest" "$out/digest"
  printf '%s\n' "$now" >"$out/inputs"
  say "built in $((SECONDS - began)) s"
fi
rm -rf "$out/rootfs"
python3 "$here/unpack.py" "$out/oci" "$out/rootfs" "$out/config.json"
python3 "$here/check.py" "$out/config.json" "$out/rootfs" "$here/runtime.lock"
"$codeseal" policy lint --dockerfile Dockerfile --build-arg "FEATURES=$features" ${arguments[@]+"${arguments[@]}"} "$out/config.json" >&2 ||
  die "the launch policy does not pass"
"$here/start.sh" "$out" >&2
python3 "$here/sbom.py" --features "$features" --libraries "$libraries" --digest "$(cat "$out/digest")" >"$out/sbom.json"

if [ "$prove" = 1 ]; then
  again=$(mktemp -d "${TMPDIR:-/tmp}/codeseal-image.XXXXXX")
  trap 'rm -rf "$again"' EXIT
  say "once more, in another directory"
  build "$again"
  cmp -s "$out/digest" "$again/digest" || die "not reproducible: $(cat "$out/digest") and $(cat "$again/digest")"
  say "reproducible: the same digest from two directories"
fi

say "digest $(cat "$out/digest")"
say "packed $(du -sb "$out/oci" | cut -f 1) bytes, unpacked $(du -sb "$out/rootfs" | cut -f 1) bytes"
