"""From options to the objects that the library takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thetabox.box import Box
from thetabox.cli.console import note
from thetabox.cli.values import literals
from thetabox.data import Dataset
from thetabox.data import load as load_data
from thetabox.errors import InputError
from thetabox.models import is_graph, is_recurrent, logits, sha256
from thetabox.models import load as load_model
from thetabox.models.input_type import input_type
from thetabox.models.plain import FEW, Plain, plain
from thetabox.models.several import unpacking
from thetabox.user_code import is_place, source_file
from thetabox.verify import arguments, domains


@dataclass(frozen=True)
class CommandInputs:
    """Network, samples and box of one command, checked against each other."""

    model: nn.Module
    data: Dataset
    box: Box
    model_info: dict[str, Any]

    @property
    def data_info(self) -> dict[str, Any]:
        return self.data.info

    @property
    def claim(self) -> dict[str, Any]:
        """What a certificate is about, as keywords of ``tb.certify`` and ``tb.certify_yield``."""
        return {
            "model": self.model,
            "x": self.data.x,
            "y": self.data.y,
            "box": self.box,
            "model_info": self.model_info,
            "data_info": self.data_info,
        }


def read_model(
    path: Path, architecture: str | None, config: Sequence[tuple[str, str]], dynamics: str | None = None
) -> nn.Module:
    """The network of a checkpoint.

    Raises:
        InputError: no such file, not a checkpoint, an unknown architecture, settings that do not fit.
    """
    if config and architecture is None and not is_graph(path):
        raise InputError("--set describes the network named by --model; name it, for instance --model lsnn")
    return load_model(path, architecture, literals("--set", config), dynamics)


def read_data(data: str, split: str, samples: int | None, data_dir: Path | None) -> Dataset:
    """The samples, or their fixed subset."""
    dataset = load_data(data, split, data_dir)
    return dataset if samples is None else dataset.subset(samples)


def make_box(box_kind: str, include: str, exclude: str, scale: Sequence[tuple[str, float]], fold: bool) -> Box:
    """The parameter box.

    Raises:
        InputError: a pattern has two factors, or see :class:`Box`.
    """
    names = [pattern for pattern, _ in scale]
    for pattern in names:
        if names.count(pattern) > 1:
            raise InputError(f"--scale gives {pattern!r} two factors")
    return Box(kind=box_kind, include=include, exclude=exclude, scale=dict(scale), fold=fold)


def read_all(
    model: Path,
    architecture: str | None,
    config: Sequence[tuple[str, str]],
    dynamics: str | None,
    data: str,
    split: str,
    samples: int | None,
    data_dir: Path | None,
    box_kind: str,
    include: str,
    exclude: str,
    scale: Sequence[tuple[str, float]],
    fold: bool,
    threads: int | None,
) -> CommandInputs:
    """Everything that a command needs, read and checked before anything is computed or written."""
    box = make_box(box_kind, include, exclude, scale, fold)
    network = read_model(model, architecture, config, dynamics)
    dataset = read_data(data, split, None, data_dir)
    set_threads(threads, network)
    asked = _fitting(network, dataset)
    dataset = dataset if samples is None else dataset.subset(samples)
    info = {"source": str(model), "kind": arguments.FILE, "sha256": sha256(model)}
    chosen = {} if dynamics is None else {"dynamics": dynamics}
    return CommandInputs(asked.model, dataset, box, {**info, **chosen, **_code(architecture, config), **asked.facts})


def _code(architecture: str | None, config: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What the certificate records of code of the user's own: where it is, its arguments, the file as it was."""
    if architecture is None and config:  # what was chosen of a graph file
        return {"set": literals("--set", config)}
    if architecture is None or not is_place(architecture):
        return {}
    file = source_file(architecture)
    known = {"code": architecture, "set": literals("--set", config)}
    return known if file is None else {**known, "code_sha256": sha256(file)}


def proof_settings(given: dict[str, Any], timeout: float | None) -> dict[str, Any]:
    """How to prove, taken out of what the command was given, as arguments of the library.

    The domain and its options are known to exist. What the library warns of, such as an option that will go, is a
    line on standard error.

    Raises:
        InputError: an unknown domain or option, or a value that it does not take.
    """
    options = literals("--option", given.pop("option"))
    for name in ("effort", "budget"):
        if (value := given.pop(name)) is not None:
            if name in options:
                raise InputError(f"{name!r} is given twice, by --option and by --{name}")
            options[name] = value
    how = {name: given.pop(name) for name in ("domain", "criterion", "arithmetic", "precision")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = domains.check(how["domain"], options)
    for warning in caught:
        note(warning.message)
    return {**how, "options": options, "timeout": arguments.seconds(timeout)}


def set_threads(threads: int | None, model: nn.Module) -> None:
    """CPU threads as asked for; one for recurrent networks otherwise."""
    if threads is not None or is_recurrent(model):
        torch.set_num_threads(threads or 1)


def _fitting(model: nn.Module, data: Dataset) -> Plain:
    """The network as one that returns logits for the data's inputs, a few of which are tried.

    Raises:
        InputError: it does not take them, or the labels are not those of its classes.
    """
    facts = {}
    if data.parts is not None:
        model = unpacking(model, data.parts)
        facts["inputs"] = [list(part.shape) for part in data.parts]
    try:
        asked = plain(model, data.x[:FEW])
    except InputError as error:
        raise InputError(f"{data.name} does not fit: {error}") from None
    classes = logits(asked.model, asked.x.to(input_type(asked.model, asked.x)[0])).shape[1]
    largest = int(data.y.max())
    if largest >= classes:
        raise InputError(f"{data.name} has label {largest}, but the network has classes 0 to {classes - 1}")
    return Plain(asked.model, data.x, data.x, {**facts, **asked.facts})
