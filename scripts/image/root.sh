#!/bin/sh
# Puts what the server needs of Debian into a directory: root.sh LOCK DIRECTORY. Run by the Dockerfile, as root.
#
# A line of LOCK is a package, its version and the SHA-256 of its file; nothing else is taken. Its line "# snapshot TIME"
# is the time that the packages are of: with SNAPSHOT_ARCHIVE, the base URL of a snapshot archive of Debian, they are
# fetched from there, and otherwise from what apt is configured for. No maintainer script is
# run, and nothing is left that could run one: no shell, no package manager. What scanners look for stays: the packages'
# control files and copyrights.
#
#   root.sh --lock PACKAGE…   prints a LOCK of what the mirror has now
set -eu
export LC_ALL=C
umask 022

fail() { echo "root.sh: $*" >&2; exit 1; }
# fetch PACKAGE [VERSION]: the file that apt has verified, in the current directory.
fetch() {
  rm -f ./*.deb
  if ! apt-get download -q -o APT::Sandbox::User=root "$1${2:+=$2}" >/dev/null; then
    found=$(apt-cache show --no-all-versions "$1" 2>/dev/null | sed -n 's/^Version: //p')
    fail "$1: ${2:-any version} → ${found:-none}: the mirror does not have the locked version: name a snapshot archive (docs/deployment.md), or write a new lock, with which the digest will differ (image.sh --relock)"
  fi
  set -- ./*.deb
  if [ $# != 1 ] || [ ! -f "$1" ]; then fail "one file was expected"; fi
}

[ $# -ge 2 ] || fail "usage: root.sh LOCK DIRECTORY | --lock PACKAGE..."
if [ -n "${SNAPSHOT_ARCHIVE:-}" ]; then
  time=$(sed -n 's/^# snapshot //p' "$1")
  etc=${APT_ETC:-/etc/apt}
  rm -rf "$etc/sources.list.d"
  # A release file of the past has expired by its own date; its signature is checked as ever.
  for part in "debian/$time bookworm" "debian/$time bookworm-updates" "debian-security/$time bookworm-security"; do
    echo "deb [check-valid-until=no] ${SNAPSHOT_ARCHIVE%/}/$part main"
  done >"$etc/sources.list"
fi
apt-get update -q >/dev/null
work=$(mktemp -d)

if [ "$1" = --lock ]; then
  shift
  cd "$work"
  for package in "$@"; do
    fetch "$package"
    echo "$package $(dpkg-deb -f ./*.deb Version) $(sha256sum ./*.deb | cut -d ' ' -f 1)"
  done
  exit 0
fi

lock=$(realpath "$1")
root=$2
mkdir -p "$root/var/lib/dpkg/status.d"
cd "$work"
while read -r package version hash; do
  [ "$package" != "#" ] || continue
  fetch "$package" "$version"
  echo "$hash  $(echo ./*.deb)" | sha256sum -c --quiet - || fail "$package $version is not the file that the lock names"
  dpkg-deb -x ./*.deb "$root"
  dpkg-deb -f ./*.deb >"$root/var/lib/dpkg/status.d/$package"
done <"$lock"

# One file of certificates, as update-ca-certificates would write it.
cd "$root"
mkdir -p etc/ssl/certs
cat usr/share/ca-certificates/mozilla/*.crt >etc/ssl/certs/ca-certificates.crt
find usr/share -mindepth 1 -maxdepth 1 ! -name doc -exec rm -rf {} +
find usr/share/doc -type f ! -name copyright -delete
# Converters of character sets and the loader's auditing are for others.
rm -rf etc/ca-certificates etc/ca-certificates.conf usr/sbin usr/lib/x86_64-linux-gnu/gconv usr/lib/x86_64-linux-gnu/audit
find . -type d -empty -delete

mkdir -p dev proc run sys usr/local/bin home/nonroot
mkdir -m 1777 tmp
chown 65532:65532 home/nonroot
printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >etc/passwd
printf 'root:x:0:\nnonroot:x:65532:\n' >etc/group
printf 'hosts: files dns\n' >etc/nsswitch.conf
