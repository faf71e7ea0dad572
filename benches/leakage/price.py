"""What shaping costs: the server's own load test in each mode, and the CPU time of frames without text."""

import json
import subprocess

from sealed import post

REQUESTS, CLIENTS, NEW_TOKENS = 24, 16, 32
# Streams of no tokens: all of their frames but one are fillers.
FILLERS = 40


def report(server, *flags):
    command = [str(server.world.programs / "codeseal-server"), *server.loadtest("--json", *flags)]
    done = subprocess.run(command, capture_output=True, text=True, env={"NO_PROXY": "*"})
    if done.returncode:
        raise RuntimeError(f"the load test failed: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def fillers(server, key):
    """CPU seconds and frames of streams that say nothing."""
    body = {"prompt": "x", "max_tokens": 0, "stream": True}
    before, frames = server.cpu_seconds(), 0
    for _ in range(FILLERS):
        frames += post(server.address, "/v1/completions", key.seal("/v1/completions", body))[0].count(b"data: ")
    return server.cpu_seconds() - before, frames


def price(world, model, modes):
    """Figures by mode; `off` is always among them, because the others are compared with it."""
    figures, base = {}, None
    for mode in ["off", *[mode for mode in modes if mode != "off"]]:
        with world.server(model, mode) as server:
            alone = report(server, "--clients", 1, "--requests", REQUESTS, "--new-tokens", NEW_TOKENS)
            flags = ["--clients", CLIENTS, "--requests", 4 * CLIENTS, "--new-tokens", NEW_TOKENS]
            together = report(server, *flags)
            seconds, frames = fillers(server, world.key())
        base = base or (seconds, frames)
        more = frames - base[1]
        figures[mode] = {
            "first_text_ms": alone["ttft_ms"]["p50"],
            "end_ms": alone["e2e_ms"]["p50"],
            "requests_per_second": together["requests_per_second"],
            "frame_us": 1e6 * (seconds - base[0]) / more if more > 0 else None,
        }
    return {"model": model, "modes": figures}
