"""Makes lazy stand-ins for CUDA's libraries, so that a program which links them also starts where they are not installed.

Usage: cuda-stubs.py DIRECTORY [BINDINGS]. x86-64 Linux; needs gcc and ar.

For each library DIRECTORY gets `libNAME_lazy.a`, with a trampoline for every function that cudarc declares, and `libNAME.so`,
a linker script that names the archive. The first call of a function loads the library, stores the function's address and
jumps there; later calls only jump. Where the library or the function is missing, the call returns the library's own status
for that. So the program has none of these libraries among its dynamic dependencies.
`libcudart.so` and `libstdc++.so` are linker scripts for the static libraries.

BINDINGS is the `src` folder of cudarc, otherwise the one in Cargo's registry, of the version in Cargo.lock.
"""

import glob
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Module of cudarc, names of the library, and the statuses without the library and without the function:
# CUDA_ERROR_NO_DEVICE, NOT_FOUND; CUBLAS_STATUS_NOT_INITIALIZED, NOT_SUPPORTED (for cuBLASLt too);
# CURAND_STATUS_INITIALIZATION_FAILED, INTERNAL_ERROR; NVRTC_ERROR_INTERNAL_ERROR.
LIBRARIES = {
    "cuda": ("driver", ["libcuda.so.1"], 100, 500),
    "cublas": ("cublas", ["libcublas.so.13"], 1, 15),
    "cublasLt": ("cublaslt", ["libcublasLt.so.13"], 1, 15),
    "curand": ("curand", ["libcurand.so.10"], 203, 999),
    "nvrtc": ("nvrtc", ["libnvrtc.so.13"], 11, 11),
}
STATIC = {"cudart": "-lcudart_static", "stdc++": "-l:libstdc++.a"}
FUNCTION = re.compile(r"^pub unsafe fn ((?:cu[A-Z]|cublas|curand|nvrtc)\w*)\s*\(.*\)(?: -> ([^{]*))? \{$", re.MULTILINE)

RESOLVE = """#include <dlfcn.h>
#define HIDDEN __attribute__((visibility("hidden")))
static const char *const files[] = {{{files}}};
static const struct {{ const char *name; int returns_text; }} functions[] = {{{functions}}};
HIDDEN void *{library}_lazy_table[{count}];
static int no_library(void) {{ return {no_library}; }}
static int no_function(void) {{ return {no_function}; }}
static const char *no_text(void) {{ return "the library of this function cannot be loaded"; }}
HIDDEN void *{library}_lazy_resolve(unsigned long index) {{
  static void *loaded;
  void *library = __atomic_load_n(&loaded, __ATOMIC_ACQUIRE);
  for (unsigned long i = 0; !library && i < sizeof files / sizeof *files; i++) library = dlopen(files[i], RTLD_NOW | RTLD_LOCAL);
  __atomic_store_n(&loaded, library, __ATOMIC_RELEASE);
  void *function = library ? dlsym(library, functions[index].name) : 0;
  if (!function) function = functions[index].returns_text ? (void *)no_text : library ? (void *)no_function : (void *)no_library;
  __atomic_store_n(&{library}_lazy_table[index], function, __ATOMIC_RELEASE);
  return function;
}}
"""
TRAMPOLINE = """.globl {name}
.hidden {name}
.type {name},@function
{name}:
 mov {library}_lazy_table+{offset}(%rip),%rax
 test %rax,%rax
 je 1f
 jmp *%rax
1: mov ${index},%eax
 jmp {library}_lazy_first
.size {name},.-{name}
"""
INTEGERS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")


def functions(path: pathlib.Path) -> dict[str, bool]:
    """The functions that a file of bindings declares, and whether each returns text instead of a status."""
    found = {name: returns or "" for name, returns in FUNCTION.findall(path.read_text(encoding="utf-8"))}
    return {name: found[name].startswith("*const ::core::ffi::c_char") for name in sorted(found)}


def assembly(library: str, names: list[str]) -> str:
    """A trampoline for each function, and what the first call of each goes through: it keeps all arguments."""
    text = [".text\n"]
    for index, name in enumerate(names):
        text.append(TRAMPOLINE.format(name=name, library=library, offset=8 * index, index=index))
    text.append(f"{library}_lazy_first:\n")
    text += [f" push %{register}\n" for register in INTEGERS]
    # With the return address 192 bytes: the stack stays aligned to 16.
    text.append(" sub $136,%rsp\n")
    text += [f" movdqu %xmm{number},{16 * number}(%rsp)\n" for number in range(8)]
    text.append(f" mov %rax,%rdi\n call {library}_lazy_resolve\n")
    text += [f" movdqu {16 * number}(%rsp),%xmm{number}\n" for number in range(8)]
    text.append(" add $136,%rsp\n")
    text += [f" pop %{register}\n" for register in reversed(INTEGERS)]
    text.append(' jmp *%rax\n.section .note.GNU-stack,"",@progbits\n')
    return "".join(text)


def bindings() -> pathlib.Path:
    """cudarc's sources, fetched if they are not there."""
    lock = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
    version = re.search(r'name = "cudarc"\nversion = "([^"]+)"', lock)
    if not version:
        sys.exit("cuda-stubs.py: Cargo.lock names no cudarc")
    cargo = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
    pattern = f"{cargo}/registry/src/*/cudarc-{version[1]}/src"
    if not glob.glob(pattern):
        subprocess.run(["cargo", "fetch", "--locked"], cwd=ROOT, check=True)
    found = glob.glob(pattern)
    if not found:
        sys.exit(f"cuda-stubs.py: cudarc {version[1]} is not in Cargo's registry: cargo fetch")
    return pathlib.Path(found[0])


def write(path: pathlib.Path, text: str) -> None:
    # Never through a link to a real library.
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")


def make(out: pathlib.Path, library: str, source: pathlib.Path) -> None:
    _, files, no_library, no_function = LIBRARIES[library]
    declared = functions(source)
    if not declared:
        sys.exit(f"cuda-stubs.py: {source} declares no functions")
    quote = lambda texts: ",".join(f'"{text}"' for text in texts)
    code = RESOLVE.format(
        library=library, files=quote(files), count=len(declared), no_library=no_library, no_function=no_function,
        functions=",".join(f'{{"{name}",{int(text)}}}' for name, text in declared.items()),
    )
    archive = out / f"lib{library}_lazy.a"
    archive.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as work:
        # Names that do not vary, or the archive would.
        for name, text in ((f"{library}_resolve.c", code), (f"{library}_trampolines.S", assembly(library, list(declared)))):
            write(pathlib.Path(work, name), text)
            subprocess.run(["gcc", "-O1", "-fPIC", "-c", name], cwd=work, check=True)
        objects = [f"{work}/{library}_resolve.o", f"{work}/{library}_trampolines.o"]
        subprocess.run(["ar", "rcsD", archive, *objects], check=True)
    # Looked for where the script itself was found, so that the directory can be moved.
    write(out / f"lib{library}.so", f"INPUT(-l{library}_lazy)\n")


def main(directory: str, source: str | None = None) -> None:
    out, source = pathlib.Path(directory), pathlib.Path(source) if source else bindings()
    out.mkdir(parents=True, exist_ok=True)
    for library, (module, *_) in LIBRARIES.items():
        make(out, library, source / module / "sys/mod.rs")
    for library, static in STATIC.items():
        write(out / f"lib{library}.so", f"INPUT({static})\n")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
