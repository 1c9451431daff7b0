"""The domain ``histories``: margins and logits of networks of leaky cells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.leaky import Leaky
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.domain import Domain, Profile
from thetabox.verify.histories.branching import branching
from thetabox.verify.histories.circuit import CircuitPlan
from thetabox.verify.histories.description.check import INSTEAD, check_description
from thetabox.verify.histories.engine import Engine, step_passes
from thetabox.verify.histories.leaky import LeakyPlan, description
from thetabox.verify.histories.recognition import NotRecognised, looks_spiking, recognised
from thetabox.verify.histories.recognition.describe import summary
from thetabox.verify.histories.spiking import SpikingPlan
from thetabox.verify.kernels import sound_kernels

if TYPE_CHECKING:
    from thetabox.verify.problem import Problem, Which

# Samples whose spikes are flipped for the certificate.
FLIPPED = 100
# Bytes of the active neurons' slots that are walked together, if all neurons were active.
SLOT_BYTES = {"cpu": 48 << 20, "cuda": 2 << 30}


class Histories(Domain):
    """At most K alternative histories a neuron; with ``splits``, branch and bound over uncertain spikes.

    Options: ``histories`` is K; ``splits`` the most rows a sample and ε may take beside the first, 0 for none.
    """

    name = "histories"
    defaults: ClassVar[Mapping[str, Any]] = {"histories": 4, "splits": 0}
    cascade: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"histories": 4},
        {"histories": 8, "splits": 4096},
    )

    def __init__(self, problem: Problem, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(problem, options)
        for name, least in (("histories", 1), ("splits", 0)):
            value = self.options[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(
                    f"the option {name!r} of the domain 'histories' must be a whole number of at least {least}, "
                    f"not {value!r}"
                )
        if problem.settings.rounding.network:
            raise InputError(
                f"the domain 'histories' sums in another order than the network and speaks of real numbers alone; for "
                f"arithmetic 'float32' {INSTEAD}"
            )
        with torch.no_grad():
            self._plan, self._x, self._largest = _plan(problem)

    @classmethod
    def is_meant_for(cls, problem: Problem) -> bool:
        return isinstance(problem.model, Leaky) or looks_spiking(problem)

    def passes(self, criterion: str) -> float:
        """All steps of the first row, and those without any box where it is split; further rows are paid as they go."""
        splits = self.resumes(criterion)
        return step_passes(self.options["histories"]) + (step_passes(1) if splits else 0.0)

    def resumes(self, criterion: str) -> bool:
        return bool(self.options["splits"]) and criterion == "margin" and not self._plan.readout.every_step

    @cached_property
    def engine(self) -> Engine:
        """What walks through time."""
        return Engine(
            self._plan,
            self._x,
            self.problem.settings,
            self.options["histories"],
            self.options["splits"],
            self._rows_at_once,
            lambda: self.meter.check_time(),
        )

    def margins(
        self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]
    ) -> Float[Tensor, "levels samples"]:
        self.engine.unfinished = self.unfinished
        with torch.no_grad(), sound_kernels():
            margins = self.engine.margins(which, epsilon, y[which], self.meter)
        return torch.where(epsilon > self._largest, -torch.inf, margins)

    def logits(self, which: Which, epsilon: Float[Tensor, "levels samples"]) -> Interval:
        with torch.no_grad(), sound_kernels():
            ends = self.engine.logits(which, epsilon)
        beyond = epsilon.reshape(-1, 1) > self._largest
        return Interval(torch.where(beyond, -torch.inf, ends.lower), torch.where(beyond, torch.inf, ends.upper))

    def facts(self, *, whole: bool) -> dict[str, Any]:
        facts: dict[str, Any] = {"cells": "as the network describes itself (leaky_cells)"}
        if not isinstance(self.problem.model, Leaky):
            facts["cells"] = f"recognised: {summary(recognised(self.problem).net)}"
        if whole:
            with sound_kernels(), suppress(InputError):  # of a box that even small errors take too far
                facts["branching_ratio"] = round(branching(self.engine, FLIPPED).ratio, 2)
        return facts

    def profile(self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]) -> Profile | None:
        share = self.uncertain(which, epsilon)
        caption = "Share of neurons with more than one history at a time step, over up to 64 of the samples."
        return Profile("steps", [str(t) for t in range(share.shape[1])], share, "neurons", caption)

    def uncertain(self, which: Which, epsilon: Float[Tensor, "levels samples"]) -> Float[Tensor, "levels time"]:
        """Share of neurons with more than one history at each time step, over the samples."""
        with torch.no_grad(), sound_kernels():
            return self.engine.uncertain(which, epsilon)

    def _rows_at_once(self) -> int:
        device = self.problem.settings.device.type
        each = self._plan.units * self.options["histories"] * 16 * 8
        return max(1, SLOT_BYTES[device] // each)

    def samples_at_once(self, levels: int) -> int:
        return max(1, self._rows_at_once() // max(levels, 1))


def _plan(problem: Problem) -> tuple[CircuitPlan, Tensor, float]:
    """The network as it is walked through time, its inputs ``[samples, time, inputs]``, and the largest ε of that.

    Raises:
        InputError: the domain does not fit it.
    """
    if isinstance(problem.model, Leaky):
        described = description(problem.model)
        if problem.x.dim() != 3:
            raise InputError(
                f"a recurrent network takes x of shape [samples, time, inputs], not {list(problem.x.shape)}"
            )
        check_description(problem, described)
        return LeakyPlan(problem, problem.x.shape[1]), problem.x, math.inf
    try:
        cells = recognised(problem)
    except NotRecognised as error:
        raise InputError(
            f"the domain 'histories' is for networks of leaky cells, which {type(problem.model).__name__} does not say "
            f"it is (a method leaky_cells) and is not seen to be: {error} (docs/spiking-networks.md); {INSTEAD}, or "
            "'linear' for a network without time"
        ) from None
    settings, x = problem.settings, cells.inputs(problem.x)
    return SpikingPlan(cells.net, x.shape[1], settings.rounding, settings.device), x, cells.net.largest
