"""Small ``nn.Sequential`` networks in exact arithmetic, over the vertices and inner points of their parameter box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from torch import nn

from tests.oracles import layers
from tests.oracles.rational import (
    Exact,
    box_ends,
    exact,
    interior_points,
    sampled_vertices,
    vertex_count,
    vertices,
)


@dataclass(frozen=True)
class Extremes:
    """What one sample's outputs reach: every value was attained by some parameters of the box."""

    lower: Exact
    upper: Exact
    margin: Fraction | None
    points: int
    exhaustive: bool


def parameters(model: nn.Module) -> dict[str, Exact]:
    """All parameters as fractions, by name."""
    return {name: exact(value) for name, value in model.named_parameters()}


def forward(model: nn.Sequential, x: Any, values: dict[str, Exact] | None = None) -> Exact:
    """Output for one sample (no batch dimension), with ``values`` in place of the model's own parameters.

    Layers: Linear, Conv1d, Conv2d, ReLU, LeakyReLU, MaxPool1d, MaxPool2d, AvgPool1d, AvgPool2d, Flatten, Dropout
    (evaluation), Identity, nested Sequential.
    """
    return _walk(model, exact(x), parameters(model) if values is None else values, "")


def extremes(
    model: nn.Sequential,
    x: Any,
    epsilon: float,
    label: int | None = None,
    *,
    kind: str = "relative",
    limit: int = 5000,
    inner: int = 50,
    seed: int = 0,
) -> Extremes:
    """Least and greatest logits, and the least margin min over k of logit_label − logit_k, of one sample.

    Every vertex of the box of the layers before the last is visited when there are at most ``limit``, otherwise
    ``limit`` random ones; ``inner`` points besides. The last layer must be Linear: its own worst parameters follow in
    closed form. With one hidden layer, and every margin row monotone in each single parameter (dense, ReLU), the
    vertices are the exact extremes; in deeper networks they lie inside the truth, never outside it.
    """
    _last_name, last = list(model.named_children())[-1]
    if not isinstance(last, nn.Linear):
        raise TypeError("the last layer must be Linear")
    body = nn.Sequential(*list(model.children())[:-1])
    weight = box_ends(last.weight, epsilon, kind)
    bias = None if last.bias is None else box_ends(last.bias, epsilon, kind)
    ends = {name: box_ends(value, epsilon, kind) for name, value in body.named_parameters()}
    count = 1
    for low, high in ends.values():
        count *= vertex_count(low, high)
    least = most = None
    margin: Fraction | None = None
    points = 0
    for values in _points(ends, count, limit, inner, seed):
        hidden = forward(body, x, values)
        low, high = layers.dense_hull(weight, bias, (hidden, hidden))
        least = low if least is None else np.minimum(least, low)
        most = high if most is None else np.maximum(most, high)
        if label is not None:
            rows = layers.margin_minimum(weight, bias, (hidden, hidden), label)
            worst = min(row for k, row in enumerate(rows) if k != label)
            margin = worst if margin is None else min(margin, worst)
        points += 1
    assert least is not None
    assert most is not None
    return Extremes(least, most, margin, points, count <= limit)


def _points(
    ends: dict[str, tuple[Exact, Exact]], count: int, limit: int, inner: int, seed: int
) -> Iterator[dict[str, Exact]]:
    if not ends:
        yield {}
        return
    low = np.concatenate([pair[0].ravel() for pair in ends.values()])
    high = np.concatenate([pair[1].ravel() for pair in ends.values()])
    corners = vertices(low, high) if count <= limit else sampled_vertices(low, high, limit, seed)
    for source in (corners, interior_points(low, high, inner, seed)):
        for flat in source:
            values, start = {}, 0
            for name, (first, _) in ends.items():
                values[name] = flat[start : start + first.size].reshape(first.shape)
                start += first.size
            yield values


def _walk(module: nn.Module, x: Exact, values: dict[str, Exact], prefix: str) -> Exact:
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            x = _walk(child, x, values, f"{prefix}{name}.")
        return x
    weight, bias = values.get(prefix + "weight"), values.get(prefix + "bias")
    if isinstance(module, nn.Linear):
        assert weight is not None
        return layers.dense(weight, bias, x)
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        assert weight is not None
        return layers.conv(weight, bias, x, module.stride, module.padding, module.dilation, module.groups)
    if isinstance(module, nn.ReLU):
        return layers.relu(x)
    if isinstance(module, nn.LeakyReLU):
        return np.maximum(x, x * Fraction(float(module.negative_slope)))
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
        return layers.max_pool(x, module.kernel_size, module.stride, module.padding, module.dilation)
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d):
        return layers.average_pool(x, module.kernel_size, module.stride, module.padding)
    if isinstance(module, nn.Flatten):
        return x.reshape(-1)
    if isinstance(module, nn.Dropout | nn.Identity):
        return x
    raise TypeError(f"the oracle has no {type(module).__name__}")
