"""Reads a NIR file's HDF5 in a process of its own: damaged bytes can make the HDF5 library loop for ever, or crash.

A script, not a module of the package: it needs h5py and numpy alone, and starts in a fraction of a second. The file
comes on standard input; on standard output go a line of JSON (``tree``, in which numbers stand as type, shape and
place, or ``refused``, why) and behind it the bytes of all numbers.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

DEPTH = 16
ENTRIES = 20_000
LARGEST = 2**32
"""Bytes that all numbers may take once they are unpacked."""
# gzip, shuffle, checksum, szip, and what h5py brings itself (lzf): no filter that HDF5 would load as code.
FILTERS = {1, 2, 3, 4, 32000}


class RefusedError(Exception):
    """What is wrong with the file, in a line."""


class Reader:
    """Reads groups, counting what they hold before it is unpacked."""

    def __init__(self) -> None:
        self.bytes = self.entries = self.written = 0
        self.numbers: list[Any] = []

    def group(self, group: Any, where: str = "", depth: int = 0) -> dict[str, Any]:
        """What a group holds, by name."""
        import h5py

        if depth > DEPTH:  # a group that holds itself has no end
            raise RefusedError(f"its groups are nested deeper than {DEPTH}, or in a circle")
        held: dict[str, Any] = {}
        for name in group:
            inside = f"{where}/{name}"
            self.entries += 1
            if self.entries > ENTRIES:
                raise RefusedError(f"it holds more than {ENTRIES} entries")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise RefusedError(f"{inside} is a link, to elsewhere in this file or another one")
            item = group[name]
            if isinstance(item, h5py.Group):
                held[name] = self.group(item, inside, depth + 1)
            elif isinstance(item, h5py.Dataset):
                held[name] = self.dataset(item, inside)
            else:
                raise RefusedError(f"{inside} is neither a group nor a set of numbers")
        return held

    def dataset(self, item: Any, where: str) -> Any:
        """Text, a list of texts, or where among the numbers a set of them stands."""
        import h5py
        import numpy as np

        if item.external or item.is_virtual:
            raise RefusedError(f"the numbers of {where} lie in another file, which is not read")
        made = item.id.get_create_plist()
        if not {made.get_filter(i)[0] for i in range(made.get_nfilters())} <= FILTERS:
            raise RefusedError(f"{where} is packed by a filter that is not read")
        text = h5py.check_string_dtype(item.dtype) is not None
        if not text and item.dtype.kind not in "fiub":
            raise RefusedError(f"{where} holds neither numbers nor text ({item.dtype})")
        if item.shape is None:
            raise RefusedError(f"{where} is empty")
        self.bytes += item.size * item.dtype.itemsize
        if self.bytes > LARGEST:
            raise RefusedError(f"its numbers take more than {LARGEST >> 30} GiB")
        value = item[()]
        if text:
            return value.decode() if isinstance(value, bytes) else _decoded(value.tolist())
        native = np.asarray(value, item.dtype.newbyteorder("="))
        place, self.written = self.written, self.written + native.nbytes
        self.numbers.append(native.tobytes())
        return {"": [native.dtype.str, list(native.shape), place]}


def _decoded(texts: Any) -> Any:
    return [_decoded(part) for part in texts] if isinstance(texts, list) else texts.decode()


def encoded(content: bytes) -> bytes:
    """What goes on standard output."""
    import h5py

    reader = Reader()
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            said: dict[str, Any] = {"tree": reader.group(file)}
    except RefusedError as error:
        said = {"refused": str(error)}
    except Exception as error:  # whatever damaged bytes make the library raise
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        said = {"refused": f"not a NIR file, or damaged ({why})"}
    return json.dumps(said).encode() + b"\n" + b"".join(reader.numbers)


if __name__ == "__main__":
    sys.stdout.buffer.write(encoded(sys.stdin.buffer.read()))
