"""Makes the trained tiny model from nothing, in one command.

    python models/tiny/train.py WORK                  a CPU: a little over two hours
    python models/tiny/train.py WORK --minutes 8 ...  a GPU; options go to training/train.py
    python models/tiny/train.py WORK --warm models/tiny
                                                      goes on from a model's weights, with its tokenizer

The first run learns the language, the second one, from its weights, to fill
holes as editors make them. With `--warm` there is only the second one.

Needs torch, numpy, tokenizers, safetensors and transformers. WORK takes about
1 GB: the packages, the text, the rows, the checkpoints. Steps whose output is
there are not repeated, so that a run that was stopped goes on; remove a file
to make it again. The last steps write models/tiny and measure it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TRAINING = HERE / "training"
# One thread a worker; and keep freed memory, because touching fresh pages is slow on virtual machines.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "MALLOC_MMAP_MAX_": "0",
               "MALLOC_TRIM_THRESHOLD_": "1000000000000", "MALLOC_TOP_PAD_": "268435456"}

# Of the two runs; options of the command line come after them, and replace them.
LANGUAGE = ["--minutes", "75", "--name", "language"]
HOLES = ["--minutes", "60", "--mix", "holes=0.55:0.35,files=0.20:0.12,functions=0.12:0.11,idioms=0.13:0.42", "--long", "0.2",
         "--middle", "3", "--muon", "0.015", "--embedding", "3e-3"]


def step(script, *args, made=None):
    if made and made.exists():
        return
    print(f"== {script.name}", flush=True)
    subprocess.run([sys.executable, str(script), *map(str, args)], check=True)


def download(wheels: Path):
    """Newest wheels of the named packages; one that has none is left out."""
    wheels.mkdir(parents=True, exist_ok=True)
    have = {f.name.split("-")[0].lower().replace("_", "-") for f in wheels.glob("*.whl")}
    names = [n for n in (TRAINING / "packages.txt").read_text().split() if n not in have]

    def fetch(some):
        return subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                               "--dest", str(wheels), *some], check=False).returncode == 0

    for i in range(0, len(names), 16):  # starting pip takes longer than most downloads
        part = names[i:i + 16]
        if not fetch(part):
            for name in part:
                fetch([name])


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    work, options = Path(sys.argv[1]).resolve(), sys.argv[2:]
    if not (work / "run" / "train.json").exists():
        download(work / "wheels")
    run = work / "run"
    step(TRAINING / "corpus.py", work / "wheels", run, made=run / "train.json")
    step(TRAINING / "idioms.py", run, made=run / "idioms.json")
    if "--warm" in options and not (run / "tokenizer.json").exists():
        shutil.copy(Path(options[options.index("--warm") + 1]) / "tokenizer.json", run)
    step(TRAINING / "tokenizer.py", run, made=run / "tokenizer.json")
    step(TRAINING / "data.py", run, made=run / "files.npy")
    os.environ.update(ENVIRONMENT)
    os.nice(10)
    if "--warm" not in options:
        language = run / "language"
        step(TRAINING / "train.py", run, *LANGUAGE, *options, made=language)
        step(TRAINING / "export.py", run, language, "language", made=language)
        options = ["--warm", language, *options]
    step(TRAINING / "train.py", run, *HOLES, *options)
    step(TRAINING / "export.py", run, HERE)
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count())
    step(HERE / "eval.py", HERE, run)


if __name__ == "__main__":
    main()
