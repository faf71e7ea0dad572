#!/usr/bin/env bash
# The switch that keeps special tokens out of user text is not saved, and leaves other added tokens in.
#
# Package:  tokenizers 0.23.3 (Python)
# Expected: with `encode_special_tokens = True`, no text becomes an added token, and a tokenizer that is saved and loaded
#           encodes as before: its normalizer, truncation and padding are all kept.
# Seen:     the property holds for tokens that were added with special=True only, and to_str() does not contain it, so a
#           copy by from_str(to_str()) recognizes control tokens in user text again. The property has to be set after
#           each load, and control tokens have to be added as special.
# Last run: 2026-11-28, Python 3.11
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tokenizers==0.23.3 || exit 69
"$folder/venv/bin/python" - <<'EOF'
import sys
import tokenizers
from tokenizers import AddedToken, Tokenizer, models


def build(special):
    characters = {character: number for number, character in enumerate("?ab<|>")}
    tokenizer = Tokenizer(models.BPE(vocab=characters, merges=[], unk_token="?"))
    token = AddedToken("<|a|>", special=special)
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    tokenizer.encode_special_tokens = True
    return tokenizer


def is_recognized(tokenizer):
    return tokenizer.token_to_id("<|a|>") in tokenizer.encode("b<|a|>b").ids


special, added = build(True), build(False)
seen = {
    "special": is_recognized(special),
    "special, saved and loaded": is_recognized(Tokenizer.from_str(special.to_str())),
    "added, not special": is_recognized(added),
}
print(f"tokenizers {tokenizers.__version__}")
print("expected: <|a|> is recognized in text by none of them")
print(f"seen:     {seen}")
sys.exit(0 if list(seen.values()) == [False, True, True] else 1)
EOF
