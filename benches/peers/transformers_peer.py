"""`transformers` on the weights of a directory, bf16: DIR PROMPT NEW REPEATS THREADS → JSON."""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache


def main():
    directory, (prompt, new, repeats, threads) = sys.argv[1], map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
    ids = torch.tensor([[108 + 7 * index for index in range(prompt)]]) % model.config.vocab_size
    prefills, steps = [], []
    with torch.inference_mode():
        for _ in range(repeats):
            cache = DynamicCache()
            began = time.perf_counter()
            logits = model(ids, past_key_values=cache, logits_to_keep=1).logits
            prefills.append(time.perf_counter() - began)
            for _ in range(new):
                began = time.perf_counter()
                token = logits[:, -1:].argmax(-1)
                logits = model(token, past_key_values=cache, logits_to_keep=1).logits
                steps.append(time.perf_counter() - began)
    median = lambda times: sorted(times)[len(times) // 2]
    figures = {"prefill_tokens_per_second": prompt / median(prefills), "decode_tokens_per_second": 1 / median(steps)}
    print(json.dumps(figures))


main()
