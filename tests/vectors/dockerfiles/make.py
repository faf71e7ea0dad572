#!/usr/bin/env python3
"""Writes rows.json: what buildah and BuildKit make of the Dockerfiles of cases.py.

    make.py --buildkit CHECKOUT [--go GO]

CHECKOUT is a clone of github.com/moby/buildkit at v0.32.2 with its vendor folder; its Dockerfile frontend is called as
a library (buildkit.go). buildah is Debian's package, run with --isolation chroot and a storage of its own, once for
each of its two image formats. Every Dockerfile starts from scratch: nothing is downloaded. Run it as root.
The rows stage-two-of-one-name* may change with each run: buildah builds stages in parallel, and the one that ends last
gets the name.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import tempfile

from cases import CASES

HERE = pathlib.Path(__file__).resolve().parent
KEPT = {
    "Labels": "labels",
    "Env": "env",
    "User": "user",
    "ExposedPorts": "ports",
    "Entrypoint": "entrypoint",
    "Cmd": "cmd",
}
EMPTY = {"labels": {}, "env": [], "user": "", "ports": [], "entrypoint": [], "cmd": []}


def kept(config):
    """What the launcher reads of a configuration, in one form for all builders."""
    row = dict(EMPTY)
    for theirs, ours in KEPT.items():
        if config.get(theirs):
            row[ours] = config[theirs]
    row["labels"] = {k: v for k, v in row["labels"].items() if k != "io.buildah.version"}
    row["ports"] = sorted(row["ports"])
    row["env"] = sorted(row["env"])
    return {"config": row}


def buildkit(checkout, go, cases):
    program = checkout / "cmd" / "codeseal-configurations"
    program.mkdir(exist_ok=True)
    shutil.copy(HERE / "buildkit.go", program / "main.go")
    binary = program / "configurations"
    subprocess.run([go, "build", "-mod=vendor", "-o", binary, "."], cwd=program, check=True)
    output = subprocess.run([binary], input=json.dumps(cases), capture_output=True, text=True, check=True).stdout
    made = json.loads(output)
    return {name: kept(row["config"]) if "config" in row else row for name, row in made.items()}


def buildah(case, image_format, scratch):
    store = ["buildah", "--storage-driver", "vfs", "--root", f"{scratch}/root", "--runroot", f"{scratch}/run"]
    context = scratch / "context"
    context.mkdir(exist_ok=True)
    (context / "file").write_text("file\n")
    dockerfile = scratch / "Dockerfile"
    dockerfile.write_bytes(case["dockerfile"].encode())
    arguments = [word for pair in case["arguments"].items() for word in ("--build-arg", "=".join(pair))]
    command = ["build", "--isolation", "chroot", "--format", image_format, "--no-cache", "--pull=never", "--quiet"]
    command += ["-f", str(dockerfile), "-t", "made", *arguments, str(context)]
    built = subprocess.run(store + command, capture_output=True, text=True, timeout=120)
    if built.returncode:
        lines = [line for line in built.stderr.splitlines() if line and not line.startswith("time=")]
        error = (lines or ["?"])[-1].replace(str(scratch), "")
        return {"error": re.sub(r"0x[0-9a-f]+", "0x", error)[:200]}
    seen = subprocess.run(store + ["inspect", "--type", "image", "made"], capture_output=True, text=True, check=True)
    subprocess.run(store + ["rmi", "-af"], capture_output=True, check=True)
    return kept(json.loads(json.loads(seen.stdout)["Config"])["config"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--buildkit", type=pathlib.Path, required=True)
    parser.add_argument("--go", default="go")
    given = parser.parse_args()
    cases = [{"name": name, "arguments": args, "dockerfile": text} for name, args, text in CASES]
    assert len({case["name"] for case in cases}) == len(cases), "two cases have one name"
    by_buildkit = buildkit(given.buildkit.resolve(), given.go, cases)
    rows = []
    for case in cases:
        with tempfile.TemporaryDirectory() as scratch:
            scratch = pathlib.Path(scratch)
            row = dict(case, buildkit=by_buildkit[case["name"]])
            row["buildah_oci"] = buildah(case, "oci", scratch)
            row["buildah_docker"] = buildah(case, "docker", scratch)
            rows.append(row)
    version = subprocess.run(["buildah", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    made = {"buildkit": "0.32.2", "buildah": version, "rows": rows}
    (HERE / "rows.json").write_text(json.dumps(made, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
