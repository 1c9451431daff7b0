"""``thetabox inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from thetabox import report
from thetabox.cli import options
from thetabox.cli.console import print_json, show
from thetabox.cli.inputs import make_box, read_data, read_model
from thetabox.errors import InputError
from thetabox.models import architecture as architecture_of
from thetabox.models import checkpoint_info
from thetabox.models.nir import NirNetwork
from thetabox.models.program import Program


@click.command("inspect", cls=options.Command)
@options.model_options
@options.data_options(required=False)
@options.box_options
@click.option("--shape", metavar="N[,N…]", help="Shape of one input, where neither --data nor the network tells it.")
def command(
    model: Path,
    architecture: str | None,
    config: tuple[tuple[str, str], ...],
    dynamics: str | None,
    data: str | None,
    split: str,
    samples: int | None,
    data_dir: Path | None,
    shape: str | None,
    **box: Any,
) -> None:
    """A parameter stands with whether it is in the box."""
    from thetabox.verify.cells import SAMPLES, cells
    from thetabox.verify.inspect import inspect

    network = read_model(model, architecture, config, dynamics)
    factors = make_box(**box).factors(network)
    info = checkpoint_info(model)
    show(f"{type(network).__name__} from {model}")
    facts = network.facts if isinstance(network, Program | NirNetwork) else {}
    for key, value in {**(info.get("config") or {}), **(info.get("info") or {}), **facts}.items():
        show(f"  {key}: {value}")
    table = report.plain_table("parameter", "shape", "numbers", "in the box", text=2)
    tensors = [*network.named_parameters(), *((n, b) for n, b in network.named_buffers() if n in factors)]
    for name, tensor in tensors:
        inside = "no" if name not in factors else "yes" if factors[name] == 1 else f"ε × {factors[name]:g}"
        table.add_row(name, str(list(tensor.shape)), str(tensor.numel()), inside)
    show("", table, "")
    given = None if data is None else read_data(data, split, samples or SAMPLES, data_dir).inputs
    example = _example(network, shape) if given is None else _first(given)
    operators = inspect(network, example)
    table = report.plain_table("operator", "where", "shape", "rule", text=3)
    for operator in operators:
        table.add_row(
            operator.operator, operator.name, str(list(operator.shape or [])), "yes" if operator.rule else "NO"
        )
    missing = sorted({operator.operator for operator in operators if not operator.rule})
    show(table, "", f"no rule for {', '.join(missing)}" if missing else "every operator has a rule")
    described = cells(network, example if given is None else given, make_box(**box), spread=given is not None)
    if described:
        show("", *described)
    print_json(
        {
            "network": type(network).__name__,
            "parameters": [
                {"name": name, "shape": list(t.shape), "numbers": t.numel(), "factor": float(factors.get(name, 0.0))}
                for name, t in tensors
            ],
            "operators": [
                {"operator": o.operator, "where": o.name, "shape": list(o.shape or []), "rule": bool(o.rule)}
                for o in operators
            ],
            "missing": missing,
            "cells": described,
        }
    )


def _first(given: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    """One sample."""
    return given[:1] if isinstance(given, Tensor) else {name: part[:1] for name, part in given.items()}


def _example(network: nn.Module, shape: str | None) -> Tensor:
    if shape is not None:
        try:
            sizes = [int(part) for part in shape.split(",")]
        except ValueError:
            raise InputError(f"--shape {shape!r} is not a list of whole numbers, such as 1,28,28") from None
        if min(sizes) < 1:
            raise InputError(f"--shape {shape!r} must be of positive numbers")
        return torch.zeros(1, *sizes)
    config = getattr(network, "config", {})
    known = architecture_of(network)
    if known == "convnet":
        return torch.zeros(1, *config["input"])
    if known == "lsnn":
        return torch.zeros(1, 2, config["inputs"])
    if isinstance(network, NirNetwork):
        return torch.zeros(1, 2, network.inputs)
    if known == "mlp":
        return torch.zeros(1, config["sizes"][0])
    if known == "resnet32":
        return torch.zeros(1, config.get("channels", 3), 32, 32)
    raise InputError("give the shape of one input with --shape, or samples with --data")
