"""Makes split-0000N-of-00003.gguf and split.json beside it: types.gguf in three parts, as `llama-gguf-split --split-max-tensors 6
--no-tensor-first-split` lays them out.

    python tests/vectors/gguf/split.py        needs gguf and numpy

The parts are written by the `gguf` package: the first has all metadata and no tensor, the others have tensors and
nothing but `split.no`, `split.count` and `split.tensors.count`.
"""

import pathlib
import shutil

import gguf

HERE = pathlib.Path(__file__).parent
TENSORS_PER_PART = 6


def copy_metadata(reader, writer):
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)


def main():
    # The logits are those of the file that is split.
    shutil.copyfile(HERE / "types.json", HERE / "split.json")
    reader = gguf.GGUFReader(HERE / "types.gguf")
    tensors = reader.tensors
    groups = [[]] + [tensors[first : first + TENSORS_PER_PART] for first in range(0, len(tensors), TENSORS_PER_PART)]
    for number, group in enumerate(groups):
        path = HERE / f"split-{number + 1:05}-of-{len(groups):05}.gguf"
        writer = gguf.GGUFWriter(path, "gemma")
        if number == 0:
            copy_metadata(reader, writer)
        else:
            # Parts after the first do not name the architecture either.
            writer.kv_data[0].pop("general.architecture")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", len(groups))
        writer.add_int32("split.tensors.count", len(tensors))
        for tensor in group:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        print(path.name, path.stat().st_size, "bytes,", len(group), "tensors")


if __name__ == "__main__":
    main()
