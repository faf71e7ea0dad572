"""What the times of requests tell about typing: the network between `codeseal proxy` and a server, seen for some seconds.

In one class the user types: a request for each key, the one before cancelled, as llama.vim does. In the other the user thinks: one
request, and none after it. Windows of both follow each other in random order, so that with `--cover` the rhythm goes on through all of them;
when it begins and ends is not measured here, only what it hides while it runs.
"""

import http.client
import json
import random
import socket
import threading
import time
from dataclasses import dataclass

import numpy as np

from capture import OBSERVED, PacketCapture
from world import fetch

WINDOW_SECONDS, TRACES = 8.0, 80
# Medians of pauses between keys, in seconds; half of the pauses are within a factor of 1.5.
KEY, SPREAD = 0.18, 0.6
NEW_TOKENS = 16
# Segments of one request follow each other faster.
BURST = 5_000_000
# Requests and connections whose times and sizes are features of their own.
FIRST = 32
READY_SECONDS = 60
MODES = {"proxy": [], "proxy --cover": ["--cover"]}

TYPED = """    total = 0
    for item in basket.items():
        if item.count > 0 and not item.hidden:
            total += item.price * item.count
    return round(total, 2)


def discount(basket, percent):
    \"\"\"Prices of a basket, reduced.\"\"\"
    return [item.price * (100 - percent) / 100 for item in basket.items()]
"""


@dataclass(frozen=True)
class Window:
    """What was seen of all connections, by the client's port; `begin` in nanoseconds."""

    begin: int
    flows: dict


class Proxy:
    """`codeseal proxy` before a server."""

    def __init__(self, world, server, flags):
        sandbox = world.sandbox
        words = ["proxy", "--server", f"http://{server.address[0]}:{server.address[1]}", "--listen", "127.0.0.1:0"]
        words += ["--kms-key", sandbox["kms_key"], "--sandbox-endpoint", sandbox["endpoint"], *flags]
        self.world = world
        self.log, self.process = world.start("codeseal", *words)
        line = self.process.stdout.readline()
        if "http://" not in line:
            self.log.seek(0)
            raise RuntimeError(f"codeseal proxy did not start: {line}{self.log.read()}")
        host, port = line.split("http://")[1].split("/")[0].rsplit(":", 1)
        self.address = (host, int(port))
        self.drain = threading.Thread(target=self.process.stdout.read)
        self.drain.start()
        deadline = time.monotonic() + READY_SECONDS
        while not self.status()["ready"]:
            if time.monotonic() > deadline:
                raise RuntimeError("codeseal proxy finds no server")
            time.sleep(0.05)

    def status(self):
        return json.loads(fetch(f"http://{self.address[0]}:{self.address[1]}/status"))

    def close(self):
        self.world.stop(self.process, self.drain)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Editor:
    """A client that has one request under way at most: the next one closes its connection."""

    def __init__(self, address):
        self.address, self.connection = address, None

    def ask(self, before):
        self.leave()
        body = json.dumps({"input_prefix": before, "input_suffix": "\n", "n_predict": NEW_TOKENS})
        self.connection = http.client.HTTPConnection(*self.address, timeout=30)
        self.connection.request("POST", "/infill", body, {"content-type": "application/json"})

    def leave(self):
        if self.connection:
            self.connection.close()
            self.connection = None


def pauses(rng, seconds):
    """Pauses between keys that fill a time."""
    while seconds > 0:
        pause = min(rng.lognormvariate(np.log(KEY), SPREAD), seconds)
        seconds -= pause
        yield pause


def use(editor, rng, label, seconds, file):
    """One window of an editor: typing (1) or thinking (0)."""
    start, until = rng.randrange(len(TYPED) // 2), time.monotonic()
    for count, pause in enumerate(pauses(rng, seconds)):
        if count == 0 or label:
            editor.ask(file + TYPED[: start + count + 1])
        # Asking takes time, and typing must not take longer than thinking.
        until += pause
        time.sleep(max(until - time.monotonic(), 0))


def record(proxy, capture, count, seconds, seed):
    """Windows and their labels, in the order of their recording."""
    rng, windows, labels = random.Random(seed), [], []
    # What stands above the cursor, another text in each run.
    name = "".join(rng.choice("abcdefghij") for _ in range(8))
    file = "".join(f"def {name}_{line}(value):\n    return value * {line}\n\n" for line in range(40))
    editor = Editor(proxy.address)
    for _ in range(count):
        for label in rng.sample([0, 1], 2):
            capture.take_all()
            begin = time.time_ns()
            use(editor, rng, label, seconds, file)
            windows.append(Window(begin, within(capture.take_all(), begin + int(seconds * 1e9))))
            labels.append(label)
    editor.leave()
    return windows, labels


def within(flows, end):
    """The segments before `end`: windows of both classes are equally long."""
    return {port: kept for port, segments in flows.items() if (kept := [segment for segment in segments if segment.at < end])}


def bursts(flows):
    """Requests: for each its port, the time of its first segment, its bytes, and the segments that the server sent before the next one."""
    found = []
    for port, segments in flows.items():
        last = None
        for segment in segments:
            if segment.down:
                if last is not None and segment.size:
                    last["answers"].append(segment)
            elif segment.size:
                if last is None or last["answers"] or segment.at - last["end"] > BURST:
                    last = {"port": port, "at": segment.at, "end": segment.at, "bytes": 0, "answers": []}
                    found.append(last)
                last["end"], last["bytes"] = segment.at, last["bytes"] + segment.size
    return sorted(found, key=lambda request: request["at"])


def padded(values, length=FIRST):
    return [*values[:length], *[-1.0] * (length - len(values))]


def features(window, which="all"):
    """Numbers of one window, by name; times in milliseconds."""
    requests = bursts(window.flows)
    segments = [segment for flow in window.flows.values() for segment in flow]
    times = np.array([request["at"] - window.begin for request in requests]) / 1e6
    gaps = np.diff(times)
    told = {}
    if which in ("all", "sizes"):
        sent = [request["bytes"] for request in requests]
        answers = [sum(segment.size for segment in request["answers"]) for request in requests]
        told |= {
            "requests": len(requests),
            "connections": len(window.flows),
            "bytes sent": sum(sent),
            "bytes received": sum(answers),
            "segments": len(segments),
            "largest request": max(sent, default=0),
            "smallest request": min(sent, default=0),
        }
        told |= {f"request {index}": value for index, value in enumerate(padded(sent))}
        told |= {f"answer {index}": value for index, value in enumerate(padded(answers))}
    if which in ("all", "times"):
        first = [(request["answers"][0].at - request["at"]) / 1e6 if request["answers"] else -1.0 for request in requests]
        spans = [(request["end"] - request["at"]) / 1e6 for request in requests]
        told |= {"times": len(times), "gap deviation": gaps.std() if len(gaps) else -1.0}
        told |= {f"gap {part}": np.quantile(gaps, part) if len(gaps) else -1.0 for part in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)}
        told |= {f"gap {index}": value for index, value in enumerate(padded(list(gaps)))}
        told |= {f"first byte {index}": value for index, value in enumerate(padded(first))}
        told |= {f"span {index}": value for index, value in enumerate(padded(spans))}
        # How many segments there are in each part of the window, both ways.
        for down in (False, True):
            at = [(segment.at - window.begin) / 1e9 for segment in segments if segment.down == down and segment.size]
            count, _ = np.histogram(at, 16, (0, max(at, default=1)))
            told |= {f"{'down' if down else 'up'} {index}": int(value) for index, value in enumerate(count)}
    return told


def measure(world, model, count, seed, seconds=WINDOW_SECONDS):
    """Windows and labels by mode. Raises PermissionError where no packet socket is allowed."""
    recorded = {}
    for mode, flags in MODES.items():
        with world.server(model, "pace-and-length", host=OBSERVED) as server:
            capture = PacketCapture(serves=True)
            try:
                with Proxy(world, server, flags) as proxy:
                    recorded[mode] = record(proxy, capture, count, seconds, f"{seed} {model} {mode}")
            finally:
                capture.close()
    return recorded
