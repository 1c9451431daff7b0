"""Functions of each number by itself, and softmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.onnx.numbers import is_known, whole
from thetabox.models.onnx.table import onnx_operator

ALONE = {
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Softplus": F.softplus, "Erf": torch.erf,
    "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal, "Sign": torch.sign,
    "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round, "HardSwish": F.hardswish, "Mish": F.mish,
    "Sin": torch.sin, "Cos": torch.cos, "Atan": torch.atan,
}  # a table, several to a line  # fmt: skip


def _alone(function: Any, name: str) -> Any:
    def apply(x: Tensor) -> Tensor:
        return function(x)

    apply.__doc__ = f"torch's {function.__name__}."
    apply.__name__ = name.lower()
    return apply


for _name, _function in ALONE.items():
    onnx_operator(_name)(_alone(_function, _name))


@onnx_operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Two slopes, 1 and alpha."""
    return F.leaky_relu(x, alpha)


@onnx_operator("PRelu", weights=(1,))
def prelu(x: Tensor, slope: Any) -> Tensor:
    """Two slopes, of which one is a weight: x⁺ − slope (−x)⁺."""
    if isinstance(slope, float):
        return F.leaky_relu(x, slope)
    channels = slope.dim() == x.dim() - 1 and slope.dim() > 0 and slope.numel() == slope.shape[0] == x.shape[1]
    if slope.numel() == 1 or channels:
        return F.prelu(x, slope.reshape(-1))
    return torch.relu(x) - slope * torch.relu(-x)


@onnx_operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x, or alpha (eˣ − 1) below 0."""
    return F.elu(x, alpha)


@onnx_operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x, or alpha (e^(x/alpha) − 1) below 0."""
    return F.celu(x, alpha)


@onnx_operator("Selu")
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    """Gamma times elu."""
    return gamma * F.elu(x, alpha)


@onnx_operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Alpha x + beta, cut to 0 … 1."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@onnx_operator("Softsign")
def softsign(x: Tensor) -> Tensor:
    """Divided by 1 + its size."""
    return x / (1.0 + x.abs())


@onnx_operator("Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Times Φ of itself, or of its approximation by tanh."""
    return F.gelu(x, approximate=approximate)


@onnx_operator("Clip")
def clip(x: Any, low: Any = None, high: Any = None, *, min: float | None = None, max: float | None = None) -> Tensor:
    """Cut at two bounds, which are attributes before opset 11."""
    low, high = (min if low is None else low), (max if high is None else high)
    if isinstance(low, Tensor) or isinstance(high, Tensor):  # a weight, or computed
        x = x if low is None else torch.maximum(x, torch.as_tensor(low, dtype=x.dtype))
        return x if high is None else torch.minimum(x, torch.as_tensor(high, dtype=x.dtype))
    return x if low is None and high is None else torch.clamp(x, low, high)


@onnx_operator("Softmax")
def softmax(x: Tensor, *, axis: int | None = None, opset: int = 13) -> Tensor:
    """Over one axis; before opset 13 over all from that axis on."""
    return _over(torch.softmax, x, axis, opset)


@onnx_operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int | None = None, opset: int = 13) -> Tensor:
    """As softmax."""
    return _over(torch.log_softmax, x, axis, opset)


def _over(function: Any, x: Tensor, axis: int | None, opset: int) -> Tensor:
    axis = (-1 if opset >= 13 else 1) if axis is None else axis
    if opset >= 13 or axis % x.dim() == x.dim() - 1:
        return function(x, axis)
    return function(x.flatten(axis), -1).reshape(x.shape)


@onnx_operator("Dropout")
def dropout(x: Tensor, ratio: Any = None, training: Any = None, *, seed: int = 0, outputs: int = 1) -> Any:
    """Switched off."""
    if training is not None and any(whole(training, "the mode of a dropout")):
        raise InputError("it was exported in training mode; call model.eval() before the export")
    if outputs > 1:
        raise InputError("the mask of a dropout is not read")
    return x


@onnx_operator("Identity")
def identity(x: Any) -> Any:
    """The value itself."""
    return x


@onnx_operator("Neg")
def neg(x: Any) -> Any:
    """−x."""
    return -x


@onnx_operator("Abs")
def absolute(x: Any) -> Any:
    """|x|."""
    return abs(x) if is_known(x) else torch.abs(x)
