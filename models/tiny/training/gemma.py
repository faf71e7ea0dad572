"""Gemma's decoder in plain PyTorch, small enough to train on a CPU.

The parameter names are those of `transformers.GemmaForCausalLM`, so that the
export is a rename-free copy. Attention is two batched matrix products instead
of the fused kernel: with one key/value head every query head shares the same
keys, so that heads fold into the row dimension, which the CPU's bf16 units
run about twice as fast as the fused kernel at a head size of 256.

Knows nothing of data, files or optimisers.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

CHUNKS = 4  # a row's positions are attended in so many parts


@dataclass
class Shape:
    """The numbers that fix the network; the rest is Gemma's own."""

    vocab: int = 4096
    hidden: int = 256
    layers: int = 5
    heads: int = 2
    head_dim: int = 256
    ffn: int = 768
    context: int = 2048

    def config(self) -> dict:
        """`config.json` as `GemmaForCausalLM` and codeseal read it."""
        return {
            "architectures": ["GemmaForCausalLM"],
            "model_type": "gemma",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": 1,
            "head_dim": self.head_dim,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
            "use_cache": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
            "torch_dtype": "bfloat16",
        }

    @classmethod
    def of(cls, config: dict, context: int) -> "Shape":
        """The shape that a `config.json` names, for texts of at most `context` tokens."""
        return cls(config["vocab_size"], config["hidden_size"], config["num_hidden_layers"],
                   config["num_attention_heads"], config["head_dim"], config["intermediate_size"], context)

    def as_dict(self) -> dict:
        return asdict(self)


class Norm(nn.Module):
    """RMSNorm scaled by 1 + weight."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class Attention(nn.Module):
    """Multi-query attention with rotary positions."""

    def __init__(self, s: Shape):
        super().__init__()
        self.heads, self.head_dim = s.heads, s.head_dim
        self.q_proj = nn.Linear(s.hidden, s.heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.hidden, s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden, s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.hidden, bias=False)

    def forward(self, x, cos, sin, mask):
        batch, length, _ = x.shape
        h, d = self.heads, self.head_dim
        q = self.q_proj(x).view(batch, length * h, d)
        k, v = self.k_proj(x), self.v_proj(x)
        # Rows of q are (position, head): each position's angles repeat per head.
        q = rotate(q, cos.repeat_interleave(h, 0), sin.repeat_interleave(h, 0)).to(v.dtype)
        k = rotate(k, cos, sin).to(v.dtype)
        mixed = []
        part = -(-length // CHUNKS)
        for start in range(0, length, part):  # what comes later is not even multiplied
            end = min(length, start + part)
            scores = torch.bmm(q[:, start * h:end * h], k[:, :end].transpose(1, 2)) * (1 / math.sqrt(d))
            scores = scores.float() + mask[start:end, :end].repeat_interleave(h, 0)
            mixed.append(torch.bmm(torch.softmax(scores, -1).to(v.dtype), v[:, :end]))
        return self.o_proj(torch.cat(mixed, 1).view(batch, length, h * d))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Mlp(nn.Module):
    """GeGLU with the tanh form of GELU."""

    def __init__(self, s: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden, s.ffn, bias=False)
        self.up_proj = nn.Linear(s.hidden, s.ffn, bias=False)
        self.down_proj = nn.Linear(s.ffn, s.hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.self_attn, self.mlp = Attention(s), Mlp(s)
        self.input_layernorm = Norm(s.hidden)
        self.post_attention_layernorm = Norm(s.hidden)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(s.vocab, s.hidden)
        self.layers = nn.ModuleList(Block(s) for _ in range(s.layers))
        self.norm = Norm(s.hidden)


class Gemma(nn.Module):
    """The whole network; `forward` gives logits, or with targets the mean loss, weighted."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        inv = 10000.0 ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angles = torch.arange(shape.context).float()[:, None] * inv
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.03)
        for block in self.model.layers:
            for p in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj,
                      block.mlp.gate_proj, block.mlp.up_proj):
                nn.init.normal_(p.weight, std=0.8 / math.sqrt(shape.hidden))
            for p in (block.self_attn.o_proj, block.mlp.down_proj):
                fan = p.weight.shape[1]
                nn.init.normal_(p.weight, std=0.5 / math.sqrt(fan * 2 * shape.layers))

    def forward(self, ids, targets=None, weights=None):
        length = ids.shape[1]
        x = self.model.embed_tokens(ids) * math.sqrt(self.shape.hidden)
        mask = torch.full((length, length), float("-inf"), device=ids.device).triu(1)
        cos, sin = self.cos[:length], self.sin[:length]
        for block in self.model.layers:
            x = block(x, cos, sin, mask)
        logits = F.linear(self.model.norm(x), self.model.embed_tokens.weight)
        if targets is None:
            return logits
        losses = F.cross_entropy(logits.float().view(-1, logits.shape[-1]), targets.reshape(-1), reduction="none")
        weights = weights.reshape(-1)
        return (losses * weights).sum() / weights.sum()
