"""Our engine and its peers on the same weights, on this machine, in one run: one table of ratios.

    run.py [--work DIR] [--shape 2b|7b|tiny|CONFIG.json]... [--threads N] [--prompt N] [--new N] [--batch N,N]
           [--repeats N] [--transformers] [--candle] [--startup] [--server FILE] [--wrap COMMAND] [--results DIR]

What is missing is made in --work (20 GB for 2b, 15 GB for 7b, which has q8_0 and q4k only): a virtual environment with the packages of packages.txt, llama.cpp
from the source package of llama-cpp-python, random weights, and their GGUF files. Everything is kept for the next run.

Ours is `codeseal-server bench`, llama.cpp is its own llama-bench and llama-batched-bench; both read a prompt of
the same length and make tokens at the same depth. --transformers adds the Python package of that name (5 GB of
packages). --wrap runs every measurement under a command, such as one that keeps other programs off the machine.
--candle adds stock candle-transformers, which takes some seconds for a token. --startup measures something else instead:
the time from exec to ready, beside llama-server and `cat` of the same files, with the page cache warm and dropped, and
the peak of memory; --server then names a directory with codeseal and codeseal-server beside each other.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import startup

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LLAMA_PACKAGE = "llama-cpp-python==0.3.36"
TRANSFORMERS_PACKAGES = ["torch==2.12.1", "transformers==5.14.1"]
# Ours, and the type of llama.cpp that it is held against.
TYPES = {"none": "bf16", "q8_0": "q8_0", "q4k": "q4_k_m"}


def sh(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def output(*command, cwd=None):
    command = [str(word) for word in command]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


class Peers:
    """What is in the working directory, made where it is missing."""

    def __init__(self, work):
        self.work = Path(work).resolve()
        self.bin = self.work / "venv" / "bin"
        self.work.mkdir(parents=True, exist_ok=True)

    def environment(self, packages=()):
        if not (self.bin / "python").exists():
            sh(sys.executable, "-m", "venv", self.work / "venv")
        sh(self.bin / "pip", "install", "--quiet", "-r", HERE / "packages.txt", *packages)

    def llama(self):
        """The directory of llama.cpp's programs."""
        build = self.work / "llama" / "build"
        programs = ["llama-bench", "llama-batched-bench", "llama-quantize", "llama-server"]
        if not all((build / "bin" / program).exists() for program in programs):
            source = self.work / "llama" / "source"
            source.mkdir(parents=True, exist_ok=True)
            pip = [self.bin / "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
            sh(*pip, "--dest", source, LLAMA_PACKAGE)
            archive = next(source.glob("*.tar.gz"))
            with tarfile.open(archive) as tar:
                tar.extractall(source, filter="data")
            tree = next(source.glob("*/vendor/llama.cpp"))
            # Without its web page, whose files the build would fetch.
            off = ["LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES"]
            off += ["LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI"]
            options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", *(f"-D{option}=OFF" for option in off)]
            ninja = self.bin / "ninja"
            sh(self.bin / "cmake", "-S", tree, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *options)
            sh(ninja, "-C", build, *programs)
        return build / "bin"

    def weights(self, shape, kinds):
        """What ours loads, and a directory with the same weights as GGUF files of `kinds`."""
        weights = [self.bin / "python", HERE / "weights.py"]
        if shape == "7b":
            return self.large_weights(weights, kinds)
        if shape == "tiny":
            source, directory = ROOT / "models" / "tiny", self.work / "tiny"
            directory.mkdir(exist_ok=True)
        else:
            config = HERE / "codegemma-2b.json" if shape == "2b" else Path(shape)
            source = directory = self.work / ("2b" if shape == "2b" else config.stem)
            if not (directory / "config.json").exists():
                sh(*weights, "random", config, directory)
        original = directory / "bf16.gguf"
        if not original.exists():
            sh(*weights, "gguf", source, original)
        for kind in kinds:
            file = directory / f"{kind}.gguf"
            if not file.exists():
                sh(self.llama() / "llama-quantize", original, file, kind.upper(), stdout=subprocess.DEVNULL)
        return self.alone(shape, source), directory

    def large_weights(self, weights, kinds):
        """7B's shape. All types are made from a file in q8_0, by both programs: bf16 would be 17 GB."""
        directory = self.work / "7b"
        original = directory / "q8_0.gguf"
        if not original.exists():
            directory.mkdir(exist_ok=True)
            sh(*weights, "gguf-random", HERE / "codegemma-7b.json", directory / "part")
            (directory / "part").rename(original)
        for kind in kinds:
            file = directory / f"{kind}.gguf"
            if not file.exists():
                quantize = [self.llama() / "llama-quantize", "--allow-requantize"]
                sh(*quantize, original, directory / "part", kind.upper(), stdout=subprocess.DEVNULL)
                (directory / "part").rename(file)
        return original, directory

    def alone(self, shape, source):
        """The safetensors of `source` without the GGUF files beside them: a directory names one model."""
        alone = self.work / f"{shape if shape in ('2b', 'tiny') else Path(shape).stem}-safetensors"
        alone.mkdir(exist_ok=True)
        for file in source.iterdir():
            link = alone / file.name
            if file.suffix in (".json", ".safetensors") and not link.exists():
                link.symlink_to(file.resolve())
        return alone

    def with_text(self, shape):
        """A directory of safetensors, and the same weights as a GGUF file in q8_0, both with a tokenizer."""
        script = [self.bin / "python", HERE / "weights.py"]
        if shape == "tiny":
            source, directory = ROOT / "models" / "tiny", self.work / "tiny"
            directory.mkdir(exist_ok=True)
            if not (directory / "tokenizer.json").exists():
                (directory / "tokenizer.json").symlink_to(source / "tokenizer.json")
        else:
            config = HERE / "codegemma-2b.json" if shape == "2b" else Path(shape)
            source = directory = self.work / ("2b" if shape == "2b" else config.stem)
            if not (directory / "model.safetensors").exists():
                sh(*script, "random", config, directory)
            if not (directory / "tokenizer.json").exists():
                sh(*script, "tokenizer", ROOT / "models" / "tiny" / "tokenizer.json", directory)
        original, small = directory / "text-bf16.gguf", directory / "text-q8_0.gguf"
        if not small.exists():
            if not original.exists():
                sh(*script, "gguf-text", source, original)
            sh(self.llama() / "llama-quantize", original, small, "Q8_0", stdout=subprocess.DEVNULL)
        return self.alone(shape, source), small


def ours(server, source, quantize, options):
    command = [server, "bench", "--model", source, "--quantize", quantize, "--json"]
    command += ["--threads", options.threads, "--prompt-tokens", options.prompt, "--new-tokens", options.new]
    command += ["--batch", options.batch, "--repeats", options.repeats]
    report = json.loads(output(*options.wrap, *command))
    decode = {row["batch"]: row["tokens_per_second"] for row in report["decode"]}
    return {"prefill": report["prefill_tokens_per_second"], "decode": decode, "report": report}


def llama(programs, file, options):
    command = [programs / "llama-bench", "-m", file, "-t", options.threads, "-r", options.repeats, "-o", "json"]
    prefill = json.loads(output(*options.wrap, *command, "-p", options.prompt, "-n", 0))
    decode = {}
    # Its own tool for one sequence; the tool for several gives no medians, so it is asked for them only.
    single = json.loads(output(*options.wrap, *command, "-p", 0, "-n", options.new, "-d", options.prompt))
    decode[1] = median(single[0]["samples_ts"])
    several = [size for size in map(int, options.batch.split(",")) if size > 1]
    if several:
        cells = max(several) * (options.prompt + options.new + 64)
        batched = [programs / "llama-batched-bench", "-m", file, "-t", options.threads, "-c", cells, "-fa", "auto"]
        batched += ["-npp", options.prompt, "-ntg", options.new, "-npl", ",".join(map(str, several))]
        decode |= batched_speeds([*options.wrap, *batched, "--output-format", "jsonl"], len(several))
    build = prefill[0].get("build_commit", "")
    return {"prefill": median(prefill[0]["samples_ts"]), "decode": decode, "build": build}


def batched_speeds(command, expected):
    """Batch → tokens a second. What it prints last may be lost when it ends, so it is asked again then."""
    for _ in range(10):
        rows = [json.loads(line) for line in output(*command).splitlines() if line.startswith("{")]
        if len(rows) == expected:
            return {row["pl"]: row["speed_tg"] for row in rows}
    sys.exit("llama-batched-bench does not say what it measured")


def transformers(peers, source, options):
    peers.environment(TRANSFORMERS_PACKAGES)
    return {"transformers bf16": run_peer([peers.bin / "python", HERE / "transformers_peer.py", source], options)}


def candle(source, options):
    sh("cargo", "build", "--release", "--locked", "--quiet", "--package", "codeseal-benches", "--features", "peer",
       "--example", "candle_peer", cwd=ROOT)
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "examples" / "candle_peer"
    return {"candle-transformers bf16": run_peer([program, source], options)}


def run_peer(command, options):
    numbers = [options.prompt, options.new, options.repeats, options.threads]
    report = json.loads(output(*options.wrap, *command, *numbers, cwd=ROOT))
    return {"prefill": report["prefill_tokens_per_second"], "decode": {1: report["decode_tokens_per_second"]}}


def median(values):
    return sorted(values)[len(values) // 2]


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    wide = [flag for flag in flags if flag in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")]
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "instructions": wide}


def table(rows):
    """One line for each figure: ours, the peer's, the ratio."""
    lines = ["| weights | type | figure | codeseal | peer | | ratio |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        ratio = row["ours"] / row["peer"]
        lines.append(
            f"| {row['shape']} | {row['type']} | {row['figure']} | {row['ours']:.2f} | {row['name']} |"
            f" {row['peer']:.2f} | {ratio:.2f} |"
        )
    return "\n".join(lines)


def compare(shape, kind, mine, name, peer):
    if "prefill" in peer:
        yield {"shape": shape, "type": kind, "figure": "prefill tokens/s", "ours": mine["prefill"], "name": name,
               "peer": peer["prefill"]}
    for batch, theirs in peer["decode"].items():
        if batch in mine["decode"]:
            yield {"shape": shape, "type": kind, "figure": f"decode tokens/s, batch {batch}",
                   "ours": mine["decode"][batch], "name": name, "peer": theirs}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default=ROOT / "target" / "peers")
    parser.add_argument("--shape", action="append")
    parser.add_argument("--type", action="append", choices=TYPES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--candle", action="store_true")
    parser.add_argument("--startup", action="store_true")
    parser.add_argument("--server", help="a codeseal-server that is built already")
    parser.add_argument("--wrap", default="", type=shlex.split)
    parser.add_argument("--results", default=ROOT / "benches" / "results")
    options = parser.parse_args()

    peers = Peers(options.work)
    peers.environment()
    programs = peers.llama()
    server = options.server
    if server is None:
        built = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
        names = ["codeseal-server", "codeseal"] if options.startup else ["codeseal-server"]
        sh("cargo", "build", "--release", "--locked", "--quiet", *(f"--bin={name}" for name in names), cwd=ROOT)
        server = built if options.startup else built / names[0]
    rows, reports, versions = [], {}, {"llama-cpp-python": LLAMA_PACKAGE.split("==")[1]}
    shapes = options.shape or ["tiny", "2b"]
    for shape in shapes if options.startup else []:
        found = startup.measure(Path(server), programs, shape, *peers.with_text(shape), options)
        rows, reports = rows + found[0], reports | found[1]
    for shape in [] if options.startup else shapes:
        types = options.type or (["q8_0", "q4k"] if shape == "7b" else TYPES)
        source, directory = peers.weights(shape, [TYPES[quantize] for quantize in types])
        mine = {}
        for quantize in types:
            mine[quantize] = ours(server, source, quantize, options)
            kind = TYPES[quantize]
            peer = llama(programs, directory / f"{kind}.gguf", options)
            versions["llama.cpp"] = peer.pop("build")
            reports[f"{shape} {quantize}"] = mine[quantize].pop("report")
            rows += compare(shape, quantize, mine[quantize], f"llama.cpp {kind}", peer)
        others = transformers(peers, source, options) if options.transformers else {}
        others |= candle(source, options) if options.candle else {}
        for name, peer in others.items():
            if mine.get("none"):
                rows += compare(shape, "none", mine["none"], name, peer)

    commit = output("git", "describe", "--always", "--dirty", "--abbrev=12", cwd=ROOT).strip()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine_name = "".join(c if c.isalnum() else "-" for c in machine()["cpu"].lower())
    what = "-startup" if options.startup else "-7b" if shapes == ["7b"] else ""
    file = Path(options.results) / f"{date}-{machine_name}-{machine()['cores']}-cores{what}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    setting = {name: getattr(options, name) for name in ["threads", "prompt", "new", "batch", "repeats"]}
    result = {"date": date, "commit": commit, "machine": machine(), "versions": versions, "setting": setting,
              "rows": rows, "codeseal": reports}
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
