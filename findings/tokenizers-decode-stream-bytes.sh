#!/usr/bin/env bash
# One byte that is no UTF-8 destroys the characters before it, and ends a streamed decoding.
#
# Packages: tokenizers 0.23.3, sentencepiece 0.2.2 (PyPI)
# Expected: ids of Gemma's byte fallback decode as in SentencePiece, which the tokenizer is converted from: each valid character
#           as it is, each byte that belongs to none as U+FFFD. A model that samples may generate any ids.
# Seen:     in tokenizers a run of byte tokens is text as a whole or not at all: `é` and a byte that begins another character
#           become three U+FFFD. DecodeStream has given out the `é` by then, and raises an exception: the stream breaks off
#           in the middle of an answer.
# Last run: 2026-11-29, Python 3.11
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3 sentencepiece==0.2.2 || exit 69
cd "$folder"
venv/bin/python - <<'EOF'
import sys
import sentencepiece
from tokenizers import Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream

with open("text", "w") as text:
    text.write("def add(a, b):\n    return a + b\n" * 20)
sentencepiece.SentencePieceTrainer.train(
    input="text", model_prefix="m", vocab_size=290, model_type="bpe", byte_fallback=True, minloglevel=2,
    hard_vocab_limit=False, add_dummy_prefix=False,
)
original = sentencepiece.SentencePieceProcessor(model_file="m.model")
vocabulary = {original.id_to_piece(number): number for number in range(original.vocab_size())}
converted = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
converted.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])

ids = [vocabulary[piece] for piece in ("a", "<0xC3>", "<0xA9>", "<0xC3>", "b")]
expected, whole, stream, parts, error = original.decode(ids), converted.decode(ids), DecodeStream(), [], None
for number in ids:
    try:
        parts.append(stream.step(converted, number) or "")
    except Exception as raised:
        error = str(raised)
        break
print(f"expected: {expected!r}")
print(f"seen:     tokenizers, whole: {whole!r}")
print(f"seen:     tokenizers, streamed: {''.join(parts)!r}, then: {error}")
sys.exit(0 if expected == "a\u00e9\ufffdb" and whole == "a\ufffd\ufffd\ufffdb" and error else 1)
EOF
