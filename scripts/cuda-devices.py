"""Says for which devices a program has CUDA kernels, and fails if some are missing: cuda-devices.py PROGRAM [NUMBER]...

Each NUMBER is a compute capability without its point: 75 is 7.5. The kernels of every source must be there for each of them
as machine code, and for the last also as PTX, which later devices translate. Nothing of CUDA is needed: nvcc's containers
are found in the program by how they begin.
"""

import struct
import sys

# A container: what it begins with, its version, the length of this header, and of what follows.
CONTAINER, MAGIC = struct.Struct("<IHHQ"), bytes.fromhex("50ed55ba")
# A piece of it: PTX or machine code, flags, the lengths of this header and of what follows; then the compute capability.
PIECE = struct.Struct("<HHIQ12xI")
KINDS = {1: "PTX", 2: "sm"}


def containers(program):
    """For each container what is in it: (kind, compute capability)."""
    at = program.find(MAGIC)
    while at >= 0:
        if at + CONTAINER.size > len(program):
            return
        _, version, header, length = CONTAINER.unpack_from(program, at)
        end = at + header + length
        if version == 1 and header == CONTAINER.size and end <= len(program):
            found, place = set(), at + header
            while place + PIECE.size <= end:
                kind, _, head, size, capability = PIECE.unpack_from(program, place)
                found.add((KINDS.get(kind, "?"), capability))
                place += head + size
            yield found
            at = program.find(MAGIC, end)
        else:
            at = program.find(MAGIC, at + 1)


def main(path, *capabilities):
    with open(path, "rb") as file:
        found = list(containers(file.read()))
    if not found:
        sys.exit(f"{path} has no CUDA kernels: build it with the feature cuda")
    wanted = {("sm", int(capability)) for capability in capabilities}
    wanted |= {("PTX", int(capability)) for capability in capabilities[-1:]}
    for pieces in found:
        print(" ".join(f"{kind}_{capability}" for kind, capability in sorted(pieces, key=lambda piece: piece[::-1])))
        missing = sorted(wanted - pieces)
        if missing:
            sys.exit("missing: " + " ".join(f"{kind}_{capability}" for kind, capability in missing))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
