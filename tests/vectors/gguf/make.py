"""Makes the files beside it, with the `gguf` package's reading of every block:

    python tests/vectors/gguf/make.py        needs gguf 0.19 and numpy

- blocks.json: random blocks of each type, and the numbers in them. Nearly all bits are random; only f16 scales are
  kept finite.
- types.gguf, types.json: a small random Gemma in every type that is read, and its logits.
- narrow.gguf, narrow.json: one whose rows are no multiple of 256 long, in the types that llama-quantize uses there.

The logits are computed here, in f64. The `gguf` package cannot quantize to the K types and IQ4, so those blocks are
random bytes with scales of a fitting size.
"""

import dataclasses
import json
import pathlib

import gguf
import numpy
from gguf import GGMLQuantizationType as Type

HERE = pathlib.Path(__file__).parent
TOKENS = [2, 67, 100, 7, 69, 42, 68]
RANDOM = numpy.random.default_rng(20)

# Where the f16 of a block are, in bytes from its beginning.
HALVES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.IQ4_NL: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_XS: [0],
}  # fmt: skip

# What those are in the blocks of a model, so that weights are about as large as trained ones.
SCALES = {
    Type.Q2_K: [0.005, 0.008], Type.Q3_K: [0.0012], Type.Q4_K: [0.0004, 0.003], Type.Q5_K: [0.0002, 0.003],
    Type.Q6_K: [0.00004], Type.IQ4_NL: [0.0008], Type.IQ4_XS: [0.00005],
}  # fmt: skip


@dataclasses.dataclass
class Shape:
    hidden: int
    inner: int
    heads: int
    head_dim: int
    vocabulary: int


# A model's types: of the embedding, and for each layer of q, k, v, output, gate, up and down. q, k and v are one matrix
# to the reader, and so are gate and up, which must make one type of several. The device's kernels want heads of 256.
TYPES = Shape(256, 256, 1, 256, 128), Type.Q6_K, [
    [Type.Q4_K, Type.Q8_0, Type.Q6_K, Type.IQ4_XS, Type.Q4_K, Type.Q4_K, Type.BF16],
    [Type.Q5_K, Type.Q5_K, Type.Q6_K, Type.Q2_K, Type.Q2_K, Type.Q3_K, Type.Q5_K],
    [Type.IQ4_NL, Type.Q5_0, Type.Q4_1, Type.Q4_0, Type.Q5_1, Type.F16, Type.Q3_K],
]  # fmt: skip
NARROW = Shape(96, 160, 1, 256, 112), Type.Q8_0, [
    [Type.Q5_0, Type.Q5_0, Type.Q8_0, Type.Q5_1, Type.Q4_0, Type.IQ4_NL, Type.Q4_1],
    [Type.Q5_1, Type.Q5_1, Type.Q5_1, Type.Q5_0, Type.Q4_0, Type.Q4_0, Type.IQ4_NL],
]  # fmt: skip


def random_blocks(kind, count, scales):
    """Blocks of random bits, whose f16 are `scales`, a column of them for each."""
    data = RANDOM.integers(0, 256, (count, gguf.GGML_QUANT_SIZES[kind][1]), dtype=numpy.uint8)
    for at, scale in zip(HALVES[kind], scales):
        data[:, at : at + 2] = numpy.broadcast_to(scale, (count, 1)).astype(numpy.float16).view(numpy.uint8)
    return data


def weights(kind, rows, columns):
    """Bytes of a tensor of about the size of trained weights."""
    if kind not in SCALES:
        return gguf.quants.quantize(RANDOM.normal(0, 0.06, (rows, columns)).astype(numpy.float32), kind)
    count = rows * columns // gguf.GGML_QUANT_SIZES[kind][0]
    return random_blocks(kind, count, SCALES[kind]).reshape(rows, -1)


def norm(x, scale):
    return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale


def rotate(x):
    half = x.shape[-1] // 2
    angles = numpy.arange(len(x))[:, None] / 10000.0 ** (numpy.arange(half) / half)
    cos, sin = numpy.cos(angles)[:, None], numpy.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return numpy.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def logits(shape, tensors, layers):
    stream = tensors["token_embd"][TOKENS] * shape.hidden**0.5
    for layer in range(layers):
        part = lambda name: tensors[f"blk.{layer}.{name}"]
        x = norm(stream, part("attn_norm"))
        queries = rotate((x @ part("attn_q").T).reshape(-1, shape.heads, shape.head_dim))
        keys = rotate((x @ part("attn_k").T)[:, None])[:, 0]
        values = x @ part("attn_v").T
        scores = numpy.einsum("qhd,kd->hqk", queries, keys) / shape.head_dim**0.5
        scores += numpy.triu(numpy.full((len(TOKENS),) * 2, -numpy.inf), 1)
        scores = numpy.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        seen = numpy.einsum("hqk,kd->qhd", scores, values).reshape(len(TOKENS), -1)
        stream = stream + seen @ part("attn_output").T
        x = norm(stream, part("ffn_norm"))
        gate = x @ part("ffn_gate").T
        gate = 0.5 * gate * (1 + numpy.tanh((2 / numpy.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
        stream = stream + (gate * (x @ part("ffn_up").T)) @ part("ffn_down").T
    return norm(stream[-1], tensors["output_norm"]) @ tensors["token_embd"].T


def write_model(name, shape, embedding, layers):
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", "gemma")
    writer.add_name(name)
    writer.add_context_length(512)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(len(layers))
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_token_list([f"token {number}" for number in range(shape.vocabulary)])
    tensors = {}

    def add(tensor, kind, rows, columns):
        data = weights(kind, rows, columns)
        tensors[tensor] = gguf.quants.dequantize(data, kind).astype(numpy.float64).reshape(rows, columns)
        writer.add_tensor(f"{tensor}.weight", data, raw_dtype=kind)

    def add_norm(tensor):
        scale = RANDOM.normal(1, 0.2, shape.hidden).astype(numpy.float32)
        tensors[tensor] = scale.astype(numpy.float64)
        writer.add_tensor(f"{tensor}.weight", scale)

    add("token_embd", embedding, shape.vocabulary, shape.hidden)
    queries = shape.heads * shape.head_dim
    for number, kinds in enumerate(layers):
        for part, kind, rows, columns in zip(
            ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"],
            kinds,
            [queries, shape.head_dim, shape.head_dim, shape.hidden, shape.inner, shape.inner, shape.hidden],
            [shape.hidden, shape.hidden, shape.hidden, queries, shape.hidden, shape.hidden, shape.inner],
        ):
            add(f"blk.{number}.{part}", kind, rows, columns)
        add_norm(f"blk.{number}.attn_norm")
        add_norm(f"blk.{number}.ffn_norm")
    add_norm("output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    computed = [round(float(logit), 5) for logit in logits(shape, tensors, len(layers))]
    (HERE / f"{name}.json").write_text(json.dumps({"tokens": TOKENS, "logits": computed}) + "\n", encoding="utf-8")
    print(name, "largest logit", max(map(abs, computed)))


def write_blocks():
    cases = {}
    for kind, halves in HALVES.items():
        count = 256 // gguf.GGML_QUANT_SIZES[kind][0]
        data = random_blocks(kind, count, [RANDOM.normal(0, 0.01, (count, 1)) for _ in halves])
        numbers = gguf.quants.dequantize(data, kind).astype("<f4")
        cases[kind.name] = {"blocks": data.tobytes().hex(), "numbers": numbers.tobytes().hex()}
    (HERE / "blocks.json").write_text(json.dumps(cases, indent=0) + "\n", encoding="utf-8")


def main():
    write_blocks()
    write_model("types", *TYPES)
    write_model("narrow", *NARROW)


if __name__ == "__main__":
    main()
