#!/usr/bin/env python3
"""Shows what several replicas behind a balancer do: HAProxy, real servers and real clients, all on loopback.

    scripts/replicas.py [--server codeseal-server] [--tool codeseal] [--json FILE]

Both programs must have the sandbox. Needs haproxy, and root for the CPU shares: each server gets a small one, or
on one machine a second replica could add nothing. Prints a table in Markdown; exits with 1 if something is not as promised:

- no request is lost while replicas are restarted one after the other, or while the token of one has expired;
- if one is killed, only what it was working on is lost: whether that may be repeated is for the user to say;
- throughput grows with the replicas, and more than 95 % of requests find their session's key where they are sent.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
REPLICAS = 3
SESSIONS = 12
# Share of one CPU of each server where throughput is measured.
SHARE = 0.2
# Requests of one measurement: a session is long, as those of people who write code are.
REQUESTS = 600
# Where faults are injected: the share of the servers' throughput, and the most requests per second.
LOAD, MOST_A_SECOND = 0.3, 25
NEW_TOKENS = 4
PROMPT_TOKENS = 32
LEAST_HITS = 0.95
# How an answer ends whose replica was killed while it was made: HAProxy has nothing to pass on, closes the connection
# if it was used before, or has a part only.
CUT_OFF = {"status_502", "unreachable", "not_authentic"}
# Measurements of throughput, of which the best counts: what else the machine does only ever makes it less.
ROUNDS = 3
PATIENCE_SECS = 120


def fail(message):
    sys.exit(f"replicas.py: {message}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def until(what, condition, secs=PATIENCE_SECS):
    end = time.monotonic() + secs
    while time.monotonic() < end:
        try:
            if condition():
                return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.05)
    fail(f"{what} does not come within {secs} s")


class Share:
    """A share of the CPU for each server, by either version of control groups."""

    def __init__(self):
        root = pathlib.Path("/sys/fs/cgroup")
        self.v2 = (root / "cgroup.controllers").exists()
        self.base = root if self.v2 else root / "cpu"
        self.groups = []

    def group(self, share):
        group = self.base / f"codeseal-replicas-{os.getpid()}-{len(self.groups)}"
        group.mkdir()
        self.groups.append(group)
        if self.v2:
            (group / "cpu.max").write_text(f"{int(share * 100_000)} 100000")
        else:
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text(str(int(share * 100_000)))
        return group

    def remove(self):
        for group in self.groups:
            group.rmdir()
        self.groups = []


class World:
    """The sandbox, the balancer, and as many servers as are started."""

    def __init__(self, args, scratch):
        self.args, self.scratch, self.children = args, scratch, []
        self.shares = Share()
        launcher = scratch / "launcher"
        self.sandbox = self.start([args.tool, "sandbox", "--dir", launcher], stdout=subprocess.PIPE)
        self.facts = json.loads(self.sandbox.stdout.readline())
        self.token = pathlib.Path(self.facts["token_file"])
        self.replicas = [Replica(self, index) for index in range(REPLICAS)]
        self.balancer_port, self.balancer = free_port(), None

    def start(self, command, **more):
        more.setdefault("stdout", subprocess.DEVNULL)
        child = subprocess.Popen([str(word) for word in command], cwd=ROOT, text=True, **more)
        self.children.append(child)
        return child

    def balance(self, count, algorithm="hdr(x-codeseal-session)"):
        """Puts the balancer before the first `count` replicas."""
        self.stop_balancer()
        config = self.scratch / "haproxy.cfg"
        servers = "".join(f"  server r{r.index} 127.0.0.1:{r.port} check\n" for r in self.replicas[:count])
        config.write_text(f"""
global
  stats socket {self.scratch}/haproxy.sock
defaults
  mode http
  timeout connect 1s
  timeout client 150s
  timeout server 150s
  # Only what never reached a replica is sent again, and then to another one.
  retries 3
  retry-on conn-failure
  option redispatch 1
listen balancer
  bind 127.0.0.1:{self.balancer_port}
  balance {algorithm}
  hash-type consistent
  option httpchk GET /readyz
  default-server inter 500ms fall 1 rise 1
{servers}""")
        self.balancer = self.start(["haproxy", "-db", "-f", config], stderr=subprocess.DEVNULL)
        until("the balancer", lambda: all(self.is_up(r) for r in self.replicas[:count]))

    def stop_balancer(self):
        if self.balancer:
            self.balancer.terminate()
            self.balancer.wait()

    def is_up(self, replica):
        """What the balancer thinks of it."""
        with socket.socket(socket.AF_UNIX) as stats:
            stats.connect(str(self.scratch / "haproxy.sock"))
            stats.sendall(b"show stat\n")
            text = b"".join(iter(lambda: stats.recv(65536), b"")).decode()
        return any(line.startswith(f"balancer,r{replica.index},") and ",UP," in line for line in text.splitlines())

    def unwrapped(self):
        if self.sandbox.poll() is not None:
            fail(f"the sandbox has ended with {self.sandbox.returncode}")
        counts = json.loads(get(f"{self.facts['endpoint']}/sandbox/ledger"))["counts"]
        return sum(tally["granted"] for tally in counts["decrypt"].values())

    def order(self, order):
        request = urllib.request.Request(
            f"{self.facts['endpoint']}/sandbox/faults", json.dumps(order).encode(), {"content-type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=5).close()

    def load(self, *flags):
        """A load test on the balancer; its report comes from `report`."""
        common = ["loadtest", "--server", f"http://127.0.0.1:{self.balancer_port}", "--sandbox-endpoint"]
        common += [self.facts["endpoint"], "--kms-key", self.facts["kms_key"], "--sessions", SESSIONS, "--whole", "--json"]
        common += ["--new-tokens", NEW_TOKENS, "--prompt-tokens", PROMPT_TOKENS, "--retry"]
        # The key of each session is unwrapped within the measurement: it is what is counted.
        return self.start([self.args.server, *common, "--warm-up", 0, *flags], stdout=subprocess.PIPE)

    def end(self):
        for child in self.children:
            child.kill()
            child.wait()
        self.shares.remove()


class Replica:
    """A server with a launcher's directory of its own, so that its token can expire alone."""

    def __init__(self, world, index):
        self.world, self.index, self.port, self.admin = world, index, free_port(), free_port()
        self.token = world.scratch / f"token-{index}"
        self.process = None

    def start(self, share=None):
        shutil.copy(self.world.token, self.token)
        facts, server = self.world.facts, self.world.args.server
        command = [server, "--listen", f"127.0.0.1:{self.port}", "--admin-listen", f"127.0.0.1:{self.admin}"]
        command += ["--model", "models/tiny", "--kms-key", facts["kms_key"], "--wip-audience", facts["wip_audience"]]
        command += ["--impersonate", facts["service_account"], "--sandbox-endpoint", facts["endpoint"]]
        # There is no socket: the file is all that this launcher has.
        command += ["--attestation-token", self.token, "--attestation-socket", f"{self.token}.sock"]
        command += ["--kv-cache-mib", 64]
        environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
        self.process = self.world.start(command, env=environment, stderr=subprocess.DEVNULL)
        until(f"replica {self.index}", self.is_ready)
        if share:
            (self.world.shares.group(share) / "cgroup.procs").write_text(str(self.process.pid))

    def is_ready(self):
        return "ready" in get(f"http://127.0.0.1:{self.port}/readyz")

    def in_flight(self):
        """How many requests it is working on."""
        lines = get(f"http://127.0.0.1:{self.admin}/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("codeseal_requests_in_flight "))

    def drain(self):
        self.process.terminate()
        if self.process.wait(timeout=PATIENCE_SECS) != 0:
            fail(f"replica {self.index} does not end in order")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def measured(world, before, load):
    """The report of a load test, with how many of its requests found their key."""
    text, _ = load.communicate(timeout=600)
    if load.returncode not in (0, 1):
        fail(f"the load test ends with {load.returncode}")
    report = json.loads(text)
    unwrapped = world.unwrapped() - before
    return {
        "answered": report["answered"],
        "failed": report["requests"] - report["answered"],
        "errors": report["errors"],
        "per_second": report["requests_per_second"],
        "p50": report["e2e_ms"]["p50"],
        "p95": report["e2e_ms"]["p95"],
        "max": report["e2e_ms"]["max"],
        "unwrapped": unwrapped,
        "hits": 1 - unwrapped / max(report["answered"], 1),
    }


def throughput(world, count, algorithm="hdr(x-codeseal-session)"):
    for replica in world.replicas[:count]:
        replica.start(SHARE)
    world.balance(count, algorithm)
    outcomes = []
    for seed in range(ROUNDS):
        before = world.unwrapped()
        # Every round has sessions of its own, whose keys no replica has yet.
        flags = ["--clients", SESSIONS, "--requests", REQUESTS, "--duration-secs", 600, "--seed", seed]
        outcomes.append(measured(world, before, world.load(*flags)))
    for replica in world.replicas[:count]:
        replica.drain()
    world.shares.remove()
    return max(outcomes, key=lambda outcome: (outcome["failed"], outcome["per_second"]))


def under_load(world, rate, act):
    """Has `act` done five seconds into a load that goes on until it is done, and is not short."""
    before = world.unwrapped()
    load = world.load("--rate", rate, "--requests", 100_000, "--duration-secs", 3600)
    began = time.monotonic()
    time.sleep(5)
    act()
    time.sleep(max(5, 1.5 * REQUESTS / rate - (time.monotonic() - began)))
    if load.poll() is not None:
        fail("the load ended before what it was to be hit by")
    # Ends the load: what is under way is not counted.
    load.send_signal(signal.SIGINT)
    return measured(world, before, load)


def roll(world):
    for replica in world.replicas:
        replica.drain()
        replica.start()
        until(f"replica {replica.index} in the balancer", lambda: world.is_up(replica))


def kill_one(world):
    # While it works on something: that is what can be lost.
    while world.replicas[0].in_flight() == 0:
        pass
    world.replicas[0].kill()
    time.sleep(10)
    world.replicas[0].start()
    until("the killed replica in the balancer", lambda: world.is_up(world.replicas[0]))


def expire_one(world):
    replica = world.replicas[1]
    # The sandbox makes tokens for its own launcher: this one is copied from there.
    world.order({"token_file": "expired"})
    shutil.copy(world.token, replica.token)
    world.order({"token_file": "fresh"})
    until("the balancer's word that a replica is not ready", lambda: not world.is_up(replica))
    time.sleep(10)
    shutil.copy(world.token, replica.token)
    until("the replica with a new token in the balancer", lambda: world.is_up(replica))


def check(rows):
    problems = []

    def promise(holds, what):
        if not holds:
            problems.append(what)

    for name in ("1 replica", "2 replicas", "3 replicas", "rolling restart", "token expired"):
        promise(rows[name]["failed"] == 0, f"{name}: {rows[name]['errors']}")
    killed = rows["replica killed"]
    promise(set(killed["errors"]) <= CUT_OFF, f"replica killed: {killed['errors']}")
    # What one replica works on at this rate is a fraction of this.
    promise(killed["failed"] <= MOST_A_SECOND, f"replica killed: {killed['failed']} requests are lost")
    one, two, three = (rows[name]["per_second"] for name in ("1 replica", "2 replicas", "3 replicas"))
    promise(one * 1.3 < two and two * 1.1 < three, f"throughput does not grow: {one}, {two}, {three}")
    for name, row in rows.items():
        if name != "3 replicas, in turn":
            promise(row["hits"] > LEAST_HITS, f"{name}: only {row['hits']:.1%} find their key")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=ROOT / "target/release/codeseal-server", type=pathlib.Path)
    parser.add_argument("--tool", default=ROOT / "target/release/codeseal", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    for program in (args.server, args.tool):
        if not program.exists():
            fail(f"{program} is missing: cargo build --release")
    if not shutil.which("haproxy"):
        fail("haproxy is missing: apt-get install haproxy")

    rows = {}
    # A socket's path must be short.
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="replicas", dir="/tmp"))
    world = World(args, scratch)
    try:
        for count in range(1, REPLICAS + 1):
            rows[f"{count} replica{'s' if count > 1 else ''}"] = throughput(world, count)
        rows["3 replicas, in turn"] = throughput(world, REPLICAS, "roundrobin")
        for replica in world.replicas:
            replica.start()
        world.balance(REPLICAS)
        load = world.load("--clients", SESSIONS, "--requests", REQUESTS, "--duration-secs", 60)
        rate = min(LOAD * measured(world, world.unwrapped(), load)["per_second"], MOST_A_SECOND)
        rows["rolling restart"] = under_load(world, rate, lambda: roll(world))
        rows["replica killed"] = under_load(world, rate, lambda: kill_one(world))
        rows["token expired"] = under_load(world, rate, lambda: expire_one(world))
    finally:
        world.end()
        shutil.rmtree(scratch)

    print("| | answered | failed | requests/s | p50, p95, max in ms | keys unwrapped | key cached |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        failed = ", ".join(f"{count} {code}" for code, count in row["errors"].items()) or "0"
        times = f"{row['p50']:.0f}, {row['p95']:.0f}, {row['max']:.0f}"
        print(f"| {name} | {row['answered']} | {failed} | {row['per_second']:.1f} | {times} | {row['unwrapped']} | {row['hits']:.1%} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    problems = check(rows)
    for problem in problems:
        print(f"replicas.py: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
