"""What the sizes and times of sealed traffic tell, as one table: AUC of a classifier for each pair, mode and model.

    measure.py [--programs DIR] [--pair NAME]... [--mode NAME]... [--model NAME]... [--load] [--traces N]
               [--lanes N] [--permutations N] [--seed N] [--price] [--work DIR] [--output FILE]
    measure.py --short      three pairs, the default mode, random weights, four lanes: at most ten minutes

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
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import beside
import rhythm
from capture import open_capture
from classify import SETS, classify
from pairs import PAIRS, SHORT, Ask, CannotMake, Maker
from price import price
from report import markdown
from sealed import COMPLETIONS, GENERATE, bucket, post
from world import MODELS, ROOT, World

MODES = ("pace-and-length", "off")
# The pair that is about requests and not about answers: see rhythm.py.
TYPING = "typing"
TRACES, PERMUTATIONS = 260, 60
# For --short: preparing takes two or three minutes of the ten, classification one.
SHORT_SECONDS, SHORT_TRACES, SHORT_PERMUTATIONS = 340, 100, 20
# Of the trials of a pair, how many may turn out not to be of their class.
MOST_STRAY = 0.2
REDRAWS = 50
# `{"id":"…","path":"…","body":…}` without the body.
CALL_BYTES = len('{"id":"0123456789012345678901","path":"/v1/completions","body":}')


class Session:
    """One server, its keys, and what is asked of it."""

    def __init__(self, world, server, capture=None):
        self.server, self.capture = server, capture
        self.keys = {name: world.key() for name in ("user", "colleague")}

    def answer(self, body):
        """The answer to a body, greedy unless it says otherwise."""
        key = self.keys["user"]
        return key.open(COMPLETIONS, self.post(Ask({"temperature": 0, **body})))

    def post(self, ask, capture=None):
        sealed = self.keys[ask.key].seal(ask.path, ask.body)
        body, segments = post(self.server.address, ask.path, sealed, capture)
        return (body, segments) if capture else body

    def observe(self, trial):
        """What is seen of a trial, and whether its answer is of its class."""
        for ask in trial.before:
            self.post(ask)
        with ThreadPoolExecutor(max(len(trial.own), 1)) as pool:
            own = [pool.submit(self.post, ask, self.capture) for ask in trial.own]
            answer, segments = self.post(trial.ask, self.capture)
            seen = beside.Seen(segments, tuple(post.result()[1] for post in own))
        return seen, trial.check(self.keys[trial.ask.key].open(trial.ask.path, answer))


def trials_of(maker, pair, count):
    """Trials of both classes, `count` of each, in turn, their requests of one sealed size."""
    size, made = None, []
    for label in (0, 1) * count:
        for _ in range(REDRAWS):
            trial = PAIRS[pair](maker, label)
            sealed = bucket(len(json.dumps(trial.ask.body, separators=(",", ":"))) + CALL_BYTES)
            size = size or sealed
            if sealed == size or trial.ask.path == GENERATE:
                break
        else:
            raise CannotMake(f"no request of {REDRAWS} has the size of the first one")
        made.append(trial)
    return made


def prepare(world, model, pairs, count, seed):
    """Trials by pair, and why there are none of others. An unshaped server tells which prompts have which answers."""
    trials, missing = {}, {}
    with world.server(model, "off") as server:
        maker = Maker(random.Random(f"{seed} {model}"), Session(world, server).answer, server.metric)
        for pair in pairs:
            try:
                trials[pair] = trials_of(maker, pair, count)
            except CannotMake as error:
                missing[pair] = str(error)
    return trials, missing


def record(session, trials, seed, lanes, seconds=None):
    """Traces by pair, recorded in one random order. Ends early after `seconds`, with equal numbers of all pairs."""
    rng, queue = random.Random(seed), []
    # Rounds with one trial of each class of each pair, in random order: whatever ends the run, classes are as many.
    for index in range(max(map(len, trials.values()), default=0) // 2):
        turn = [(pair, trial) for pair in trials for trial in trials[pair][2 * index : 2 * index + 2]]
        rng.shuffle(turn)
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
                seen, kept = session.observe(trial)
                with lock:
                    recorded[pair].append((number, seen, trial.label, kept))
        except Exception as error:
            failed.append(error)

    with ThreadPoolExecutor(lanes) as pool:
        for _ in range(lanes):
            pool.submit(lane)
    if failed:
        raise failed[0]
    return {pair: sorted(traces, key=lambda trace: trace[0]) for pair, traces in recorded.items()}


def judge(traces, seed, permutations):
    """The figures of one pair."""
    kept = [(seen, label) for _, seen, label, kept in traces if kept]
    stray = 1 - len(kept) / len(traces)
    row = {"traces": len(kept), "stray": round(stray, 3)}
    if stray > MOST_STRAY:
        return row | {"missing": "too many answers are not of their class"}
    seen, labels = zip(*kept, strict=True)
    for which in SETS:
        result = classify(seen, labels, seed, permutations if which == "all" else 0, which, beside.features)
        row[which] = told(result)
    return row


def told(result):
    return {name: value for name, value in dataclasses.asdict(result).items() if value is not None}


def measure_rhythm(options, world, model):
    """Rows of the pair `typing`: requests of `codeseal proxy` while the user types, against those while the user thinks."""
    start = {"pair": TYPING, "model": model, "load": False, "lanes": 1}
    try:
        recorded = rhythm.measure(world, model, min(options.traces, rhythm.TRACES), options.seed)
    except PermissionError:
        return [start | {"mode": mode, "missing": "needs a packet socket"} for mode in rhythm.MODES]
    rows = []
    for mode, (windows, labels) in recorded.items():
        row = start | {"mode": mode, "traces": len(labels)}
        for which in SETS:
            permutations = options.permutations if which == "all" else 0
            row[which] = told(classify(windows, labels, options.seed, permutations, which, rhythm.features))
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def measure(options, world, capture):
    rows = []
    for model in options.model:
        if TYPING in options.pair:
            rows += measure_rhythm(options, world, model)
        pairs = [pair for pair in options.pair if pair != TYPING]
        if not pairs:
            continue
        trials, missing = prepare(world, model, pairs, options.traces, options.seed)
        for mode in options.mode:
            for load in (False, True) if options.load else (False,):
                with world.server(model, mode) as server:
                    session = Session(world, server, capture)
                    if load:
                        server.begin_load()
                    seconds = SHORT_SECONDS if options.short else None
                    seed = f"{options.seed} {model} {mode} {load}"
                    recorded = record(session, trials, seed, options.lanes, seconds)
                # The classifier works while no server does.
                for pair in pairs:
                    row = {"pair": pair, "model": model, "mode": mode, "load": load, "lanes": options.lanes}
                    if pair in missing:
                        rows.append(row | {"missing": missing[pair]})
                    else:
                        rows.append(row | judge(recorded[pair], options.seed, options.permutations))
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def commit():
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def arguments(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default=ROOT / "target" / "release")
    parser.add_argument("--work", default=ROOT / "target" / "leakage")
    parser.add_argument("--pair", action="append", choices=[*PAIRS, TYPING])
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--price", action="store_true")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--traces", type=int, help="of each class of each pair")
    parser.add_argument("--lanes", type=int)
    parser.add_argument("--permutations", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(words)
    if options.short:
        options.pair, options.mode = options.pair or SHORT, options.mode or MODES[:1]
        options.model, options.lanes = options.model or ["random-60m"], options.lanes or 4
        options.traces = options.traces or SHORT_TRACES
        options.permutations = SHORT_PERMUTATIONS if options.permutations is None else options.permutations
    options.pair, options.mode = options.pair or [*PAIRS, TYPING], options.mode or MODES
    options.model, options.lanes = options.model or MODELS, options.lanes or 1
    options.traces = options.traces or TRACES
    options.permutations = PERMUTATIONS if options.permutations is None else options.permutations
    return options


def main(words=None):
    options = arguments(words)
    if threading.current_thread() is threading.main_thread():
        # Servers must not outlive the run.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    capture = open_capture()
    with World(options.programs, options.work) as world:
        table = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "commit": commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "observer": capture.name,
            "seed": options.seed,
            "permutations": options.permutations,
            "rows": measure(options, world, capture),
        }
        if options.price:
            table["price"] = [price(world, model, options.mode) for model in options.model]
    capture.close()
    text = markdown(table)
    print(text)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".json").write_text(json.dumps(table, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(text)
    return table


if __name__ == "__main__":
    main()
