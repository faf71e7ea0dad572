"""Starts what is compared: codeseal's sandbox, server and proxy, and llama-server. All on loopback, on free ports."""

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

# CodeGemma's fill-in-the-middle tokens: a converted Gemma names none, and llama-server's /infill then answers 501.
FIM_IDS = {"fim_pre_token_id": 67, "fim_suf_token_id": 69, "fim_mid_token_id": 68}
# llama-server's best setting for this, and one slot, so that each request finds what the one before has left.
LLAMA_OPTIONS = ["-np", "1", "-b", "1024", "-ub", "1024", "--cache-reuse", "256", "--no-webui"]
START_SECONDS = 600


@dataclass
class Codeseal:
    """Ports of a proxy and its server, and the values that a client of the server needs."""

    proxy: int
    server: int
    admin: int
    sandbox: dict

    def metrics(self):
        """Name → value of the server's metrics without labels."""
        text = get(self.admin, "/metrics").decode()
        rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#") and "{" not in line)
        return {name: float(value) for name, value in rows}


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def process(command, log, **options):
    """Runs a program; its output goes to the file `log`, which is shown if it ends by itself."""
    with open(log, "w") as out:
        child = subprocess.Popen([str(word) for word in command], stdout=out, stderr=subprocess.STDOUT, **options)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()


def wait_until_ready(child, port, path, log):
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        if child.poll() is not None:
            raise SystemExit(f"{child.args[0]} ended with {child.returncode}:\n{Path(log).read_text()[-2000:]}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            get(port, path)
            return
        time.sleep(0.1)
    raise SystemExit(f"{child.args[0]} is not ready after {START_SECONDS} s:\n{Path(log).read_text()[-2000:]}")


@contextlib.contextmanager
def codeseal(binaries, model, quantize, hole, draft_tokens, shaping="pace-and-length"):
    """A sandbox, a server with `model` and a proxy in front of it. `shaping` is the server's traffic shaping."""
    # The settings of a developer's environment must not change what is measured.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CODESEAL_")}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        environment["XDG_CONFIG_HOME"] = directory
        log = lambda name: Path(directory) / f"{name}.log"

        def start(name, *command):
            return stack.enter_context(process(command, log(name), env=environment))

        sandbox = start("sandbox", binaries / "codeseal", "sandbox", "--dir", Path(directory) / "space")
        ends = time.monotonic() + 30
        while not (text := log("sandbox").read_text()).endswith("\n"):
            if sandbox.poll() is not None or time.monotonic() > ends:
                raise SystemExit(f"the sandbox does not start:\n{text}")
            time.sleep(0.05)
        values = json.loads(text)
        ports = [free_port() for _ in range(3)]
        listen = [f"127.0.0.1:{port}" for port in ports]
        command = [binaries / "codeseal-server", "--listen", listen[0], "--admin-listen", listen[1]]
        command += ["--profile", "sandbox", "--sandbox-endpoint", values["endpoint"], "--kms-key", values["kms_key"]]
        command += ["--wip-audience", values["wip_audience"], "--attestation-token", values["token_file"]]
        command += ["--attestation-socket", values["socket"], "--model", model, "--quantize", quantize]
        command += ["--stream-shaping", shaping]
        server = start("server", *command, "--draft-tokens", draft_tokens, "--request-timeout-secs", "300")
        wait_until_ready(server, ports[1], "/readyz", log("server"))
        command = [binaries / "codeseal", "proxy", "--server", f"http://{listen[0]}", "--listen", listen[2]]
        command += ["--kms-key", values["kms_key"], "--sandbox-endpoint", values["endpoint"], "--hole", hole, "--timeout-secs", "300"]
        proxy = start("proxy", *command)
        wait_until_ready(proxy, ports[2], "/health", log("proxy"))
        yield Codeseal(ports[2], ports[0], ports[1], values)


@contextlib.contextmanager
def llama_server(programs, gguf, threads):
    """The port of a llama-server with the model in `gguf`."""
    with tempfile.TemporaryDirectory() as directory:
        port, log = free_port(), Path(directory) / "log"
        command = [programs / "llama-server", "-m", gguf, "--host", "127.0.0.1", "--port", port, "-c", 8192]
        command += ["-t", threads, *LLAMA_OPTIONS]
        for name, value in FIM_IDS.items():
            command += ["--override-kv", f"tokenizer.ggml.{name}=int:{value}"]
        with process(command, log) as child:
            wait_until_ready(child, port, "/health", log)
            yield port
