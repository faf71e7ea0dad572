"""Unpacks an image of an OCI layout, and writes its configuration.

python3 unpack.py LAYOUT ROOTFS CONFIG
"""

import hashlib
import json
import pathlib
import subprocess
import sys


def blob(layout, descriptor):
    """The blob's path, once its content is what the descriptor says."""
    algorithm, digest = descriptor["digest"].split(":")
    path = layout / "blobs" / algorithm / digest
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if algorithm != "sha256" or found != digest:
        sys.exit(f"unpack.py: a blob is not {descriptor['digest']}")
    return path


def main(layout, rootfs, config):
    layout, rootfs = pathlib.Path(layout), pathlib.Path(rootfs)
    index = json.loads((layout / "index.json").read_text())
    if len(index["manifests"]) != 1:
        sys.exit("unpack.py: the layout must hold one image")
    manifest = json.loads(blob(layout, index["manifests"][0]).read_text())
    pathlib.Path(config).write_bytes(blob(layout, manifest["config"]).read_bytes())
    rootfs.mkdir(parents=True)
    for layer in manifest["layers"]:
        names = subprocess.run(
            ["tar", "-tf", blob(layout, layer)], check=True, capture_output=True, text=True
        ).stdout
        # The Dockerfile's last stage starts from nothing and only adds, so nothing is ever hidden.
        if any(name.rsplit("/", 1)[-1].startswith(".wh.") for name in names.splitlines()):
            sys.exit("unpack.py: a layer hides files of another: not made by this Dockerfile")
        subprocess.run(
            ["tar", "--numeric-owner", "-xpf", blob(layout, layer), "-C", rootfs], check=True
        )


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
