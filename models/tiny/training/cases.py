"""Cuts holes into held-out text: the cases of `codeseal-server eval fim`.

    python models/tiny/training/cases.py --out cases.jsonl --single 200 --multi 200

A hole is of the form that the model was trained on, in a stretch of a file
that no training document came from: the rest of a line behind its indentation,
sometimes from further in, or two to six lines. Files take turns, so that long
ones do not outweigh the others; the same seed gives the same cases. Reads
`held_out.json`; what it writes is not meant to be committed.
"""

import argparse
import json
import random
from pathlib import Path

from data import stretches

LONGEST = 400  # characters of a hole: what 128 tokens hold


def line_hole(text, rng):
    """One line without its indentation; of three in ten only the end."""
    lines = text.split("\n")
    i = rng.choice([i for i, line in enumerate(lines) if len(line.strip()) > 3])
    at = sum(len(line) + 1 for line in lines[:i])
    end = at + len(lines[i])
    at = end - len(lines[i].lstrip())
    if rng.random() < 0.3:
        at += rng.randint(0, end - at - 1)
    return text[:at], text[at:end], text[end:]


def lines_hole(text, rng):
    """Two to six lines, the first without its indentation."""
    lines = text.split("\n")
    count = rng.randint(2, 6)
    i = rng.randrange(max(1, len(lines) - count))
    at = sum(len(line) + 1 for line in lines[:i]) + len(lines[i]) - len(lines[i].lstrip())
    end = sum(len(line) + 1 for line in lines[:i + count]) - 1
    return text[:at], text[at:end], text[end:]


def usable(kind, middle):
    written = [line for line in middle.split("\n") if line.strip()]
    return len(middle) <= LONGEST and len(middle.strip()) > 3 and (kind == "single" or len(written) > 1)


def read(path, rng):
    """(name, stretches) of every file; also of a list of bare texts."""
    for i, entry in enumerate(json.loads(path.read_text())):
        name, text = (f"{path.stem}/{i}", entry) if isinstance(entry, str) else ("/".join(entry[:2]), entry[2])
        # Fewer lines leave nothing around a hole of several.
        pieces = [piece for piece, _ in stretches(text, rng) if piece.count("\n") > 3]
        if pieces:
            rng.shuffle(pieces)
            yield name, pieces


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--texts", type=Path, default="run/held_out.json", help="what corpus.py or idioms.py kept apart")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--single", type=int, default=200, help="holes of one line")
    p.add_argument("--multi", type=int, default=200, help="holes of several lines")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    rng = random.Random(args.seed)
    files = list(read(args.texts, rng))
    rng.shuffle(files)
    kinds = ["single"] * args.single + ["multi"] * args.multi
    rng.shuffle(kinds)
    turns = ((name, pieces[turn]) for turn in range(max(len(p) for _, p in files))
             for name, pieces in files if turn < len(pieces))
    cases = []
    for kind in kinds:
        for name, text in turns:
            prefix, middle, suffix = (line_hole if kind == "single" else lines_hole)(text, rng)
            if usable(kind, middle):
                cases.append({"name": name, "kind": kind, "prefix": prefix, "middle": middle, "suffix": suffix})
                break
    if len(cases) < len(kinds):
        raise SystemExit(f"there is only text for {len(cases)} cases")
    args.out.write_text("".join(json.dumps(case) + "\n" for case in cases))
    print(f"{len(cases)} cases from {len({case['name'] for case in cases})} of {len(files)} texts")


if __name__ == "__main__":
    main()
