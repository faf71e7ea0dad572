"""Makes the files beside it: a tokenizer trained on Python's standard library, and seeded random weights.

    python models/tiny/make.py        needs numpy, safetensors and tokenizers; half a minute

The weights are the same every time; the tokenizer depends on the Python release whose sources it is trained on.
"""

import json
import pathlib
import struct
import sys
import sysconfig

import numpy
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent

VOCAB, HIDDEN, INNER, LAYERS, HEADS, HEAD_DIM = 1024, 64, 256, 2, 2, 256

# The first rows of Gemma's vocabulary, with the names that CodeGemma gives to four of the unused ones.
CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]"]
CONTROL += [f"<unused{number}>" for number in range(99)] + ["<start_of_turn>", "<end_of_turn>"]
CONTROL[67:71] = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>"]
SPECIAL = [0, 1, 2, 3, 67, 68, 69, 70, 106, 107]

# Runs of newlines and of spaces are tokens of their own: a cursor may stand after a bare newline.
PIECES = r"\n+|\t+|▁{2,}|▁?[\p{L}_]+|\p{N}|▁?[^\s\p{L}\p{N}_▁]+"


def corpus():
    """The standard library's modules, largest packages of data and tests left out."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "test", "tests", "idle_test", "lib2to3", "encodings", "pydoc_data", "ensurepip"}
    for path in sorted(root.rglob("*.py")):
        if not skipped.intersection(path.relative_to(root).parts):
            yield path.read_text(encoding="utf-8", errors="ignore")


def make_tokenizer():
    """Gemma's form: spaces as U+2581, BPE, byte fallback."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    learner = tokenizers.Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    alphabet = [chr(code) for code in range(33, 127)] + ["\n", "\t", "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(CONTROL) - len(bytes_),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner.train_from_iterator(corpus(), trainer)
    learned = json.loads(learner.to_str())["model"]
    by_id = sorted(learned["vocab"], key=learned["vocab"].get)
    vocab = {token: row for row, token in enumerate(CONTROL + bytes_ + by_id)}
    assert len(vocab) == VOCAB, len(vocab)
    merges = [tuple(pair) for pair in learned["merges"]]
    model = models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    made = tokenizers.Tokenizer(model)
    made.normalizer = learner.normalizer
    made.pre_tokenizer = learner.pre_tokenizer
    made.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 2)])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([CONTROL[row] for row in SPECIAL])
    text = json.dumps(json.loads(made.to_str()), ensure_ascii=False, separators=(",", ":"))
    (HERE / "tokenizer.json").write_text(text + "\n", encoding="utf-8")


def make_weights():
    """Scales such that the layers outweigh the embedding: a tied head would repeat the last token for ever."""
    random = numpy.random.Generator(numpy.random.PCG64(20260601))

    def normal(scale, *shape):
        return random.standard_normal(shape, dtype=numpy.float32) * numpy.float32(scale)

    embedding = normal(HIDDEN**-0.5, VOCAB, HIDDEN)
    # Control tokens and bare bytes are read, but hardly ever written: the output is text.
    embedding[: len(CONTROL) + 256] *= 0.05
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": normal(0.1, HIDDEN)}
    queries, keys = HEADS * HEAD_DIM, HEAD_DIM
    for layer in range(LAYERS):
        for name, scale, rows, columns in [
            ("self_attn.q_proj", 1.0, queries, HIDDEN),
            ("self_attn.k_proj", 1.0, keys, HIDDEN),
            ("self_attn.v_proj", 1.0, keys, HIDDEN),
            ("self_attn.o_proj", 3.0, HIDDEN, queries),
            ("mlp.gate_proj", 1.5, INNER, HIDDEN),
            ("mlp.up_proj", 1.0, INNER, HIDDEN),
            ("mlp.down_proj", 4.0, HIDDEN, INNER),
        ]:
            tensors[f"model.layers.{layer}.{name}.weight"] = normal(scale * columns**-0.5, rows, columns)
        for name in ["input_layernorm", "post_attention_layernorm"]:
            tensors[f"model.layers.{layer}.{name}.weight"] = normal(0.1, HIDDEN)
    write_safetensors(tensors)


def write_safetensors(tensors):
    """bf16, rounded to nearest even; numpy has no such type, so the file is put together by hand."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        bits = tensor.astype("<f4").view("<u4").astype(numpy.uint64)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
        offsets = [len(body), len(body) + len(rounded)]
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": offsets}
        body += rounded
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    (HERE / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)


def make_configs():
    """As CodeGemma's, which sets both names of the activation."""
    tokens = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = {
        "architectures": ["GemmaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        **tokens,
        "head_dim": HEAD_DIM,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": 8192,
        "model_type": "gemma",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": VOCAB,
    }
    generation = {"_from_model_config": True, **tokens}
    for name, content in [("config.json", config), ("generation_config.json", generation)]:
        (HERE / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make_tokenizer()
    make_weights()
    make_configs()
    print(f"tokenizer trained on the sources of Python {sys.version.split()[0]}")
