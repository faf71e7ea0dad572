"""What the place of the hole does to quality: `codeseal-server eval fim --hole` for each place, case by case.

    holes.py --server FILE --model PATH --cases FILE.jsonl [--limit N] [--max-new-tokens N] [--quantize TYPE] [--out FILE.json]

Each case is filled with the hole at the cursor, at the cursor's line, and 8 lines above it: the farthest that `codeseal
proxy --hole lines` leaves it. Differences to the hole at the cursor are means over the same cases, with the interval that has
the true mean with a probability of 95 %.
"""

import argparse
import json
import math
import statistics
import subprocess
from pathlib import Path

PLACES = ["cursor", "line", "lines"]


def evaluate(options, place):
    command = [options.server, "eval", "fim", "--model", options.model, "--cases", options.cases, "--hole", place]
    command += ["--max-new-tokens", str(options.max_new_tokens), "--quantize", options.quantize]
    command += ["--show", "1000000", "--json"]
    if options.limit:
        command += ["--limit", str(options.limit)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)["examples"]


def compare(base, other):
    """Figures of `other` and its differences to `base`, case by case."""
    assert [case["name"] for case in base] == [case["name"] for case in other]
    rows = {}
    for kind in ["single", "multi", "all"]:
        pairs = [(a, b) for a, b in zip(base, other) if kind in ("all", a["kind"])]
        if not pairs:
            continue
        differences = [b["edit_similarity"] - a["edit_similarity"] for a, b in pairs]
        deviation = statistics.stdev(differences) if len(differences) > 1 else math.inf
        exact = [sum(case["answer"] == case["expected"] for case in side) for side in zip(*pairs)]
        rows[kind] = {
            "cases": len(pairs),
            "exact": exact[1],
            "exact_at_cursor": exact[0],
            "edit_similarity": statistics.mean(b["edit_similarity"] for _, b in pairs),
            "difference": statistics.mean(differences),
            "interval_95": 1.96 * deviation / math.sqrt(len(differences)),
            "same_answer": sum(a["answer"] == b["answer"] for a, b in pairs),
        }
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cases", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--quantize", default="none")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    answers = {place: evaluate(options, place) for place in PLACES}
    result = {place: compare(answers["cursor"], answers[place]) for place in PLACES}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print("| hole | cases | | edit similarity | difference, % | exact | same answer |\n|---|---|---|---|---|---|---|")
    for place, kinds in result.items():
        for kind, row in kinds.items():
            difference = "" if place == "cursor" else f"{100 * row['difference']:+.2f} ± {100 * row['interval_95']:.2f}"
            similarity = f"{100 * row['edit_similarity']:.2f} %"
            counts = f"{row['cases']} | {kind} | {similarity} | {difference} | {row['exact']} | {row['same_answer']}"
            print(f"| {place} | {counts} |")


if __name__ == "__main__":
    main()
