"""Trains the network against the clock: the learning rate reaches zero when the time is up.

Prints a progress line, writes a checkpoint every few minutes and resumes from
it. Reads `SHARD.npy`; writes `checkpoint.pt` and `progress.jsonl`.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from gemma import Gemma, Shape
from muon import Muon

# Share of the rows drawn from each shard at the start and at the end of the run.
MIX = {"files": (0.70, 0.35), "functions": (0.25, 0.30), "idioms": (0.05, 0.35)}
UNPREDICTED = (0, 2, 67, 68, 69)  # padding and what the caller writes, never the model
WARMUP_STEPS, FLAT_UNTIL = 100, 0.35


class Rows:
    """Endless shuffled passes over one shard."""

    def __init__(self, path, seed):
        self.rows, self.rng = np.load(path, mmap_mode="r"), np.random.default_rng(seed)
        self.order = np.empty(0, dtype=np.int64)

    def take(self, n):
        while len(self.order) < n:
            self.order = np.concatenate([self.order, self.rng.permutation(len(self.rows))])
        picked, self.order = self.order[:n], self.order[n:]
        return self.rows[np.sort(picked)].astype(np.int64)


class Mixture:
    def __init__(self, work, seed):
        self.shards = {n: Rows(work / f"{n}.npy", seed) for n in MIX if (work / f"{n}.npy").exists()}
        self.rng = np.random.default_rng(seed)

    def batch(self, n, progress):
        share = np.array([MIX[s][0] + progress * (MIX[s][1] - MIX[s][0]) for s in self.shards])
        counts = self.rng.multinomial(n, share / share.sum())
        return torch.from_numpy(np.concatenate(
            [shard.take(c) for shard, c in zip(self.shards.values(), counts) if c]))


def learning_rate(step, progress):
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * min(1.0, max(0.0, (1 - progress) / (1 - FLAT_UNTIL)))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("work", type=Path)
    p.add_argument("--minutes", type=float, default=80, help="wall clock of the whole run, pauses included")
    p.add_argument("--until", help="or: the UTC time of day to end at, HH:MM")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--batch", type=int, default=8, help="rows of 512 tokens a step")
    p.add_argument("--muon", type=float, default=0.02)
    p.add_argument("--embedding", type=float, default=4e-3)
    p.add_argument("--save-every", type=float, default=300, help="seconds between checkpoints")
    p.add_argument("--name", default="checkpoint", help="file name of the checkpoint; it is resumed from if it exists")
    for field, value in Shape().as_dict().items():
        p.add_argument(f"--{field.replace('_', '-')}", type=int, default=value)
    args = p.parse_args()
    torch.set_num_threads(os.cpu_count() if args.device == "cpu" else 4)
    torch.manual_seed(0)

    checkpoint = args.work / f"{args.name}.pt"
    saved = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
    shape = Shape(**(saved["shape"] if saved else {f: getattr(args, f) for f in Shape().as_dict()}))
    model = Gemma(shape).to(args.device)
    matrices = [q for n, q in model.named_parameters() if q.ndim == 2 and "embed" not in n]
    vectors = [q for q in model.parameters() if q.ndim == 1]
    embedding = model.model.embed_tokens.weight
    muon = Muon(matrices)
    adam = torch.optim.AdamW([dict(params=[embedding], base=args.embedding), dict(params=vectors, base=2e-3)],
                             lr=1e-3, betas=(0.9, 0.97), weight_decay=0.0, fused=True)
    step, tokens, began = 0, 0, time.time()
    if saved:
        model.load_state_dict(saved["model"])
        muon.load(saved["muon"])
        adam.load_state_dict(saved["adam"])
        step, tokens, began = saved["step"], saved["tokens"], saved["began"]
    ends = began + 60 * args.minutes
    if args.until:
        now = time.gmtime()
        hour, minute = map(int, args.until.split(":"))
        ends = time.time() - (now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec) + hour * 3600 + minute * 60
    parameters = sum(q.numel() for q in model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {(ends - time.time()) / 60:.1f} minutes left", flush=True)

    data, compiled = Mixture(args.work, 3 + step), torch.compile(model)
    log = open(args.work / f"{args.name}.jsonl", "a")
    losses, shown, stored, shown_tokens = [], time.time(), time.time(), tokens

    def save(path):
        torch.save({"shape": shape.as_dict(), "model": model.state_dict(), "muon": muon.state(),
                    "adam": adam.state_dict(), "step": step, "tokens": tokens, "began": began}, f"{path}.new")
        os.replace(f"{path}.new", path)

    while (progress := (time.time() - began) / (ends - began)) < 1:
        rows = data.batch(args.batch, progress).to(args.device)
        targets = rows[:, 1:].clone()
        for control in UNPREDICTED:
            targets[targets == control] = -1
        with torch.autocast(args.device, torch.bfloat16):
            loss = compiled(rows[:, :-1].contiguous(), targets)
        loss.backward()
        scale = learning_rate(step, progress)
        torch.nn.utils.clip_grad_norm_([embedding, *vectors], 1.0)
        muon.step(args.muon * scale)
        for group in adam.param_groups:
            group["lr"] = group["base"] * scale
        adam.step()
        model.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + targets.numel()
        losses.append(loss.item() if step % 5 == 0 else None)
        if time.time() - shown > 20:
            seen = [x for x in losses if x is not None]
            speed, mean = (tokens - shown_tokens) / (time.time() - shown), sum(seen) / max(1, len(seen))
            print(f"{progress:6.1%} step {step} {tokens / 1e6:.2f} M tokens, loss {mean:.3f}, "
                  f"{speed:.0f} tokens/s, rate {scale:.3f}", flush=True)
            log.write(json.dumps({"step": step, "tokens": tokens, "seconds": round(time.time() - began),
                                  "loss": round(mean, 4), "rate": round(scale, 4)}) + "\n")
            log.flush()
            losses, shown, shown_tokens = [], time.time(), tokens
        if time.time() - stored > args.save_every:
            save(checkpoint)
            stored = time.time()
    save(checkpoint)
    print(f"ended after {step} steps, {tokens / 1e6:.2f} M tokens", flush=True)


if __name__ == "__main__":
    main()
