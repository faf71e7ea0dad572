"""The table of a run, as Markdown."""

import statistics

# The limits: what an observer may gain at most, and the upper end of the interval.
MOST, MOST_HIGH = 0.55, 0.62


def hidden(row):
    """Whether a pair is within the limits."""
    return row["all"]["auc"] <= MOST and row["all"]["high"] <= MOST_HIGH


def figures(part):
    return f"{part['auc']:.2f} [{part['low']:.2f}, {part['high']:.2f}]"


def verdict(row):
    if hidden(row):
        return "hidden"
    if row["all"]["low"] > 0.5:
        return "**told apart**"
    return "undecided"


def markdown(told):
    lines = [
        f"{told['date']}, commit {told['commit']}, {told['machine']}; observer: {told['observer']}; seed {told['seed']}, "
        f"{told['permutations']} permutations.",
        "",
        "| pair | model | mode | load | traces | AUC [95 %] | by sizes | by times | permuted | p | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in told["rows"]:
        load = "8 clients" if row["load"] else f"{row['lanes'] - 1} others" if row["lanes"] > 1 else "none"
        start = f"| {row['pair']} | {row['model']} | `{row['mode']}` | {load} |"
        if "missing" in row:
            lines.append(f"{start} {row.get('traces', 0)} | not measured: {row['missing']} | | | | | |")
            continue
        every = row["all"]
        by_chance = f"{every['chance']:.2f} | {every['p']:.3f}" if "chance" in every else "|"
        parts = f"{figures(every)} | {figures(row['sizes'])} | {figures(row['times'])} | {by_chance}"
        lines.append(f"{start} {row['traces']} | {parts} | {verdict(row)} |")
    for price in told.get("price", []):
        lines += ["", f"What it costs, {price['model']}:", ""]
        lines += ["| mode | first text, ms (p50) | end of the text | end | requests/s of 16 clients | of `off` (lowest, highest round) | CPU of a frame, µs |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for mode, figure in price["modes"].items():
            frame = f"{figure['frame_us']:.0f}" if figure["frame_us"] is not None else "–"
            part = figure["of_off"]
            parts = f"{statistics.median(part):.3f} ({min(part):.3f}, {max(part):.3f})"
            times = f"{figure['first_text_ms']:.0f} | {figure['text_end_ms']:.0f} | {figure['end_ms']:.0f}"
            lines.append(f"| `{mode}` | {times} | {figure['requests_per_second']:.2f} | {parts} | {frame} |")
    return "\n".join(lines) + "\n"
