"""Numbers and matrices of the engine out of sums that were taken apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from thetabox.verify.histories.neurons import Boxed, Number, Weights
from thetabox.verify.histories.recognition.constants import MOST_EPSILON, Constants, Uncertain

# Room for the rounding of a product and of a radius.
ULP, UNDERFLOW = 2.0**-50, 2.0**-1000


@dataclass
class Matrix:
    """Entries of one matrix, as they are found.

    Attributes:
        sources, units: where.
        weights: entry of a weight, -1 for none.
        factors: the number that it is multiplied by.
        spreads, errors: of that number: how far a box moves it at ε = 1, and how far it may be off beside that.
    """

    sources: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def add(self, source: int, unit: int, weight: int | None, factor: Uncertain) -> None:
        """One entry."""
        self.sources.append(source)
        self.units.append(unit)
        self.weights.append(-1 if weight is None else weight)
        self.factors.append(factor.centre)
        self.spreads.append(factor.spread)
        self.errors.append(factor.error)

    def extend(self, sources: Sequence[int], unit: int, weights: Sequence[int]) -> None:
        """Entries of one unit that are weights as they are."""
        self.sources += sources
        self.units += [unit] * len(sources)
        self.weights += weights
        self.factors += [1.0] * len(sources)
        self.spreads += [0.0] * len(sources)
        self.errors += [0.0] * len(sources)

    def weights_of(self, constants: Constants, rows: int, columns: int) -> Weights:
        """The matrix; entries at one place are summed up."""
        source, unit = np.array(self.sources, np.int64), np.array(self.units, np.int64)
        factor, moved, off = np.array(self.factors), np.array(self.spreads), np.array(self.errors)
        theta, radius, relative = _entries(constants, np.array(self.weights, np.int64))
        centre, spread = factor * theta, np.abs(factor) * radius
        exact = np.abs(factor) == 1.0
        error = off * np.abs(theta) + np.where(exact, 0.0, ULP * np.abs(centre) + UNDERFLOW)
        spread = spread + off * radius + np.where(exact & (off == 0.0), 0.0, ULP * spread)
        if bool(moved.any()):
            # Where a box moves both, ε² is ε times at most the largest one.
            both = moved * (np.abs(theta) + MOST_EPSILON * radius)
            spread = (spread + both) * (1.0 + 8.0 * ULP) + np.where(moved > 0, UNDERFLOW, 0.0)
            constants.multiplied |= bool(((moved > 0) & (radius > 0)).any())
            relative = None
        place = source * columns + unit

        def summed(values: np.ndarray) -> np.ndarray:
            return np.bincount(place, values, minlength=rows * columns)

        count, size = summed(np.ones_like(factor)), summed(np.abs(centre))
        several = np.where(count > 1, count, 0.0)
        whole, off_whole = summed(centre), summed(error) + several * ULP * size
        wide = summed(spread) * (1.0 + several * ULP)
        if relative is not None and not bool((several > 0).any()):
            # The spread of a product with a number that is no power of two is rounded up a little.
            off_whole = off_whole + np.where(wide == relative * np.abs(whole), 0.0, 2.0**-40 * wide)
        else:
            relative = None
        shape = (rows, columns)
        return Weights(_tensor(whole, shape), _tensor(wide, shape), _tensor(off_whole, shape), relative)


def _entries(constants: Constants, atoms: np.ndarray) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Values and radii of entries of weights, 1 and 0 for none; and the factor that all radii have, if it is one."""
    theta, radius = np.ones(len(atoms)), np.zeros(len(atoms))
    factors: set[float] = set()
    if bool((atoms < 0).any()):
        factors.add(0.0)
    for first, tensor in constants.tensors.items():
        of_tensor = (atoms >= first) & (atoms < first + len(tensor.theta))
        if bool(of_tensor.any()):
            theta[of_tensor], radius[of_tensor] = (
                tensor.theta[atoms[of_tensor] - first],
                tensor.radius[atoms[of_tensor] - first],
            )
            factors.add(tensor.factor if tensor.factor or not bool(tensor.radius.any()) else -1.0)
    (factor,) = factors if len(factors) == 1 else (-1.0,)
    return theta, radius, factor if factor >= 0.0 else None


def numbers(constants: Constants, polynomials: Iterable[int]) -> Number:
    """Numbers that no box moves."""
    pairs = [constants.number(p) for p in polynomials]
    return Number(*(torch.tensor(list(side), dtype=torch.float64) for side in zip(*pairs, strict=True)))


def boxed(constants: Constants, polynomials: Iterable[int]) -> Boxed:
    """Numbers that a box may move."""
    uncertain = [constants.boxed(p) for p in polynomials]
    columns = ([u.centre for u in uncertain], [u.spread for u in uncertain], [u.error for u in uncertain])
    return Boxed(*(torch.tensor(c, dtype=torch.float64) for c in columns))


def _tensor(values: np.ndarray, shape: tuple[int, int]) -> Tensor:
    return torch.from_numpy(values.reshape(shape).copy())
