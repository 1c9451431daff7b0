"""Corners and random points of the box, to which parameters are moved."""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.models.running import Running
from thetabox.verify.problem import Problem

# How far parameters are moved at least.
FAR = 0.05
# Points of a box: every parameter larger, every one smaller, a random corner, somewhere inside.
POINTS = ("larger", "smaller", "corner", "inside")


class BoxPoints:
    """Values of parameters in their box; drawn for all of them at once, for a network may have many small ones.

    Args:
        problem: whose box it is.
        run: where the parameters have the values around which they are moved.
        names: of the parameters.

    Attributes:
        own: the values around which they are moved.
    """

    def __init__(self, problem: Problem, run: Running, names: list[str]) -> None:
        self.own = {name: run.read(name).clone() for name in names}
        self._generator = torch.Generator().manual_seed(0)
        self._sizes = [t.numel() for t in self.own.values()]
        self._flat = _flat([t.double() for t in self.own.values()])
        self._radius = _flat([_unit_radius(problem, name, t.double()) for name, t in self.own.items()])

    def at(self, epsilon: float, point: str) -> dict[str, Tensor]:
        """Values by name, float64, at one of :data:`POINTS` of the box of this ε."""
        own = self._flat
        if point in ("larger", "smaller"):
            up = 1.0 if point == "larger" else -1.0
            drawn = torch.where(own < 0, -up, up)
        else:
            uniform = 2.0 * torch.rand(len(own), generator=self._generator, dtype=torch.float64) - 1.0
            drawn = (uniform if point == "inside" else uniform.sign()).to(own.device)
        parts = (own + drawn * (self._radius * epsilon)).split(self._sizes)
        return {name: part.view(t.shape) for (name, t), part in zip(self.own.items(), parts, strict=True)}


def _unit_radius(problem: Problem, name: str, own: Tensor) -> Tensor:
    """At ε = 1; a little inside the box, whose ends are rounded outward as those of a move are not."""
    factor = problem.tensors.factors[id(problem.tensors.values[name])]
    return problem.settings.box.unit_radius(own) * (factor * (1.0 - 2.0**-40))


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in parts]) if parts else torch.zeros(0, dtype=torch.float64)
