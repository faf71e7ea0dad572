"""Makes types.gguf and types.json beside it: a small random Gemma in every type that is read, and its logits.

    python tests/vectors/gguf/make.py        needs gguf and numpy

The file is written by the `gguf` package, and what its blocks mean is what that package reads in them. It cannot
quantise to Q4_K and Q6_K, so those blocks are random bytes with scales of a fitting size. The logits are computed
here, in f64.
"""

import json
import pathlib

import gguf
import numpy
from gguf import GGMLQuantizationType as Type

HERE = pathlib.Path(__file__).parent
HIDDEN, INNER, HEADS, HEAD_DIM, VOCABULARY = 256, 256, 2, 128, 128
TOKENS = [2, 67, 100, 7, 69, 42, 68]
RANDOM = numpy.random.default_rng(20)

# Types of each part; q, k and v are one matrix to the reader, which must make one type of three.
TYPES = {
    "token_embd": (Type.Q6_K, VOCABULARY, HIDDEN),
    "blk.0.attn_q": (Type.Q4_K, HEADS * HEAD_DIM, HIDDEN),
    "blk.0.attn_k": (Type.Q8_0, HEAD_DIM, HIDDEN),
    "blk.0.attn_v": (Type.Q6_K, HEAD_DIM, HIDDEN),
    "blk.0.attn_output": (Type.F16, HIDDEN, HEADS * HEAD_DIM),
    "blk.0.ffn_gate": (Type.Q4_K, INNER, HIDDEN),
    "blk.0.ffn_up": (Type.Q4_K, INNER, HIDDEN),
    "blk.0.ffn_down": (Type.BF16, HIDDEN, INNER),
}


def blocks(kind, rows, columns):
    """Bytes of a tensor of about the size of trained weights."""
    if kind not in (Type.Q4_K, Type.Q6_K):
        return gguf.quants.quantize(RANDOM.normal(0, 0.06, (rows, columns)).astype(numpy.float32), kind)
    count = rows * columns // 256
    half = lambda value: numpy.full((count, 1), value, numpy.float16).view(numpy.uint8)
    random = lambda length: RANDOM.integers(0, 256, (count, length), dtype=numpy.uint8)
    if kind == Type.Q4_K:
        parts = [half(0.0004), half(0.003), random(12), random(128)]
    else:
        parts = [random(128), random(64), random(16), half(0.00004)]
    return numpy.concatenate(parts, axis=1).reshape(rows, -1)


def norm(x, scale):
    return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale


def rotate(x):
    half = HEAD_DIM // 2
    angles = numpy.arange(len(x))[:, None] / 10000.0 ** (numpy.arange(half) * 2 / HEAD_DIM)
    cos, sin = numpy.cos(angles)[:, None], numpy.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return numpy.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def logits(weights):
    part = lambda name: weights[f"blk.0.{name}"]
    stream = weights["token_embd"][TOKENS] * HIDDEN**0.5
    x = norm(stream, part("attn_norm"))
    queries = rotate((x @ part("attn_q").T).reshape(-1, HEADS, HEAD_DIM))
    keys = rotate((x @ part("attn_k").T)[:, None])[:, 0]
    values = x @ part("attn_v").T
    scores = numpy.einsum("qhd,kd->hqk", queries, keys) / HEAD_DIM**0.5
    scores += numpy.triu(numpy.full((len(TOKENS),) * 2, -numpy.inf), 1)
    scores = numpy.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    seen = numpy.einsum("hqk,kd->qhd", scores, values).reshape(len(TOKENS), -1)
    stream = stream + seen @ part("attn_output").T
    x = norm(stream, part("ffn_norm"))
    gate = x @ part("ffn_gate").T
    gate = 0.5 * gate * (1 + numpy.tanh((2 / numpy.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
    stream = stream + (gate * (x @ part("ffn_up").T)) @ part("ffn_down").T
    return norm(stream[-1], weights["output_norm"]) @ weights["token_embd"].T


def main():
    writer = gguf.GGUFWriter(HERE / "types.gguf", "gemma")
    writer.add_name("types")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_token_list([f"token {number}" for number in range(VOCABULARY)])
    weights = {}
    for name, (kind, rows, columns) in TYPES.items():
        data = blocks(kind, rows, columns)
        weights[name] = gguf.quants.dequantize(data, kind).astype(numpy.float64).reshape(rows, columns)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]:
        scale = RANDOM.normal(1, 0.2, HIDDEN).astype(numpy.float32)
        weights[name] = scale.astype(numpy.float64)
        writer.add_tensor(f"{name}.weight", scale)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = {"tokens": TOKENS, "logits": [round(float(logit), 5) for logit in logits(weights)]}
    (HERE / "types.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")
    print("largest logit", max(map(abs, expected["logits"])))


if __name__ == "__main__":
    main()
