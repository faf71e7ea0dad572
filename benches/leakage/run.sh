#!/usr/bin/env bash
# The leakage meter with what it needs: its packages and release builds of the programs. Flags are those of measure.py.
#
#   benches/leakage/run.sh --short        three pairs, at most ten minutes after the build
#   benches/leakage/run.sh --load --price --output benches/results/DATE-MACHINE-leakage
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=target/ci-leakage
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet -r benches/leakage/requirements.txt
cargo build --locked --release --quiet --bins
exec "$venv/bin/python" benches/leakage/measure.py "$@"
