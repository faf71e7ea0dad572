"""Weights for a comparison: random ones in a model's true shape, and the same ones as a GGUF file.

    weights.py random CONFIG.json DIR [DEVIATION]   writes DIR/config.json and DIR/model.safetensors, bf16
    weights.py gguf DIR FILE.gguf         writes the weights of DIR as bf16 GGUF, norms as f32
    weights.py tokenizer SOURCE.json DIR  writes DIR/tokenizer.json: the vocabulary of SOURCE.json, as large as DIR's model
    weights.py gguf-text DIR FILE.gguf    as gguf, with DIR/tokenizer.json in it
    weights.py gguf-random CONFIG.json FILE.gguf   random weights as q8_0 GGUF at once: 7B in bf16 would take 34 GB on the way

All but gguf-text hold no tokenizer: speed is measured on token ids. Needs numpy, and for GGUF the package gguf (packages.txt).
"""

import json
import shutil
import struct
import sys
from pathlib import Path

import numpy as np

# Numbers that are drawn; every matrix is a piece of them, from a place of its own, repeated as needed.
DRAWN = 1 << 26
# Rows of the embedding that are zero: those of Gemma's control tokens. The embedding is tied, so random weights repeat the last
# token of a prompt; a model that repeats a control token writes no text.
CONTROL_TOKENS = 108
# As small as those of a trained model. With larger ones in the layers, what these add outweighs the embedding, and the last token is not repeated.
DEVIATION = 0.02
# Gemma's names, and those of the GGUF format.
GLOBAL = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
LAYER = {
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}


def shapes(config):
    """Name → shape of every tensor, in the order of the forward pass."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = {
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    every = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for index in range(config["num_hidden_layers"]):
        every |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    return every | {"model.norm.weight": (hidden,)}


def to_bf16(numbers):
    """The bits of f32 numbers, rounded to the nearest bf16."""
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_f32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_random(config_file, directory, deviation=DEVIATION):
    """Random weights; `deviation` is that of the layers' matrices."""
    config = json.loads(Path(config_file).read_text())
    directory.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0).standard_normal(DRAWN, dtype=np.float32)
    drawn, in_layers = (to_bf16(numbers * np.float32(part)) for part in (DEVIATION, deviation))
    header, end = {}, 0
    for name, shape in shapes(config).items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        start = 0
        for name, shape in shapes(config).items():
            start = (start + 7919) % DRAWN
            left = int(np.prod(shape))
            at = start
            if name == "model.embed_tokens.weight":
                zeros = np.zeros(min(CONTROL_TOKENS, shape[0]) * shape[1], np.uint16)
                file.write(zeros.tobytes())
                left -= zeros.size
            source = in_layers if name.endswith("_proj.weight") else drawn
            while left:
                piece = source[at : at + left]
                file.write(piece.tobytes())
                left -= piece.size
                at = 0
    shutil.copy(config_file, directory / "config.json")


def read_safetensors(path):
    """Name → bf16 bits, mapped rather than read."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r", offset=8 + length)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            sys.exit(f"{name} is {entry['dtype']}: only bf16 can be compared")
        start, end = entry["data_offsets"]
        tensors[name] = data[start:end].view(np.uint16).reshape(entry["shape"])
    return tensors


def gguf_name(name):
    if name in GLOBAL:
        return GLOBAL[name]
    _, _, index, rest = name.split(".", 3)
    return f"blk.{index}.{LAYER[rest]}"


def write_tokenizer(source, directory):
    """The vocabulary of `source` with entries that no text is encoded to, one for each further row of the model."""
    size = json.loads((directory / "config.json").read_text())["vocab_size"]
    tokenizer = json.loads(Path(source).read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"<filler{row}>": row for row in range(len(vocabulary), size)}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))


def add_tokenizer(writer, path):
    """The vocabulary of a tokenizer.json of Gemma's form, as llama.cpp has SentencePiece's: what is merged first has the
    highest score. llama.cpp does not split the text first, so some texts have other tokens there."""
    import gguf

    tokenizer = json.loads(path.read_text())
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    rank = {}
    for index, merge in enumerate(merges):
        rank.setdefault("".join(merge if isinstance(merge, list) else merge.split(" ")), index)
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    tokens, scores, kinds = [], [], []
    for token, _ in sorted(vocabulary.items(), key=lambda entry: entry[1]):
        tokens.append(token)
        scores.append(float(-rank.get(token, len(merges))))
        if token == "<unk>":
            kinds.append(gguf.TokenType.UNKNOWN)
        elif token in special:
            kinds.append(gguf.TokenType.CONTROL)
        elif len(token) == 6 and token.startswith("<0x"):
            kinds.append(gguf.TokenType.BYTE)
        elif token.startswith(("<filler", "<unused")):
            kinds.append(gguf.TokenType.UNUSED)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(vocabulary["<bos>"])
    writer.add_eos_token_id(vocabulary["<eos>"])
    writer.add_unk_token_id(vocabulary["<unk>"])
    writer.add_pad_token_id(vocabulary["<pad>"])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def gguf_writer(path, config, file_type, tokenizer=None):
    """A GGUF file with the members of `config`, to which tensors can be added."""
    import gguf  # benches/leakage has no use for it

    writer = gguf.GGUFWriter(path, "gemma")
    writer.add_context_length(config.get("max_position_embeddings", 8192))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_file_type(file_type)
    if tokenizer:
        add_tokenizer(writer, tokenizer)
    else:
        writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    return writer


def write_tensor_infos(writer, config, kind):
    """Announces all tensors: matrices of `kind`, norms in f32."""
    import gguf

    for name, shape in shapes(config).items():
        if len(shape) == 1:
            writer.add_tensor_info(gguf_name(name), shape, np.dtype(np.float32), 4 * shape[0])
        else:
            raw = gguf.quant_shape_to_byte_shape(shape, kind)
            size = int(np.prod(raw))
            writer.add_tensor_info(gguf_name(name), raw, np.dtype(np.uint8), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def write_gguf(directory, path, tokenizer=None):
    import gguf

    config = json.loads((directory / "config.json").read_text())
    tensors = read_safetensors(directory / "model.safetensors")
    writer = gguf_writer(path, config, gguf.LlamaFileType.MOSTLY_BF16, tokenizer)
    write_tensor_infos(writer, config, gguf.GGMLQuantizationType.BF16)
    for name in shapes(config):
        bits = tensors[name]
        # Gemma's files hold by how much the scale of a norm is more than 1; GGUF files hold the scale.
        writer.write_tensor_data(to_f32(bits) + np.float32(1) if bits.ndim == 1 else bits.view(np.uint8))
    writer.close()


def write_random_gguf(config_file, path):
    import gguf

    config, kind = json.loads(Path(config_file).read_text()), gguf.GGMLQuantizationType.Q8_0
    writer = gguf_writer(path, config, gguf.LlamaFileType.MOSTLY_Q8_0)
    write_tensor_infos(writer, config, kind)
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    drawn = np.random.default_rng(0).standard_normal(DRAWN, dtype=np.float32) * np.float32(DEVIATION)
    blocks = gguf.quantize(drawn, kind).reshape(-1, block_bytes)
    start = 0
    for shape in shapes(config).values():
        if len(shape) == 1:
            writer.write_tensor_data(drawn[: shape[0]] + np.float32(1))
        else:
            start = (start + 7919) % len(blocks)
            numbers = (start + np.arange(int(np.prod(shape)) // block)) % len(blocks)
            writer.write_tensor_data(blocks[numbers].reshape(gguf.quant_shape_to_byte_shape(shape, kind)))
    writer.close()


def main():
    match sys.argv[1:]:
        case ["random", config_file, directory, *deviation]:
            write_random(config_file, Path(directory), *map(float, deviation))
        case ["gguf", directory, path]:
            write_gguf(Path(directory), Path(path))
        case ["gguf-text", directory, path]:
            write_gguf(Path(directory), Path(path), Path(directory) / "tokenizer.json")
        case ["gguf-random", config_file, path]:
            write_random_gguf(config_file, Path(path))
        case ["tokenizer", source, directory]:
            write_tokenizer(source, Path(directory))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
