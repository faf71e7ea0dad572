"""Measures a model directory on held-out Python: bits per byte, holes, completions.

    python models/tiny/eval.py models/tiny WORK        needs torch and transformers

WORK holds what training/corpus.py and training/idioms.py kept apart. Everything
is greedy and drawn with a fixed seed, so that the figures are the same every time.
"""

import ast
import json
import math
import random
import sys
import textwrap
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import GemmaForCausalLM

sys.path.insert(0, str(Path(__file__).parent / "training"))
from cases import holes

EOS, BOS, PREFIX, MIDDLE, SUFFIX = 1, 2, 67, 68, 69
WINDOW, WINDOWS, CASES, NEW_TOKENS = 512, 300, 200, 192
PROMPTS = [
    'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n',
    "def fibonacci(n):\n",
    "def is_prime(n):\n",
    'def is_prime(n):\n    """Return True if n is a prime number."""\n',
    'def factorial(n):\n    """Return the factorial of n."""\n',
    'def binary_search(items, target):\n    """Return the index of target in a sorted list, or -1."""\n',
    "def is_palindrome(text):\n",
    'def count_words(text):\n    """Return a dictionary that maps each word to its count."""\n',
    "def bubble_sort(values):\n",
    'def read_lines(path):\n    """Return the lines of a file as a list."""\n',
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    'class Queue:\n    """A simple queue."""\n\n',
    "class BankAccount:\n",
    'def average_salary(employees):\n    """Return the average salary of the employees."""\n',
    'def count_long(words, length):\n    """Count the words longer than length."""\n',
    'def celsius_to_fahrenheit(celsius):\n    """Convert degrees Celsius to Fahrenheit."""\n',
    "import json\n\n\ndef load_config(path):\n",
    "import argparse\n\n\ndef main():\n",
    "@dataclass\nclass Product:\n",
    'def reverse_words(sentence):\n    """Reverse the order of the words in a sentence."""\n',
]
HOLES = [
    ("def mean(values):\n    total = 0\n    for value in values:\n        ", "\n    return total / len(values)\n"),
    ("class Point:\n    def __init__(self, x, y):\n        self.x = x\n        ", "\n\n    def norm(self):\n        return (self.x ** 2 + self.y ** 2) ** 0.5\n"),
    ("def factorial(n):\n    ", "\n    return n * factorial(n - 1)\n"),
    ("def gcd(a, b):\n    while b:\n        ", "\n    return a\n"),
    ("def binary_search(items, target):\n    low, high = 0, len(items) - 1\n    while low <= high:\n        ",
     "\n        if items[mid] == target:\n            return mid\n        if items[mid] < target:\n            low = mid + 1\n        else:\n            high = mid - 1\n    return -1\n"),
    ("def count_words(text):\n    counts = {}\n    for word in text.split():\n        ", "\n    return counts\n"),
    ("class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        ",
     "\n\n    def pop(self):\n        return self.items.pop()\n"),
    ("def is_even(n):\n    return ", "\n"),
]


class Model:
    def __init__(self, directory: Path):
        self.tk = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.net = GemmaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def encode(self, text):
        return self.tk.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.tk.decode(ids, skip_special_tokens=False)

    @torch.no_grad()
    def greedy(self, prompts, new_tokens, batch=100):
        """What follows each prompt up to <eos>, as text, and whether <eos> came."""
        out = []
        for i in range(0, len(prompts), batch):
            part = prompts[i:i + batch]
            width = max(map(len, part))
            ids = torch.tensor([[0] * (width - len(p)) + p for p in part])
            got = self.net.generate(input_ids=ids, attention_mask=(ids != 0).long(), max_new_tokens=new_tokens,
                                    do_sample=False, eos_token_id=EOS, pad_token_id=0)
            for row in got[:, width:].tolist():
                out.append((self.decode(row[:row.index(EOS)] if EOS in row else row), EOS in row))
        return out

    @torch.no_grad()
    def bits_per_byte(self, texts):
        rows, size = [], 0
        for text in texts:
            ids = self.encode(text)
            for at in range(0, len(ids), WINDOW - 1):
                piece = ids[at:at + WINDOW - 1]
                if len(piece) >= 24 and len(rows) < WINDOWS:
                    rows.append([BOS] + piece)
                    size += len(self.decode(piece).encode())
        nats = 0.0
        for i in range(0, len(rows), 8):
            part = rows[i:i + 8]
            x = torch.tensor([r + [0] * (WINDOW - len(r)) for r in part])
            targets = x[:, 1:].masked_fill(x[:, 1:] == 0, -1)
            logits = self.net(x).logits[:, :-1]
            nats += F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-1, reduction="sum").item()
        return nats / math.log(2) / size, size


def edit_similarity(a, b):
    """1 - Levenshtein distance / the longer length."""
    if not a and not b:
        return 1.0
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return 1 - row[-1] / max(len(a), len(b))


def fill(model, cases):
    prompts = [[BOS, PREFIX, *model.encode(c["prefix"]), SUFFIX, *model.encode(c["suffix"]), MIDDLE] for c in cases]
    got = [text for text, _ in model.greedy(prompts, 96)]
    # An editor asks for one line where the hole is one: what comes after it does not count.
    got = [(g.split("\n")[0] if c["kind"] == "single" else g).rstrip() for g, c in zip(got, cases)]
    exact = sum(g == c["middle"] for g, c in zip(got, cases)) / len(cases)
    return exact, sum(edit_similarity(g, c["middle"]) for g, c in zip(got, cases)) / len(cases)


def headers(texts, rng):
    """Headers of documented functions: the lines up to the end of the docstring."""
    found = []
    for text in texts:
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        lines = text.split("\n")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
                head = textwrap.dedent("\n".join(lines[node.lineno - 1:node.body[0].end_lineno])) + "\n"
                if len(head) < 400:
                    found.append(head)
    found = sorted(set(found))
    rng.shuffle(found)
    return found[:CASES]


def parses(header, completion):
    """Cut where a line is no deeper than the header; at least one statement must follow the docstring."""
    kept = []
    for line in completion.split("\n"):
        if line.strip() and not line.startswith(" "):
            break
        kept.append(line)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            node = ast.parse(header + "\n".join(kept)).body[0]
    except (SyntaxError, ValueError):
        return False
    return len(node.body) > 1 if ast.get_docstring(node) else True


def main(directory: Path, work: Path):
    torch.manual_seed(0)
    model = Model(directory)
    held = json.loads((work / "held_out.json").read_text())
    whole = {p for p, s in json.loads((work / "sources.json").read_text()).items() if s["held_out"]}
    packages = [t for p, _, t in held if p in whole]
    others = [t for p, _, t in held if p not in whole]
    idioms = json.loads((work / "idioms_held_out.json").read_text())
    for texts in (packages, others, idioms):
        random.Random(3).shuffle(texts)
    for name, texts in (("files of held-out packages", packages), ("held-out files of known packages", others), ("held-out idioms", idioms)):
        bpb, size = model.bits_per_byte(texts)
        print(f"bits per byte, {name}: {bpb:.3f} ({size / 1e3:.0f} kB)", flush=True)
    files = packages + others
    for name, kind in (("single-line", "single"), ("multi-line", "multi")):
        cases = holes(list(enumerate(files)), kind, CASES, random.Random(5))
        exact, similar = fill(model, cases)
        print(f"{name} holes, held-out files: exact match {exact:.1%}, edit similarity {similar:.1%} ({len(cases)} holes)", flush=True)
    for name, kind in (("single-line", "single"), ("multi-line", "multi")):
        cases = holes([(i, t) for i, t in enumerate(idioms) if t.count("\n") > 8], kind, CASES, random.Random(6))
        exact, similar = fill(model, cases)
        print(f"{name} holes, held-out idioms: exact match {exact:.1%}, edit similarity {similar:.1%} ({len(cases)} holes)", flush=True)
    for name, texts in (("held-out files", files), ("held-out idioms", idioms)):
        heads = headers(texts, random.Random(7))
        got = model.greedy([[BOS] + model.encode(h) for h in heads], NEW_TOKENS)
        good = sum(parses(h, c) for h, (c, _) in zip(heads, got))
        print(f"completions of function headers that parse, {name}: {good} of {len(heads)}", flush=True)
    print("\n--- completions (… where the budget ran out)")
    for prompt, (text, ended) in zip(PROMPTS, model.greedy([[BOS] + model.encode(p) for p in PROMPTS], 128)):
        print(f"{prompt}«{text}»{'' if ended else '…'}\n")
    print("--- holes")
    prompts = [[BOS, PREFIX, *model.encode(a), SUFFIX, *model.encode(b), MIDDLE] for a, b in HOLES]
    for (a, b), (text, ended) in zip(HOLES, model.greedy(prompts, 64)):
        print(f"{a}«{text}»{'' if ended else '…'}{b}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
