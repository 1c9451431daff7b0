"""The numbers of a framework's neuron from those that it wrote into a file, which its formulas have rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.nir.graph import NirNode

Array = np.ndarray
Formula = Callable[[Array], Array]

# Digits of decimals, and neighbours among the floating-point numbers, that are tried.
DIGITS, NEIGHBOURS = range(1, 17), 8
# How far a stored number may lie from what a formula makes, in units of its last place: a formula has a few operations.
PLACES = 8


@dataclass(frozen=True)
class Stored:
    """The constants of one node, and the type that its network computes in.

    Attributes:
        node: as the file has it.
        dtype: of the network.
        feeds_back: nodes of neurons to which its spikes come in the next step, in a circle.
        preset: for messages.
    """

    node: NirNode
    dtype: torch.dtype
    feeds_back: frozenset[str]
    preset: str

    def __getitem__(self, key: str) -> Array:
        """A constant as it stands in the file.

        Raises:
            InputError: no numbers, or not finite.
        """
        values = np.asarray(self.node.values[key])
        if values.dtype.kind not in "fiu" or not values.size:
            raise InputError(f"{self.node.where}: {key} holds no numbers")
        values = values.astype(np.float64) if values.dtype.kind in "iu" or values.dtype.itemsize < 4 else values
        if not np.isfinite(values).all():
            raise InputError(f"{self.node.where}: {key} holds NaN or infinite values")
        return values

    def __contains__(self, key: str) -> bool:
        """Whether nodes of its kind have such a constant."""
        return key in self.node.values

    def tensors(self, values: Mapping[str, Array]) -> dict[str, Tensor]:
        """Constants by name, in the type of the network."""
        return {name: self.tensor(np.asarray(held)) for name, held in values.items()}

    def tensor(self, values: Array | str) -> Tensor:
        """Numbers, or a constant of the file, in the type of the network."""
        held = self[values] if isinstance(values, str) else values
        return torch.from_numpy(np.array(held)).to(self.dtype)

    def solved(self, key: str, formula: Formula, inverse: Formula, what: str) -> Array:
        """The numbers of which a formula makes exactly what is stored, as the framework had them.

        Of several, those with the fewest decimals: 0.9 rather than its neighbour. Where none gives the stored number to
        the last bit, as from a machine that rounds otherwise, the nearest.

        Raises:
            InputError: the formula makes other numbers, so that another framework or dynamics has written them.
        """
        stored, places = np.unique(self[key], return_inverse=True)
        with np.errstate(all="ignore"):
            best = np.asarray(inverse(stored), stored.dtype)
            exact = np.zeros(stored.shape, bool)
            for candidate in _candidates(best):
                hit = (formula(candidate) == stored) & ~exact
                best = np.where(hit, candidate, best)
                exact |= hit
                if exact.all():
                    break
            best = best[places].reshape(self[key].shape)
            self.expect(key, formula(best), what)
        return best

    def expect(self, key: str, values: Array | float, what: str) -> None:
        """Refuse a constant that the framework would not have written.

        Raises:
            InputError: it differs by more than rounding.
        """
        stored = self[key]
        unit = float(np.finfo(stored.dtype).eps)
        near = np.isclose(stored, values, rtol=PLACES * unit, atol=0.0)
        if not near.all():
            self.refuse(f"its {key} is {_first(stored, ~near):.8g}, where {what} is expected")

    def between(self, key: str, values: Array, low: float, high: float, what: str) -> None:
        """Refuse numbers that are no such constants.

        Raises:
            InputError: one is below ``low``, or above ``high``.
        """
        wrong = ~((values >= low) & (values <= high))
        if wrong.any():
            self.refuse(f"its {key} makes {what} {_first(values, wrong):.8g}, which is not from {low:g} to {high:g}")

    def positive(self, key: str) -> None:
        """Refuse a constant that is not above zero.

        Raises:
            InputError: it is not.
        """
        wrong = ~(self[key] > 0)
        if wrong.any():
            self.refuse(f"its {key} is {_first(self[key], wrong):.8g}, not above 0")

    def refuse(self, why: str) -> None:
        """Raise the line that says why a preset does not fit."""
        raise InputError(f"the dynamics {self.preset!r} do not fit: of {self.node.where} {why}")


def _first(values: Array, wrong: Array) -> float:
    return float(np.atleast_1d(values)[np.atleast_1d(wrong)][0])


def _candidates(guess: Array) -> Iterator[Array]:
    """Numbers near a guess, the simplest first; also those of float32 where the file has more digits."""
    types: list[Any] = [np.float32] if guess.dtype == np.float32 else [np.float32, np.float64]
    for kind in types:
        for digits in DIGITS:
            short = np.vectorize(lambda x, d=digits: float(f"{x:.{d - 1}e}"), otypes=[np.float64])(guess)
            yield short.astype(kind).astype(guess.dtype)
        up = down = guess.astype(kind)
        yield up.astype(guess.dtype)
        for _ in range(NEIGHBOURS):
            up, down = np.nextafter(up, kind(np.inf)), np.nextafter(down, kind(-np.inf))
            yield up.astype(guess.dtype)
            yield down.astype(guess.dtype)
