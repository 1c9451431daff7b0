"""Sums, products, comparisons and reductions, of tensors and of whole numbers beside them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.onnx.numbers import array, is_known, one, tensor, whole
from thetabox.models.onnx.table import onnx_operator


def _both(a: Any, b: Any) -> tuple[Any, Any]:
    """Operands of one kind: whole numbers beside a tensor become one."""
    if is_known(a) and is_known(b):
        return array(a), array(b)
    if is_known(a) and isinstance(b, Tensor):
        return tensor(a, b), b
    if is_known(b) and isinstance(a, Tensor):
        return a, tensor(b, a)
    return a, b


def _binary(name: str, function: Callable[[Any, Any], Any], what: str, *, weights: bool = True) -> None:
    def apply(a: Any, b: Any) -> Any:
        return function(*_both(a, b))

    apply.__doc__, apply.__name__ = what, name.lower()
    onnx_operator(name, weights=(0, 1) if weights else ())(apply)


def _divided(a: Any, b: Any) -> Any:
    if isinstance(a, np.ndarray):
        return _towards_zero(a, b)
    if isinstance(a, Tensor) and isinstance(b, Tensor) and not (a.is_floating_point() or b.is_floating_point()):
        return torch.div(a, b, rounding_mode="trunc")
    return a / b


def _towards_zero(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sizes are not negative, where this is a division rounded down."""
    if any(isinstance(v, int) and v < 0 for v in [*a.reshape(-1).tolist(), *b.reshape(-1).tolist()]):
        return np.trunc(a / b).astype(np.int64)
    if not all(v != 0 for v in b.reshape(-1).tolist()):
        raise InputError("it divides by zero")
    return np.asarray(a // b)


_binary("Add", lambda a, b: a + b, "a + b.")
_binary("Sub", lambda a, b: a - b, "a − b.")
_binary("Mul", lambda a, b: a * b, "a b.")
_binary("Div", _divided, "a / b; of whole numbers rounded towards 0.")
_binary("Equal", lambda a, b: a == b, "Whether a = b.", weights=False)
_binary("Greater", lambda a, b: a > b, "Whether a > b.", weights=False)
_binary("GreaterOrEqual", lambda a, b: a >= b, "Whether a ≥ b.", weights=False)
_binary("Less", lambda a, b: a < b, "Whether a < b.", weights=False)
_binary("LessOrEqual", lambda a, b: a <= b, "Whether a ≤ b.", weights=False)
_binary("And", lambda a, b: a & b, "Both.", weights=False)
_binary("Or", lambda a, b: a | b, "One or both.", weights=False)


@onnx_operator("Not")
def negated(x: Any) -> Any:
    """The other truth value."""
    return ~array(x).astype(bool) if is_known(x) else torch.logical_not(x)


@onnx_operator("Mod")
def remainder(a: Any, b: Any, *, fmod: int = 0) -> Any:
    """What is left of a division, with the sign of b, or of a where fmod is set."""
    a, b = _both(a, b)
    if isinstance(a, np.ndarray):
        return np.fmod(a, b) if fmod else a % b
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@onnx_operator("Pow", weights=(0,))
def power(x: Any, exponent: Any) -> Any:
    """To a power."""
    if is_known(exponent) and isinstance(x, Tensor) and array(exponent).size == 1:
        return x ** one(exponent)
    x, exponent = _both(x, exponent)
    return x**exponent


@onnx_operator("Sum", weights=tuple(range(8)))
def sum_of(*terms: Any) -> Any:
    """Of several tensors."""
    return functools.reduce(lambda a, b: a + b, terms)


@onnx_operator("Mean", weights=tuple(range(8)))
def mean_of(*terms: Any) -> Any:
    """Of several tensors."""
    return sum_of(*terms) / float(len(terms))


@onnx_operator("Max")
def largest(*terms: Any) -> Any:
    """Of several tensors, number by number."""
    return functools.reduce(lambda a, b: _extreme(a, b, torch.maximum, np.maximum, "min"), terms)


@onnx_operator("Min")
def smallest(*terms: Any) -> Any:
    """Of several tensors, number by number."""
    return functools.reduce(lambda a, b: _extreme(a, b, torch.minimum, np.minimum, "max"), terms)


def _extreme(a: Any, b: Any, function: Any, of_numbers: Any, bound: str) -> Any:
    a, b = _both(a, b)
    if isinstance(a, np.ndarray):
        return of_numbers(a, b)
    if isinstance(a, float):
        a, b = b, a
    if isinstance(b, float):
        return torch.clamp(a, min=b) if bound == "min" else torch.clamp(a, max=b)
    return function(a, b)


@onnx_operator("Where")
def where(condition: Any, a: Any, b: Any) -> Any:
    """One or the other."""
    if all(is_known(v) for v in (condition, a, b)):
        return np.where(array(condition).astype(bool), array(a), array(b))
    like = next(v for v in (a, b, condition) if isinstance(v, Tensor))
    condition = tensor(condition, like, torch.bool) if is_known(condition) else condition
    a, b = (tensor(v, like, like.dtype) if is_known(v) else v for v in (a, b))
    return torch.where(condition, a, b)


def _dims(x: Tensor, axes: Any, noop: int) -> list[int] | None:
    """Axes of a reduction; ``None`` where nothing is reduced."""
    listed = [] if axes is None else whole(axes, "the axes of a reduction")
    if not listed:
        return None if noop else list(range(x.dim()))
    return [int(a) for a in listed]


def _reduction(name: str, function: Callable[[Tensor, list[int], bool], Tensor], what: str) -> None:
    def apply(x: Any, over: Any = None, *, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        if is_known(x):
            return _of_numbers(name, array(x), keepdims)
        dims = _dims(x, axes if over is None else over, noop_with_empty_axes)
        # Without axes each number is one by itself: of -2 the L1 norm is 2.
        return function(x.unsqueeze(-1), [-1], False) if dims is None else function(x, dims, bool(keepdims))

    apply.__doc__, apply.__name__ = f"{what}; axes are an attribute or, in newer opsets, an input.", name.lower()
    onnx_operator(name)(apply)


def _of_numbers(name: str, x: np.ndarray, keepdims: int) -> np.ndarray:
    """Of a list of sizes, whole."""
    functions: dict[str, Callable[[list[Any]], Any]] = {
        "ReduceProd": lambda v: functools.reduce(lambda a, b: a * b, v, 1), "ReduceSum": sum, "ReduceMax": max,
        "ReduceMin": min,
    }  # a table, several to a line  # fmt: skip
    if name not in functions or x.ndim != 1:
        raise InputError(f"{name} of whole numbers of sizes {list(x.shape)} is not read")
    reduced = array([functions[name](whole(x))])
    return reduced if keepdims else reduced.reshape(())


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted((d % x.dim() for d in dims), reverse=True):
        x = torch.prod(x, dim, keep)
    return x


_reduction("ReduceMean", lambda x, dims, keep: x.mean(dims, keep), "Mean")
_reduction("ReduceSum", lambda x, dims, keep: x.sum(dims, keep), "Sum")
_reduction("ReduceMax", lambda x, dims, keep: x.amax(dims, keep), "Largest")
_reduction("ReduceMin", lambda x, dims, keep: x.amin(dims, keep), "Smallest")
_reduction("ReduceProd", _product, "Product")
_reduction("ReduceL1", lambda x, dims, keep: x.abs().sum(dims, keep), "Sum of sizes")
_reduction("ReduceL2", lambda x, dims, keep: (x * x).sum(dims, keep).sqrt(), "Root of the sum of squares")
_reduction("ReduceSumSquare", lambda x, dims, keep: (x * x).sum(dims, keep), "Sum of squares")
_reduction(
    "ReduceLogSumExp", lambda x, dims, keep: torch.logsumexp(x, dims, keep), "Logarithm of the sum of powers of e"
)


@onnx_operator("Range")
def span(start: Any, limit: Any, delta: Any) -> Any:
    """Whole numbers from one to before another."""
    ends = [whole(v, "the end of a range")[0] for v in (start, limit, delta)]
    if ends[2] == 0 or abs((ends[1] - ends[0]) / ends[2]) > 1 << 20:
        raise InputError("a range of too many numbers")
    count = max(math.ceil((ends[1] - ends[0]) / ends[2]), 0)
    return array([ends[0] + ends[2] * i for i in range(count)])
