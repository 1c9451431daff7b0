"""Tensors of an ONNX file, in it or beside it, number by number as they stand there."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.contents import first_line

# Type in the file → torch's, and where its numbers stand if not as raw bytes.
DTYPES: dict[int, tuple[torch.dtype, str]] = {
    1: (torch.float32, "float_data"), 2: (torch.uint8, "int32_data"), 3: (torch.int8, "int32_data"),
    5: (torch.int16, "int32_data"), 6: (torch.int32, "int32_data"), 7: (torch.int64, "int64_data"),
    9: (torch.bool, "int32_data"), 10: (torch.float16, "int32_data"), 11: (torch.float64, "double_data"),
    16: (torch.bfloat16, "int32_data"),
}  # a table, several to a line  # fmt: skip
OTHERS = {4: "uint16", 8: "string", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128"}
EXTERNAL = 1


def dtype_of(code: int, what: str) -> torch.dtype:
    """The type of a number in the file.

    Raises:
        InputError: one that is not read.
    """
    if code not in DTYPES:
        raise InputError(
            f"{what} is of type {OTHERS.get(code, f'number {code} (float8, int4 or unknown)')}, which is not read"
        )
    return DTYPES[code][0]


def tensor_of(path: Path, proto: Any, what: str) -> Tensor:
    """A tensor of a file.

    Args:
        path: of the model, in whose folder its data lies.
        proto: ``TensorProto``.
        what: its name, for messages.

    Raises:
        InputError: another count of numbers than its sizes say, data outside of the folder, NaN or infinite numbers.
    """
    try:
        return _tensor(path, proto, what)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _tensor(path: Path, proto: Any, what: str) -> Tensor:
    dtype = dtype_of(proto.data_type, what)
    sizes = [int(d) for d in proto.dims]
    if any(size < 0 for size in sizes):
        raise InputError(f"{what} has sizes {sizes}")
    if proto.HasField("segment"):
        raise InputError(f"{what} is kept in segments, which are not read")
    count = math.prod(sizes)
    elsewhere = proto.data_location == EXTERNAL or proto.HasField("raw_data")
    if elsewhere and len(getattr(proto, DTYPES[proto.data_type][1])):
        raise InputError(f"{what} is kept twice, as bytes and as numbers")
    if proto.data_location == EXTERNAL:
        content = _external(path, proto, what, count * dtype.itemsize)
    elif proto.HasField("raw_data"):
        content = proto.raw_data
    else:
        return _typed(proto, what, dtype, sizes, count)
    if len(content) != count * dtype.itemsize:
        raise InputError(f"{what} is said to be {sizes}, which is not what its {len(content)} bytes are")
    held = (
        torch.frombuffer(bytearray(content), dtype=dtype).reshape(sizes) if count else torch.empty(sizes, dtype=dtype)
    )
    return _numbers(what, held.reshape(sizes))


def _typed(proto: Any, what: str, dtype: torch.dtype, sizes: list[int], count: int) -> Tensor:
    numbers = list(getattr(proto, DTYPES[proto.data_type][1]))
    if len(numbers) != count:
        raise InputError(f"{what} is said to be {sizes}, which is not what its {len(numbers)} numbers are")
    if dtype in (torch.float16, torch.bfloat16):  # their bits, in whole numbers
        bits = torch.tensor([n if n < 1 << 15 else n - (1 << 16) for n in numbers], dtype=torch.int16)
        return _numbers(what, bits.view(dtype).reshape(sizes))
    return _numbers(what, torch.tensor(numbers, dtype=dtype).reshape(sizes))


def _numbers(what: str, tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() and bool(tensor.isnan().any()):
        raise InputError(f"{what} holds NaN")
    return tensor


def _external(path: Path, proto: Any, what: str, size: int) -> bytes:
    """Bytes of a file in the model's folder, of which nothing but these is read."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    file = data_file(path, entries.get("location", ""), what)
    has = os.path.getsize(file)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        raise InputError(f"{what} has no numbers for where it lies in {file.name}") from None
    if offset < 0 or length != size or offset + length > has:
        raise InputError(
            f"{what} needs {size} bytes, and is said to be {length} from {offset} on of {file.name}'s {has}"
        )
    try:
        with open(file, "rb") as data:
            data.seek(offset)
            return data.read(length)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None


def data_file(path: Path, location: str, what: str) -> Path:
    """Where the data of a tensor lies.

    Raises:
        InputError: not in the model's folder, or not there.
    """
    relative = Path(location)
    folder = path.resolve().parent
    refused = f"refused, {what} is said to lie in {location[:80]!r}, which is no file in the model's folder"
    if not location or relative.is_absolute() or "\\" in location or "\0" in location or ".." in relative.parts:
        raise InputError(refused)
    try:
        file = (folder / relative).resolve(strict=True)
    except FileNotFoundError:
        raise InputError(f"{what} lies in {location}, which is not there; put it beside the model") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{what} lies in {location[:80]!r}, which cannot be read ({first_line(error)})") from None
    if not file.is_relative_to(folder) or not file.is_file():
        raise InputError(refused)
    return file
