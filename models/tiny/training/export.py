"""Writes a checkpoint as a model directory, and holds it to transformers' Gemma.

Reads `checkpoint.pt` and `tokenizer.json`; writes config.json,
generation_config.json, model.safetensors (bf16) and tokenizer.json.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GemmaForCausalLM

from gemma import Gemma, Shape


def main(work: Path, out: Path, name="checkpoint"):
    saved = torch.load(work / f"{name}.pt", weights_only=True)
    shape = Shape(**saved["shape"])
    weights = {k: v.bfloat16().contiguous() for k, v in saved["model"].items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(shape.config(), indent=2, sort_keys=True) + "\n")
    (out / "generation_config.json").write_text(json.dumps(
        {"_from_model_config": True, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}, indent=2) + "\n")
    shutil.copyfile(work / "tokenizer.json", out / "tokenizer.json")

    ours = Gemma(shape)
    ours.load_state_dict({k: v.float() for k, v in weights.items()})
    theirs = GemmaForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ids = torch.randint(108, shape.vocab, (2, 200))
    with torch.no_grad():
        apart = (ours(ids) - theirs(ids).logits).abs().max().item()
    assert apart < 1e-3, f"logits differ from transformers' by {apart}"
    size = sum(f.stat().st_size for f in out.iterdir() if f.suffix in (".json", ".safetensors"))
    print(f"{sum(v.numel() for v in weights.values())} parameters after {saved['step']} steps and "
          f"{saved['tokens']} tokens; {size / 1e6:.2f} MB; logits differ from transformers' by at most {apart:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
