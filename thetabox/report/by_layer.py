"""Profiles of many entries, as of a network that runs its layers in every time step: one line a layer."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch

from thetabox.report.results import UncertainUnits, number, percent

# Bars that can be read beside one another.
MOST = 12
# An operation of one layer that occurs so often runs in a loop.
LOOPED = 3


@dataclass(frozen=True)
class Layers:
    """A profile by layer, and of each layer how many entries of the full profile it stands for."""

    failure: UncertainUnits
    entries: list[int]


def by_layer(failure: UncertainUnits) -> Layers | None:
    r"""One entry a layer: losses are summed, :math:`s_{el} = \sum_{i \in l} s_{ei}`; of uncertain shares the largest.

    An entry is called ``layer (operation)`` where a layer does several things or runs several times, after its
    operation (``relu_7``) where it stands in no layer. Where the layers themselves are many, those inside one module
    are taken together, so far as at most 12 are left.

    Args:
        failure: shares ``[E, L]``.

    Returns:
        Shares ``[E, G]``, G < L, in the order of first appearance; ``None`` where the profile is read well as it is:
        few entries and no loop, entries that are time steps, or none that belong together.
    """
    names = failure.names
    if failure.kind == "steps" or (len(names) <= MOST and not _looped(names)):
        return None
    groups = _inside(_layers(names))
    order = list(dict.fromkeys(groups))
    if len(order) == len(names):
        return None
    columns = [failure.share[:, [group == one for group in groups]] for one in order]
    joined = [c.sum(1) if failure.kind == "losses" else c.max(1) for c in columns]
    counts = Counter(groups)
    return Layers(replace(failure, names=order, share=np.stack(joined, 1)), [counts[one] for one in order])


def rows(failure: UncertainUnits) -> list[list[str]]:
    """Name and share of every entry, at each positive ε."""
    shown = failure.share[failure.epsilon > 0]
    return [[name, *map(percent, share)] for name, share in zip(failure.names, shown.T, strict=True)]


def heads(failure: UncertainUnits) -> list[str]:
    """Of the columns of :func:`rows` after the name."""
    return [f"ε = {number(e)}" for e in failure.epsilon if e > 0]


def _parts(name: str) -> tuple[str, str]:
    """(layer, operation) of an entry; without a layer, or without an operation, that is empty."""
    layer, found, operation = name.removesuffix(")").rpartition(" (")
    if found and name.endswith(")"):
        return layer, _kind(operation)
    # A module may have such a name too, as fc_1; an operation is one that torch knows.
    numbered = _kind(name) != name and hasattr(torch.ops.aten, _kind(name))
    return ("", _kind(name)) if numbered else (name, "")


def _kind(operation: str) -> str:
    """``relu`` of ``relu_7``: graphs number what occurs again."""
    return re.sub(r"_\d+$", "", operation)


def _looped(names: list[str]) -> bool:
    """Whether an operation of one layer occurs again and again; outside of layers it may be another each time."""
    again = Counter(parts for parts in map(_parts, names) if all(parts))
    return max(again.values(), default=0) >= LOOPED


def _layers(names: list[str]) -> list[str]:
    return [layer or operation for layer, operation in map(_parts, names)]


def _inside(layers: list[str]) -> list[str]:
    """Layers, or where they are many the modules that hold them: of few enough, the most."""
    depth = max(name.count(".") for name in layers)
    while len(set(layers)) > MOST and depth:
        outer = [".".join(name.split(".")[:depth]) for name in layers]
        if len(set(outer)) < LOOPED:  # one name for everything says nothing
            break
        layers, depth = outer, depth - 1
    return layers
