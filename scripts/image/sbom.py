"""Writes what an image is made of, as CycloneDX 1.5 in JSON: crates that are compiled in, Debian packages,
and the libraries of candle's CUDA backend.

python3 sbom.py --features LIST --libraries candle|none --digest sha256:… > sbom.json

The same sources give the same text.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import tomllib
import uuid

ROOT = pathlib.Path(__file__).parents[2]
TARGET = "x86_64-unknown-linux-gnu"


def cargo(subcommand, *arguments):
    command = ["cargo", subcommand, "--locked", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def metadata():
    return json.loads(cargo("metadata", "--format-version", "1", "--all-features", "--filter-platform", TARGET))


def compiled_in(features, packages):
    """The packages that the program is linked from, and what each depends on: not those that only build it, nor macros.

    Of `cargo tree`, since `cargo metadata` adds up the features that tests and benches want."""
    tree = cargo("tree", "--package", "codeseal", "--edges", "normal", "--target", TARGET, "--prefix", "depth",
                 "--format", " {p}", "--no-default-features", "--features", features)
    by_name = {(package["name"], package["version"]): id for id, package in packages.items()}
    edges, macros, path = {}, set(), []
    for line in tree.splitlines():
        depth, name, version, rest = re.fullmatch(r"(\d+) (\S+) v(\S+)(.*)", line).groups()
        id = by_name[name, version]
        if "(proc-macro)" in rest:
            macros.add(id)
        path[int(depth):] = [id]
        edges.setdefault(id, set())
        if len(path) > 1:
            edges[path[-2]].add(id)
    start = path[0]
    found, waiting = {}, [start]
    while waiting:
        id = waiting.pop()
        if id not in found:
            found[id] = sorted(edges[id] - macros)
            waiting += found[id]
    return start, found


def crate_purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def crate(package, checksums):
    purl = crate_purl(package)
    component = {
        "type": "library",
        "bom-ref": purl,
        "name": package["name"],
        "version": package["version"],
        "purl": purl,
    }
    if package.get("license"):
        # Before SPDX had operators, crates wrote a stroke.
        component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if package.get("repository"):
        component["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return component


def debian(line):
    name, version, digest = line.split()
    purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch=amd64&distro=bookworm"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        # Of the package's file.
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def wheel(line):
    name, version, digest = re.fullmatch(r"([\w-]+)==([\w.]+) --hash=sha256:([0-9a-f]{64})", line).groups()
    purl = f"pkg:pypi/{name}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        # Of the wheel.
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", required=True)
    parser.add_argument("--libraries", choices=["candle", "none"], default="none")
    parser.add_argument("--digest", required=True)
    args = parser.parse_args()

    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    packages = {package["id"]: package for package in metadata()["packages"]}
    start, edges = compiled_in(args.features, packages)
    crates = [crate(packages[id], checksums) for id in edges]
    runtime = (ROOT / "scripts/image/runtime.lock").read_text().splitlines()
    installed = [debian(line) for line in runtime if not line.startswith("#")]
    if args.libraries == "candle":
        wheels = (ROOT / "scripts/cuda-libraries.requirements").read_text().splitlines()
        installed += [wheel(line) for line in wheels if not line.startswith("#")]
    server = next(c for c in crates if c["bom-ref"] == crate_purl(packages[start]))
    server["type"] = "application"

    image = f"pkg:oci/codeseal@{args.digest.replace(':', '%3A')}"
    dependencies = [{"ref": image, "dependsOn": [server["bom-ref"], *(i["bom-ref"] for i in installed)]}]
    dependencies += [
        {"ref": crate_purl(packages[id]), "dependsOn": [crate_purl(packages[dep]) for dep in deps]}
        for id, deps in edges.items()
    ]
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    when = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc)
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, args.digest)}",
        "version": 1,
        "metadata": {
            "timestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "container",
                "bom-ref": image,
                "name": "codeseal",
                "version": packages[start]["version"],
                "purl": image,
                "properties": [{"name": "codeseal:features", "value": args.features}],
            },
        },
        "components": sorted(crates, key=lambda c: c["bom-ref"]) + installed,
        "dependencies": sorted(dependencies, key=lambda d: d["ref"]),
    }
    print(json.dumps(bom, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
