#!/usr/bin/env bash
# Checks that a codeseal-server with the feature `cuda` needs nothing of CUDA to start: scripts/cuda-start.sh SERVER
#
# It may have no library of CUDA, and none of C++, among its dynamic dependencies. Where there is no driver, it must say so in
# one line and exit with 69 when a CUDA device is asked for.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 SERVER" >&2; exit 64; }
server=$1
# What every Linux with glibc has.
LIBRARIES="ld-linux-x86-64.so.2 libc.so.6 libgcc_s.so.1 libm.so.6"

fail() { echo "$0: $*" >&2; exit 70; }

needed=$(LC_ALL=C readelf -d "$server" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p')
[ -n "$needed" ] || fail "$server is no dynamically linked program"
for library in $needed; do
  [[ " $LIBRARIES " == *" $library "* ]] ||
    fail "$server does not start without $library: link it with what scripts/cuda-toolkit.sh installs"
done
echo "needs ${needed//$'\n'/ }"

if [ -e /proc/driver/nvidia ]; then
  echo "there is a driver here, so how the program ends without one is not checked"
else
  code=0
  said=$("$server" kernels-check --device cuda 2>&1) || code=$?
  echo "without a driver it ends with $code: $said"
  [ "$code" = 69 ] || fail "that should be 69"
  [ "$said" = "codeseal-server: no device: libcuda.so.1 is not installed" ] || fail "that is not what it should say"
fi
