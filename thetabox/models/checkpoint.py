"""Checkpoints: safetensors with the architecture in the metadata, graph files; nothing in a file is ever executed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from thetabox.errors import InputError
from thetabox.models.atomic_write import write_atomically
from thetabox.models.bytes_of import bytes_of
from thetabox.models.contents import Held, fill, fits, readings, shown
from thetabox.models.graphs import check_dynamics, data_files, is_graph, read_graph
from thetabox.models.registry import ARCHITECTURES, architecture, build, of_registry
from thetabox.models.weight_files import METADATA_KEY, read_weights
from thetabox.user_code import is_place
from thetabox.version import __version__


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
    held, meta = read_weights(path)
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
        made = of_registry(meta["architecture"], meta["config"])
    elif not isinstance(model, str):
        raise InputError(f"model must be the name of a network or a module to fill, not {type(model).__name__}")
    elif config or is_place(model):
        made = build(model, **(config or {}))
    elif meta is not None and meta["architecture"] == model:
        made = of_registry(model, meta["config"])
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
    return read_weights(path)[1] or {}


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the file's bytes, in hex; those of weights beside an ONNX file count too."""
    path = Path(path)
    digest = hashlib.sha256(bytes_of(path))
    for file in data_files(path):
        digest.update(bytes_of(file))
    return digest.hexdigest()


def _build_for(path: Path, name: str, held: Held) -> nn.Module:
    config_from = getattr(ARCHITECTURES.get(name), "config_from", None)
    if config_from is None:
        return of_registry(name, {})
    first: nn.Module | None = None
    problem: InputError | None = None
    for reading in (reading for state in held.values() for reading in readings(state)):
        try:
            network = of_registry(name, config_from(reading))
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
