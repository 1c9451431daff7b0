"""From a NIR file and the dynamics that were chosen to a module."""

from __future__ import annotations

import copy
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thetabox.errors import InputError
from thetabox.models.contents import first_line, one_line
from thetabox.models.nir.constants import Stored
from thetabox.models.nir.file import tree_of
from thetabox.models.nir.graph import CELLS, NirGraph, NirNode, graph_of
from thetabox.models.nir.layers import NirLayer, layer
from thetabox.models.nir.network import NirNetwork, Shape
from thetabox.models.nir.presets import Preset, preset_of

LARGEST = 2**26
"""Values of one sample that may leave a node."""
WEIGHTS = ("weight", "bias", "scale")


def read(path: Path, dynamics: str | None) -> NirNetwork:
    """The network of a NIR file, in evaluation mode.

    Args:
        path: of the file.
        dynamics: name of a preset (:data:`~thetabox.models.nir.PRESETS`), or ``euler:DT``.

    Raises:
        InputError: no dynamics chosen, or such as do not fit the file; a damaged file, a node that is not known, shapes
            that do not fit each other.
    """
    tree, version = tree_of(path)
    graph = graph_of(path, tree)
    try:
        preset = preset_of(dynamics)
        dtype = _dtype(graph)
        layers = {name: _module(graph, name, preset, dtype) for name in graph.order}
        shapes = _shapes(graph, layers)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    facts = {
        "format": "nir",
        "producer": f"nir {version}",
        "dynamics": preset.name,
        "framework": preset.framework,
        "update": preset.says,
    }
    return NirNetwork(graph, layers, shapes, facts)


def _dtype(graph: NirGraph) -> torch.dtype:
    """That of the widest weights: constants of neurons are often written with more digits than they are used with."""
    weights = [np.asarray(node.values[key]) for node in graph.nodes.values() for key in WEIGHTS if key in node.values]
    return torch.float64 if any(w.dtype == np.float64 for w in weights) else torch.float32


def _module(graph: NirGraph, name: str, preset: Preset, dtype: torch.dtype) -> NirLayer:
    node = graph.nodes[name]
    if node.kind not in CELLS:
        return layer(node, dtype, preset.dt)
    back = frozenset(graph.feeds_back.get(name, ()))
    cell = preset.cell(Stored(node, dtype, back, preset.name))
    if back and cell.update.firing is None:
        raise InputError(
            f"{node.where} is in a circle: what a readout that does not spike gives out first is not known"
        )
    return cell


def _shapes(graph: NirGraph, layers: dict[str, NirLayer]) -> dict[str, Shape]:
    """Shape of a sample's value as it leaves each node.

    Raises:
        InputError: a node does not take what comes to it, or values of several shapes come to one.
    """
    source, sink = graph.nodes[graph.source], graph.nodes[graph.sink]
    shapes = {graph.source: _said(source.where, source.values["input_type"]["input"])}
    waiting = [name for name in graph.order if name != graph.source]
    while waiting:
        # A node in a circle is known as soon as one value that comes to it is.
        name = next((n for n in waiting if any(one in shapes for one in graph.before(n))), None)
        if name is None:
            raise InputError(f"{graph.nodes[waiting[0]].where} is not reached from the input")
        waiting.remove(name)
        incoming = next(shapes[one] for one in graph.before(name) if one in shapes)
        shapes[name] = _through(graph.nodes[name], layers[name], incoming)
    for one, other in graph.edges:
        wanted = shapes[graph.before(other)[0]]
        if shapes[one] != wanted:
            raise InputError(
                f"values of shapes {list(wanted)} and {list(shapes[one])} come to {graph.nodes[other].where}"
            )
    said, shape = sink.values["output_type"]["output"], shapes[graph.sink]
    if said is not None and prod(_said(sink.where, said)) != prod(shape):
        raise InputError(
            f"{sink.where} is said to be of shape {list(_said(sink.where, said))}, but {list(shape)} comes"
        )
    return shapes


def _said(where: str, sizes: Any) -> Shape:
    """A shape that stands in the file."""
    held = np.atleast_1d(np.asarray(sizes))
    if held.dtype.kind not in "iu" or held.ndim != 1 or not held.size or held.min() < 1:
        raise InputError(f"{where} is said to be of shape {one_line(str(sizes))[:80]}")
    shape = tuple(int(s) for s in held)
    if prod(shape) > LARGEST:
        raise InputError(f"{where} is said to be of shape {list(shape)}, more than {LARGEST} values")
    return shape


def _through(node: NirNode, module: NirLayer, shape: Shape) -> Shape:
    """Shape after a node, found without computing: on the meta device no sizes that a file names take memory."""
    hollow: dict[int, Any] = {id(t): t.detach().to("meta") for t in [*module.parameters(), *module.buffers()]}
    dtype = next((t.dtype for t in module.parameters()), torch.float32)
    zeros = torch.zeros(2, *shape, dtype=dtype, device="meta")
    try:
        twin: NirLayer = copy.deepcopy(module, hollow)
        y, _ = twin.advance(zeros, twin.start(zeros))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise InputError(
            f"{node.where} does not take values of shape {list(shape)}: {one_line(first_line(error))}"
        ) from None
    # One more dimension than a sample has would be the batch's.
    wide = any(t.dim() > len(shape) for t in [*module.parameters(), *module.buffers()])
    if node.kind in CELLS | {"Threshold", "Scale", "Delay"} and (wide or y.shape != zeros.shape):
        raise InputError(f"{node.where} has constants that do not fit values of shape {list(shape)}")
    if y.numel() > 2 * LARGEST or y.dim() < 2 or len(y) != 2:
        raise InputError(f"{node.where} makes values of shape {list(y.shape[1:])} of those of shape {list(shape)}")
    return tuple(y.shape[1:])
