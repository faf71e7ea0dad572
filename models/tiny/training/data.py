"""Turns the text into packed rows of token ids, half of the documents as holes to fill.

Five shards: `files` (stretches of whole files), `functions` (single short
functions and methods that carry a docstring, dedented), `idioms` (the
generated functions of idioms.py) and `holes` (those of editor.py), in rows of
512 ids; and `long`, holes and files in rows of 2,048. Reads `train.json`,
`idioms.json` and `tokenizer.json`; writes `SHARD.npy`.
"""

import ast
import bisect
import collections
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

from editor import LONG, SHORT, Hole, Project, holes

EOS, BOS, PREFIX, MIDDLE, SUFFIX, SEPARATOR = 1, 2, 67, 68, 69, 70
# Set in ids that are read but not predicted: what a hole begins with is the user's. Where it counted, line ends in it taught
# that a hole goes on, and holes hardly ended.
GIVEN = 0x8000
ROW, LONG_ROW = 513, 2049
LONGEST, LONGEST_LONG = 1700, 6000  # characters
HOLES_PER_FILE, LONG_HOLES_PER_FILE = 8, 2


def stretches(text, rng, longest=LONGEST):
    """A file cut at its top-level blocks; (text, whether it ends where a block ends)."""
    lines = text.split("\n")
    cuts = [0] + [i for i in range(1, len(lines))
                  if lines[i - 1] == "" and re.match(r"(def|class|async|@|if __name__|[A-Za-z_])", lines[i])]
    blocks = ["\n".join(lines[a:b]) + "\n" for a, b in zip(cuts, cuts[1:] + [len(lines)])]
    out, current, limit = [], "", rng.randint(300, longest)
    for block in blocks:
        if current and len(current) + len(block) > limit:
            out.append((current.rstrip("\n") + "\n", True))
            current, limit = "", rng.randint(300, longest)
        while len(block) > longest:
            block, current = current + block, ""
            end = block.rfind("\n", 0, rng.randint(1200, longest))
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


def pack(sequences, size):
    """First-fit by length: rows of exactly `size` ids, the rest padding."""
    by_length = {}
    for i, s in enumerate(sequences):
        by_length.setdefault(len(s), []).append(i)
    lengths, used, rows = sorted(by_length), bytearray(len(sequences)), []
    for i, s in enumerate(sequences):
        if used[i]:
            continue
        used[i], row = 1, list(s)
        while lengths:
            j = bisect.bisect_right(lengths, size - len(row)) - 1
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
        rows.append(row + [0] * (size - len(row)))
    return np.array(rows, dtype=np.uint16)


def encode(items, tk, rng, size):
    """Rows of `size` ids with every item once: as a hole to fill, or left to right. An item is a text and whether it ends, or a
    hole."""
    rng.shuffle(items)
    pieces, plan = [], []
    for item in items:
        if not isinstance(item, Hole):
            text, ends = item
            cut = hole(text, rng) if rng.random() < 0.5 else None
            if not cut:
                pieces.append(text)
                plan.append((None, ends))
                continue
            before, middle, after = cut
            item = Hole((), before, "", middle, after)
        # Each part alone, as the server encodes them: no token reaches over the cursor.
        pieces += [*item.files, item.before, item.after, item.given, item.middle]
        plan.append((len(item.files), True))
    ids = []
    for i in range(0, len(pieces), 20_000):
        ids += [e.ids for e in tk.encode_batch_fast(pieces[i:i + 20_000], add_special_tokens=False)]
    sequences, parts = [], iter(ids)
    for files, ends in plan:
        if files is None:
            sequences.append(([BOS] + next(parts) + [EOS] * ends)[:size])
            continue
        one = [BOS]
        for _ in range(files):
            one += [*next(parts), SEPARATOR]
        before, after, given, middle = (next(parts) for _ in range(4))
        one += [PREFIX, *before, SUFFIX, *after, MIDDLE, *(i | GIVEN for i in given), *middle, EOS]
        if len(one) <= size:
            sequences.append(one)
    return pack(sequences, size)


def projects(docs):
    """The documents by package."""
    files = collections.defaultdict(list)
    for package, path, text in docs:
        files[package].append((path, text))
    return [Project(some) for some in files.values()]


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
            items = [cut for project in projects(docs) for cut in holes(project, HOLES_PER_FILE, SHORT, rng)]
        elif shard == "long":
            items = [cut for project in projects(docs) for cut in holes(project, LONG_HOLES_PER_FILE, LONG, rng)]
            items += [x for _, _, t in docs for x in stretches(t, rng, LONGEST_LONG)]
        else:
            items = [(s, True) for s in json.loads((work / "idioms.json").read_text())] * 2
        rows = encode(items, tk, rng, LONG_ROW if shard == "long" else ROW)
        np.random.default_rng(0).shuffle(rows)
        np.save(work / f"new-{shard}.npy", rows)
        os.replace(work / f"new-{shard}.npy", work / f"{shard}.npy")  # a running training keeps the old one
        print(f"{shard}: {len(items)} documents, {(rows != 0).sum() / 1e6:.1f} M tokens in {len(rows)} rows, "
              f"{(rows == 0).mean():.1%} padding", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ["functions", "idioms", "holes", "long", "files"])
