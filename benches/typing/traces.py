"""Makes typing traces: lines of a source file, typed again in their place, with pauses between the keys.

    traces.py SOURCE OUT.jsonl [--seed N] [--lines N]

The lines begin in the middle of the file and are taken out of it. They are typed key by key; an editor indents a new line
itself, so its line end and its indentation are one edit. One key in 50 is a wrong one and is deleted again. Pauses are
drawn log-normally: no public data set of keystrokes can be fetched here, so the medians (140 ms within a word, 250 ms before
a word or another sign, 450 ms before a new line, 300 ms around a wrong key) and the deviations (0.4 of the logarithm, 0.8
before a new line) are assumptions. One key in 20 is a stop: the developer waits for the completion before the next one.

A trace is JSON lines. The first one has the file's name and the text around the lines; every other one is an edit:
{"t": milliseconds after the edit before, "at": offset in characters, "delete": characters, "insert": text, "stop": true}.
"""

import argparse
import json
import random
from pathlib import Path

MEDIANS = {"word": 140, "sign": 250, "line": 450, "wrong": 300}
DEVIATIONS = {"line": 0.8}
# One key in this many is a typing error, and one in this many is followed by a pause.
WRONG, STOP = 50, 20


def edits(typed, random):
    """What is inserted and deleted for `typed`, and what kind of pause comes before."""
    at = 0
    while at < len(typed):
        key = typed[at]
        if key == "\n":
            rest = typed[at + 1 :]
            key += rest[: len(rest) - len(rest.lstrip(" "))]
            yield "line", 0, key
        else:
            if key.isalnum() and random.randrange(WRONG) == 0:
                yield "word", 0, random.choice("asdfghjkl")
                yield "wrong", 1, ""
            yield ("word" if key.isalnum() or key == "_" else "sign"), 0, key
        at += len(key)


def trace(source, name, seed, lines):
    text = source.read_text().splitlines(keepends=True)
    first = len(text) // 2
    while text[first].strip() == "":
        first += 1
    above, typed = "".join(text[:first]), "".join(text[first : first + lines]).rstrip("\n")
    below = "".join(text)[len(above) + len(typed) :]
    random_numbers = random.Random(seed)
    yield {"version": 1, "file": name, "seed": seed, "before": above, "after": below}
    at = len(above)
    for kind, delete, insert in edits(typed, random_numbers):
        pause = random_numbers.lognormvariate(0, DEVIATIONS.get(kind, 0.4)) * MEDIANS[kind]
        edit = {"t": round(pause), "at": at - delete, "delete": delete, "insert": insert}
        if not delete and random_numbers.randrange(STOP) == 0:
            edit["stop"] = True
        yield edit
        at += len(insert) - delete


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", type=int, default=24)
    options = parser.parse_args()
    with open(options.out, "w") as out:
        for event in trace(options.source, options.source.name, options.seed, options.lines):
            out.write(json.dumps(event, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
