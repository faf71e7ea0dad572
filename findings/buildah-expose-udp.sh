#!/usr/bin/env bash
# A port that is exposed for TCP on one line and for UDP on the next is exposed for TCP only.
#
# Package:  buildah 1.28.2 (Debian 12), with openshift/imagebuilder 1.2.4
# Expected: 80/tcp and 80/udp. The Dockerfile reference says of EXPOSE: "To expose on both TCP and UDP, include two lines: EXPOSE 80/tcp
#           EXPOSE 80/udp". BuildKit exposes both, and so does buildah if both stand on one line.
# Seen:     80/tcp. A port whose number is exposed already is left out, whatever its protocol.
# Last run: 2026-11-29, Debian 12
set -euo pipefail
command -v buildah >/dev/null || apt-get install -y -qq buildah >/dev/null || exit 69
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
run() { buildah --storage-driver vfs --root "$folder/root" --runroot "$folder/run" "$@"; }
printf 'FROM scratch\nEXPOSE 80/tcp\nEXPOSE 80/udp\n' >"$folder/Dockerfile"
run build --isolation chroot --quiet -t ports -f "$folder/Dockerfile" "$folder" >/dev/null
buildah --version
echo "expected: 80/tcp 80/udp"
# shellcheck disable=SC2016
seen=$(run inspect --type image --format '{{range $port, $_ := .OCIv1.Config.ExposedPorts}}{{$port}} {{end}}' ports)
echo "seen:     $seen"
[ "$seen" = "80/tcp " ]
