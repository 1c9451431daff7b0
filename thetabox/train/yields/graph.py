"""A network as training for yield reads it: operations in order, parameters, and the sizes of their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.models import is_recurrent
from thetabox.models.memory import named_tensors
from thetabox.verify.network import network
from thetabox.verify.network.graph import Graph, Layout, Operation, Ref, arguments, map_arg_refs
from thetabox.verify.network.operators import CONVOLUTIONS, MAX_POOLS, RELU
from thetabox.verify.yields.sizes import read_more_than_once

SIZES = ("aten.sym_size.int",)
LINEAR = "aten.linear.default"
BATCH_NORM = "aten.batch_norm.default"
AFFINE = (LINEAR, BATCH_NORM, *CONVOLUTIONS)
FLATTENING = tuple(f"aten.{name}" for name in ("flatten.using_ints", "view.default", "reshape.default"))
AVERAGES = tuple(
    f"aten.{name}"
    for name in (
        "avg_pool1d.default", "avg_pool2d.default", "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default",
        "mean.dim",
    )
)  # names, several to a line  # fmt: skip
ADD = "aten.add.Tensor"
SIMPLE = (*FLATTENING, *AVERAGES, ADD, *RELU, *MAX_POOLS)
"""What the losses that know of means go through; the rest but ReLU and max-pool is linear, weights at least 0."""
RISING = (
    *SIMPLE, "aten.relu6.default", "aten.hardtanh.default", "aten.leaky_relu.default", "aten.sigmoid.default",
    "aten.tanh.default",
)  # names, several to a line  # fmt: skip
"""Operators that rise in every operand, so that both ends of an interval give both ends of the result."""


@dataclass(frozen=True)
class Traced:
    """A feed-forward network whose operations this package's losses know.

    Attributes:
        graph: the operations.
        values: position → parameter, buffer or constant.
        sizes: position → size of the errors of a parameter at σ = 1; what is absent is exact.
    """

    graph: Graph
    values: dict[int, Tensor]
    sizes: dict[int, Tensor]

    @property
    def operations(self) -> list[Operation]:
        """Those whose results are tensors, in order."""
        return [o for o in self.graph.operations if o.operator not in SIZES]

    @property
    def simple(self) -> bool:
        """Whether all but its layers is in :data:`SIMPLE`, and convolutions are in two dimensions, of one group."""
        return all(o.operator in (*SIMPLE, LINEAR, BATCH_NORM) or _plain(o) for o in self.operations)

    @property
    def output(self) -> int:
        """Position of the logits."""
        return self.graph.outputs[0]

    def head(self) -> Operation | None:
        """The dense layer that returns the logits ``[samples, classes]``, if it is one."""
        last = self.operations[-1]
        flat = len(self.graph.layouts[last.index].shape) == 2
        return last if last.operator == LINEAR and last.index == self.output and flat else None


@dataclass(frozen=True)
class ReadingLayer:
    """An operation ``x ↦ product(x, weight, bias)`` that reads parameters.

    Attributes:
        product: linear in each of weight and bias.
        weight, bias: the parameters, bias None where there is none.
        weight_size, bias_size: sizes of their errors at σ = 1, or None.
    """

    product: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None
    weight_size: Tensor | None
    bias_size: Tensor | None

    def variance(self, most: Tensor) -> Tensor:
        """Variance of its own noise at σ = 1 for inputs of absolute values ``most``."""
        weight = torch.zeros_like(self.weight) if self.weight_size is None else self.weight_size.square()
        return self.product(most.square(), weight, None if self.bias_size is None else self.bias_size.square())


def traced(model: nn.Module, x: Tensor, weights: Mapping[str, Tensor], box: Box) -> Traced:
    """The graph of a network with ``weights`` in the place of its own parameters.

    Args:
        model: any feed-forward network of operators that are known here.
        x: inputs that it takes.
        weights: parameters by name.
        box: which parameters have errors; their sizes are the unit of the box.

    Raises:
        InputError: a recurrent network, a parameter with an error that is read more than once, an unknown operator.
    """
    if is_recurrent(model):
        raise InputError("the method 'yield' is for networks that read each parameter once, not for recurrent ones")
    graph = network(model, x, training=True).main
    factors = box.factors(model)
    if "yield" not in graph.checked:
        _check(graph, model, list(factors))
        graph.checked.add("yield")
    held = {**named_tensors(model), **weights}
    sized = {name: factor * box.unit_radius(held[name]) for name, factor in factors.items()}
    values = {i: held[name] for i, name in graph.tensors.items()}
    sizes = {i: sized[name] for i, name in graph.tensors.items() if name in sized}
    for i, view in graph.views.items():
        values[i] = view.of(held[view.name])
        if view.name in sized:
            sizes[i] = view.of(sized[view.name])
    values |= {i: constant.to(x.device) for i, constant in graph.constants.items()}
    return Traced(graph, values, sizes)


def _check(graph: Graph, model: nn.Module, noisy: list[str]) -> None:
    several = list(read_more_than_once(graph, model, noisy))
    if several:
        raise InputError(f"the method 'yield' is for networks that read each parameter once; {several[0]} is not")
    known = {*graph.tensors, *graph.constants}
    for operation in graph.operations:
        if operation.operator in SIZES:
            continue
        reads = any(i in known for i in operation.inputs)
        strange = operation.operator not in (AFFINE if reads else RISING) or operation.inputs[0] in known
        layout = operation.layout
        first = isinstance(layout, Layout) and layout.batch == 0 and layout.merged == 1
        if operation.operator == ADD:
            strange = strange or len(operation.inputs) != len(operation.args) or bool(operation.kwargs)
        if strange or not first:
            raise InputError(f"the method 'yield' knows no operator {operation.describe()}, as it is used there")


def layer(net: Traced, operation: Operation) -> ReadingLayer:
    """An operation of :data:`AFFINE`; batch norm on what :func:`before_layer` gives."""
    named = arguments(operation)

    def of(key: str, where: Mapping[int, Tensor]) -> Tensor | None:
        ref = named.get(key)
        return where.get(ref.index) if isinstance(ref, Ref) else None

    weight, bias = of("weight", net.values), of("bias", net.values)
    rest = map_arg_refs(operation.args[3:], lambda ref: net.values[ref.index])

    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if operation.operator == BATCH_NORM:
            shape = [-1, *[1] * (x.dim() - 2)]
            scaled = x * weight.view(shape)
            return scaled if bias is None else scaled + bias.view(shape)
        result: Tensor = operation.target(x, weight, bias, *rest, **operation.kwargs)
        return result

    if weight is None:  # batch norm without a scale
        weight = torch.ones_like(net.values[operation.args[3].index])
    return ReadingLayer(product, weight, bias, of("weight", net.sizes), of("bias", net.sizes))


def before_layer(net: Traced, operation: Operation, x: Tensor) -> Tensor:
    """What the layer's product is of: x, or for batch norm x by its statistics."""
    if operation.operator != BATCH_NORM:
        return x
    rest = map_arg_refs(operation.args[3:], lambda ref: net.values[ref.index])
    result: Tensor = operation.target(x, None, None, *rest, **operation.kwargs)
    return result


def rising(operation: Operation, read: Callable[[int], Tensor]) -> Tensor:
    """An operation of :data:`RISING` on what ``read`` gives for each position."""
    if operation.operator in FLATTENING:
        assert isinstance(operation.layout, Layout)
        x = read(operation.inputs[0])
        return x.reshape(len(x), *(s or 1 for s in operation.layout.shape[1:]))
    args, kwargs = (map_arg_refs(part, lambda ref: read(ref.index)) for part in (operation.args, operation.kwargs))
    result: Tensor = operation.target(*args, **kwargs)
    return result


def patches(operation: Operation, kernel: Sequence[int], x: Tensor) -> Tensor:
    """What a convolution's kernel reads, ``[samples, positions, taps]``."""
    named = arguments(operation)
    padding, dilation = named["padding"], _pair(named["dilation"])
    if isinstance(padding, str):
        # "same" puts the odd one behind, "valid" none.
        padded = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        x = F.pad(x, (padded[1] // 2, padded[1] - padded[1] // 2, padded[0] // 2, padded[0] - padded[0] // 2))
        padding = 0
    return F.unfold(x, tuple(kernel), dilation, _pair(padding), _pair(named["stride"])).transpose(1, 2)


def _plain(operation: Operation) -> bool:
    return operation.operator.startswith("aten.conv2d") and arguments(operation)["groups"] == 1


def _pair(number: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(number, int):
        return number, number
    return number[0], number[-1]


def dense_chain(net: Traced) -> list[ReadingLayer] | None:
    """The layers of a network of dense layers with ReLU between them, the input flattened first; else None."""
    layers: list[ReadingLayer] = []
    last, relu = net.graph.inputs[0], True
    for operation in net.operations:
        if last not in operation.inputs:
            return None
        flat = len(net.graph.layouts[operation.index].shape) == 2
        if operation.operator == LINEAR and relu and flat:
            layers.append(layer(net, operation))
            relu = False
        elif operation.operator in RELU and layers and not relu:
            relu = True
        elif operation.operator not in FLATTENING or layers:
            return None
        last = operation.index
    return layers if last == net.output and not relu else None
