"""Replays a typing trace against a completion server with llama.cpp's `/infill`, as an editor's plugin would.

Two ways to type. `closed`: a request after every fourth key, and the next key only after the answer. `open`: keys at the
trace's own times; a request goes out when no key came for the time of the debounce, the next key closes its connection, and
at a stop of the trace the next key waits for the answer.
"""

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# Characters of the file that a client sends, above the cursor and below it: about 960 tokens together.
ABOVE, BELOW = 3000, 1000
NEW_TOKENS = 16
DEBOUNCE = 0.15
# Keys from one request to the next in the closed loop.
EVERY = 4
# How long one answer may take, in seconds.
PATIENCE = 300


@dataclass
class Record:
    """One request, and what came of it."""

    trace: str
    key: int
    # The first one of its trace: nothing is in the server's prefix cache.
    first: bool
    # From the key to the answer; None if the next key came before.
    seconds: float | None
    # Tokens of the prompt that the server computed, and those that it had; of a whole answer.
    computed: int | None = None
    cached: int | None = None
    new: int | None = None


class Document:
    """A file that is edited, and its cursor."""

    def __init__(self, path):
        self.name = path.stem
        with open(path) as lines:
            head, *self.edits = map(json.loads, lines)
        self.before, self.after = head["before"], head["after"]

    def apply(self, edit):
        assert edit["at"] == len(self.before) - edit["delete"], "the trace types at the cursor only"
        self.before = self.before[: edit["at"]] + edit["insert"]

    def body(self, client):
        """What a client sends. `lines`: whole lines around the cursor, and the cursor's line apart, as llama.vim does.
        `characters`: the last and the next characters, a window that moves with each key."""
        if client == "characters":
            prefix, line, suffix = self.before[-ABOVE:], "", self.after[:BELOW]
        else:
            start = self.before.rfind("\n") + 1
            prefix, line, suffix = self.before[:start], self.before[start:], self.after[:BELOW]
            if len(prefix) > ABOVE:
                prefix = prefix[-ABOVE:]
                prefix = prefix[prefix.find("\n") + 1 :]
            if len(self.after) > BELOW:
                suffix = suffix[: suffix.rfind("\n") + 1]
        return {
            "input_prefix": prefix,
            "prompt": line,
            "input_suffix": suffix,
            "n_predict": NEW_TOKENS,
            "temperature": 0,
            "samplers": ["temperature"],
            "cache_prompt": True,
            "stream": False,
        }


class Http:
    """Connections to one port of loopback, kept while they are of use."""

    def __init__(self, port):
        self.port = port
        self.idle = []

    async def post(self, path, body):
        """The answer's JSON. When this is cancelled its connection is closed."""
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        whole = False
        try:
            data = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
            status, headers = await self.head(reader)
            answer = await self.content(reader, headers)
            whole = True
        finally:
            if whole and headers.get("connection") != "close":
                self.idle.append((reader, writer))
            else:
                writer.transport.abort()
        if status != 200:
            raise RuntimeError(f"{path} was answered with {status}: {answer[:500]!r}")
        return json.loads(answer)

    async def head(self, reader):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
        return int(lines[0].split()[1]), {name.lower(): value.strip().lower() for name, value in pairs}

    async def content(self, reader, headers):
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))
        pieces = []
        while length := int(await reader.readline(), 16):
            pieces.append(await reader.readexactly(length))
            await reader.readexactly(2)
        await reader.readexactly(2)
        return b"".join(pieces)

    def close(self):
        for _, writer in self.idle:
            writer.close()


async def ask(http, body, record, pressed, debounce=0):
    if debounce:
        await asyncio.sleep(debounce)
    answer = await asyncio.wait_for(http.post("/infill", body), PATIENCE)
    record.seconds = time.perf_counter() - pressed
    timings = answer["timings"]
    record.computed, record.new = timings["prompt_n"], timings["predicted_n"]
    record.cached = timings.get("cache_n", 0)
    return record


async def closed(port, path, client, requests=None):
    """Records of a trace that is typed with a request after every fourth key, at most `requests` of them."""
    http, document, records = Http(port), Document(path), []
    for key, edit in enumerate(document.edits):
        document.apply(edit)
        if key % EVERY == 0:
            record = Record(document.name, key, not records, None)
            records.append(await ask(http, document.body(client), record, time.perf_counter()))
            if len(records) == requests:
                break
    http.close()
    return records


async def open_loop(port, path, client, edits=None):
    """Records of the first `edits` edits of a trace, typed with its pauses. The second value says which were waited for."""
    http, document, records, waited = Http(port), Document(path), [], []
    running = None
    script = document.edits[:edits]
    for key, edit in enumerate(script):
        await asyncio.sleep(edit["t"] / 1000)
        if running and not running.done():
            running.cancel()
            await asyncio.wait([running])
        document.apply(edit)
        pause = script[key + 1]["t"] / 1000 if key + 1 < len(script) else 0
        stop = edit.get("stop", False)
        if not stop and pause <= DEBOUNCE:
            continue
        record = Record(document.name, key, not records, None)
        records.append(record)
        waited.append(stop)
        running = asyncio.create_task(ask(http, document.body(client), record, time.perf_counter(), DEBOUNCE))
        if stop:
            await running
    if running and not running.done():
        running.cancel()
        await asyncio.wait([running])
    http.close()
    return records, waited


def percentile(values, percent):
    """The percentile: the smallest value that this percentage does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def summary(records):
    """Figures of requests that were answered, the first one of each trace apart."""
    answered = [record for record in records if record.seconds is not None]
    later = [record for record in answered if not record.first]
    first = [record for record in answered if record.first]
    tokens = [record.computed for record in later]
    seconds = [record.seconds for record in later]
    return {
        "requests": len(answered),
        "seconds_p50": percentile(seconds, 50),
        "seconds_p95": percentile(seconds, 95),
        "seconds_mean": sum(seconds) / len(seconds),
        "first_seconds_mean": sum(record.seconds for record in first) / len(first) if first else None,
        "computed_mean": sum(tokens) / len(tokens),
        "computed_p50": percentile(tokens, 50),
        "computed_p95": percentile(tokens, 95),
        "computed_mean_with_first": sum(record.computed for record in answered) / len(answered),
        "prompt_mean": sum(record.computed + record.cached for record in later) / len(later),
        "new_mean": sum(record.new for record in later) / len(later),
    }


def as_rows(records):
    return [asdict(record) for record in records]


def traces():
    return sorted((Path(__file__).resolve().parent / "traces").glob("*.jsonl"))
