"""Makes the fixtures beside it: what the `transformers` library's Gemma computes for small random models.

    python tests/vectors/gemma/make.py        needs numpy, safetensors, tokenizers, torch and transformers

No weights are kept. Both sides make them by the same formula: element i of the tensor NAME is
(mix(fnv1a(NAME) + i) >> 40) / 2^24 - 0.5, times a scale that depends on the tensor, where mix is SplitMix64's
output function and all arithmetic is modulo 2^64. Every such number is exact in f32.

NAME.json holds the configuration and the prompt, NAME.safetensors the logits of chosen positions.
golden.json holds what models/tiny writes, greedily and up to its own end: run this again whenever that model is remade.
"""

import json
import pathlib

import numpy
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
TINY = HERE.parents[2] / "models" / "tiny"

# Proportions of the 2B model (many query heads, one key/value head), of the 7B model (as many of each, together
# wider than the residual stream), head_dim 256, grouped heads with an odd vocabulary, and a text that is
# longer than one piece of prefill.
CASES = {
    "mqa": dict(hidden_size=64, intermediate_size=512, num_hidden_layers=3, num_attention_heads=8,
                num_key_value_heads=1, head_dim=8, vocab_size=256),
    "mha": dict(hidden_size=48, intermediate_size=384, num_hidden_layers=4, num_attention_heads=16,
                num_key_value_heads=16, head_dim=4, vocab_size=199),
    "wide": dict(hidden_size=40, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3,
                 num_key_value_heads=1, head_dim=256, vocab_size=300),
    "grouped": dict(hidden_size=36, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
                    num_key_value_heads=2, head_dim=10, vocab_size=131, rope_theta=500.0, attention_bias=True),
    "long": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                 num_key_value_heads=1, head_dim=32, vocab_size=128),
}
SHORT, LONG = 24, 1300

# What models/tiny is asked to continue: plain text, and the text of a hole before and after it.
PROMPTS = [
    ("def fibonacci(n):\n    if n < 2:\n", None),
    ("def count_words(text):\n    counts = {}\n    for word in text.split():\n        ", "\n    return counts\n"),
    ("# naïve → 10 €\ndef add(a, b):\n", None),
    ("def is_prime(n):\n", None),
]
NEW_TOKENS, EOS = 48, 1
# The least difference between the two largest logits: greedy decoding must choose the same token where activations are
# rounded to bf16.
MARGIN = 0.1


def mix(values):
    """SplitMix64's output function."""
    values = values + numpy.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))


def fnv1a(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def formula(name, shape):
    """The weights that the tensor `name` has in every one of these models."""
    index = numpy.arange(numpy.prod(shape), dtype=numpy.uint64) + numpy.uint64(fnv1a(name))
    uniform = (mix(index) >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(2**24) - numpy.float32(0.5)
    scale = 0.25 if "embed_tokens" in name else 1.0 if "norm" in name or "bias" in name else 0.5
    return torch.from_numpy((uniform * numpy.float32(scale)).reshape(shape))


def logits(shape, length):
    config = transformers.GemmaConfig(
        **{key: value for key, value in shape.items() if key != "rope_theta"},
        rope_parameters={"rope_type": "default", "rope_theta": shape.get("rope_theta", 10000.0)},
        hidden_act="gelu_pytorch_tanh", attn_implementation="eager", dtype=torch.float32)
    model = transformers.GemmaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(formula(name, tuple(parameter.shape)))
        model.tie_weights()
        tokens = mix(numpy.arange(length, dtype=numpy.uint64)) % numpy.uint64(shape["vocab_size"])
        tokens[0] = 2
        answer = model(torch.from_numpy(tokens.astype(numpy.int64))[None]).logits[0]
    return tokens.tolist(), answer


def golden():
    """What models/tiny writes in f32."""
    model = transformers.GemmaForCausalLM.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager")
    tokenizer = tokenizers.Tokenizer.from_file(str(TINY / "tokenizer.json"))

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    for prefix, suffix in PROMPTS:
        tokens = [2] + encode(prefix) if suffix is None else [2, 67, *encode(prefix), 69, *encode(suffix), 68]
        made = []
        with torch.no_grad():
            while len(made) < NEW_TOKENS:
                best = model(torch.tensor([tokens + made])).logits[0, -1].topk(2)
                assert best.values[0] - best.values[1] > MARGIN, "choose another prompt: this one is too close"
                if best.indices[0] == EOS:
                    break
                made.append(best.indices[0].item())
        yield {"prefix": prefix, "suffix": suffix, "prompt": tokens, "tokens": made, "text": tokenizer.decode(made)}


def main():
    (HERE / "golden.json").write_text(json.dumps(list(golden()), indent=1) + "\n", encoding="utf-8")
    for name, shape in CASES.items():
        tokens, answer = logits(shape, LONG if name == "long" else SHORT)
        positions = [0, 1, 2, 255, 256, 511, 512, 513, 1023, 1024, 1298, 1299] if name == "long" else range(SHORT)
        content = {"config": {"model_type": "gemma", **shape}, "tokens": tokens, "positions": list(positions)}
        (HERE / f"{name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
        saved = HERE / f"{name}.safetensors"
        save_file({"logits": answer[list(positions)].contiguous()}, saved)
        saved.chmod(0o644)
        spread = answer.abs().max().item()
        repeats = (answer.argmax(-1)[:-1] == answer.argmax(-1)[1:]).float().mean().item()
        print(f"{name}: largest logit {spread:.2f}, repeats {repeats:.2f}")


if __name__ == "__main__":
    main()
