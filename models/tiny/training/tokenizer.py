"""Trains the tokenizer: Gemma's form with a small vocabulary.

A space is U+2581, unknown characters fall back to bytes, and the control
tokens sit at the ids they have in CodeGemma. Runs of newlines and runs of
spaces are tokens of their own, so that a prompt that ends in a bare newline
is a place the model has seen. Reads `train.json`; writes `tokenizer.json`.
"""

import json
import random
import re
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers, Regex

VOCAB = 4096
CONTROL = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 67: "<|fim_prefix|>", 68: "<|fim_middle|>",
           69: "<|fim_suffix|>", 70: "<|file_separator|>", 106: "<start_of_turn>", 107: "<end_of_turn>"}
FIRST_BYTE = 108
# Newline runs, space runs, then words with at most one leading space; digits stand alone.
# No look-around: the pattern must run in every regex engine.
SPLIT = r"\n+|▁▁+|▁?[A-Za-z_]+|▁?[0-9]|▁?[^\sA-Za-z0-9_▁]+|▁|\s"


def build() -> Tokenizer:
    tk = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tk.normalizer = normalizers.Replace(" ", "▁")
    tk.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    tk.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tk


def main(work: Path):
    docs = json.loads((work / "train.json").read_text())
    texts = [t for _, _, t in random.Random(1).sample(docs, min(2500, len(docs)))]
    first = [CONTROL.get(i, f"<unused{i}>") for i in range(FIRST_BYTE)]
    first += [f"<0x{b:02X}>" for b in range(256)]
    tk = build()
    tk.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=first, show_progress=False, limit_alphabet=220,
        initial_alphabet=[chr(c) for c in range(33, 127)] + ["▁", "\n"]))
    model = json.loads(tk.to_str())
    # Only the control tokens are matched in raw text; the bytes stay ordinary entries.
    model["added_tokens"] = [t for t in model["added_tokens"] if t["id"] in CONTROL]
    (work / "tokenizer.json").write_text(json.dumps(model, ensure_ascii=False, indent=1))
    check(work)


def check(work: Path):
    tk = Tokenizer.from_file(str(work / "tokenizer.json"))
    assert tk.get_vocab_size() == VOCAB, tk.get_vocab_size()
    for i, s in CONTROL.items():
        assert tk.token_to_id(s) == i, s
    held = json.loads((work / "held_out.json").read_text())
    size = tokens = 0
    for _, _, t in held:
        ids = tk.encode(t, add_special_tokens=False).ids
        if "▁" not in t:
            assert tk.decode(ids, skip_special_tokens=False) == t
        size, tokens = size + len(t.encode()), tokens + len(ids)
    odd = " a\n\n  b\tc\u00e9\U0001f600\r\n   \n x  =  1 "
    assert tk.decode(tk.encode(odd, add_special_tokens=False).ids, skip_special_tokens=False) == odd
    assert not any("\n" in v and "▁" in v for v in tk.get_vocab())
    print(f"vocabulary {VOCAB}, {size / tokens:.2f} bytes a token on held-out text")
    print(tk.encode("def fib(n):\n    if n < 2:\n        return n\n\n\nclass Stack:\n", add_special_tokens=False).tokens)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
