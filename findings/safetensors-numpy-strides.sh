#!/usr/bin/env bash
# NumPy arrays that are not contiguous are saved with wrong values, without an error.
#
# Package:  safetensors 0.8.0 (Python), module safetensors.numpy; 0.7.0 saves them correctly
# Expected: what is loaded equals what was saved, or an error: safetensors.torch refuses tensors that are not contiguous.
# Seen:     the memory from the array's first element on is written as if it were contiguous, so a transposed matrix keeps its
#           new shape and its old order, and every second element of a vector becomes its first half. Checkpoints that
#           transpose weights before saving are silently wrong. Use numpy.ascontiguousarray before saving.
# Last run: 2026-11-28, Python 3.11, numpy 2.4.6
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6 || exit 69
"$folder/venv/bin/pip" install --quiet --target "$folder/before" safetensors==0.7.0 || exit 69
cat >"$folder/check.py" <<'EOF'
import numpy, safetensors, safetensors.numpy

matrix = numpy.arange(6, dtype=numpy.float32).reshape(2, 3).T
vector = numpy.arange(8, dtype=numpy.float32)[::2]
loaded = safetensors.numpy.load(safetensors.numpy.save({"matrix": matrix, "vector": vector}))
print(f"safetensors {safetensors.__version__}")
wrong = 0
for name, saved in ("matrix", matrix), ("vector", vector):
    print(f"expected: {name} {saved.tolist()}")
    print(f"seen:     {name} {loaded[name].tolist()}")
    wrong += not numpy.array_equal(saved, loaded[name])
raise SystemExit(wrong)
EOF
before=0 now=0
PYTHONPATH=$folder/before "$folder/venv/bin/python" "$folder/check.py" || before=$?
"$folder/venv/bin/python" "$folder/check.py" || now=$?
[ "$before" = 0 ] && [ "$now" = 2 ]
