"""Trains the network against the clock: the learning rate reaches zero when the time is up, and the weights of the last
third of the run are averaged.

On a CPU one single-threaded process per core takes its share of every step,
and they meet twice a step: on a machine that also does other work that is
several times faster than threads that meet at every operation. Prints a
progress line, writes a checkpoint every few minutes and resumes from it.
Reads `SHARD.npy`; writes `NAME.pt` and `NAME.jsonl`. With `--warm` it starts
from the weights of a model directory, with fresh momentum.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from data import GIVEN
from gemma import Gemma, Shape
from muon import Muon

# Share of the rows drawn from each shard at the start and at the end of the run.
MIX = "files=0.60:0.25,functions=0.25:0.20,idioms=0.15:0.55"
# The shard with the long rows, and how many ids one of them has for each of the others.
LONG, TIMES = "long", 4
EOS, MIDDLE = 1, 68
UNPREDICTED = (0, 2, 67, 68, 69, 70)  # padding and what the caller writes, never the model
WARMUP_STEPS, FLAT_UNTIL = 60, 0.35
# The average of weights begins here, and keeps so much of itself with each step.
AVERAGED_FROM, AVERAGE_KEEPS = 0.7, 0.998


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


def parse_mix(text):
    """`SHARD=START:END,...` as a dictionary of pairs."""
    return {name: tuple(map(float, shares.split(":"))) for name, shares in (part.split("=") for part in text.split(","))}


class Mixture:
    """Batches of rows: what the network reads, what it should predict, and how much each prediction counts."""

    def __init__(self, args, seed):
        self.mix, self.middle, self.long = args.mix, args.middle, args.long
        self.shards = {n: Rows(args.work / f"{n}.npy", seed) for n in self.mix}
        self.long_rows = Rows(args.work / f"{LONG}.npy", seed) if self.long else None
        self.rng = np.random.default_rng(seed)

    def batch(self, n, progress, step):
        """`n` rows, or as many tokens in long rows: all workers decide alike, because they wait for each other."""
        if long_step(step, self.long):
            rows = self.long_rows.take(max(1, n // TIMES))
        else:
            share = np.array([a + progress * (b - a) for a, b in self.mix.values()])
            counts = self.rng.multinomial(n, share / share.sum())
            rows = np.concatenate([shard.take(c) for shard, c in zip(self.shards.values(), counts) if c])
        given, rows = rows & GIVEN != 0, rows & ~GIVEN
        weights = (1.0 + (self.middle - 1.0) * in_holes(rows)[:, :-1]) * ~given[:, 1:]
        rows = torch.from_numpy(rows)
        targets = rows[:, 1:].clone()
        for control in UNPREDICTED:
            targets[targets == control] = -1
        weights = torch.from_numpy(weights.astype(np.float32)) * (targets >= 0)
        return rows[:, :-1].contiguous(), targets.clamp_(min=0), weights


def long_step(step, share):
    """Whether a step takes long rows."""
    return np.random.default_rng(step).random() < share


def in_holes(rows):
    """Which ids of the rows are followed by one of a hole's, its <eos> among them."""
    at = np.arange(rows.shape[1])
    last = lambda which: np.maximum.accumulate(np.where(which, at, -1), axis=1)
    return last(rows == MIDDLE) > last(rows == EOS)


def learning_rate(step, progress):
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * min(1.0, max(0.0, (1 - progress) / (1 - FLAT_UNTIL)))


class Trainer:
    """What the workers share: weights, gradients, momentum and the clock."""

    def __init__(self, args):
        self.args, self.world = args, args.workers
        self.checkpoint = args.work / f"{args.name}.pt"
        saved = torch.load(self.checkpoint, weights_only=True) if self.checkpoint.exists() else None
        if saved:
            self.shape = Shape(**saved["shape"])
        elif args.warm:
            self.shape = Shape.of(json.loads((args.warm / "config.json").read_text()), args.context)
        else:
            self.shape = Shape(**{f: getattr(args, f) for f in Shape().as_dict()})
        self.model = Gemma(self.shape).to(args.device)
        if args.warm and not saved:
            self.model.load_state_dict(load_file(args.warm / "model.safetensors"))
        named = list(self.model.named_parameters())
        self.embedding = self.model.model.embed_tokens.weight
        self.vectors = [p for _, p in named if p.ndim == 1]
        matrices = [(n, p) for n, p in named if p.ndim == 2 and p is not self.embedding]
        self.muons = [Muon(matrices[r::self.world]) for r in range(self.world)]
        self.adam_state = saved and saved["adam"]
        self.average = saved and saved["average"]
        self.step, self.tokens, self.began = 0, 0, time.time()
        if saved:
            self.model.load_state_dict(saved["model"])
            for muon in self.muons:
                muon.load(saved["muon"])
            self.step, self.tokens, self.began = saved["step"], saved["tokens"], saved["began"]
        self.ends = self.began + 60 * args.minutes
        if args.until:
            midnight = time.time() // 86400 * 86400
            hour, minute = map(int, args.until.split(":"))
            self.ends = midnight + hour * 3600 + minute * 60
        self.gradients = [[torch.zeros_like(p) for _, p in named] for _ in range(self.world)]
        self.clock = torch.zeros(1, dtype=torch.float64)
        self.tick()
        if self.world > 1:
            self.model.share_memory()
            self.clock.share_memory_()
            for tensor in (t for one in self.gradients for t in one):
                tensor.share_memory_()
            for muon in self.muons:
                muon.share()
            self.barrier = mp.get_context("spawn").Barrier(self.world)
        size = sum(p.numel() for _, p in named)
        print(f"{size / 1e6:.2f} M parameters, {(self.ends - time.time()) / 60:.1f} minutes left", flush=True)

    def tick(self):
        self.clock[0] = (time.time() - self.began) / (self.ends - self.began)

    def meet(self):
        if self.world > 1:
            self.barrier.wait()

    def save(self):
        momentum = {k: v for muon in self.muons for k, v in muon.state().items()}
        partial = f"{self.checkpoint}.new"
        torch.save({"shape": self.shape.as_dict(), "model": self.model.state_dict(), "average": self.average, "muon": momentum,
                    "adam": self.adam.state_dict(), "step": self.step, "tokens": self.tokens,
                    "began": self.began}, partial)
        os.replace(partial, self.checkpoint)

    @torch.no_grad()
    def take_average(self):
        now = self.model.state_dict()
        if self.average is None:
            self.average = {name: value.clone() for name, value in now.items()}
        for name, value in self.average.items():
            value.lerp_(now[name], 1 - AVERAGE_KEEPS)

    def backward(self, compiled, *batch):
        with torch.autocast(self.args.device, torch.bfloat16):
            loss = compiled(*(part.to(self.args.device) for part in batch))
        loss.backward()
        return loss

    def update(self, rank, scale):
        """Each worker steps its own part of the weights with everybody's gradients."""
        parameters = list(self.model.parameters())
        mine = {id(p) for members in self.muons[rank].groups.values() for _, p in members}
        if rank == 0:
            mine |= {id(p) for p in [self.embedding, *self.vectors]}
        for i, p in enumerate(parameters):
            if id(p) in mine:
                for other in range(self.world):
                    if other != rank:
                        p.grad.add_(self.gradients[other][i])
                p.grad.div_(self.world)
        self.muons[rank].step(self.args.muon * scale)
        if rank == 0:
            torch.nn.utils.clip_grad_norm_([self.embedding, *self.vectors], 1.0)
            for group in self.adam.param_groups:
                group["lr"] = group["base"] * scale
            self.adam.step()

    def work(self, rank):
        """One worker's loop; the first one keeps the clock, the log and the checkpoints."""
        torch.manual_seed(rank)
        if self.args.device == "cpu":
            torch.set_num_threads(1)
        if rank == 0:
            self.adam = torch.optim.AdamW(
                [dict(params=[self.embedding], base=self.args.embedding), dict(params=self.vectors, base=self.args.embedding / 2)],
                lr=1e-3, betas=(0.9, 0.97), weight_decay=0.0, fused=True)
            if self.adam_state:
                self.adam.load_state_dict(self.adam_state)
        rows = self.args.batch // self.world
        data = Mixture(self.args, 1000 * rank + self.step)
        # One graph for each of the two lengths of rows.
        compiled = torch.compile(self.model, dynamic=False)
        for p, g in zip(self.model.parameters(), self.gradients[rank]):
            p.grad = g
        for turn in range(self.world):  # one compiles, the others find the result in the cache
            if turn == rank:
                for step in {long_step(step, self.args.long): step for step in range(1000)}.values():
                    self.backward(compiled, *data.batch(rows, 0.0, step))
            self.meet()
        losses, shown, stored, shown_tokens = [], time.time(), time.time(), self.tokens
        while (progress := self.clock.item()) < 1:
            for g in self.gradients[rank]:
                g.zero_()
            batch = data.batch(rows, progress, self.step)
            loss = self.backward(compiled, *batch)
            self.meet()
            scale = learning_rate(self.step, progress)
            self.update(rank, scale)
            self.step, self.tokens = self.step + 1, self.tokens + batch[0].numel() * self.world
            if rank == 0:
                self.tick()
            self.meet()
            if rank != 0:
                continue
            if progress >= AVERAGED_FROM:
                self.take_average()
            if self.step % 5 == 0:
                losses.append(loss.item())
            if losses and time.time() - shown > 20:
                speed, mean = (self.tokens - shown_tokens) / (time.time() - shown), sum(losses) / len(losses)
                print(f"{progress:6.1%} step {self.step} {self.tokens / 1e6:.2f} M tokens, loss {mean:.3f}, "
                      f"{speed:.0f} tokens/s, rate {scale:.3f}", flush=True)
                with open(self.args.work / f"{self.args.name}.jsonl", "a") as log:
                    log.write(json.dumps({"step": self.step, "tokens": self.tokens, "loss": round(mean, 4),
                                          "seconds": round(time.time() - self.began)}) + "\n")
                losses, shown, shown_tokens = [], time.time(), self.tokens
            if time.time() - stored > self.args.save_every:
                self.save()
                stored = time.time()
        if rank == 0:
            self.save()
            print(f"ended after {self.step} steps, {self.tokens / 1e6:.2f} M tokens", flush=True)


def main():
    cuda = torch.cuda.is_available()
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("work", type=Path)
    p.add_argument("--minutes", type=float, default=80, help="wall clock of the whole run, pauses included")
    p.add_argument("--until", help="or: the UTC time of day to end at, HH:MM")
    p.add_argument("--device", default="cuda" if cuda else "cpu")
    p.add_argument("--workers", type=int, default=1 if cuda else os.cpu_count())
    p.add_argument("--batch", type=int, default=128 if cuda else 8, help="rows of 512 tokens a step, or as many tokens")
    p.add_argument("--muon", type=float, default=0.02)
    p.add_argument("--embedding", type=float, default=4e-3)
    p.add_argument("--mix", type=parse_mix, default=MIX, help="shares of the shards, at the start and at the end")
    p.add_argument("--long", type=float, default=0.0, help="share of the steps that take long rows instead")
    p.add_argument("--middle", type=float, default=1.0, help="how much a token of a hole counts, next to others")
    p.add_argument("--warm", type=Path, help="start from the weights in this model directory, and its shape")
    p.add_argument("--save-every", type=float, default=300, help="seconds between checkpoints")
    p.add_argument("--name", default="checkpoint", help="of the checkpoint; it is resumed from if it exists")
    for field, value in Shape().as_dict().items():
        p.add_argument(f"--{field.replace('_', '-')}", type=int, default=value)
    args = p.parse_args()
    if args.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer = Trainer(args)
    if trainer.world == 1:
        trainer.work(0)
        return
    workers = [mp.get_context("spawn").Process(target=trainer.work, args=(r,)) for r in range(trainer.world)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    if any(w.exitcode for w in workers):
        raise SystemExit("a worker failed")


if __name__ == "__main__":
    main()
