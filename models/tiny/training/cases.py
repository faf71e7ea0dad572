"""Cuts holes into held-out text: the cases of `codeseal-server eval fim` and of eval.py.

    python models/tiny/training/cases.py WORK/run models/tiny/cases

A hole is one whole line, or two to five, without the first one's indentation,
as an editor asks for it: between 700 characters before it and 400 after it.
Comments, blank lines and the beginning of strings are left out. The same seed
gives the same cases. Reads `held_out.json`, and takes what comes from the
packages below, whose licences allow to pass it on; copies those from WHEELS.
"""

import argparse
import json
import random
import zipfile
from pathlib import Path

BEFORE, AFTER = 700, 400  # characters
# Held out as a whole, and under MIT or BSD.
PACKAGES = ("flask", "httpx", "tinydb", "munch", "schedule", "heapdict")


def holes(texts, kind, count, rng):
    """`count` different holes in `texts`, pairs of a name and a text."""
    cases, seen = [], set()
    while len(cases) < count:
        name, text = rng.choice(texts)
        lines = text.split("\n")
        size = 1 if kind == "single" else rng.randint(2, 5)
        if len(lines) < size + 6:
            continue
        i = rng.randrange(1, len(lines) - size)
        chunk = lines[i:i + size]
        first = chunk[0].strip()
        if (name, i) in seen or any(not c.strip() for c in chunk) or len(first) < 6 or first[0] in "#\"'" \
                or len(first) > 100 or sum(c.isalpha() for c in first) < 3:
            continue
        seen.add((name, i))
        indent = len(chunk[0]) - len(chunk[0].lstrip())
        before = ("\n".join(lines[:i]) + "\n")[-BEFORE:]
        if len(before) == BEFORE:
            before = before[before.find("\n") + 1:]
        cases.append({"name": f"{name}:{i + 1}", "kind": kind, "prefix": before + " " * indent,
                      "middle": "\n".join(chunk)[indent:].rstrip(),
                      "suffix": ("\n" + "\n".join(lines[i + size:]))[:AFTER]})
    return cases


def licences(wheels: Path):
    """The licence that each package's wheel carries, as one text."""
    yield ("# Where the cases come from\n\n`fim.jsonl` holds stretches of these packages' source files, under the licences below. The model was not\n"
           "trained on any file of them. Written by `models/tiny/training/cases.py`.\n")
    for package in PACKAGES:
        wheel = next(f for f in sorted(wheels.glob("*.whl")) if f.name.lower().split("-")[0] == package)
        with zipfile.ZipFile(wheel) as content:
            text = next(content.read(n).decode() for n in content.namelist() if "dist-info" in n and "LICENSE" in n.upper())
        plain = text.replace("\r\n", "\n").strip()
        yield f"\n## {package} {wheel.name.split('-')[1]}\n\n```text\n{plain}\n```\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work", type=Path, help="holds held_out.json; the wheels are beside it")
    p.add_argument("out", type=Path)
    p.add_argument("--single", type=int, default=200, help="holes of one line")
    p.add_argument("--multi", type=int, default=200, help="holes of several lines")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    held_out = json.loads((args.work / "held_out.json").read_text())
    texts = [(f"{package}/{path}", text) for package, path, text in held_out if package in PACKAGES]
    rng = random.Random(args.seed)
    cases = holes(texts, "single", args.single, rng) + holes(texts, "multi", args.multi, rng)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "fim.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    (args.out / "LICENCES.md").write_text("".join(licences(args.work.parent / "wheels")))
    print(f"{len(cases)} cases from {len(texts)} files")


if __name__ == "__main__":
    main()
