"""Tensors of a safetensors file or of a pickle of tensors; nothing in a file is ever executed."""

from __future__ import annotations

import io
import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from thetabox.errors import InputError
from thetabox.json_text import parse
from thetabox.models.bytes_of import bytes_of
from thetabox.models.contents import Held, first_line, state_dicts

METADATA_KEY = "thetabox"


def read_weights(path: Path) -> tuple[Held, dict[str, Any] | None]:
    """The state_dicts of a file, and the metadata of one that a network was saved to.

    Raises:
        InputError: empty, truncated, no file of tensors, or holding code.
    """
    head = bytes_of(path, 16)
    if not head:
        raise InputError(f"{path}: the file is empty, not a checkpoint")
    # A safetensors file starts with the length of its header (8 bytes, far below 2³²) and the header's brace; its
    # first byte may be that of a pickle. Zip archives and bare pickles are torch.save's two formats.
    if head[4:9] == b"\0\0\0\0{":
        return _read_safetensors(path)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80" or path.suffix in (".pt", ".pth", ".ckpt"):
        return _read_torch(path), None
    return _read_safetensors(path)


def _read_safetensors(path: Path) -> tuple[Held, dict[str, Any] | None]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            meta = (file.metadata() or {}).get(METADATA_KEY)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:  # whatever damaged bytes, or a type of number unknown here, make the reader raise
        raise InputError(f"{path}: not a checkpoint, or truncated ({first_line(error)})") from None
    if meta is None:
        return {"": state}, None
    try:
        parsed = parse(meta)
        complete = isinstance(parsed["architecture"], str) and isinstance(parsed["config"], dict)
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise InputError(f"{path}: the checkpoint's thetabox metadata is damaged")
    return {"": state}, parsed


def _read_torch(path: Path) -> Held:
    content = bytes_of(path)
    try:
        # From memory: given a path, torch goes by its suffix.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol; what matters is raised
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or _calls(content):
            raise InputError(
                f"{path}: refused, the pickle holds objects beyond tensors and could run code; save a state_dict"
            ) from None
        raise InputError(f"{path}: not a checkpoint, or truncated (its pickle cannot be read)") from None
    except Exception as error:  # whatever damaged bytes make the reader raise
        raise InputError(f"{path}: not a checkpoint, or truncated ({first_line(error)})") from None
    states = state_dicts(state)
    if not states:
        raise InputError(f"{path}: not a state_dict (a dict of name to tensor)")
    return states


def _calls(content: bytes) -> bool:
    """Whether a bare pickle holds an operation that would look up or call something."""
    try:
        names = {operation.name for operation, _, _ in pickletools.genops(content)}
    except ValueError:
        return False
    return bool(names & {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
