#!/usr/bin/env bash
# Makes the Debian that the build stages of the image start from, and says where it differs from the lock.
#
#   scripts/image/base.sh TAR PACKAGES           of the time that build.lock and runtime.lock name
#   scripts/image/base.sh TAR PACKAGES --at TIME of another time, 20261128T220000Z, and compares nothing
#   scripts/image/base.sh --time                 prints the time of the locks
#
# Written are TAR, the root file system, and PACKAGES, a line "name version" for each package in it.
#
# Variables:
#   CODESEAL_SNAPSHOT_ARCHIVE  base URL of a snapshot archive of Debian: below it lie debian/TIME and debian-security/TIME.
#                              Not set: the one that this machine's apt sources name in a comment, as those of Debian's
#                              container images do. Empty: none
#   MIRROR                     of Debian, where no snapshot archive can be reached
#   CODESEAL_LOCKS             the directory of the locks, beside this script otherwise
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
locks=${CODESEAL_LOCKS:-$here}
apt_sources=${CODESEAL_APT_SOURCES:-/etc/apt}

# python3 runs the CUDA compiler's installer, where that is asked for.
BUILD_PACKAGES=(ca-certificates g++ gcc libc6-dev)

say() { printf '%s\n' "$*" >&2; }
die() { say "base.sh: $*"; exit 1; }

# locked_time: the time of both locks, in the form that a snapshot archive has in its addresses.
locked_time() {
  local lock time first=
  for lock in "$locks/build.lock" "$locks/runtime.lock"; do
    time=$(sed -n 's/^# snapshot \([0-9]\{8\}T[0-9]\{6\}Z\)$/\1/p' "$lock")
    [ -n "$time" ] || die "$lock: the line '# snapshot TIME' is missing: scripts/image.sh --relock writes it"
    [ "${first:=$time}" = "$time" ] || die "$lock is of $time and the other lock of $first: scripts/image.sh --relock writes both"
  done
  printf '%s' "$first"
}

# archive: the base URL of the snapshot archive, or nothing.
archive() {
  local found=${CODESEAL_SNAPSHOT_ARCHIVE-unset}
  if [ "$found" = unset ]; then
    found=$(grep -rhos 'https\?://[^ ]*/debian/[0-9]\{8\}T[0-9]\{6\}Z' "$apt_sources"/sources.list "$apt_sources"/sources.list.d |
      sed -n '1s|/debian/[^/]*$||p') || true
  fi
  printf '%s' "${found%/}"
}

# reached URL: whether the release file below URL can be fetched, as apt fetches.
reached() {
  local probe=$tar.InRelease status=0
  /usr/lib/apt/apt-helper -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 -o Acquire::Retries=0 \
    download-file "$1/dists/bookworm/InRelease" "$probe" >/dev/null 2>&1 || status=1
  rm -f "$probe"
  return "$status"
}

# differences LOCK FOUND: "name: locked → found" for each package of which the version differs.
differences() {
  LC_ALL=C join -a 1 -a 2 -e none -o 0,1.2,2.2 <(grep -v '^#' "$1" | LC_ALL=C sort -k 1,1) <(LC_ALL=C sort -k 1,1 "$2") |
    awk '$2 != $3 {printf "  %s: %s → %s\n", $1, $2, $3}'
}

if [ "${1:-}" = --time ] && [ $# = 1 ]; then
  locked_time
  echo
  exit 0
fi
if [ $# = 4 ] && [ "$3" = --at ]; then
  time=$4 compare=0
elif [ $# = 2 ]; then
  time=$(locked_time) compare=1
else
  sed -n '4,6s/^# *//p' "$0" >&2
  exit 64
fi
tar=$1 packages=$2

snapshot=$(archive)
if [ -z "$snapshot" ]; then
  say "note: no snapshot archive is configured (CODESEAL_SNAPSHOT_ARCHIVE): packages are those that the mirror has now, not those of $time"
elif ! reached "$snapshot/debian/$time"; then
  say "note: the snapshot archive cannot be reached: packages are those that the mirror has now, not those of $time"
  snapshot=
fi
if [ -n "$snapshot" ]; then
  # A release file of the past has expired by its own date; its signature is checked as ever.
  sources=(
    "deb [check-valid-until=no] $snapshot/debian/$time bookworm main"
    "deb [check-valid-until=no] $snapshot/debian/$time bookworm-updates main"
    "deb [check-valid-until=no] $snapshot/debian-security/$time bookworm-security main"
  )
else
  sources=(${MIRROR:+"$MIRROR"})
fi

say "base: Debian 12 ${snapshot:+of $time }with ${BUILD_PACKAGES[*]}"
include=$(IFS=,; printf '%s' "${BUILD_PACKAGES[*]}")
mmdebstrap --quiet --variant=minbase --include="$include" bookworm "$tar" ${sources[@]+"${sources[@]}"}
tar -xOf "$tar" ./var/lib/dpkg/status | awk '/^Package:/ {p = $2} /^Version:/ {print p, $2}' | LC_ALL=C sort >"$packages"

if [ "$compare" = 1 ]; then
  changed=$(differences "$locks/build.lock" "$packages")
  if [ -n "$changed" ]; then
    say "note: the packages of the build's base are not those of build.lock (package: locked → found):"
    say "$changed"
    say "note: the digest will differ from that of a build with the locked packages"
  fi
fi
