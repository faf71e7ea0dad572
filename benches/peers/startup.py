"""How long a server takes from exec to ready: ours, llama-server on the same weights, and `cat` of the same files.

Used by run.py --startup. Whoever reads the rows: each is a median, ours and the peer's in turns, so that a machine that gets
slower meanwhile slows both.

A virtual machine may give free memory back to its host, and a program that takes it again then waits for the host: on one such
machine 2.7 GB took 0.2 s of CPU time right after another program had freed them, and 7.5 s after 16 seconds. So before each
start this program takes as much memory and frees it.
"""

import contextlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "typing"))
import servers  # noqa: E402

# Often enough for a start of 50 ms, and later seldom enough that asking takes no time of a core from the server.
POLL_SECONDS, LATER_POLL_SECONDS, LATER = 0.002, 0.01, 0.1
FIGURES = ["seconds", "cpu_seconds", "peak_bytes"]
PAGE_BYTES = 4096


@dataclass
class Ready:
    """Seconds from exec until a server answered 200, what it computed until then, and the most that it had in memory."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def until_ready(command, port, path, log, **options):
    """Starts a server, and ends it when `path` answers 200."""
    began = time.monotonic()
    with servers.process(command, log, **options) as child:
        while True:
            with contextlib.suppress(OSError):
                servers.get(port, path)
                break
            if child.poll() is not None:
                sys.exit(f"{command[0]} ended with {child.returncode}:\n{Path(log).read_text()[-2000:]}")
            time.sleep(POLL_SECONDS if time.monotonic() - began < LATER else LATER_POLL_SECONDS)
        seconds, process = time.monotonic() - began, Path(f"/proc/{child.pid}")
        # Behind the name, which may hold anything: user and system time are the twelfth and the thirteenth field.
        times = (process / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
        status = (process / "status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    return Ready(seconds, sum(map(int, times)) / os.sysconf("SC_CLK_TCK"), peak)


class Space:
    """A sandbox that servers get their keys and tokens from."""

    def __init__(self, binaries, stack):
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.server = binaries / "codeseal-server"
        # The settings of a developer's environment must not change what is measured.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("CODESEAL_")}
        self.environment["XDG_CONFIG_HOME"] = str(self.directory)
        log = self.directory / "sandbox.log"
        command = [binaries / "codeseal", "sandbox", "--dir", self.directory / "space"]
        sandbox = stack.enter_context(servers.process(command, log, env=self.environment))
        while not (text := log.read_text()).endswith("\n"):
            if sandbox.poll() is not None:
                sys.exit(f"the sandbox does not start:\n{text}")
            time.sleep(0.05)
        self.values = json.loads(text)

    def ready(self, model, quantize="none"):
        values, ports = self.values, [servers.free_port() for _ in range(2)]
        command = [self.server, "--listen", f"127.0.0.1:{ports[0]}", "--admin-listen", f"127.0.0.1:{ports[1]}"]
        command += ["--profile", "sandbox", "--sandbox-endpoint", values["endpoint"], "--kms-key", values["kms_key"]]
        command += ["--wip-audience", values["wip_audience"], "--attestation-token", values["token_file"]]
        command += ["--attestation-socket", values["socket"], "--model", model, "--quantize", quantize]
        return until_ready(command, ports[1], "/readyz", self.directory / "server.log", env=self.environment)


def llama_ready(programs, gguf, threads):
    port = servers.free_port()
    command = [programs / "llama-server", "-m", gguf, "--host", "127.0.0.1", "--port", port, "-c", 8192, "-t", threads]
    with tempfile.TemporaryDirectory() as directory:
        return until_ready([*command, "--no-webui"], port, "/health", Path(directory) / "log")


def cat(files):
    """`cat` of the files, and a second beside it for all that is not reading."""
    began, before = time.monotonic(), os.times()
    with open(os.devnull, "wb") as nowhere:
        subprocess.run(["cat", *map(str, files)], stdout=nowhere, check=True)
    after = os.times()
    computed = after.children_user + after.children_system - before.children_user - before.children_system
    return Ready(time.monotonic() - began + 1, computed + 1, 0)


def drop(files):
    """Drops the pages of `files` from the page cache; needs no rights, and clean pages."""
    for file in files:
        with open(file, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def take_memory(size):
    """Writes to `size` bytes of memory, and frees them."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for place in range(0, size, PAGE_BYTES):
            memory[place] = 1


def median(values):
    return sorted(values)[len(values) // 2]


def turns(repeats, memory, *measured):
    """The medians of all `measured`, each called once in every turn, and once before. `memory` bytes are free then."""

    def one(what):
        take_memory(memory)
        return what()

    for what in measured:
        one(what)
    rounds = [[one(what) for what in measured] for _ in range(repeats)]
    return [Ready(*(median([getattr(one, name) for one in column]) for name in FIGURES)) for column in zip(*rounds)]


def phases(server, model, quantize, options):
    command = [server, "bench", "--startup", "--model", model, "--quantize", quantize, "--json", "--repeats", "1"]
    done = subprocess.run([str(word) for word in [*options.wrap, *command]], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def rows_of(figure, ours, name, peer):
    """How long both took, and how much they computed: the latter says something on a busy machine as well."""
    yield {"figure": f"{figure}: s", "ours": ours.seconds, "name": name, "peer": peer.seconds}
    yield {"figure": f"{figure}: CPU s", "ours": ours.cpu_seconds, "name": name, "peer": peer.cpu_seconds}


def measure(binaries, programs, shape, source, gguf, options):
    """Rows of one shape: `source` is a directory with safetensors, `gguf` the same weights in q8_0, both with a tokenizer."""
    rows, reports = [], {}
    weights = sorted(source.glob("*.safetensors"))
    with contextlib.ExitStack() as stack:
        space = Space(binaries, stack)
        ours = lambda model, quantize="none": lambda: space.ready(model, quantize)
        llama = lambda: llama_ready(programs, gguf, options.threads)

        def cold(action, files):
            def run():
                drop(files)
                return action()
            return run

        def compare(figure, files, mine, name, peer):
            # Weights, and a quarter as much for all else.
            memory = sum(file.stat().st_size for file in files) * 5 // 4
            own, other = turns(options.repeats, memory, mine, peer)
            rows.extend(rows_of(figure, own, name, other))

        second = "cat of the files + 1 s"
        read = lambda: cat(weights)
        compare("ready, q8_0 GGUF", [gguf], ours(gguf), "llama-server", llama)
        compare("ready, bf16 safetensors", weights, ours(source), second, read)
        compare("ready, q4k from bf16", weights, ours(source, "q4k"), "ready, bf16", ours(source))
        compare("ready, bf16, cold pages", weights, cold(ours(source), weights), second, cold(read, weights))
        compare("ready, q8_0 GGUF, cold pages", [gguf], cold(ours(gguf), [gguf]), "llama-server", cold(llama, [gguf]))
        for model, quantize in [(gguf, "none"), (source, "none"), (source, "q4k")]:
            report = phases(space.server, model, quantize, options)
            name = f"{Path(model).name} {quantize}"
            reports[f"startup {shape} {name}"] = report
            kept = report["weight_bytes"] + report["kv_bytes"]
            peak = space.ready(model, quantize).peak_bytes
            rows.append({"figure": f"peak memory, GB, {name}", "ours": peak / 1e9, "name": "weights and KV cache",
                         "peer": kept / 1e9})
    for line in rows:
        line |= {"shape": shape, "type": ""}
    return rows, reports
