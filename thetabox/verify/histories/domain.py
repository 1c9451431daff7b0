"""The domain ``histories``: margins and logits of networks of leaky cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.errors import InputError
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.domain import Domain, Profile
from thetabox.verify.effort import Meter
from thetabox.verify.histories.cells import INSTEAD, Cells, description, errors
from thetabox.verify.histories.description.check import check_description
from thetabox.verify.histories.records import Exact
from thetabox.verify.histories.splits import Tree, grow, split
from thetabox.verify.histories.walk import Drive, PruneRule, Walked, walk
from thetabox.verify.interpreter.context import Context, Sweep
from thetabox.verify.interpreter.margin import known, row_margins
from thetabox.verify.interpreter.rules.dense import linear
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.problem import input_interval

if TYPE_CHECKING:
    from thetabox.verify.problem import Problem, Which

# Bytes of the active neurons' slots that are walked together, if all neurons were active.
SLOT_BYTES = {"cpu": 48 << 20, "cuda": 2 << 30}

# A row of a proof that is split is given up once it has lost so many times its margin (by half widths, a guess).
MAY_LOSE = 1.0

# First step of each row, the state in front of it, and its spikes that are given there.
Since = tuple[Tensor, Exact, Tensor]


@dataclass(frozen=True)
class Rows:
    """Walks through time: of a sample at an ε, or of a part of what that may be.

    Attributes:
        drive: of the samples.
        largest: input.
        sample: of each row.
        values: ε of each row.
        labels: of each row.
        prune: when rows are given up, ``None`` where they are not split.
    """

    drive: Drive
    largest: float
    sample: Int[Tensor, " rows"]
    values: Float[Tensor, " rows"]
    labels: Int[Tensor, " rows"]
    prune: PruneRule | None = None

    def take(self, rows: Int[Tensor, " taken"]) -> Rows:
        """Some of the rows."""
        prune = None if self.prune is None else PruneRule(self.prune.weight[rows], self.prune.margin[rows])
        return Rows(self.drive, self.largest, self.sample[rows], self.values[rows], self.labels[rows], prune)


def step_passes(histories: int) -> float:
    """Steps of a forward pass that one step of a row counts as: the bounds of the potential, and K slots a neuron."""
    return 4.0 + 4.0 * histories


class Histories(Domain):
    """At most K alternative histories a neuron; with ``splits``, branch and bound over uncertain spikes.

    Options: ``histories`` is K; ``splits`` the most rows a sample and ε may take beside the first, 0 for none.
    """

    name = "histories"
    defaults: ClassVar[Mapping[str, Any]] = {"histories": 4, "splits": 0}
    cascade: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"histories": 4},
        {"histories": 8},
        {"histories": 8, "splits": 1024},
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
        rounding = problem.settings.rounding
        if rounding.network:
            raise InputError(
                f"the domain 'histories' sums in another order than the network and speaks of real numbers alone; for "
                f"arithmetic 'float32' {INSTEAD}"
            )
        if problem.x.dim() != 3:
            description(problem.model)
            raise InputError(
                f"a recurrent network takes x of shape [samples, time, inputs], not {list(problem.x.shape)}"
            )
        check_description(problem, description(problem.model))
        with torch.no_grad():
            # It also says what of the network the domain does not do.
            self._units = self._cells(torch.zeros(1, dtype=torch.float64)).units

    def passes(self, criterion: str) -> float:
        """All steps of the first row, and those without any box where it is split; further rows are paid as they go."""
        splits = self.options["splits"] and criterion == "margin"
        return step_passes(self.options["histories"]) + (step_passes(1) if splits else 0.0)

    def margins(
        self, which: Which, epsilon: Float[Tensor, "sweeps samples"], y: Int[Tensor, " all"]
    ) -> Float[Tensor, "sweeps samples"]:
        with torch.no_grad(), sound_kernels():
            return self._margins(which, epsilon, y)

    def _margins(self, which: Which, epsilon: Tensor, y: Tensor) -> Tensor:
        places = torch.arange(len(self.problem.x))[which]
        drive, largest = self._drive(which)
        sample = torch.arange(len(places)).repeat(len(epsilon))
        rows = Rows(drive, largest, sample, epsilon.reshape(-1).double(), y[places].repeat(len(epsilon)))
        margins = torch.full((len(sample),), -torch.inf, dtype=torch.float64)
        for part in torch.arange(len(sample)).split(self._rows_at_once()):
            margins[part] = self._of_part(rows.take(part), self.meter.part(part))
        return known(margins).view(epsilon.shape)

    def _of_part(self, rows: Rows, meter: Meter) -> Tensor:
        """Margins of rows that are walked together; where it is asked for, each split until it is proven."""
        splits, steps = self.options["splits"], rows.drive.centre.shape[1]
        if not splits:
            return self._walk(rows)[1]
        rows = replace(rows, prune=self._prune_rule(rows))
        walked, margins = self._walk(rows)
        trees = [Tree([]) for _ in margins]
        for row, margin in enumerate(margins.tolist()):
            grow(trees[row], walked, row, margin, 0, splits)

        def run(some: Tensor, since: Tensor, start: Exact, forced: Tensor) -> tuple[Walked, Tensor]:
            return self._walk(rows.take(some), (since, start, forced))

        split(trees, splits, run, meter, step_passes(self.options["histories"]) / steps, steps)
        return torch.tensor([tree.bound() for tree in trees], dtype=torch.float64)

    def logits(self, which: Which, epsilon: Float[Tensor, "sweeps samples"]) -> Interval:
        with torch.no_grad(), sound_kernels():
            lower, upper = [], []
            for rows in self._unlabelled(which, epsilon):
                cells = self._cells(rows.values)
                walked = self._run(cells, rows)
                hidden = self._hidden(cells, walked)
                ends = linear(cells.context, hidden, cells.weight_out, cells.bias_out)
                ends = ends.settled(cells.rounding.own)
                lower.append(ends.lower.double().cpu())
                upper.append(ends.upper.double().cpu())
        return Interval(torch.cat(lower), torch.cat(upper))

    def profile(self, which: Which, epsilon: Float[Tensor, "sweeps samples"], y: Int[Tensor, " all"]) -> Profile | None:
        share = self.uncertain(which, epsilon)
        caption = "Share of neurons with more than one history at a time step, over up to 64 of the samples."
        return Profile("steps", [str(t) for t in range(share.shape[1])], share, "neurons", caption)

    def uncertain(self, which: Which, epsilon: Float[Tensor, "sweeps samples"]) -> Float[Tensor, "sweeps time"]:
        """Share of neurons with more than one history at each time step, over the samples."""
        with torch.no_grad(), sound_kernels():
            shares = [self._run(self._cells(rows.values), rows).open_share for rows in self._unlabelled(which, epsilon)]
        # The first steps of a deep network are not the last layer's yet.
        return torch.cat(shares).double().cpu()[:, -self.problem.x.shape[1] :].view(*epsilon.shape, -1).mean(1)

    def _unlabelled(self, which: Which, epsilon: Tensor) -> Iterator[Rows]:
        """Rows of every sample and ε without a label, as many as are walked together."""
        drive, largest = self._drive(which)
        sample = torch.arange(len(drive.centre)).repeat(len(epsilon))
        rows = Rows(drive, largest, sample, epsilon.reshape(-1).double(), torch.zeros_like(sample))
        for part in torch.arange(len(sample)).split(self._rows_at_once()):
            yield rows.take(part)

    def _walk(self, rows: Rows, since: Since | None = None) -> tuple[Walked, Tensor]:
        """Where rows end, and their margins; where they may be given up also their first forks."""
        cells = self._cells(rows.values)
        walked = self._run(cells, rows, since)
        hidden = self._hidden(cells, walked)
        labels = rows.labels.to(hidden.lower.device)
        margin = row_margins(cells.context, hidden, cells.weight_out, cells.bias_out, labels)
        return walked, torch.where(walked.given_up, -torch.inf, margin[0].double()).cpu()

    def _prune_rule(self, rows: Rows) -> PruneRule:
        """What each row may lose against each class: as much as its margin without any box, on all T steps."""
        steps, labels = self.problem.x.shape[1], rows.labels
        nothing = self._cells(torch.zeros(len(labels), dtype=torch.float64))
        counts = self._run(nothing, rows).least
        theta = nothing.weight_out.theta
        difference = theta[labels][:, None] - theta
        margin = torch.einsum("ru,rku->rk", counts, difference)
        if nothing.bias_out is not None:
            bias = nothing.bias_out.theta
            margin = margin + steps * (bias[labels][:, None] - bias)
        own = torch.nn.functional.one_hot(labels.to(theta.device), len(theta)).bool()
        return PruneRule(difference.abs().transpose(1, 2), MAY_LOSE * margin.clamp(min=0.0).masked_fill(own, torch.inf))

    def _run(self, cells: Cells, rows: Rows, since: Since | None = None) -> Walked:
        first, start, forced = (None, None, None) if since is None else since
        return walk(
            cells,
            rows.drive,
            errors(cells, rows.largest, rows.drive.centre.shape[1]),
            rows.sample,
            histories=self.options["histories"],
            since=first,
            start=start,
            forced=forced,
            prune=rows.prune,
            before_step=self.meter.check_time,
        )

    def _cells(self, values: Tensor) -> Cells:
        device = self.problem.settings.device
        return Cells(self.problem, Context(Sweep(values[None].to(device)), self.problem.settings.rounding))

    def _hidden(self, cells: Cells, walked: Walked) -> Interval:
        """Mean spikes a step: whole numbers divided by one."""
        steps = self.problem.x.shape[1]
        lower, upper = walked.least / steps, walked.most / steps
        hidden = Interval(lower, upper, slack=4.0 * cells.rounding.own, nonnegative=True)
        hidden.batch = 0
        return hidden

    def _drive(self, which: Which) -> tuple[Drive, float]:
        """W_in g for all time steps of some samples, the upper layers' last ones too, and the largest input."""
        rounding, device = self.problem.settings.rounding, self.problem.settings.device
        x = input_interval(self.problem.x[which], self.problem.settings)
        value, largest = x.lower, x.magnitude * (1.0 + 8.0 * rounding.own)
        if not x.is_point:
            value = (x.lower + x.upper) * 0.5
        cells = self._cells(torch.zeros(1, dtype=torch.float64, device=device))
        weight = cells.weight_in
        relative = rounding.of_dot(len(weight.theta) + 8) + 4.0 * weight.theta_error
        shape = (len(value), value.shape[1] + cells.extra_steps, cells.units)
        centre, spread, size = (value.new_empty(shape) for _ in range(3))
        for decay in cells.decays:
            trace, traces = torch.zeros_like(value[:, 0]), []
            for x_t in [*value.unbind(1), *[torch.zeros_like(value[:, 0])] * cells.extra_steps]:
                trace = decay.value * trace + (1.0 - decay.value) * x_t
                traces.append(trace)
            g = torch.stack(traces, 1)
            columns = slice(None) if len(cells.decays) == 1 else decay.units
            centre[..., columns] = g @ weight.theta[:, columns]
            spread[..., columns] = (g.abs() @ weight.unit_radius[:, columns]) * (1.0 + 4.0 * relative)
            size[..., columns] = (g.abs() @ weight.magnitude[:, columns]) * (relative * (1.0 + 4.0 * relative))
        return Drive(centre, spread, size), largest

    def _rows_at_once(self) -> int:
        device = self.problem.settings.device.type
        each = self._units * self.options["histories"] * 16 * 8
        return max(1, SLOT_BYTES[device] // each)

    def samples_at_once(self, sweeps: int) -> int:
        return max(1, self._rows_at_once() // max(sweeps, 1))
