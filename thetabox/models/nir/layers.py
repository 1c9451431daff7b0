"""Nodes of NIR that map numbers to numbers within a time step: weights, convolutions, pools, delays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.nir.graph import NirNode

MOST_STEPS = 1000
"""Time steps that a delay may take: each is a tensor of the state."""
# How far from a whole number of time steps a delay may lie, for it stands in the file in seconds.
WHOLE = 1e-3


class NirLayer(nn.Module):
    """A node that a value goes through: ``[batch, *shape]`` to ``[batch, *other]``, with or without a memory."""

    remembers: tuple[str, ...] = ()
    """Quantities of its state, by name."""

    def start(self, zeros: Float[Tensor, "batch ..."]) -> list[Tensor]:
        """The state before the first step, from zeros of the shape of its input."""
        return [zeros.clone() for _ in self.remembers]

    def advance(self, u: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One time step: output and next state."""
        return self(u), state


class Pass(NirLayer):
    """Input, output, and the ends of a subgraph: y = u."""

    def forward(self, u: Tensor) -> Tensor:
        return u


class Affine(NirLayer):
    """y = W u + b, over the last dimension; no bias for NIR's ``Linear``."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, u: Tensor) -> Tensor:
        return F.linear(u, self.weight, self.bias)


class Scale(NirLayer):
    """y = s u, number by number."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)

    def forward(self, u: Tensor) -> Tensor:
        return u * self.scale


class Conv(NirLayer):
    """A convolution of one or two dimensions with zero padding, and a bias for each channel."""

    def __init__(self, weight: Tensor, bias: Tensor, **how: Any) -> None:
        super().__init__()
        self.weight, self.bias, self.how = nn.Parameter(weight), nn.Parameter(bias), how

    def forward(self, u: Tensor) -> Tensor:
        convolve: Callable[..., Tensor] = F.conv1d if self.weight.dim() == 3 else F.conv2d
        return convolve(u, self.weight, self.bias, **self.how)


class NirPool(NirLayer):
    """Mean of each window, padding included, or its sum: the mean times the window's size."""

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], sums: bool) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.factor = kernel[0] * kernel[1] if sums else 1

    def forward(self, u: Tensor) -> Tensor:
        pooled = F.avg_pool2d(u, self.kernel, self.stride, self.padding)
        return pooled if self.factor == 1 else pooled * self.factor


class Flatten(NirLayer):
    """Dimensions ``first`` to ``last`` of a sample in one; the batch does not count."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last = (d + 1 if d >= 0 else d for d in (first, last))

    def forward(self, u: Tensor) -> Tensor:
        return u.flatten(self.first, self.last)


class Threshold(NirLayer):
    """z = H(u − θ), with H(0) = 0."""

    threshold: Tensor

    def __init__(self, threshold: Tensor) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)

    def forward(self, u: Tensor) -> Tensor:
        return (u > self.threshold).to(u.dtype)


class Delay(NirLayer):
    """y(t) = u(t − n), zero before; one number n of time steps, or one for each value."""

    def __init__(self, steps: np.ndarray) -> None:
        super().__init__()
        self.longest, self.remembers = int(steps.max()), tuple(f"u{n + 1}" for n in range(int(steps.max())))
        self.steps = [int(n) for n in np.unique(steps)]
        for n in self.steps[1:]:
            self.register_buffer(f"waits_{n}", torch.from_numpy(np.array(steps == n)), persistent=False)

    def advance(self, u: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        past = [u, *state]
        y = past[self.steps[0]]
        for n in self.steps[1:]:
            y = torch.where(self.get_buffer(f"waits_{n}"), past[n], y)
        return y, past[: self.longest]


def layer(node: NirNode, dtype: torch.dtype, dt: float | None) -> NirLayer:
    """The module of a node that is no neuron.

    Args:
        node: as the file has it.
        dtype: of its weights.
        dt: length of a time step, in the unit of the file's delays; ``None`` where the framework writes none.

    Raises:
        InputError: weights or sizes that such a node cannot have.
    """
    v = node.values
    if node.kind in ("Input", "Output", "Pass"):
        return Pass()
    if node.kind in ("Affine", "Linear"):
        weight = tensor(node, "weight", dtype)
        bias = tensor(node, "bias", dtype) if node.kind == "Affine" else None
        if weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
            raise InputError(
                f"{node.where} has weights of shape {list(weight.shape)}, or a bias that does not fit them"
            )
        return Affine(weight, bias)
    if node.kind == "Scale":
        return Scale(tensor(node, "scale", dtype))
    if node.kind in ("Conv1d", "Conv2d"):
        return _conv(node, dtype)
    if node.kind in ("SumPool2d", "AvgPool2d"):
        kernel, stride, padding = (_sizes(node, v[key], 2, key) for key in ("kernel_size", "stride", "padding"))
        if min(kernel + stride) < 1 or min(padding) < 0:
            raise InputError(f"{node.where} has a window of {kernel}, a stride of {stride}, a padding of {padding}")
        return NirPool(kernel, stride, padding, node.kind == "SumPool2d")
    if node.kind == "Flatten":
        return Flatten(_whole(node, v["start_dim"], "start_dim"), _whole(node, v["end_dim"], "end_dim"))
    if node.kind == "Threshold":
        return Threshold(tensor(node, "threshold", dtype))
    return Delay(_steps(node, dt))


def tensor(node: NirNode, key: str, dtype: torch.dtype) -> Tensor:
    """Numbers of a node as a tensor.

    Raises:
        InputError: NaN or infinite, whole numbers where weights belong, none at all.
    """
    values = np.asarray(node.values[key])
    if values.dtype.kind != "f" or values.size == 0:
        raise InputError(f"{node.where}: {key} holds {values.size} numbers of type {values.dtype}, not weights")
    if not np.isfinite(values).all():
        raise InputError(f"{node.where}: {key} holds NaN or infinite values")
    return torch.from_numpy(np.array(values)).to(dtype)


def _conv(node: NirNode, dtype: torch.dtype) -> Conv:
    v, rank = node.values, int(node.kind[4])
    weight, bias = tensor(node, "weight", dtype), tensor(node, "bias", dtype)
    if weight.dim() != rank + 2 or bias.shape != weight.shape[:1]:
        raise InputError(f"{node.where} has weights of shape {list(weight.shape)}, or a bias that does not fit them")
    how: dict[str, Any] = {key: _sizes(node, v[key], rank, key) for key in ("stride", "dilation")}
    text = isinstance(v["padding"], str)
    how["padding"] = v["padding"] if text else _sizes(node, v["padding"], rank, "padding")
    how["groups"] = _whole(node, v["groups"], "groups")
    return Conv(weight, bias, **how)


def _steps(node: NirNode, dt: float | None) -> np.ndarray:
    if dt is None:
        raise InputError(f"{node.where}: the chosen dynamics do not say how many time steps a delay of a file is")
    steps = np.asarray(node.values["delay"], dtype=np.float64) / dt
    near = np.rint(steps)
    if not steps.size or not np.isfinite(steps).all() or (abs(steps - near) > WHOLE).any():
        raise InputError(f"{node.where}: its delays are no whole numbers of time steps of {dt:g}")
    if near.min() < 0 or near.max() > MOST_STEPS:
        raise InputError(
            f"{node.where}: its delays are {near.min():g} to {near.max():g} steps; 0 to {MOST_STEPS} are read"
        )
    return near.astype(np.int64)


def _sizes(node: NirNode, value: Any, count: int, key: str) -> tuple[int, ...]:
    sizes = np.atleast_1d(np.asarray(value))
    if sizes.dtype.kind not in "iu" or sizes.size not in (1, count) or abs(sizes).max() >= 2**31:
        raise InputError(f"{node.where}: {key} is {value!r}"[:200])
    return tuple(int(s) for s in np.broadcast_to(sizes.reshape(-1), count))


def _whole(node: NirNode, value: Any, key: str) -> int:
    return _sizes(node, value, 1, key)[0]
