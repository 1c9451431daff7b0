"""Several layers of leaky cells as one layer.

Layer d of them (from 0) runs d steps later than the input: the spikes of the layer below, of the same step in the
network, are then spikes of the step before, as recurrent ones are. So W_in of the upper layers stands in the recurrent
weights,

    x → [W_in¹ 0 0],    z → [W_rec¹ W_in²  0   ]
                            [  0    W_rec² W_in³]
                            [  0     0    W_rec³],

and the cells of layer d are kept silent for their first d steps, which the network does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thetabox.models.leaky import LeakyCells
from thetabox.verify.arithmetic.parameter import Parameter

Find = Callable[[str], Parameter]
"""A parameter or buffer of the model by name, with its box."""


@dataclass(frozen=True)
class Layer:
    """The tensors of :class:`thetabox.models.LeakyCells` with their boxes, of one layer or of several as one.

    Attributes:
        weight_in: ``[inputs, units]``.
        weight_rec: ``[units, units]`` without its diagonal, ``None`` for no recurrence.
        weight_out: ``[units, classes]``.
        bias_out: ``[classes]`` or ``None``.
        threshold, tau, tau_adapt, beta: ``[units]`` or one value.
        refractory, delay: steps, ``[units]``.
    """

    weight_in: Parameter
    weight_rec: Parameter | None
    weight_out: Parameter
    bias_out: Parameter | None
    threshold: Parameter
    tau: Parameter
    tau_adapt: Parameter | None
    beta: Parameter | None
    refractory: Tensor
    delay: Tensor


@dataclass(frozen=True)
class _PlacedParameter:
    """A parameter and where its first row and column stand in a larger one."""

    parameter: Parameter
    row: int
    column: int


def layer_of(find: Find, described: Sequence[LeakyCells]) -> Layer:
    """The one layer that is described, or several as one."""
    first, last = described[0], described[-1]
    weight_in, weight_out = find(first.weight_in), find(last.weight_out or "")
    bias = _named(find, last.bias_out)
    sizes = [find(says.weight_in).theta.shape[1] for says in described]
    refractory = _each(sizes, (says.refractory for says in described), weight_in)
    delay = _each(sizes, range(len(sizes)), weight_in)
    if len(described) == 1:
        return Layer(
            weight_in,
            _recurrent(find, first),
            weight_out,
            bias,
            find(first.threshold),
            find(first.tau),
            _named(find, first.tau_adapt),
            _named(find, first.beta),
            refractory,
            delay,
        )
    starts = [sum(sizes[:d]) for d in range(len(sizes))]
    units = sum(sizes)
    inner = []
    for d, says in enumerate(described):
        within = _recurrent(find, says)
        if within is not None:
            inner.append(_PlacedParameter(within, starts[d], starts[d]))
        if d > 0:
            inner.append(_PlacedParameter(find(says.weight_in), starts[d - 1], starts[d]))

    def neuron(role: str, missing: float) -> Parameter:
        """A value a cell; ``missing`` in layers that have none."""
        blocks = []
        for says, size, start in zip(described, sizes, starts, strict=True):
            parameter = _named(find, getattr(says, role)) or Parameter(weight_in.theta.new_tensor(missing))

            def each(t: Tensor, size: int = size) -> Tensor:
                return t.reshape(1, -1).expand(1, size)

            blocks.append(_PlacedParameter(parameter.moved(each), 0, start))
        return _joined(blocks, (1, units))

    adapts = any(says.beta is not None for says in described)
    return Layer(
        _joined([_PlacedParameter(weight_in, 0, 0)], (len(weight_in.theta), units)),
        _joined(inner, (units, units)),
        _joined([_PlacedParameter(weight_out, starts[-1], 0)], (units, weight_out.theta.shape[1])),
        bias,
        neuron("threshold", 0.0),
        neuron("tau", 1.0),
        neuron("tau_adapt", 1.0) if adapts else None,
        neuron("beta", 0.0) if adapts else None,
        refractory,
        delay,
    )


def _named(find: Find, name: str | None) -> Parameter | None:
    return None if name is None else find(name)


def _recurrent(find: Find, says: LeakyCells) -> Parameter | None:
    whole = _named(find, says.weight_rec)
    if whole is None:
        return None
    return whole.masked(
        Parameter(1.0 - torch.eye(len(whole.theta), dtype=whole.theta.dtype, device=whole.theta.device))
    )


def _each(sizes: Sequence[int], values: Iterable[int], like: Parameter) -> Tensor:
    """One value a layer, for every cell of it."""
    return torch.cat([like.theta.new_full((n,), float(value)) for n, value in zip(sizes, values, strict=True)])


def _joined(blocks: Sequence[_PlacedParameter], shape: tuple[int, int]) -> Parameter:
    """The blocks with exact zeros between them."""
    parts = [block.parameter for block in blocks]

    def place(tensors: Iterable[Tensor]) -> Tensor:
        whole = parts[0].theta.new_zeros(shape)
        for block, t in zip(blocks, tensors, strict=True):
            whole[block.row : block.row + t.shape[0], block.column : block.column + t.shape[1]] = t
        return whole

    theta, theta_error = place(p.theta for p in parts), max(p.theta_error for p in parts)
    factors = {p.factor for p in parts}
    if len(factors) == 1 and all(p.relative for p in parts):
        return Parameter(theta, factors.pop(), None, theta_error)
    # The product with the factor rounds, as the values may have been: a little more, so that it is never less.
    upward = 1.0 + 4.0 * torch.finfo(theta.dtype).eps + 2.0 * theta_error
    radii = (p.factor * upward * p.unit_radius for p in parts)
    return Parameter(theta, 1.0, place(radii), theta_error)
