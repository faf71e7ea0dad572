#!/usr/bin/env bash
# The same tensors and the same metadata give a different file each time.
#
# Package:  safetensors 0.8.0 (Python; the order comes from a HashMap of the Rust crate)
# Expected: equal bytes for equal input. Tensors are sorted, and the metadata's dictionary has an order, so a converter
#           should give a file whose hash can be compared or pinned.
# Seen:     the entries of __metadata__ are written in a random order, already within one process. With several entries
#           the hash of a converted model cannot be reproduced; with one entry, or none, it can.
# Last run: 2026-11-28, Python 3.11, numpy 2.4.6
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6 || exit 69
"$folder/venv/bin/python" - <<'EOF'
import hashlib, sys
import numpy, safetensors, safetensors.numpy


def files(metadata):
    tensors = {"weight": numpy.zeros(4, numpy.float32)}
    return {hashlib.sha256(safetensors.numpy.save(tensors, metadata=metadata)).hexdigest() for _ in range(20)}


several = files({"format": "pt", "model": "a", "revision": "b", "licence": "c", "tool": "d", "date": "e"})
one = files({"format": "pt"})
print(f"safetensors {safetensors.__version__}")
print("expected: 1 hash of 20 files with six entries of metadata")
print(f"seen:     {len(several)} hashes; with one entry {len(one)}")
sys.exit(0 if len(several) > 1 and len(one) == 1 else 1)
EOF
