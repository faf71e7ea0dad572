"""Turns the text into packed rows of token ids, half of the documents as holes to fill.

Four shards: `files` (stretches of whole files), `functions` (single short
functions and methods that carry a docstring, dedented), `idioms` (the
generated functions of idioms.py) and `holes` (lines of files, each between
what stands before and after it in an editor). Reads `train.json`,
`idioms.json` and `tokenizer.json`; writes `SHARD.npy`.
"""

import ast
import bisect
import hashlib
import json
import os
import random
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

EOS, BOS, PREFIX, MIDDLE, SUFFIX = 1, 2, 67, 68, 69
ROW = 513
LONGEST = 1700  # characters
HOLES_PER_FILE = 8
WORD = re.compile(r"[A-Za-z_]\w*")


def stretches(text, rng):
    """A file cut at its top-level blocks; (text, whether it ends where a block ends)."""
    lines = text.split("\n")
    cuts = [0] + [i for i in range(1, len(lines))
                  if lines[i - 1] == "" and re.match(r"(def|class|async|@|if __name__|[A-Za-z_])", lines[i])]
    blocks = ["\n".join(lines[a:b]) + "\n" for a, b in zip(cuts, cuts[1:] + [len(lines)])]
    out, current, limit = [], "", rng.randint(300, LONGEST)
    for block in blocks:
        if current and len(current) + len(block) > limit:
            out.append((current.rstrip("\n") + "\n", True))
            current, limit = "", rng.randint(300, LONGEST)
        while len(block) > LONGEST:
            block, current = current + block, ""
            end = block.rfind("\n", 0, rng.randint(1200, LONGEST))
            end = end if end > 0 else 1200
            out.append((block[:end + 1], False))
            block = block[end + 1:]
        current += block
    if current.strip():
        out.append((current.rstrip("\n") + "\n", True))
    return [(s, e) for s, e in out if len(s) > 60]


def short_functions(text):
    """Functions of 2 to 24 body lines with a docstring, without their surroundings."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = text.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            first = min([node.lineno] + [d.lineno for d in node.decorator_list])
            source = textwrap.dedent("\n".join(lines[first - 1:node.end_lineno])) + "\n"
            statements = len(node.body) - 1
            if statements and 4 <= source.count("\n") <= 26 and len(source) < 1100 \
                    and "raise NotImplementedError" not in source and source.count(">>>") <= 3:
                yield source


def hole(text, rng):
    """Cuts a hole: half of them one line, a quarter some lines, a quarter anywhere."""
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    indent = lambda i: len(lines[i]) - len(lines[i].lstrip())
    kind = rng.random()
    if kind < 0.5:
        candidates = [i for i, line in enumerate(lines) if len(line.strip()) > 3]
        if not candidates:
            return None
        i = rng.choice(candidates)
        a, b = starts[i] + indent(i), starts[i] + len(lines[i])
        if rng.random() < 0.3:
            a += rng.randint(0, b - a - 1)
    elif kind < 0.75:
        if len(lines) < 6:
            return None
        i = rng.randrange(len(lines) - 3)
        a = starts[i] + indent(i)
        b = min(starts[min(i + rng.randint(2, 6), len(lines))] - 1, len(text))
    else:
        a = rng.randrange(len(text))
        b = min(len(text), a + rng.randint(1, 200))
    return (text[:a], text[a:b], text[b:]) if b > a else None


def window(lines, first, last, rng):
    """The text around lines: as much as an editor sends, in half of the draws less."""
    before, after = (700, 400) if rng.random() < 0.5 else (rng.randint(120, 700), rng.randint(60, 400))
    head = "\n".join(lines[:first]) + "\n"
    if len(head) > before:
        head = head[-before:]
        head = head[head.find("\n") + 1:]
    return head, ("\n" + "\n".join(lines[last:]))[:after]


def lines_in_context(text, rng):
    """One hole in a file: (before, hole, after), or None. One line in four of five holes, otherwise up to five.

    Of three lines, in two of three draws the one whose names stand around it already: copying them is what can
    be learned, inventing them is not.
    """
    lines = text.split("\n")
    options = []
    for _ in range(3 if rng.random() < 0.67 else 1):
        for _ in range(20):
            count = 1 if rng.random() < 0.8 else rng.randint(2, 5)
            first = rng.randrange(max(1, len(lines) - count))
            chunk = lines[first:first + count]
            written = chunk[0].strip()
            if all(line.strip() for line in chunk) and len(written) > 3 and written[0] not in "#\"'":
                break
        else:
            return None
        before, after = window(lines, first, first + count, rng)
        indent = len(chunk[0]) - len(chunk[0].lstrip())
        before, middle = before + " " * indent, "\n".join(chunk)[indent:].rstrip()
        around, names = set(WORD.findall(before + after)), WORD.findall(middle)
        options.append((sum(name in around for name in names) / max(1, len(names)), (before, middle, after)))
    before, middle, after = max(options, key=lambda option: option[0])[1]
    if rng.random() < 0.15:  # the cursor stands inside of the line
        at = rng.randrange(len(middle))
        before, middle = before + middle[:at], middle[at:]
    return before, middle, after


def pack(sequences):
    """First-fit by length: rows of exactly ROW ids, the rest padding."""
    by_length = {}
    for i, s in enumerate(sequences):
        by_length.setdefault(len(s), []).append(i)
    lengths, used, rows = sorted(by_length), bytearray(len(sequences)), []
    for i, s in enumerate(sequences):
        if used[i]:
            continue
        used[i], row = 1, list(s)
        while lengths:
            j = bisect.bisect_right(lengths, ROW - len(row)) - 1
            if j < 0:
                break
            bucket = by_length[lengths[j]]
            while bucket and used[bucket[-1]]:
                bucket.pop()
            if not bucket:
                lengths.pop(j)
                continue
            k = bucket.pop()
            used[k] = 1
            row += sequences[k]
        rows.append(row + [0] * (ROW - len(row)))
    return np.array(rows, dtype=np.uint16)


def encode(items, tk, rng):
    """Every item once: as a hole to fill, or left to right. An item is a text and whether it ends, or a hole."""
    rng.shuffle(items)
    pieces, plan = [], []
    for item in items:
        if len(item) == 3:
            pieces += item
            plan.append(3)
            continue
        text, ends = item
        cut = hole(text, rng) if rng.random() < 0.5 else None
        pieces += cut or [text]
        plan.append(3 if cut else int(ends))
    ids = []
    for i in range(0, len(pieces), 20_000):
        ids += [e.ids for e in tk.encode_batch_fast(pieces[i:i + 20_000], add_special_tokens=False)]
    sequences, at = [], 0
    for kind in plan:
        if kind == 3:
            before, middle, after = ids[at:at + 3]
            at += 3
            one = [BOS, PREFIX, *before, SUFFIX, *after, MIDDLE, *middle, EOS]
            if len(one) > ROW:
                continue
        else:
            one = ([BOS] + ids[at] + [EOS] * kind)[:ROW]
            at += 1
        sequences.append(one)
    return pack(sequences)


def main(work: Path, shards):
    tk, rng = Tokenizer.from_file(str(work / "tokenizer.json")), random.Random(7)
    docs = json.loads((work / "train.json").read_text()) if set(shards) - {"idioms"} else []
    for shard in shards:
        if shard == "files":
            items = [x for _, _, t in docs for x in stretches(t, rng)]
        elif shard == "functions":
            unique = {hashlib.md5(re.sub(r"\s+", "", s).encode()).digest(): s for _, _, t in docs for s in short_functions(t)}
            # Twice: once each as a hole and left to right, on average.
            items = [(s, True) for s in unique.values()] * 2
        elif shard == "holes":
            items = [cut for _, _, t in docs for _ in range(HOLES_PER_FILE) if (cut := lines_in_context(t, rng))]
        else:
            items = [(s, True) for s in json.loads((work / "idioms.json").read_text())] * 2
        rows = encode(items, tk, rng)
        np.random.default_rng(0).shuffle(rows)
        np.save(work / f"new-{shard}.npy", rows)
        os.replace(work / f"new-{shard}.npy", work / f"{shard}.npy")  # a running training keeps the old one
        print(f"{shard}: {len(items)} documents, {(rows != 0).sum() / 1e6:.1f} M tokens in {len(rows)} rows, "
              f"{(rows == 0).mean():.1%} padding", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["functions", "idioms", "holes", "files"])
