"""What shaping costs: the server's own load test in each mode, and the CPU time of frames without text.

The servers of all modes run side by side, and rounds of load alternate between them, so that what drifts is not taken for a
difference of modes. Clients ask again when they have their text, as `codeseal proxy` does for editors: those that wait for the last
frame of a shaped stream would leave the model idle.
"""

import contextlib
import json
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor

from sealed import post

REQUESTS, CLIENTS, NEW_TOKENS = 24, 16, 32
ROUNDS, ROUND_SECONDS = 5, 15
# Streams of no tokens, as many at once as there are clients: all of their frames but one are fillers.
FILLERS = 320


def report(server, *flags):
    command = [str(server.world.programs / "codeseal-server"), *server.loadtest("--json", *flags)]
    done = subprocess.run(command, capture_output=True, text=True, env={"NO_PROXY": "*"})
    if done.returncode:
        raise RuntimeError(f"the load test failed: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def fillers(server, key):
    """CPU seconds and frames of streams that say nothing."""
    body = {"prompt": "x", "max_tokens": 0, "stream": True}

    def stream(_):
        return post(server.address, "/v1/completions", key.seal("/v1/completions", body))[0].count(b"data: ")

    before = server.cpu_seconds()
    with ThreadPoolExecutor(CLIENTS) as pool:
        frames = sum(pool.map(stream, range(FILLERS)))
    return server.cpu_seconds() - before, frames


def rate(server):
    """Requests a second of 16 clients."""
    flags = ["--clients", CLIENTS, "--requests", 10**5, "--duration-secs", ROUND_SECONDS, "--after", "text"]
    return report(server, *flags, "--new-tokens", NEW_TOKENS)["requests_per_second"]


def price(world, model, modes):
    """Figures by mode; `off` is always among them, because the others are compared with it."""
    modes = ["off", *[mode for mode in modes if mode != "off"]]
    with contextlib.ExitStack() as stack:
        servers = {mode: stack.enter_context(world.server(model, mode)) for mode in modes}
        alone = {mode: report(server, "--clients", 1, "--requests", REQUESTS, "--new-tokens", NEW_TOKENS) for mode, server in servers.items()}
        rounds = [{mode: rate(server) for mode, server in servers.items()} for _ in range(ROUNDS)]
        frames = {mode: fillers(server, world.key()) for mode, server in servers.items()}
    figures = {}
    for mode in modes:
        more = frames[mode][1] - frames["off"][1]
        figures[mode] = {
            "first_text_ms": alone[mode]["ttft_ms"]["p50"],
            "text_end_ms": alone[mode]["text_end_ms"]["p50"],
            "end_ms": alone[mode]["e2e_ms"]["p50"],
            "requests_per_second": statistics.median(rates[mode] for rates in rounds),
            "of_off": [rates[mode] / rates["off"] for rates in rounds],
            "frame_us": 1e6 * (frames[mode][0] - frames["off"][0]) / more if more > 0 else None,
        }
    return {"model": model, "modes": figures}
