"""Writes a checkpoint (WORK OUT [NAME]), its averaged weights if there are any, as a model directory, and holds it to transformers' Gemma.

Reads `NAME.pt` (`checkpoint.pt`) and `tokenizer.json`; writes config.json,
generation_config.json, model.safetensors (bf16), tokenizer.json, tokenizer_config.json and SOURCES.md.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GemmaForCausalLM

from gemma import Gemma, Shape

# What CodeGemma takes; the rotary positions need no weights. Trained on 512, so that is how far it is of use.
CONTEXT = 8192


def sources(packages: dict) -> str:
    """The table of what the model was trained on."""
    rows = [f"| {name} | {p['version']} | {p['licence']} | {p['bytes'] / 1000:.0f} | {'yes' if p['held_out'] else ''} |"
            for name, p in sorted(packages.items()) if p["bytes"]]
    return ("# What the tiny model was trained on\n\n"
            "Python source files of these packages, as their metadata declares the licence; not audited file by file. None\n"
            "of it is part of this repository. Packages marked as held out were only measured on.\n\n"
            "| Package | Version | Licence as declared | kB used | Held out |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n")


def main(work: Path, out: Path, name="checkpoint"):
    saved = torch.load(work / f"{name}.pt", weights_only=True)
    shape = Shape(**saved["shape"])
    weights = {k: v.bfloat16().contiguous() for k, v in (saved["average"] or saved["model"]).items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "config.json").write_text(json.dumps({**shape.config(), "max_position_embeddings": CONTEXT}, indent=2, sort_keys=True) + "\n")
    (out / "generation_config.json").write_text(json.dumps(
        {"_from_model_config": True, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}, indent=2) + "\n")
    shutil.copyfile(work / "tokenizer.json", out / "tokenizer.json")
    # Without the class, transformers 5 replaces the file's pre-tokenizer (findings/transformers-gemma-pre-tokenizer.sh).
    (out / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
         "unk_token": "<unk>", "clean_up_tokenization_spaces": False, "model_max_length": CONTEXT}, indent=2) + "\n")
    (out / "SOURCES.md").write_text(sources(json.loads((work / "sources.json").read_text())))

    ours = Gemma(shape)
    ours.load_state_dict({k: v.float() for k, v in weights.items()})
    theirs = GemmaForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ids = torch.randint(108, shape.vocab, (2, 200))
    with torch.no_grad():
        apart = (ours(ids) - theirs(ids).logits).abs().max().item()
    assert apart < 1e-3, f"logits differ from transformers' by {apart}"
    text = json.loads((work / "held_out.json").read_text())[0][2]
    ids = AutoTokenizer.from_pretrained(out).encode(text, add_special_tokens=False)
    assert ids == Tokenizer.from_file(str(out / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    size = sum(f.stat().st_size for f in out.iterdir() if f.suffix in (".json", ".safetensors"))
    print(f"{sum(v.numel() for v in weights.values())} parameters after {saved['step']} steps and "
          f"{saved['tokens']} tokens; {size / 1e6:.2f} MB; logits differ from transformers' by at most {apart:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
