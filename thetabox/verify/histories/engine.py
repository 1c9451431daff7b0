"""Margins and logits of a network of leaky cells, by walks through time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.effort import Meter
from thetabox.verify.histories.circuit import Circuit, CircuitPlan, Drive, Following
from thetabox.verify.histories.errors import Errors, errors
from thetabox.verify.histories.records import GivenSpikes, State
from thetabox.verify.histories.splits import Tree, grow, split
from thetabox.verify.histories.walk import PruneRule, Walked, walk
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interpreter.margin import known
from thetabox.verify.problem import Settings, input_interval
from thetabox.verify.unfinished import Pair, Unfinished, pairs

# A row of a proof that is split is given up once it has lost so many times its margin (by half widths, a guess).
MAY_LOSE = 1.0

# First step of each row, the state in front of it, and its spikes that are given there.
Since = tuple[Tensor, State, GivenSpikes]


def step_passes(histories: int) -> float:
    """Steps of a forward pass that one step of a row counts as: the bounds of the potential, and K slots a neuron."""
    return 4.0 + 4.0 * histories


@dataclass(frozen=True)
class Rows:
    """Walks through time: of a sample at an ε, or of a part of what that may be.

    Attributes:
        drives: of the samples, layer by layer, and one of what is read behind them, if there is such.
        largest: input.
        sample: of each row.
        values: ε of each row.
        labels: of each row.
        prune: when rows are given up, ``None`` where they are not split.
    """

    drives: list[Drive]
    largest: float
    sample: Int[Tensor, " rows"]
    values: Float[Tensor, " rows"]
    labels: Int[Tensor, " rows"]
    prune: PruneRule | None = None

    @property
    def steps(self) -> int:
        """Of the walk."""
        return self.drives[0].centre.shape[1]

    def behind(self, circuit: Circuit) -> Drive | None:
        """What inputs and constants do to what is read behind the layers, of each row."""
        rest = self.drives[len(circuit.layers) :]
        return rest[0].take(self.sample) if rest else None

    def take(self, rows: Int[Tensor, " taken"]) -> Rows:
        """Some of the rows."""
        prune = None if self.prune is None else self.prune.take(rows)
        return replace(self, sample=self.sample[rows], values=self.values[rows], labels=self.labels[rows], prune=prune)


@dataclass
class Engine:
    """Walks of one network.

    Attributes:
        plan: the network.
        x: its inputs ``[samples, time, inputs]``.
        settings: how to bound.
        histories, splits: the domain's options.
        rows_at_once: that fit memory together.
        before_step: called before every step; may raise.
        unfinished: where trees are kept that ended for want of effort; a call for one of them goes on with it.
    """

    plan: CircuitPlan
    x: Float[Tensor, "samples time inputs"]
    settings: Settings
    histories: int
    splits: int
    rows_at_once: Callable[[], int]
    before_step: Callable[[], None] | None = None
    unfinished: Unfinished[Tree] | None = None
    _last: tuple[list[Drive], float, list[list[Errors]]] | None = None

    def margins(self, which: slice | Tensor, epsilon: Tensor, labels: Tensor, meter: Meter) -> Tensor:
        """Of some samples, each at several ε ``[levels, samples]``, with the samples' labels."""
        drives, largest = self.drives(which)
        device = self.settings.device
        samples = torch.arange(epsilon.shape[1], device=device).repeat(len(epsilon))
        labels = labels.to(device).repeat(len(epsilon))
        rows = Rows(drives, largest, samples, epsilon.reshape(-1).double(), labels)
        names = pairs(torch.arange(len(self.x))[which], epsilon)
        margins = torch.full((len(samples),), -torch.inf, dtype=torch.float64)
        for part in torch.arange(len(samples)).split(self.rows_at_once()):
            margins[part] = self._of_part(rows.take(part), meter.part(part), [names[row] for row in part.tolist()])
        return known(margins).view(epsilon.shape)

    def _of_part(self, rows: Rows, meter: Meter, names: list[Pair]) -> Tensor:
        """Margins of rows that are walked together; where it is asked for, each split until it is proven."""
        if not self.splits or self.plan.readout.every_step:
            return self._walk(rows)[1]
        rows = replace(rows, prune=self._prune_rule(rows))
        trees = self._trees(rows, meter, names)

        def run(some: Tensor, since: Tensor, start: State, given: GivenSpikes) -> tuple[Walked, Tensor]:
            return self._walk(rows.take(some), (since, start, given))

        split(trees, self.splits, run, meter, step_passes(self.histories) / rows.steps, rows.steps)
        if self.unfinished is not None:
            for name, tree in zip(names, trees, strict=True):
                self.unfinished.keep(name, tree, tree.promise(self.splits))
        return torch.tensor([tree.bound() for tree in trees], dtype=torch.float64)

    def _trees(self, rows: Rows, meter: Meter, names: list[Pair]) -> list[Tree]:
        """Those that are kept, and for other rows what their first walk leaves open."""
        trees, new = [], []
        for row, name in enumerate(names):
            tree = None if self.unfinished is None else self.unfinished.take(name)
            if tree is None:
                tree = Tree([])
                new.append(row)
            else:
                # It pays once more for the walk without any box.
                again = meter.part(torch.tensor([row])).pay(torch.tensor([step_passes(1)], dtype=torch.float64))
                tree.unpaid = not bool(again)
            trees.append(tree)
        if new:
            walked, margins = self._walk(rows.take(torch.tensor(new)))
            for place, (row, margin) in enumerate(zip(new, margins.tolist(), strict=True)):
                grow(trees[row], walked, place, margin, 0, self.splits)
        return trees

    def logits(self, which: slice | Tensor, epsilon: Tensor) -> Interval:
        """Of some samples at several ε, rows as in :meth:`margins`."""
        lower, upper = [], []
        for rows in self.unlabelled(which, epsilon):
            circuit = self.circuit(rows.values)
            context, behind = circuit.context, rows.behind(circuit)
            following = self.plan.readout.following(context, behind, rows.labels)
            walked = self.run(circuit, rows, following=following)
            if following is None:
                ends = self.plan.readout.logits(context, self._read(walked), behind)
            else:
                ends = following.logits()
            unknown = walked.given_up[:, None]
            lower.append(torch.where(unknown, -torch.inf, ends.lower).double().cpu())
            upper.append(torch.where(unknown, torch.inf, ends.upper).double().cpu())
        return Interval(torch.cat(lower), torch.cat(upper))

    def uncertain(self, which: slice | Tensor, epsilon: Tensor) -> Float[Tensor, "levels time"]:
        """Share of neurons with more than one history at each time step, over the samples."""
        shares = [self.run(self.circuit(rows.values), rows).open_share for rows in self.unlabelled(which, epsilon)]
        # The first steps of layers that run late are not the last layer's yet.
        return torch.cat(shares).double().cpu()[:, -self.x.shape[1] :].view(*epsilon.shape, -1).mean(1)

    def unlabelled(self, which: slice | Tensor, epsilon: Tensor) -> Iterator[Rows]:
        """Rows of every sample and ε without a label, as many as are walked together."""
        drives, largest = self.drives(which)
        sample = torch.arange(epsilon.shape[1], device=self.settings.device).repeat(len(epsilon))
        rows = Rows(drives, largest, sample, epsilon.reshape(-1).double(), torch.zeros_like(sample))
        for part in torch.arange(len(sample)).split(self.rows_at_once()):
            yield rows.take(part)

    def circuit(self, values: Float[Tensor, " rows"]) -> Circuit:
        """The network at the ε of rows."""
        return self.plan.circuit(Context(RowEpsilons(values[None].to(self.settings.device)), self.settings.rounding))

    def run(
        self, circuit: Circuit, rows: Rows, since: Since | None = None, following: Following | None = None
    ) -> Walked:
        """Walk rows through time."""
        first, start, given = (None, None, None) if since is None else since
        drives = rows.drives[: len(circuit.layers)]
        return walk(
            circuit,
            drives,
            self._errors(circuit, rows),
            rows.sample,
            histories=self.histories,
            reads=self.plan.readout.reads,
            since=first,
            start=start,
            given=given,
            prune=rows.prune,
            before_step=self.before_step,
            following=following,
        )

    def _errors(self, circuit: Circuit, rows: Rows) -> list[list[Errors]]:
        """What rounding may add; the same for all walks of the same inputs whose largest ε is the same."""
        largest = circuit.context.row_epsilon.largest
        if self._last is None or self._last[0] is not rows.drives or self._last[1] != largest:
            drives = None if circuit.inputs is not None else rows.drives[: len(circuit.layers)]
            self._last = rows.drives, largest, errors(circuit, rows.largest, rows.steps, drives)
        return self._last[2]

    def _walk(self, rows: Rows, since: Since | None = None) -> tuple[Walked, Tensor]:
        """Where rows end, and their margins; where they may be given up also their first forks."""
        circuit = self.circuit(rows.values)
        context, behind = circuit.context, rows.behind(circuit)
        following = self.plan.readout.following(context, behind, rows.labels)
        walked = self.run(circuit, rows, since, following)
        if following is None:
            margin = self.plan.readout.margins(context, self._read(walked), behind, rows.labels)
        else:
            margin = following.margins()
        return walked, torch.where(walked.given_up, -torch.inf, known(margin.double())).cpu()

    def _prune_rule(self, rows: Rows) -> PruneRule:
        """What each row may lose against each class: as much as its margin without any box."""
        nothing = self.circuit(torch.zeros(len(rows.labels), dtype=torch.float64))
        read = self.run(nothing, rows).read[0]
        losses, margin = self.plan.readout.losses(read, rows.behind(nothing), rows.labels)
        is_label = torch.nn.functional.one_hot(rows.labels, margin.shape[1]).bool()
        return PruneRule(losses, MAY_LOSE * margin.clamp(min=0.0).masked_fill(is_label, torch.inf))

    def _read(self, walked: Walked) -> Interval:
        read = Interval(*walked.read, nonnegative=True)
        read.batch = 0
        return read

    def drives(self, which: slice | Tensor) -> tuple[list[Drive], float]:
        """What the inputs of some samples do, and the largest of them."""
        x = input_interval(self.x[which], self.settings)
        return self.plan.drives(x), x.magnitude * (1.0 + 8.0 * self.settings.rounding.roundoff)
