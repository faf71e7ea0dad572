"""What is measured: a sandbox, servers and their load as processes on loopback, and the models they serve."""

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from sealed import Key

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TINY = ROOT / "models" / "tiny"
MODELS = ("tiny", "random-60m", "random-187m")
# Of the matrices in the layers of random weights. The pair `speculation` needs answers with and without accepted drafts: with 0.04 at least 4 of
# 20 tokens came from drafts in each of 30 answers of the 60 M model, with 0.05 at most 4.
DEVIATION = 0.043
LOAD_CLIENTS = 8
START_SECONDS = 120


def fetch(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as answer:
        return answer.read().decode()


class World:
    """A sandbox, until `close`."""

    def __init__(self, programs, work):
        self.programs, self.work = Path(programs).resolve(), Path(work).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        # The path of a socket has at most 107 bytes.
        self.directory = tempfile.mkdtemp(prefix="leakage")
        self.processes, self.logs = [], []
        self.sandbox = json.loads(self.start("codeseal", "sandbox", "--dir", f"{self.directory}/cs")[1].stdout.readline())

    def start(self, program, *arguments):
        """A process and its log; what it writes to stderr is kept for errors."""
        log = tempfile.TemporaryFile("w+", dir=self.directory)
        command = [str(self.programs / program), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={"NO_PROXY": "*"})
        self.processes.append(process)
        self.logs.append(log)
        return log, process

    def server(self, model, mode, *more, host="127.0.0.1"):
        return Server(self, model, mode, more, host)

    def key(self):
        return Key(self.sandbox)

    def model(self, name):
        """The directory of a model; random weights are written once."""
        if name == "tiny":
            return TINY
        directory = self.work / f"{name}-{DEVIATION}"
        if not (directory / "tokenizer.json").exists():
            script = ROOT / "benches" / "peers" / "weights.py"
            subprocess.run([sys.executable, script, "random", HERE / f"{name}.json", directory, str(DEVIATION)], check=True)
            # Last: with it the directory is whole.
            shutil.copy(TINY / "tokenizer.json", directory)
        return directory

    def stop(self, process, reader=None):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if reader:
            reader.join()
        process.stdout.close()
        self.processes.remove(process)

    def close(self):
        for process in reversed(self.processes[:]):
            self.stop(process)
        for log in self.logs:
            log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Server:
    """`codeseal-server` with one model and one way of shaping."""

    def __init__(self, world, model, mode, more, host):
        self.world, self.load = world, None
        sandbox = world.sandbox
        flags = {
            "--listen": f"{host}:0",
            "--admin-listen": "127.0.0.1:0",
            "--model": world.model(model),
            "--kms-key": sandbox["kms_key"],
            "--wip-audience": sandbox["wip_audience"],
            "--attestation-token": sandbox["token_file"],
            "--attestation-socket": sandbox["socket"],
            "--sandbox-endpoint": sandbox["endpoint"],
            "--stream-shaping": mode,
            "--log-format": "json",
        }
        words = [str(word) for pair in flags.items() for word in pair]
        self.log, self.process = world.start("codeseal-server", *words, *more)
        self.address, self.admin = self._listens()
        # The log must not fill its pipe.
        self.drain = threading.Thread(target=self.process.stdout.read)
        self.drain.start()
        self._until_ready()

    def _listens(self):
        for line in self.process.stdout:
            told = json.loads(line)
            if "admin_listen" in told:
                host, port = told["listen"].rsplit(":", 1)
                return (host, int(port)), told["admin_listen"]
        self.log.seek(0)
        raise RuntimeError(f"codeseal-server did not start: {self.log.read()}")

    def _until_ready(self):
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                fetch(f"http://{self.admin}/readyz")
                return
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline or self.process.poll() is not None:
                    raise
            time.sleep(0.1)

    def metric(self, name):
        """The value of a counter."""
        found = re.search(rf"^codeseal_{name} ([0-9.]+)$", fetch(f"http://{self.admin}/metrics"), re.MULTILINE)
        return float(found[1])

    def cpu_seconds(self):
        """CPU time of all threads so far."""
        # What clock_getcpuclockid(3) returns, which Python has for threads only. It counts nanoseconds; /proc counts ticks.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def loadtest(self, *flags):
        """The command that puts load on this server."""
        sandbox = self.world.sandbox
        server = f"http://{self.address[0]}:{self.address[1]}"
        keys = ["--kms-key", sandbox["kms_key"], "--sandbox-endpoint", sandbox["endpoint"]]
        return ["loadtest", "--server", server, *keys, *map(str, flags)]

    def begin_load(self):
        """Other clients work until `close`."""
        flags = ["--clients", LOAD_CLIENTS, "--requests", 10**8, "--duration-secs", 10**5, "--new-tokens", 64]
        _, self.load = self.world.start("codeseal-server", *self.loadtest(*flags))

    def close(self):
        if self.load:
            # It would finish what is under way first.
            self.load.kill()
            self.world.stop(self.load)
        self.world.stop(self.process, self.drain)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
