"""What the sizes and times of sealed traffic tell, as one table: AUC of a classifier for each pair, mode and model.

    measure.py [--programs DIR] [--pair NAME]... [--mode NAME]... [--model tiny|random]... [--load] [--traces N]
               [--lanes N] [--permutations N] [--seed N] [--price] [--work DIR] [--output FILE]
    measure.py --short      three pairs, the default mode, random weights: at most ten minutes

--programs holds `codeseal` and `codeseal-server`, built with the sandbox feature (target/release). Each mode is one
server; all trials of all pairs go to it in one random order, so that what drifts is not taken for a difference of
classes. --lanes lets as many observed requests run at once. --load adds eight other clients that work all the time.
--price adds what shaping costs. The table goes to stdout, and to FILE.md and FILE.json with --output.
"""

import argparse
import dataclasses
import json
import os
import platform
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from capture import open_capture
from classify import SETS, classify
from pairs import PAIRS, SHORT, CannotMake, Maker
from price import price
from report import markdown
from sealed import bucket, post
from world import MODELS, ROOT, World

MODES = ("constant", "bucket", "off")
# Whole answers are the same in every mode, so they are measured in the first one that is asked for.
TRACES, PERMUTATIONS = 260, 60
# For --short: classification takes a minute of the ten.
SHORT_SECONDS = 480
# Of the trials of a pair, how many may turn out not to be of their class.
MOST_STRAY = 0.2
REDRAWS = 50


class Session:
    """One server, and what is asked of it."""

    def __init__(self, world, server, capture, seed):
        self.world, self.server, self.capture = world, server, capture
        self.random = random.Random(seed)
        self.keys = {name: world.key() for name in ("user", "colleague", "oracle")}
        self.maker = Maker(self.random, self.oracle, server.metric)

    def oracle(self, body):
        key = self.keys["oracle"]
        body = key.seal("/v1/completions", {"temperature": 0, **body})
        return key.open("/v1/completions", post(self.server.address, "/v1/completions", body)[0])

    def trials(self, pair, count):
        """Trials of both classes, `count` of each, their requests of one size."""
        size, made = None, []
        for label in (0, 1) * count:
            for _ in range(REDRAWS):
                trial = PAIRS[pair](self.maker, label)
                sealed = bucket(len(json.dumps(trial.ask.body, separators=(",", ":"))) + CALL_BYTES)
                size = size or sealed
                # A pair is told apart within one bucket of requests.
                if sealed == size or trial.ask.path == "/generate":
                    break
            made.append(trial)
        return made

    def observe(self, trial):
        """The segments of a trial and whether its answer is of its class."""
        for ask in trial.before:
            self.post(ask)
        key, ask = self.keys[trial.ask.key], trial.ask
        answer, segments = post(self.server.address, ask.path, key.seal(ask.path, ask.body), self.capture)
        return segments, trial.check(key.open(ask.path, answer))

    def post(self, ask):
        key = self.keys[ask.key]
        post(self.server.address, ask.path, key.seal(ask.path, ask.body))


# `{"id":"…","path":"…","body":…}` without the body.
CALL_BYTES = len('{"id":"0123456789012345678901","path":"/v1/completions","body":}')


def record(session, pairs, count, lanes, seconds=None):
    """Traces by pair, recorded in one random order. Ends early after `seconds`, with equal numbers of all pairs."""
    trials, missing = {}, {}
    for pair in pairs:
        try:
            trials[pair] = session.trials(pair, count)
        except CannotMake as error:
            missing[pair] = str(error)
    # Rounds with one trial of each class of each pair, in random order: whatever ends the run, classes are as many.
    queue = []
    for index in range(count):
        turn = [(pair, trial) for pair in trials for trial in trials[pair][2 * index : 2 * index + 2]]
        session.random.shuffle(turn)
        queue += turn
    started, lock, recorded = time.monotonic(), threading.Lock(), {pair: [] for pair in trials}
    places = iter(enumerate(queue))
    failed = []

    def lane():
        try:
            while not failed:
                with lock:
                    place = next(places, None)
                if place is None or (seconds and time.monotonic() - started > seconds):
                    return
                number, (pair, trial) = place
                segments, kept = session.observe(trial)
                with lock:
                    recorded[pair].append((number, segments, trial.label, kept))
        except Exception as error:
            failed.append(error)

    with ThreadPoolExecutor(lanes) as pool:
        for _ in range(lanes):
            pool.submit(lane)
    if failed:
        raise failed[0]
    return {pair: sorted(traces, key=lambda trace: trace[0]) for pair, traces in recorded.items()}, missing


def judge(traces, seed, permutations):
    """The figures of one pair."""
    kept = [(segments, label) for _, segments, label, kept in traces if kept]
    stray = 1 - len(kept) / len(traces)
    row = {"traces": len(kept), "stray": round(stray, 3)}
    if stray > MOST_STRAY:
        return row | {"missing": "too many answers are not of their class"}
    segments, labels = zip(*kept, strict=True)
    for which in SETS:
        result = classify(segments, labels, seed, permutations if which == "all" else 0, which)
        row[which] = {name: value for name, value in dataclasses.asdict(result).items() if value is not None}
    return row


def measure(options, world, capture):
    rows = []
    for model in options.model:
        for mode in options.mode:
            for load in (False, True) if options.load else (False,):
                pairs = [pair for pair in options.pair if streamed(pair) or mode == options.mode[0]]
                with world.server(model, mode) as server:
                    session = Session(world, server, capture, f"{options.seed} {model} {mode} {load}")
                    if load:
                        server.begin_load()
                    seconds = SHORT_SECONDS if options.short else None
                    recorded, missing = record(session, pairs, options.traces, options.lanes, seconds)
                # The classifier works while no server does.
                for pair in pairs:
                    row = {"pair": pair, "model": model, "mode": mode, "load": load, "lanes": options.lanes}
                    if pair in missing:
                        rows.append(row | {"missing": missing[pair]})
                    else:
                        rows.append(row | judge(recorded[pair], options.seed, options.permutations))
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def streamed(pair):
    return not pair.startswith(("whole", "generate"))


def commit():
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def arguments(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=ROOT / "target" / "release")
    parser.add_argument("--work", default=ROOT / "target" / "leakage")
    parser.add_argument("--pair", action="append", choices=list(PAIRS))
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--price", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--traces", type=int, default=TRACES, help="of each class of each pair")
    parser.add_argument("--lanes", type=int)
    parser.add_argument("--permutations", type=int, default=PERMUTATIONS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(words)
    if options.short:
        options.pair, options.mode = options.pair or SHORT, options.mode or MODES[:1]
        options.model, options.lanes = options.model or ["random"], options.lanes or 3
    options.pair, options.mode = options.pair or list(PAIRS), options.mode or MODES
    options.model, options.lanes = options.model or MODELS, options.lanes or 1
    return options


def main(words=None):
    options = arguments(words)
    capture = open_capture()
    with World(options.programs, options.work) as world:
        told = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "commit": commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "observer": capture.name,
            "seed": options.seed,
            "permutations": options.permutations,
            "rows": measure(options, world, capture),
        }
        if options.price:
            told["price"] = [price(world, model, options.mode) for model in options.model]
    capture.close()
    text = markdown(told)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(text)
    return told


if __name__ == "__main__":
    main()
