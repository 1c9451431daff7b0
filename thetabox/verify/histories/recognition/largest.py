"""The largest of several currents in what enters a cell, as where a max pool or relu stands in front of it."""

from __future__ import annotations

import torch

from thetabox.verify.histories.description.atoms import LARGEST, Function, Monomial, Terms
from thetabox.verify.histories.neurons import Boxed, Neurons, Number
from thetabox.verify.histories.recognition.cells import CellReader
from thetabox.verify.histories.recognition.constants import MOST_EPSILON
from thetabox.verify.histories.recognition.failure import NotRecognised

# How functions of the algebra that are the largest of their arguments are called.
NAMES = (LARGEST, "maximum")


class LargestReader:
    """Takes what enters cells apart into the largest of several currents, and the rest."""

    def __init__(self, reader: CellReader) -> None:
        self.reader, self.algebra, self.constants = reader, reader.algebra, reader.constants

    def parted(self, p: int) -> tuple[list[int], int]:
        """Currents of which the largest is added, none where nothing of the kind is, and the rest.

        Raises:
            NotRecognised: it is added several times, or multiplied by what may be below 0.
        """
        p = self.reader.spikes.rewritten(p)
        rest: Terms = {}
        times: dict[int, Terms] = {}
        for monomial, coefficient in self.algebra.terms(p).items():
            found = [(a, e) for a, e in monomial if self._is_largest(a)]
            if not found:
                rest[monomial] = coefficient
                continue
            if len(found) > 1 or found[0][1] != 1:
                raise NotRecognised(f"what enters a cell is {self.algebra.show(p)}, which multiplies maxima")
            left: Monomial = tuple((a, e) for a, e in monomial if a != found[0][0])
            times.setdefault(found[0][0], {})[left] = coefficient
        if len(times) > 1:
            raise NotRecognised(f"what enters a cell is {self.algebra.show(p)}, a sum of several maxima")
        currents = []
        for atom, terms in times.items():
            factor = self.algebra.number(terms)
            self._check_positive(factor)
            currents = [self.algebra.multiply(factor, q) for q in self._several(atom)]
        return currents, self.algebra.number(rest)

    def _is_largest(self, atom: int) -> bool:
        node = self.algebra.node(atom)
        spikes = self.reader.spikes
        return (
            isinstance(node, Function) and node.name in NAMES and atom not in spikes.unions and atom not in spikes.old
        )

    def _several(self, atom: int) -> list[int]:
        """What the largest is taken of, maxima among them taken apart too."""
        node, several = self.algebra.node(atom), []
        assert isinstance(node, Function)
        for q in node.arguments:
            several += self._several(-1 - q) if q < 0 and self._is_largest(-1 - q) else [q]
        return list(dict.fromkeys(several))

    def _check_positive(self, factor: int) -> None:
        """A factor of the largest is one of each, unless it turns their order around."""
        if not self.constants.is_constant(factor):
            raise NotRecognised(f"the largest of several currents is multiplied by {self.algebra.show(factor)}")
        known = self.constants.boxed(factor)
        if known.spread:
            self.constants.multiplied = True  # so no larger ε is asked for
        if known.centre - known.error - MOST_EPSILON * known.spread * (1.0 + 2.0**-50) < 0.0:
            raise NotRecognised("the largest of several currents is multiplied by what may be below 0")


def keeping_nothing(units: int, bias: Boxed, **reads: object) -> Neurons:
    """Currents, as a layer that neither keeps nor spikes."""
    zero = torch.zeros(units, dtype=torch.float64)
    nothing, none = Number(zero, zero), Boxed(zero, zero, zero)
    return Neurons(
        units=units,
        bias=bias,
        leak=none,
        synapse=None,
        decay=nothing,
        threshold=none,
        next_drop=None,
        reset=None,
        current=nothing,
        start=nothing,
        most=0,
        **reads,  # type: ignore[arg-type]  # inputs, below and before, each of its own type
    )


def windows_of(currents: list[list[int]], place: dict[int, int]) -> torch.Tensor:
    """Places of every cell's currents, the first again where it has fewer than others."""
    most = max(len(some) for some in currents)
    return torch.tensor([[place[p] for p in some] + [place[some[0]]] * (most - len(some)) for some in currents])
