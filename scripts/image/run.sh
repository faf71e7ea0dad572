#!/usr/bin/env bash
# Runs an unpacked image as a container runtime would: its root read-only, its user, its environment, its entry point, a
# /tmp in memory, in namespaces of its own for mounts and processes. Needs root, and no runtime.
#
#   scripts/image/run.sh OUT [--mount FROM:TO]... [-- ARGUMENT...]
#
#   OUT       where scripts/image.sh has put rootfs/ and config.json
#   --mount   a file or directory of this machine, read-only, at a path of the image; a socket in it can still be used
#
# The network is the caller's: for none but its own, run it by `unshare --net`.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '5s/^# *//p' "$0" >&2; exit 64; }
out=$(realpath "$1")
shift
mounts=()
while [ $# -gt 0 ]; do
  case $1 in
    --mount) mounts+=("$2"); shift 2 ;;
    --) shift; break ;;
    *) sed -n '5s/^# *//p' "$0" >&2; exit 64 ;;
  esac
done

# In the namespace of its own: everything here is gone when the server ends.
if [ "${IMAGE_RUN_INSIDE:-}" != 1 ]; then
  arguments=()
  for mount in ${mounts[@]+"${mounts[@]}"}; do arguments+=(--mount "$mount"); done
  IMAGE_RUN_INSIDE=1 exec unshare --mount --propagation private --pid --fork --kill-child \
    "$0" "$out" ${arguments[@]+"${arguments[@]}"} -- "$@"
fi
stage=$(mktemp -d /tmp/codeseal-run.XXXXXX)
# The directory is left empty: what is mounted on it goes with the namespace.
mount -t tmpfs -o mode=755 tmpfs "$stage"
mkdir "$stage/root"
cp -a "$out/rootfs/." "$stage/root"
root=$stage/root
for mount in ${mounts[@]+"${mounts[@]}"}; do
  # The places to mount at, as a runtime makes them before it mounts.
  if [ -d "${mount%%:*}" ]; then
    mkdir -p "$root${mount#*:}"
  else
    mkdir -p "$(dirname "$root${mount#*:}")"
    [ -e "$root${mount#*:}" ] || : >"$root${mount#*:}"
  fi
done
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero random urandom; do
  : >"$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
for mount in ${mounts[@]+"${mounts[@]}"}; do
  mount --bind "${mount%%:*}" "$root${mount#*:}"
  mount -o remount,bind,ro "$root${mount#*:}"
done

config() { python3 -c "import json,sys; c = json.load(open(sys.argv[1]))['config']; print(*($1), sep='\0', end='\0')" "$out/config.json"; }
mapfile -d '' environment < <(config "c.get('Env', [])" | grep -zv '^$' || true)
mapfile -d '' entry < <(config "c['Entrypoint']")
mapfile -d '' user < <(config "[*c['User'].split(':'), c['User'].split(':')[0]][:2]")
# Another user than root keeps no capability, as under a launch policy with allow_capabilities=false or without one.
exec env -i "${environment[@]}" "$(command -v setpriv)" --no-new-privs "$(command -v chroot)" --userspec="${user[0]}:${user[1]}" --groups="" \
  "$root" "${entry[@]}" "$@"
