"""Makes libraries that export CUDA's names and do nothing, so that a program links where CUDA is not installed.

Usage: cuda-stubs.py DIRECTORY. The names are read from cudarc's bindings in Cargo's registry; without them (nothing
that uses CUDA was ever fetched) there is nothing to link, and no stand-ins are made.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile

LIBRARIES = {
    "cuda": ("driver", "libcuda.so.1"),
    "cublas": ("cublas", "libcublas.so.13"),
    "cublasLt": ("cublaslt", "libcublasLt.so.13"),
    "curand": ("curand", "libcurand.so.10"),
    "nvrtc": ("nvrtc", "libnvrtc.so.13"),
}
NAME = re.compile(r"pub unsafe fn ((?:cu[A-Z]|cublas|curand|nvrtc)\w*)\s*\(")


def main(directory: str) -> None:
    cargo = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
    bindings = sorted(glob.glob(f"{cargo}/registry/src/*/cudarc-*/src"))
    if not bindings:
        print("cudarc is not in Cargo's registry: no stand-ins for linking", file=sys.stderr)
        return
    os.makedirs(directory, exist_ok=True)
    for library, (module, soname) in LIBRARIES.items():
        with open(f"{bindings[-1]}/{module}/sys/mod.rs", encoding="utf-8") as file:
            names = sorted(set(NAME.findall(file.read())))
        with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
            source.writelines(f"void {name}(void) {{}}\n" for name in names)
            source.flush()
            target = f"{directory}/lib{library}.so"
            options = ["-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{soname}", "-o", target]
            subprocess.run(["gcc", *options, source.name], check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
