"""Exact numbers: floats as fractions, parameter boxes, their vertices, and points inside them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np

Exact = np.ndarray[Any, np.dtype[np.object_]]
"""An array of ``Fraction``."""


def exact(values: Any) -> Exact:
    """The same array with every float replaced by the fraction it is; infinities stay floats (they compare)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values)
    if array.dtype == object:
        return array
    out = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        number = float(array[index])
        out[index] = number if math.isinf(number) else Fraction(number)
    return out


def box_ends(theta: Any, epsilon: float, kind: str = "relative", factor: float = 1.0) -> tuple[Exact, Exact]:
    """Both ends of θ ± factor·ε·unit radius, with nothing rounded (``kind`` as in ``thetabox.Box``)."""
    centre = exact(theta)
    scale = Fraction(float(epsilon)) * Fraction(float(factor))
    if kind == "relative":
        radius = abs(centre)
    elif kind == "absolute":
        radius = np.full_like(centre, Fraction(1))
    elif kind == "range":
        radius = np.full_like(centre, max(centre.flat) - min(centre.flat))
    else:
        raise ValueError(kind)
    return centre - scale * radius, centre + scale * radius


def vertices(lower: Exact, upper: Exact) -> Iterator[Exact]:
    """Every vertex of a box; coordinates of width zero are not counted twice."""
    low, high = lower.ravel(), upper.ravel()
    choices = [(a,) if a == b else (a, b) for a, b in zip(low, high, strict=True)]
    for corner in itertools.product(*choices):
        yield _shaped(corner, lower.shape)


def vertex_count(lower: Exact, upper: Exact) -> int:
    """How many vertices :func:`vertices` yields."""
    return 1 << sum(a != b for a, b in zip(lower.ravel(), upper.ravel(), strict=True))


def sampled_vertices(lower: Exact, upper: Exact, count: int, seed: int = 0) -> Iterator[Exact]:
    """``count`` random vertices."""
    rng = random.Random(seed)
    for _ in range(count):
        corner = [rng.choice(ends) for ends in zip(lower.ravel(), upper.ravel(), strict=True)]
        yield _shaped(corner, lower.shape)


def interior_points(lower: Exact, upper: Exact, count: int, seed: int = 0) -> Iterator[Exact]:
    """The centre, then ``count - 1`` random points; a third of their coordinates are drawn onto an end."""
    rng = random.Random(seed)
    low, high = lower.ravel(), upper.ravel()
    for number in range(count):
        point = []
        for a, b in zip(low, high, strict=True):
            t = Fraction(1, 2) if number == 0 else Fraction(rng.randint(0, 96) - 16, 64)
            point.append(a + (b - a) * min(max(t, Fraction(0)), Fraction(1)))
        yield _shaped(point, lower.shape)


def assert_contains(interval_lower: Any, interval_upper: Any, truth_lower: Any, truth_upper: Any) -> None:
    """Fail unless lower ≤ truth_lower and truth_upper ≤ upper everywhere, compared without rounding."""
    low, high = exact(interval_lower), exact(interval_upper)
    for index in np.ndindex(low.shape):
        least, most = exact(truth_lower)[index], exact(truth_upper)[index]
        assert low[index] <= least, f"lower bound {float(low[index])!r} above the truth {float(least)!r} at {index}"
        assert high[index] >= most, f"upper bound {float(high[index])!r} below the truth {float(most)!r} at {index}"


def product_extremes(a_low: Exact, a_high: Exact, b_low: Exact, b_high: Exact) -> tuple[Exact, Exact]:
    """Least and greatest a·b over a ∈ [a_low, a_high], b ∈ [b_low, b_high], elementwise."""
    corners = (a_low * b_low, a_low * b_high, a_high * b_low, a_high * b_high)
    least, most = corners[0], corners[0]
    for corner in corners[1:]:
        least, most = np.minimum(least, corner), np.maximum(most, corner)
    return least, most


def _shaped(values: Any, shape: tuple[int, ...]) -> Exact:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out.reshape(shape)
