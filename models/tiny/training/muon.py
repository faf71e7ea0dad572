"""Muon: momentum whose update is orthogonalised, for the weight matrices.

Matrices of one shape are stepped together. Knows nothing of the network.
"""

import torch


class Muon:
    def __init__(self, params, momentum=0.95, decay=0.02):
        self.momentum, self.decay, self.groups = momentum, decay, {}
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {
            shape: torch.zeros(len(ps), *shape, device=ps[0].device)
            for shape, ps in self.groups.items()
        }

    @torch.no_grad()
    def step(self, lr):
        for shape, params in self.groups.items():
            grad, buffer = torch.stack([p.grad for p in params]), self.buffers[shape]
            buffer.lerp_(grad, 1 - self.momentum)
            update = orthogonal(grad.lerp(buffer, self.momentum))
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for p, u in zip(params, update):
                p.mul_(1 - lr * self.decay).add_(u, alpha=-lr * scale)

    def state(self):
        return {"x".join(map(str, k)): v for k, v in self.buffers.items()}

    def load(self, state):
        for shape, buffer in self.buffers.items():
            buffer.copy_(state["x".join(map(str, shape))])


def orthogonal(grad):
    """The nearest orthogonal matrices, by five Newton-Schulz steps in bf16."""
    tall = grad.shape[-2] > grad.shape[-1]
    x = (grad.mT.contiguous() if tall else grad).bfloat16()
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).bfloat16() + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.mT if tall else x).float()
