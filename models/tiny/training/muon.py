"""Muon: momentum whose update is orthogonalised, for the weight matrices.

Matrices of one shape are stepped together. Knows nothing of the network.
"""

import torch


class Muon:
    """Steps `named`, pairs of a name and a matrix that has a gradient."""

    def __init__(self, named, momentum=0.95, decay=0.02):
        self.momentum, self.decay, self.groups = momentum, decay, {}
        for name, p in named:
            self.groups.setdefault(tuple(p.shape), []).append((name, p))
        self.buffers = {
            shape: torch.zeros(len(members), *shape, device=members[0][1].device)
            for shape, members in self.groups.items()
        }

    @torch.no_grad()
    def step(self, lr):
        for shape, members in self.groups.items():
            grad, buffer = torch.stack([p.grad for _, p in members]), self.buffers[shape]
            buffer.lerp_(grad, 1 - self.momentum)
            update = orthogonal(grad.lerp(buffer, self.momentum))
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for (_, p), u in zip(members, update):
                p.mul_(1 - lr * self.decay).add_(u, alpha=-lr * scale)

    def share(self):
        """Puts the momentum where the other processes see each other's."""
        for buffer in self.buffers.values():
            buffer.share_memory_()

    def state(self):
        return {name: self.buffers[shape][i].clone()
                for shape, members in self.groups.items() for i, (name, _) in enumerate(members)}

    def load(self, state):
        for shape, members in self.groups.items():
            for i, (name, _) in enumerate(members):
                self.buffers[shape][i].copy_(state[name])


def orthogonal(grad):
    """The nearest orthogonal matrices, by five Newton-Schulz steps in bf16."""
    tall = grad.shape[-2] > grad.shape[-1]
    x = (grad.mT.contiguous() if tall else grad).bfloat16()
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).bfloat16() + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.mT if tall else x).float()
