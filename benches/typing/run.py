"""Typing replayed through `codeseal proxy` and the seal, and against llama-server with the same weights: one table.

    run.py [--only tokens,times,cancel,proxy] [--work DIR] [--binaries DIR] [--hole WHERE] [--threads N]
           [--tokens N] [--closed N] [--open N] [--draft-tokens N] [--results DIR]

tokens   tokens of the prompt that the server computes for a key, for whole traces, with the tiny model: no time is measured
times    from the key to the completion, with random weights in CodeGemma 2B's shape in q8_0
cancel   steps that the model takes for a request whose editor has left, with the same weights
proxy    what the proxy adds to a sealed request, with the tiny model: `codeseal-server loadtest` asks the server directly

What is missing is made in --work, as benches/peers/run.py does it: llama.cpp, weights (20 GB), GGUF files. The servers run
one after the other. Nothing else should run: the times are of no use otherwise.
"""

import argparse
import asyncio
import datetime
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import replay
import servers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "peers"))
import run as peers  # noqa: E402

PARTS = ["tokens", "times", "cancel", "proxy"]
CLIENTS = ["lines", "characters"]
CANCELS = 6
# Requests of one turn with the proxy and of one without, and how many turns.
TURN, TURNS = 200, 5


def weights(made, shape):
    """The model for codeseal-server, and a GGUF file in q8_0 with its tokenizer for llama-server. In 2B's shape they are the
    same file."""
    python, script = made.bin / "python", HERE.parent / "peers" / "weights.py"
    if shape == "tiny":
        source, directory = ROOT / "models" / "tiny", made.work / "tiny"
        directory.mkdir(exist_ok=True)
    else:
        source = directory = made.work / "2b"
        if not (directory / "model.safetensors").exists():
            peers.sh(python, script, "random", HERE.parent / "peers" / "codegemma-2b.json", directory)
        if not (directory / "tokenizer.json").exists():
            peers.sh(python, script, "tokenizer", ROOT / "models" / "tiny" / "tokenizer.json", directory)
    original, small = directory / "text-bf16.gguf", directory / "text-q8_0.gguf"
    if not small.exists():
        if not original.exists():
            peers.sh(python, script, "gguf-text", source, original)
        peers.sh(made.llama() / "llama-quantize", original, small, "Q8_0", stdout=subprocess.DEVNULL)
    return source if shape == "tiny" else small, small


def closed(port, client, requests):
    """Records of all traces in turn, and the time that it took."""
    began = time.perf_counter()
    records = [record for path in replay.traces() for record in asyncio.run(replay.closed(port, path, client, requests))]
    return records, time.perf_counter() - began


def open_loop(port, client, edits):
    """Figures of the waits, and how many of the other pauses had a completion in time; then the records."""
    records, waited = [], []
    for path in replay.traces():
        rows, flags = asyncio.run(replay.open_loop(port, path, client, edits))
        records += rows
        waited += flags
    stops = [record for record, stop in zip(records, waited) if stop]
    pauses = [record for record, stop in zip(records, waited) if not stop]
    figures = replay.summary(stops)
    figures["pauses"] = len(pauses)
    figures["shown_in_pause"] = sum(record.seconds is not None for record in pauses) / max(1, len(pauses))
    return figures, records


def tokens(options, made):
    """Tokens computed for a key. Both servers have the tiny model."""
    source, gguf = weights(made, "tiny")
    result = {}
    for client in CLIENTS:
        with servers.codeseal(options.binaries, source, "none", options.hole, options.draft_tokens) as ours:
            records, _ = closed(ours.proxy, client, options.tokens)
            result[f"codeseal {client}"] = replay.summary(records)
        with servers.llama_server(made.llama(), gguf, options.threads) as port:
            records, _ = closed(port, client, options.tokens)
            result[f"llama-server {client}"] = replay.summary(records)
    return result


def times(options, made, result, save):
    """Times from the key to the completion, in the closed and in the open loop, and steps after a cancel."""
    source, gguf = weights(made, "2b")

    def measure(name, port):
        records, took = closed(port, "lines", options.closed)
        rows = replay.as_rows(records)
        result[f"{name} closed"] = replay.summary(records) | {"took": took, "records": rows}
        save()
        if options.open:
            figures, records = open_loop(port, "lines", options.open)
            result[f"{name} open"] = figures | {"records": replay.as_rows(records)}
            save()

    with servers.codeseal(options.binaries, source, "q8_0", options.hole, options.draft_tokens) as ours:
        if "cancel" in options.only:
            result["cancel"] = cancel(ours)
            save()
        if "times" not in options.only:
            return
        measure("codeseal", ours.proxy)
    with servers.llama_server(made.llama(), gguf, options.threads) as port:
        measure("llama-server", port)


def cancel(ours):
    """Steps of the model after an editor has closed its connection, for each of some requests."""
    steps = []
    for number in range(CANCELS):
        editor = http.client.HTTPConnection("127.0.0.1", ours.proxy)
        text = f"def f{number}(a):\n    return "
        body = {"input_prefix": text, "input_suffix": "\n", "n_predict": 128, "temperature": 0}
        before = ours.metrics()["codeseal_engine_steps_total"]
        editor.request("POST", "/infill", json.dumps(body))
        while ours.metrics()["codeseal_engine_steps_total"] < before + 4 + number:
            pass
        editor.sock.close()
        editor.close()
        at_close = ours.metrics()["codeseal_engine_steps_total"]
        while ours.metrics()["codeseal_num_requests_running"]:
            pass
        steps.append(ours.metrics()["codeseal_engine_steps_total"] - at_close)
    return {"steps": steps, "max": max(steps)}


def proxy(options):
    """Milliseconds of a sealed request, by the Rust client directly and through the proxy, in turn. Prompts differ in their
    last line, so that none is answered from a prediction; each turn has its own. Without traffic shaping, whose random
    departures are far longer than what is measured."""
    line = "    total = sum(item.price * item.count for item in basket if item.count > 0)\n"
    source = ROOT / "models" / "tiny"
    direct, through = [], []
    with servers.codeseal(options.binaries, source, "none", "cursor", options.draft_tokens, "off") as ours:
        for turn in range(TURNS):
            prompts = [
                [{"prompt": line * 24 + f"    a{turn}_{way}_{number} = ", "suffix": "\n    return total\n"} for number in range(TURN)]
                for way in range(2)
            ]
            direct.append(directly(options, ours, prompts[0]))
            through.append(statistics.median(through_proxy(ours, prompts[1])))
    added = [with_proxy - without for with_proxy, without in zip(through, direct)]
    return {"direct_ms": direct, "through_ms": through, "added_ms_median": statistics.median(added)}


def directly(options, ours, prompts):
    """The median of `codeseal-server loadtest` for streams of one client on a warm connection: the proxy asks for streams, too."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(prompt) + "\n" for prompt in prompts)
        file.flush()
        command = [options.binaries / "codeseal-server", "loadtest", "--server", f"http://127.0.0.1:{ours.server}"]
        command += ["--kms-key", ours.sandbox["kms_key"], "--sandbox-endpoint", ours.sandbox["endpoint"]]
        command += ["--prompts", file.name, "--clients", 1, "--requests", len(prompts), "--new-tokens", 1]
        report = json.loads(peers.output(*command, "--json"))
    return report["e2e_ms"]["p50"]


def through_proxy(ours, prompts):
    """Milliseconds of each request over one connection to the proxy."""
    editor = http.client.HTTPConnection("127.0.0.1", ours.proxy)
    editor.connect()
    took = []
    for number, prompt in enumerate([prompts[0], *prompts]):
        body = json.dumps(prompt | {"max_tokens": 1, "temperature": 0}).encode()
        began = time.perf_counter()
        editor.request("POST", "/v1/completions", body)
        answer = editor.getresponse()
        content = answer.read()
        if number:
            took.append(1000 * (time.perf_counter() - began))
        if answer.status != 200:
            sys.exit(f"the proxy answers {answer.status}: {content[:500]!r}")
    editor.close()
    return took


def table(result):
    lines = ["| figure | codeseal | llama-server | ratio |", "|---|---|---|---|"]

    def pair(name, ours, theirs, form):
        lines.append(f"| {name} | {ours:{form}} | {theirs:{form}} | {ours / theirs:.2f} |")

    for client in CLIENTS:
        if f"codeseal {client}" in result.get("tokens", {}):
            ours, theirs = (result["tokens"][f"{name} {client}"] for name in ["codeseal", "llama-server"])
            pair(f"tokens computed a key, mean ({client})", ours["computed_mean"], theirs["computed_mean"], ".1f")
            pair(f"the same with the first request of a file ({client})", ours["computed_mean_with_first"],
                 theirs["computed_mean_with_first"], ".1f")
    for loop in ["closed", "open"]:
        if f"llama-server {loop}" in result.get("times", {}):
            ours, theirs = (result["times"][f"{name} {loop}"] for name in ["codeseal", "llama-server"])
            for percent in ["p50", "p95"]:
                pair(f"key to completion, {percent} ({loop} loop)", ours[f"seconds_{percent}"],
                     theirs[f"seconds_{percent}"], ".2f")
            pair(f"tokens computed a key, mean ({loop} loop)", ours["computed_mean"], theirs["computed_mean"], ".1f")
    if "cancel" in result.get("times", {}):
        lines.append(f"| steps after a cancel, most of {CANCELS} | {result['times']['cancel']['max']:.0f} | | |")
    if "proxy" in result:
        lines.append(f"| added by the proxy, p50, ms | {result['proxy']['added_ms_median']:.2f} | | |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), type=lambda text: text.split(","))
    parser.add_argument("--work", default=ROOT / "target" / "peers", type=Path)
    parser.add_argument("--binaries", type=Path, help="a directory with codeseal and codeseal-server, built already")
    parser.add_argument("--hole", default="lines", help="as of `codeseal proxy`")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tokens", type=int, help="requests of a trace in `tokens`; all of them if not given")
    parser.add_argument("--closed", type=int, default=16, help="requests of a trace in the closed loop of `times`")
    parser.add_argument("--open", type=int, default=100, help="edits of a trace in its open loop; 0 leaves it out")
    parser.add_argument("--draft-tokens", type=int, default=0, help="0, because random weights repeat themselves")
    parser.add_argument("--results", default=ROOT / "benches" / "results", type=Path)
    options = parser.parse_args()
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only has {', '.join(sorted(unknown))}: it takes {', '.join(PARTS)}")

    # The servers are ended however this ends.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    made = peers.Peers(options.work)
    made.environment()
    if options.binaries is None:
        peers.sh("cargo", "build", "--release", "--locked", "--quiet", "--bins", cwd=ROOT)
        options.binaries = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    machine = peers.machine()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    commit = peers.output("git", "describe", "--always", "--dirty", "--abbrev=12", cwd=ROOT).strip()
    version = subprocess.run([made.llama() / "llama-server", "--version"], capture_output=True, text=True)
    versions = {"llama-cpp-python": peers.LLAMA_PACKAGE.split("==")[1], "llama-server": version.stderr.strip()}
    setting = {name: getattr(options, name) for name in ["hole", "threads", "tokens", "closed", "open", "draft_tokens"]}
    setting |= {"new_tokens": replay.NEW_TOKENS, "llama-server": servers.LLAMA_OPTIONS, "command": sys.argv}
    name = "".join(character if character.isalnum() else "-" for character in machine["cpu"].lower())
    file = options.results / f"{date}-typing-{name}-{machine['cores']}-cores.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    report = {"date": date, "commit": commit, "machine": machine, "versions": versions, "setting": setting}

    # After each part: what was measured stays when a later part fails.
    def save():
        file.write_text(json.dumps(report | result | {"table": table(result).splitlines()}, indent=1) + "\n")

    result = {}
    if "proxy" in options.only:
        result["proxy"] = proxy(options)
        save()
    if "tokens" in options.only:
        result["tokens"] = tokens(options, made)
        save()
    if "times" in options.only or "cancel" in options.only:
        times(options, made, result.setdefault("times", {}), save)
    print(table(result))


if __name__ == "__main__":
    main()
