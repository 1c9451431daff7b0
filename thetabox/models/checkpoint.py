"""Checkpoints: safetensors with the architecture in the metadata, graph files; nothing in a file is ever executed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import pickletools
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from thetabox.errors import InputError
from thetabox.models.bytes_of import bytes_of
from thetabox.models.contents import Held, fill, first_line, fits, readings, shown, state_dicts
from thetabox.models.convnet import ConvNet
from thetabox.models.graphs import check_dynamics, data_files, is_graph, read_graph
from thetabox.models.lsnn import LSNN
from thetabox.models.mlp import MLP
from thetabox.models.resnet import ResNet32
from thetabox.user_code import is_place, object_at
from thetabox.version import __version__

ARCHITECTURES: dict[str, type[nn.Module]] = {"lsnn": LSNN, "convnet": ConvNet, "mlp": MLP, "resnet32": ResNet32}
"""Networks that a checkpoint may name; add your own class (with ``config``) to have it saved and loaded."""

METADATA_KEY = "thetabox"


def build(name: str, /, **config: Any) -> nn.Module:
    """A fresh network of the registry, or of the user's own code.

    Args:
        name: of :data:`ARCHITECTURES`, or code to run: ``package.module:factory``, ``path/to/file.py:Class``.
        config: arguments of its constructor.

    Raises:
        InputError: unknown name, code that fails, or a configuration that the network does not take.
    """
    return _of_code(name, config) if is_place(name) else _of_registry(name, config)


def _of_registry(name: str, config: Mapping[str, Any]) -> nn.Module:
    """What a file may name: no code of it is run."""
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise InputError(f"unknown model {name!r}; choose one of {known}, or name your own, path/to/file.py:Class")
    try:
        return ARCHITECTURES[name](**config)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"model {name!r} cannot be built from {dict(config)}: {first_line(error)}") from None


def _of_code(place: str, config: Mapping[str, Any]) -> nn.Module:
    maker = object_at(place, "network")
    if isinstance(maker, nn.Module):
        if config:
            raise InputError(f"{place} is a network that is made already, with no arguments to set")
        return maker
    if not callable(maker):
        raise InputError(f"{place} is a {type(maker).__name__}, not a class or function that makes a network")
    try:
        made = maker(**config)
    except InputError:
        raise
    except Exception as error:  # the user's code raises whatever it likes
        given = ", ".join(f"{name}={value}" for name, value in config.items()) or "no arguments"
        raise InputError(
            f"{place} makes no network of {given} ({type(error).__name__}: {first_line(error)}); give the arguments of "
            "its constructor (--set name=value)"
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{place} makes a {type(made).__name__}, not a torch.nn.Module")
    return made


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
            "or keep its state_dict with torch.save and load it with model= (--model path/to/file.py:Class)"
        )
    meta = {"architecture": name, "config": model.config, "version": __version__, "info": info or {}}
    held = model.state_dict()
    for key, value in held.items():
        if not isinstance(value, torch.Tensor):  # what get_extra_state returns
            raise InputError(f"{key} of the {type(model).__name__} is no tensor; keep its state_dict with torch.save")
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in held.items()}
    write_atomically(Path(path), to_bytes(tensors, metadata={METADATA_KEY: json.dumps(meta)}))


def load(
    path: str | os.PathLike[str],
    model: str | nn.Module | None = None,
    config: Mapping[str, Any] | None = None,
    dynamics: str | None = None,
) -> nn.Module:
    """Network of a checkpoint, in evaluation mode, on the CPU (a module given keeps its device).

    Every number is held as it stands in the file: a module of too narrow a type is widened to the widest that the file
    needs, and what no type of weights holds is refused. What wrappers and trainers put in front of the names
    (``module.``, ``_orig_mod.``, ``model.``) and around the state_dict (``{"model_state_dict": …, "epoch": 3}``) is
    seen through, which a :class:`~thetabox.errors.Notice` says. Nothing in a file is ever executed.

    A ``.pt2`` file (``torch.export.save``) or ``.onnx`` file holds the whole network, which becomes a
    :class:`~thetabox.models.program.Program` with its weights under the names that they have there, and a batch of any
    size. A classifier's softmax and label at the end of an ONNX file are left out, which a notice says. A ``.nir`` file
    holds a spiking network but not how its neurons are updated, which ``dynamics`` says.

    Args:
        path: a safetensors file, a ``.pt`` state_dict (read with ``weights_only=True``), a ``.pt2``, ``.onnx`` or
            ``.nir`` file.
        model: architecture name, place of the user's own code (``path/to/file.py:Class``, which is run) or a module to
            fill; needed for files that do not name their architecture.
        config: arguments of the constructor of the network that ``model`` names; read off the file where it can be. Of
            an ONNX file ``output``, the name of the value that is the logits.
        dynamics: of a NIR file, the framework by whose rules its neurons are updated (``snntorch``, ``norse``, …; all
            of them in :data:`thetabox.models.nir.PRESETS`).

    Raises:
        InputError: no such file, not a checkpoint, truncated, holding code, NaN or infinite weights, wrong shapes,
            codes or complex numbers where weights belong, time constants that are not positive.
    """
    path = Path(path)
    if is_graph(path):
        if model is not None:
            raise InputError(f"{path}: the file holds the whole network; leave --model (model= in Python) out")
        return read_graph(path, config, dynamics)
    check_dynamics(path, dynamics)
    held, meta = _read(path)
    if isinstance(model, nn.Module):
        fill(path, model, held)
        return model.eval()
    if config and model is None:
        raise InputError("config describes the network that model names; name it")
    if model is None:
        if meta is None:
            raise InputError(
                f"{path}: the checkpoint names no architecture; say which with --model (model= in Python), for "
                "instance path/to/file.py:Class"
            )
        made = _of_registry(meta["architecture"], meta["config"])
    elif not isinstance(model, str):
        raise InputError(f"model must be the name of a network or a module to fill, not {type(model).__name__}")
    elif config or is_place(model):
        made = build(model, **(config or {}))
    elif meta is not None and meta["architecture"] == model:
        made = _of_registry(model, meta["config"])
    else:
        made = _build_for(path, model, held)
    fill(path, made, held, any_type=True)
    return made.eval()


def checkpoint_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata of a checkpoint: architecture, config, version, info; empty for files without it.

    Raises:
        InputError: as :func:`load`.
    """
    path = Path(path)
    if is_graph(path):
        return {}
    return _read(path)[1] or {}


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the file's bytes, in hex; those of weights beside an ONNX file count too."""
    path = Path(path)
    digest = hashlib.sha256(bytes_of(path))
    for file in data_files(path):
        digest.update(bytes_of(file))
    return digest.hexdigest()


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


def _read(path: Path) -> tuple[Held, dict[str, Any] | None]:
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
        parsed = json.loads(meta)
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


def _build_for(path: Path, name: str, held: Held) -> nn.Module:
    config_from = getattr(ARCHITECTURES.get(name), "config_from", None)
    if config_from is None:
        return _of_registry(name, {})
    first: nn.Module | None = None
    problem: InputError | None = None
    for reading in (reading for state in held.values() for reading in readings(state)):
        try:
            network = _of_registry(name, config_from(reading))
        except (KeyError, IndexError, ZeroDivisionError, AttributeError):
            continue
        except ValueError as error:
            problem = problem or (error if isinstance(error, InputError) else None)
            continue
        if fits(network, reading):
            return network
        first = first or network
    if first is not None:
        return first
    if problem is not None:
        raise problem
    tensors = shown(next(iter(held.values())))
    raise InputError(f"{path}: its tensors ({tensors}) are not those of model {name!r}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
