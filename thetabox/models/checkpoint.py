"""Checkpoints: safetensors with the architecture in the metadata; nothing in a file is ever executed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import pickletools
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.convnet import ConvNet
from thetabox.models.lsnn import LSNN
from thetabox.models.mlp import MLP
from thetabox.models.resnet import ResNet32
from thetabox.version import __version__

ARCHITECTURES: dict[str, type[nn.Module]] = {"lsnn": LSNN, "convnet": ConvNet, "mlp": MLP, "resnet32": ResNet32}
"""Networks that a checkpoint may name; add your own class (with ``config``) to have it saved and loaded."""

METADATA_KEY = "thetabox"


def build(name: str, **config: Any) -> nn.Module:
    """A fresh network of the registry.

    Raises:
        InputError: unknown name, or a configuration that the network does not take.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"unknown model {name!r}; choose one of {', '.join(sorted(ARCHITECTURES))}")
    try:
        return ARCHITECTURES[name](**config)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"model {name!r} cannot be built from {config}: {_first_line(error)}") from None


def architecture(model: nn.Module) -> str | None:
    """Name of the model's class in the registry, None for other modules."""
    return next((name for name, kind in ARCHITECTURES.items() if type(model) is kind), None)


def save(model: nn.Module, path: str | os.PathLike[str], info: dict[str, Any] | None = None) -> None:
    """Write a network of the registry as safetensors, all or nothing (temporary file, then rename).

    Args:
        model: a network of :data:`ARCHITECTURES`.
        path: file to write; its folder must exist.
        info: JSON-able facts to keep with it (task, method, seed, …).

    Raises:
        InputError: not a network of the registry, or the file cannot be written.
    """
    name = architecture(model)
    if name is None:
        raise InputError(
            f"{type(model).__name__} is not in thetabox.models.ARCHITECTURES; add its class there, "
            "or keep its state_dict with torch.save and load it with model="
        )
    meta = {"architecture": name, "config": model.config, "version": __version__, "info": info or {}}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    write_atomically(Path(path), to_bytes(tensors, metadata={METADATA_KEY: json.dumps(meta)}))


def load(path: str | os.PathLike[str], model: str | nn.Module | None = None) -> nn.Module:
    """Network of a checkpoint, in evaluation mode, on the CPU (a module given keeps its device).

    Args:
        path: a safetensors file, or a ``.pt`` state_dict (read with ``weights_only=True``).
        model: architecture name or a module to fill; needed for files that do not name their architecture.

    Raises:
        InputError: no such file, not a checkpoint, truncated, holding code, NaN or infinite weights, wrong shapes.
    """
    path = Path(path)
    state, meta = _read(path)
    _check_finite(path, state)
    if model is None:
        if meta is None:
            raise InputError(f"{path}: the checkpoint names no architecture; say which with --model (model= in Python)")
        model = build(meta["architecture"], **meta["config"])
    elif isinstance(model, str):
        if meta is not None and meta["architecture"] == model:
            model = build(model, **meta["config"])
        else:
            model = _build_for(path, model, state)
    _fill(path, model, state)
    return model.eval()


def checkpoint_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata of a checkpoint: architecture, config, version, info; empty for files without it.

    Raises:
        InputError: as :func:`load`.
    """
    return _read(Path(path))[1] or {}


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the file's bytes, in hex."""
    return hashlib.sha256(_bytes(Path(path))).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half written.

    Raises:
        InputError: the folder is missing or not writable, the disk is full.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    head = _bytes(path, 16)
    if not head:
        raise InputError(f"{path}: the file is empty, not a checkpoint")
    # A safetensors file starts with the length of its header (8 bytes, far below 2³²) and the header's brace; its
    # first byte may be that of a pickle. Zip archives and bare pickles are torch.save's two formats.
    if head[4:9] == b"\0\0\0\0{":
        return _read_safetensors(path)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80" or path.suffix in (".pt", ".pth", ".ckpt"):
        return _read_torch(path), None
    return _read_safetensors(path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            meta = (file.metadata() or {}).get(METADATA_KEY)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a checkpoint, or truncated ({_first_line(error)})") from None
    if meta is None:
        return state, None
    try:
        parsed = json.loads(meta)
        complete = isinstance(parsed["architecture"], str) and isinstance(parsed["config"], dict)
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise InputError(f"{path}: the checkpoint's thetabox metadata is damaged")
    return state, parsed


def _read_torch(path: Path) -> dict[str, Tensor]:
    content = _bytes(path)
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
        raise InputError(f"{path}: not a checkpoint, or truncated ({_first_line(error)})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: not a state_dict (a dict of name to tensor)")
    return dict(state)


def _calls(content: bytes) -> bool:
    """Whether a bare pickle holds an operation that would look up or call something."""
    try:
        names = {operation.name for operation, _, _ in pickletools.genops(content)}
    except ValueError:
        return False
    return bool(names & {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD"})


def _bytes(path: Path, count: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _check_finite(path: Path, state: dict[str, Tensor]) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{path}: {name} holds NaN or infinite values")


def _build_for(path: Path, name: str, state: dict[str, Tensor]) -> nn.Module:
    if name not in ARCHITECTURES:
        raise InputError(f"unknown model {name!r}; choose one of {', '.join(sorted(ARCHITECTURES))}")
    config_from = getattr(ARCHITECTURES[name], "config_from", None)
    try:
        config = config_from(state) if config_from else {}
    except (KeyError, ValueError, IndexError):
        raise InputError(f"{path}: its tensors ({_shown(state)}) are not those of model {name!r}") from None
    return build(name, **config)


def _fill(path: Path, model: nn.Module, state: dict[str, Tensor]) -> None:
    own = model.state_dict()
    # Neuron values of a spiking network may be absent from a foreign file: the constructor's stand then.
    missing = [k for k in own if k not in state and not (k in dict(model.named_buffers()) and isinstance(model, LSNN))]
    unexpected = [k for k in state if k not in own]
    if missing or unexpected:
        parts = [f"lacks {_shown(missing)}"] * bool(missing) + [f"has unknown {_shown(unexpected)}"] * bool(unexpected)
        raise InputError(f"{path}: does not fit {type(model).__name__}: {', '.join(parts)}")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise InputError(
                f"{path}: {key} has shape {list(value.shape)}, not {list(own[key].shape)} as in {type(model).__name__}"
            )
    floating = next((v.dtype for v in state.values() if v.is_floating_point()), None)
    if floating is not None and floating in (torch.float32, torch.float64):
        model.to(floating)  # otherwise float64 weights would be rounded on the way in
    model.load_state_dict(state, strict=False)


def _shown(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
