"""How fast `transformers` is on a device, in a model's shape with random weights that are made there, as JSON.

Greedy answers of `generate` to one prompt, and reading prompts; also how fast the device multiplies large matrices, which
is what reading a prompt is held against. Every figure is the median of its repetitions. In bf16, or f16 on devices
that have none.
"""

import argparse
import json
import statistics
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="the shape: a config.json")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--prompt-tokens", default="128,512,2048", help="lengths of prompts, with commas between")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--matrix", type=int, default=8192, help="rows and columns of the matrices")
    options = parser.parse_args()

    import torch
    import transformers

    device = torch.device(options.device)
    cuda = device.type == "cuda"
    has_bf16 = not cuda or torch.cuda.get_device_capability(device) >= (8, 0)
    torch.set_default_dtype(torch.bfloat16 if has_bf16 else torch.float16)
    torch.manual_seed(0)

    def seconds(work):
        """The median time that `work` takes, after once to warm up."""
        times = []
        for _ in range(options.repeats + 1):
            if cuda:
                torch.cuda.synchronize(device)
            began = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
        return statistics.median(times[1:])

    with torch.inference_mode(), torch.device(device):
        size = options.matrix
        left, right, product = (torch.randn(size, size) for _ in range(3))
        multiplied = seconds(lambda: torch.mm(left, right, out=product))
        del left, right, product

        with open(options.config, encoding="utf-8") as file:
            shape = json.load(file)
        del shape["model_type"]
        config = transformers.GemmaConfig(**shape, hidden_activation="gelu_pytorch_tanh")
        model = transformers.GemmaForCausalLM(config).eval()

        runs = []
        for tokens in map(int, options.prompt_tokens.split(",")):
            ids = (torch.arange(tokens) * 7 % 1000 + 108).unsqueeze(0) % config.vocab_size
            mask = torch.ones_like(ids)

            def read():
                # The token after the prompt is all that is wanted of it.
                hidden = model.model(ids, use_cache=True).last_hidden_state
                return model.lm_head(hidden[:, -1:])

            def answer(length):
                new = {"max_new_tokens": length, "min_new_tokens": length}
                made = model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **new)
                assert made.shape[1] == tokens + length, "the answer is short"

            prefill, first = seconds(read), seconds(lambda: answer(1))
            whole = seconds(lambda: answer(options.new_tokens))
            runs.append(
                {
                    "prompt_tokens": tokens,
                    "prefill_tokens_per_second": tokens / prefill,
                    "ttft_ms": first * 1e3,
                    "decode_tokens_per_second": (options.new_tokens - 1) / (whole - first),
                }
            )

    report = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if cuda else "processors",
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "new_tokens": options.new_tokens,
        "repeats": options.repeats,
        "matmul_teraflops": 2 * size**3 / multiplied / 1e12,
        "runs": runs,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
