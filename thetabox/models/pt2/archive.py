"""The members of a ``.pt2`` archive: its graph as JSON, its tensors as bytes. Nothing of it is unpickled.

``torch.export.load`` runs code of a file in many places: sample inputs, constants and weights marked ``use_pickle``
are unpickled, custom objects rebuilt, AOTInductor libraries loaded, expressions of sizes and guards evaluated as
Python. None of that is needed to know the network, so its reader is not called: an archive is read as a zip file whose
members are stored as they are, and refused where it holds code, or a pickle that is more than tensors.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.json_text import parse
from thetabox.models.bytes_of import bytes_of
from thetabox.models.contents import first_line, shown
from thetabox.models.program import check_finite

# Formats that torch 2.8 and later write. The other one kept all tensors in pickles.
SCHEMA = 8
DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32,
    8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # a table, several to a line  # fmt: skip
# Members that are code, or that torch would make into code.
CODE = ("data/aotinductor/", "data/executorch/", "data/mtia/", "data/xl_model_weights/")
# What a pickle of tensors looks up.
PLAIN = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter|device_tensor_from_numpy)|torch (\w+Storage|"
    r"Size|device|float16|bfloat16|float32|float64|u?int8|int16|int32|int64|bool)|torch\.nn\.parameter Parameter|"
    r"torch\._tensor _rebuild_from_type_v2|torch Tensor|(__builtin__|builtins) set|"
    r"torch\.storage (Untyped|Typed)Storage"
)


class Archive:
    """The members of an archive.

    Args:
        path: of the file, which is only read.

    Raises:
        InputError: no such archive, damaged, or holding code; the message says which member.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = bytes_of(path)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError):
            raise InputError(f"{path}: not a .pt2 archive, or truncated") from None
        self._members = self._looked_through(len(content))
        self._check_code()

    def _looked_through(self, size: int) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        infos = self._zip.infolist()
        roots = {info.filename.partition("/")[0] for info in infos}
        for info in infos:
            name = info.filename
            parts = name.split("/")
            if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or name in members:
                raise InputError(f"{self.path}: refused, its member {name[:80]!r} is no name inside an archive")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise InputError(f"{self.path}: refused, its member {name[:80]} is packed; torch stores all as it is")
            members[name] = info
        if sum(info.file_size for info in infos) > size:
            raise InputError(f"{self.path}: refused, its members are said to be larger than the whole file")
        if len(roots) != 1:
            raise InputError(f"{self.path}: {self._other(members)}")
        (root,) = roots
        return {name.removeprefix(f"{root}/"): info for name, info in members.items()}

    @staticmethod
    def _other(members: Mapping[str, Any]) -> str:
        if "serialized_exported_program.json" in members:
            return "written by torch before 2.8, whose format keeps tensors in pickles; export it again"
        return "not an archive of torch.export.save"

    def _check_code(self) -> None:
        for name in self._members:
            if name.startswith(CODE) or name.endswith((".so", ".dll", ".dylib", ".py", ".pyc", ".o", ".cpp")):
                raise InputError(
                    f"{self.path}: refused, it holds compiled or other code ({name}); save the exported program itself "
                    "with torch.export.save"
                )
            if name.startswith("data/sample_inputs/") or name.endswith((".pt", ".pkl")):
                self._check_pickle(name)

    def _check_pickle(self, name: str) -> None:
        """Refuse a pickle that looks up more than tensors; it is not read for what is in it."""
        try:
            content = self.bytes(name)
            inner = _unzipped(content)
            names = {str(argument) for op, argument, _ in pickletools.genops(inner) if op.name in ("GLOBAL", "INST")}
            stack = any(op.name == "STACK_GLOBAL" for op, _, _ in pickletools.genops(inner))
        except InputError:
            raise
        except Exception as error:  # damaged bytes make the reader raise whatever it likes
            raise InputError(f"{self.path}: {name} is damaged ({first_line(error)})") from None
        foreign = sorted(n for n in names if not PLAIN.fullmatch(n))
        if foreign or stack:
            raise InputError(
                f"{self.path}: refused, {name} is a pickle of more than tensors and could run code "
                f"({shown(n.replace(' ', '.') for n in foreign) or 'names made at run time'}); export it with tensors "
                "as inputs"
            )

    def bytes(self, name: str) -> bytes:
        """A member.

        Raises:
            InputError: it is not there, or damaged.
        """
        if name not in self._members:
            raise InputError(f"{self.path}: not an archive of torch.export.save, or truncated (it lacks {name})")
        try:
            return self._zip.read(self._members[name])
        except Exception as error:  # whatever damaged bytes make the reader raise
            raise InputError(f"{self.path}: {name} is damaged ({first_line(error)})") from None

    def json(self, name: str) -> Any:
        """A member in JSON.

        Raises:
            InputError: as :meth:`bytes`, or it is not JSON.
        """
        try:
            return parse(self.bytes(name))
        except ValueError:
            raise InputError(f"{self.path}: {name} is damaged (not JSON)") from None

    def model(self) -> str:
        """Name of the one model of the archive.

        Raises:
            InputError: there is none, or there are several.
        """
        names = [n.removeprefix("models/").removesuffix(".json") for n in self._members if n.startswith("models/")]
        if self._members and self._text("byteorder", "little") != "little":
            raise InputError(f"{self.path}: its tensors are not in little-endian order")
        if len(names) != 1:
            what = f"holds {len(names)} programs ({shown(names)})" if names else self._other(self._members)
            raise InputError(f"{self.path}: {what}" + ("; save the one that is meant by itself" if names else ""))
        return names[0]

    def _text(self, name: str, default: str) -> str:
        return self.bytes(name).decode("utf-8", "replace").strip() if name in self._members else default

    def tensors(self, kind: str, model: str) -> dict[str, Tensor]:
        """The tensors of a model, ``kind`` being ``weights`` or ``constants``; names of one memory share it.

        Raises:
            InputError: a pickle or an object instead of a tensor; sizes that are not those of the member.
        """
        config = self.json(f"data/{kind}/model_{kind}_config.json".replace("model_", f"{model}_", 1))
        memory: dict[tuple[str, torch.dtype], Tensor] = {}
        made: dict[tuple[Any, ...], Tensor] = {}
        tensors: dict[str, Tensor] = {}
        try:
            entries = [(str(name), dict(entry)) for name, entry in config["config"].items()]
            for name, entry in entries:
                tensors[name] = self._tensor(kind, name, entry, memory, made)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise InputError(f"{self.path}: its list of {kind} is damaged ({first_line(error)})") from None
        return tensors

    def _tensor(
        self,
        kind: str,
        name: str,
        entry: dict[str, Any],
        memory: dict[tuple[str, torch.dtype], Tensor],
        made: dict[tuple[Any, ...], Tensor],
    ) -> Tensor:
        file, meta = entry["path_name"], entry["tensor_meta"]
        if entry.get("use_pickle") is not False or meta is None or not re.fullmatch(r"(weight|tensor)_\d+", file):
            raise InputError(
                f"{self.path}: refused, {name} is kept as a pickle or an object, which could run code; only plain "
                "tensors are read"
            )
        dtype = DTYPES.get(meta["dtype"])
        if dtype is None or meta["layout"] != 7:
            raise InputError(
                f"{self.path}: {name} is of a type that is not read (complex, float8, sparse or quantised)"
            )
        sizes = [_whole(s["as_int"]) for s in meta["sizes"]]
        strides = [_whole(s["as_int"]) for s in meta["strides"]]
        offset = _whole(meta["storage_offset"]["as_int"])
        if (file, dtype) not in memory:
            content = bytearray(self.bytes(f"data/{kind}/{file}"))
            if len(content) % dtype.itemsize:
                raise InputError(f"{self.path}: {name} is damaged (its bytes are no whole numbers)")
            memory[file, dtype] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        flat = memory[file, dtype]
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        repeated = any(stride == 0 and size > 1 for size, stride in zip(sizes, strides, strict=True))
        if 0 not in sizes and (last >= len(flat) or repeated):
            raise InputError(
                f"{self.path}: {name} is said to be {sizes}, which is not what its {len(flat)} numbers are"
            )
        key = (file, dtype, *sizes, -1, *strides, offset)
        if key not in made:
            made[key] = torch.as_strided(flat, sizes, strides, offset) if 0 not in sizes else flat.new_empty(sizes)
            check_finite(self.path, name, made[key])
        return made[key]


def is_archive(path: Path) -> bool:
    """Whether a zip file is what ``torch.export.save`` writes, whatever its name."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.partition("/")[2].startswith("models/") for name in file.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError):
        return False


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"a size of {value!r}")
    return value


def _unzipped(content: bytes) -> bytes:
    """The pickle in what ``torch.save`` writes, or a bare one."""
    if not content.startswith(b"PK"):
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        (name,) = [n for n in file.namelist() if n.endswith("data.pkl")]
        if file.getinfo(name).file_size > len(content):
            raise ValueError("packed")
        return file.read(name)
