"""Single layers in exact arithmetic: their values, the exact hull of each output, and the exact least margin."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np

from tests.oracles.rational import Exact, exact, product_extremes


def dense(weight: Exact, bias: Exact | None, x: Exact) -> Exact:
    """W x + b for one sample: weight [O, I], x [I] or [..., I]."""
    out = x @ weight.T
    return out if bias is None else out + bias


def relu(x: Exact) -> Exact:
    """max(x, 0)."""
    return np.maximum(x, Fraction(0))


def conv(
    weight: Exact, bias: Exact | None, x: Exact, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Exact:
    """Convolution of one sample, any number of dimensions: weight [O, C / groups, *K], x [C, *S]."""
    patches = _patches(weight.shape, x, stride, padding, dilation, groups)
    out = np.empty((weight.shape[0], *patches.shape[1 : 1 + x.ndim - 1]), dtype=object)
    for index in np.ndindex(out.shape):
        out[index] = (weight[index[0]] * patches[index]).sum() + (0 if bias is None else bias[index[0]])
    return out


def dense_hull(weight: Any, bias: Any, x: Any) -> tuple[Exact, Exact]:
    """Exact hull of each output of a dense layer; every argument is a pair (lower, upper), bias may be None.

    Every weight and every input occurs once in one output, so the least value is the sum of the least products.
    """
    (w_low, w_high), (x_low, x_high) = map(_ends, (weight, x))
    least, most = product_extremes(w_low, w_high, x_low[..., None, :], x_high[..., None, :])
    low, high = least.sum(-1), most.sum(-1)
    if bias is not None:
        b_low, b_high = _ends(bias)
        low, high = low + b_low, high + b_high
    return low, high


def conv_hull(
    weight: Any, bias: Any, x: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> tuple[Exact, Exact]:
    """Exact hull of each output of a convolution; pairs (lower, upper) as in :func:`dense_hull`, one sample.

    The kernel is shared between positions, but within one output each of its weights still occurs once.
    """
    (w_low, w_high), (x_low, x_high) = map(_ends, (weight, x))
    p_low, p_high = (_patches(w_low.shape, part, stride, padding, dilation, groups) for part in (x_low, x_high))
    shape = (w_low.shape[0], *p_low.shape[1 : 1 + x_low.ndim - 1])
    low, high = np.empty(shape, dtype=object), np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        channel = index[0]
        least, most = product_extremes(w_low[channel], w_high[channel], p_low[index], p_high[index])
        low[index], high[index] = least.sum(), most.sum()
        if bias is not None:
            low[index] += _ends(bias)[0][channel]
            high[index] += _ends(bias)[1][channel]
    return low, high


def margin_minimum(weight: Any, bias: Any, hidden: Any, label: int) -> list[Fraction]:
    """Exact minimum of logit_label − logit_k for each k (0 at k = label), hidden values shared by both logits.

    Arguments are pairs (lower, upper): weight [K, I], bias [K] or None, hidden [I]. For hidden values held fixed the
    worst weights are ends of the box; what is left is concave in each hidden value apart, so its minimum is at an end.
    """
    (w_low, w_high), (h_low, h_high) = map(_ends, (weight, hidden))
    result = []
    for k in range(w_low.shape[0]):
        if k == label:
            result.append(Fraction(0))
            continue
        total = Fraction(0)
        for i in range(w_low.shape[1]):
            total += min(
                a * h - b * h
                for h, a, b in itertools.product(
                    (h_low[i], h_high[i]), (w_low[label, i], w_high[label, i]), (w_low[k, i], w_high[k, i])
                )
            )
        if bias is not None:
            b_low, b_high = _ends(bias)
            total += b_low[label] - b_high[k]
        result.append(total)
    return result


def max_pool(x: Exact, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1) -> Exact:
    """Max-pool of one sample x [C, *S]; padding never wins."""
    return _pool(x, kernel, stride, padding, dilation, lambda values: max(v for v in values if v is not None))


def average_pool(x: Exact, kernel: Any, stride: Any = None, padding: Any = 0) -> Exact:
    """Average pool of one sample x [C, *S]; padded zeros are counted, as torch does by default."""
    return _pool(x, kernel, stride, padding, 1, lambda values: sum(v or Fraction(0) for v in values) / len(values))


def _pool(x: Exact, kernel: Any, stride: Any, padding: Any, dilation: Any, reduce: Any) -> Exact:
    dims = x.ndim - 1
    size, pad, gap = (_tuple(v, dims) for v in (kernel, padding, dilation))
    step = size if stride is None else _tuple(stride, dims)
    padded = np.pad(x, [(0, 0), *[(p, p) for p in pad]], constant_values=None)
    spatial = [(n - g * (k - 1) - 1) // s + 1 for n, k, s, g in zip(padded.shape[1:], size, step, gap, strict=True)]
    out = np.empty((x.shape[0], *spatial), dtype=object)
    for index in np.ndindex(out.shape):
        window = tuple(
            slice(i * s, i * s + g * (k - 1) + 1, g) for i, s, k, g in zip(index[1:], step, size, gap, strict=True)
        )
        out[index] = reduce(list(padded[(index[0], *window)].ravel()))
    return out


def _patches(shape: tuple[int, ...], x: Exact, stride: Any, padding: Any, dilation: Any, groups: int) -> Exact:
    """The inputs each output sees: [O, *spatial, C / groups, *K]."""
    dims = x.ndim - 1
    kernel, step, gap = shape[2:], _tuple(stride, dims), _tuple(dilation, dims)
    if padding == "same":
        total = [g * (k - 1) for g, k in zip(gap, kernel, strict=True)]
        around = [(t // 2, t - t // 2) for t in total]
    else:
        around = [(p, p) for p in _tuple(0 if padding == "valid" else padding, dims)]
    padded = np.pad(x, [(0, 0), *around], constant_values=Fraction(0))
    spatial = [(n - g * (k - 1) - 1) // s + 1 for n, k, s, g in zip(padded.shape[1:], kernel, step, gap, strict=True)]
    out = np.empty((shape[0], *spatial, *shape[1:]), dtype=object)
    for index in np.ndindex((shape[0], *spatial)):
        group = index[0] // (shape[0] // groups)
        channels = slice(group * shape[1], (group + 1) * shape[1])
        window = tuple(
            slice(i * s, i * s + g * (k - 1) + 1, g) for i, s, k, g in zip(index[1:], step, kernel, gap, strict=True)
        )
        out[index] = padded[(channels, *window)]
    return out


def _ends(pair: Any) -> tuple[Exact, Exact]:
    return exact(pair[0]), exact(pair[1])


def _tuple(value: Any, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)
