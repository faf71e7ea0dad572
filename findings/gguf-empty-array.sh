#!/usr/bin/env bash
# An empty array is left out of a GGUF file, without an error.
#
# Package:  gguf 0.19.0 (Python, of llama.cpp)
# Expected: a key with an array of length 0, which the format can express, or an error, as for an array of two types.
# Seen:     the key is not in the file. A reader cannot tell "no merges" from a converter that forgot them, and a key that it
#           requires is missing.
# Last run: 2026-11-28, Python 3.11
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gguf==0.19.0 || exit 69
"$folder/venv/bin/python" - "$folder/file.gguf" <<'EOF'
import importlib.metadata, sys
import gguf

writer = gguf.GGUFWriter(sys.argv[1], "gemma")
writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
writer.add_array("tokenizer.ggml.merges", [])
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
keys = [key for key in gguf.GGUFReader(sys.argv[1]).fields if key.startswith("tokenizer.")]
print(f"gguf {importlib.metadata.version('gguf')}")
print("expected: ['tokenizer.ggml.tokens', 'tokenizer.ggml.merges'], or an error")
print(f"seen:     {keys}")
sys.exit(0 if keys == ["tokenizer.ggml.tokens"] else 1)
EOF
