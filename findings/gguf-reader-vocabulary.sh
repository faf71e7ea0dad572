#!/usr/bin/env bash
# Opening a GGUF file takes a hundred times its size in memory when it has a large vocabulary.
#
# Package:  gguf 0.19.0 (PyPI)
# Expected: GGUFReader maps the file and reads headers, which is what tools do that only list tensors or metadata. The tokens,
#           scores and types of Gemma's 256,000 tokens are 6 MB; unpacking them with `struct` takes a fraction of a second.
# Seen:     each element of each array becomes a NumPy view of its own: about 690 MB and 19 s of CPU time, before anything is asked for.
# Last run: 2026-11-29, Python 3.11
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gguf==0.19.0 || exit 69
"$folder/venv/bin/python" - "$folder/vocabulary.gguf" <<'EOF'
import os, resource, struct, sys, time
import numpy as np
from gguf import GGUFReader, GGUFWriter

path, count = sys.argv[1], 256_000
writer = GGUFWriter(path, "gemma")
writer.add_token_list([f"token{number}".encode() for number in range(count)])
writer.add_token_scores([float(-number) for number in range(count)])
writer.add_token_types([1] * count)
writer.add_tensor("token_embd.weight", np.zeros((32, 32), dtype=np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()


def measured(work):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    result = work()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return result, grown * 1024, time.process_time() - began


def unpacked():
    """The same tokens, by hand: a length of 8 bytes and the text."""
    data, tokens = open(path, "rb").read(), []
    at = data.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 4 + 4 + 8
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", data, at)
        tokens.append(data[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return tokens


size = os.path.getsize(path)
by_hand, small, quick = measured(unpacked)
reader, large, slow = measured(lambda: GGUFReader(path))
assert reader.get_field("tokenizer.ggml.tokens").contents() == by_hand
print("expected: memory and time of the order of the file")
print(f"seen:     a file of {size / 1e6:.1f} MB: {large / 1e6:.0f} MB more memory, {slow:.1f} s of CPU time")
print(f"seen:     its tokens unpacked with struct: {small / 1e6:.0f} MB, {quick:.2f} s")
sys.exit(0 if large > 20 * size and slow > 5 * quick else 1)
EOF
