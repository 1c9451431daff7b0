r"""The domain ``linear``: backward linear bounds with the weights kept shared.

Rows of margins are walked back through the graph as linear bounds (as CROWN does for inputs: Zhang et al., NeurIPS
2018; for weights: Xu et al., NeurIPS 2020), with a parameter that is read at many positions kept one number. The
weights' noise meets known values at the first layer, where it costs no more than the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.errors import InputError, OneEpsilonAtATime
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.domain import Domain, Profile
from thetabox.verify.effort import FREE, Meter, forward_pass
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interpreter.tensors import Tensors
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.linear import rules, through_time  # noqa: F401  # the rules fill the table
from thetabox.verify.linear.norms import ROUNDING_ONLY, Balls, Norms, deep
from thetabox.verify.linear.own_rows import WALK_NUMBERS
from thetabox.verify.linear.region import Frame
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.tighten import Tighten
from thetabox.verify.linear.walk import Walk
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.network.samples_first import samples_first
from thetabox.verify.problem import Problem, Which, input_interval

INTERMEDIATE = ("interval", "backward")
MOST_ITEMS = 256
# Samples times ε of a profile.
PROFILED_ROWS = 64
# Share of the loss that a layer must have at some ε to be reported.
LEAST_SHARE = 0.005
# Forward passes that the intervals of all values cost, and a row that is walked back through the whole network.
INTERVALS, ROW = 4.0, 4.0
# The same with balls, whose centres take seven products a layer where rounding is all there is.
INTERVALS_AND_BALLS = 10.0

# Samples, and their indices → bounds that a walk returns for them.
BoundFunction = Callable[[Samples, Tensor], Tensor]


class Linear(Domain):
    """Backward linear bounds for networks that trace to one graph (``nn.LSTM`` and its kin included).

    Options: ``intermediate``: where the bounds of pre-activations come from: ``"interval"`` (CROWN-IBP: Zhang et al.,
    ICLR 2020), or ``"backward"`` (default; CROWN: Zhang et al., NeurIPS 2018) from backward rows as well, in front of
    ReLUs and leaky ReLUs, for the samples that intervals do not prove; in front of other functions intervals remain.
    All walks are in float64, whatever the ``precision``.

    Raises:
        InputError: unknown intermediate bounds, or a recurrent network.
    """

    name = "linear"
    defaults: ClassVar[Mapping[str, Any]] = {"intermediate": "backward"}
    renamed: ClassVar[Mapping[str, tuple[str, Mapping[Any, Any]]]] = {
        "grade": ("intermediate", {"a": "interval", "b": "backward"})
    }
    cascade: ClassVar[tuple[Mapping[str, Any], ...]] = ({"intermediate": "interval"}, {"intermediate": "backward"})

    def __init__(self, problem: Problem, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(problem, options)
        if self.options["intermediate"] not in INTERMEDIATE:
            raise InputError(
                f"unknown intermediate bounds {self.options['intermediate']!r} of linear; choose one of "
                f"{', '.join(INTERMEDIATE)}"
            )
        if isinstance(problem.network, RecurrentNetwork):
            raise InputError(
                "linear bounds are for networks that trace to one graph, not for one walked step by step; use "
                "'histories' or 'interval' for this one"
            )
        self.backward = self.options["intermediate"] == "backward"
        self.graph = samples_first(problem.network.main)
        outputs = self.graph.outputs
        layout = self.graph.layouts.get(outputs[0]) if len(outputs) == 1 else None
        if layout is None or len(layout.shape) != 2 or (layout.batch, layout.merged) != (0, 1):
            raise InputError("the network must return logits of shape [samples, classes]")
        self.output, self.classes = outputs[0], int(layout.shape[1] or 1)
        self.rounding = Rounding(torch.float64, problem.settings.rounding.arithmetic)
        with torch.no_grad():
            tensors = Tensors(problem.model, problem.settings.box, self.rounding, problem.settings.device)
            self.tensors = tensors.of(self.graph)
        forward = forward_pass(problem.network)
        self.norms = Norms() if deep(self.graph) else None
        self.tighten = Tighten(self.graph, ROW / forward, deep=self.norms is not None)
        self.generators = {way: through_time.generators(self.graph, forward, backward=way) for way in (False, True)}
        self.through_time = {way: through_time.passes(self.graph, n, forward) for way, n in self.generators.items()}

    @property
    def refines(self) -> bool:
        """Whether backward intermediate bounds are other than intervals."""
        return bool(self.tighten.targets) or self.generators[True] > 0

    def passes(self, criterion: str) -> float:
        """One walk, or two with backward intermediate bounds, which are paid as they are found to be needed."""
        rows = self.classes - 1 if criterion == "margin" else 2 * self.classes
        walks = 2 if self.backward and not (self.follows and criterion == "margin") else 1
        through_time = self.through_time[self.backward] + (self.through_time[False] if walks == 2 else 0.0)
        return walks * ((INTERVALS if self.norms is None else INTERVALS_AND_BALLS) + ROW * rows) + through_time

    def margins(
        self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]
    ) -> Float[Tensor, "levels samples"]:
        """Proven lower bounds of ``min_k (logit_y - logit_k)``; see :class:`~thetabox.verify.domain.Domain`."""
        labels = y[which].repeat(len(epsilon))

        def bound(samples: Samples, indices: Tensor) -> Tensor:
            return self.walked(samples, margin_rows(labels[indices].to(epsilon.device), self.classes)).amin(
                1, keepdim=True
            )

        x, flat = self._spread(which, epsilon)
        everything = torch.arange(len(flat))
        if self.follows and self.backward:
            margins, asked = flat.new_full((len(flat),), -torch.inf), everything
        else:
            margins = self._bounded(x, flat, everything, bound, self.classes - 1, None)[:, 0]
            asked = everything[:0]
            if self.backward and self.refines:
                asked = self._provable(x, labels, (margins <= 0).nonzero().squeeze(1))
        if len(asked) and self.refines:
            better = self._bounded(x, flat, asked, bound, self.classes - 1, self.tighten)[:, 0]
            margins[asked] = torch.maximum(margins[asked], better)
        return margins.view(epsilon.shape)

    def logits(self, which: Which, epsilon: Float[Tensor, "levels samples"]) -> Interval:
        """Bounds of the logits, rows ``[E samples, K]``."""
        one = torch.eye(self.classes, dtype=torch.float64)

        def bound(samples: Samples, indices: Tensor) -> Tensor:
            rows = torch.cat([one, -one]).to(samples.epsilon.device).expand(len(indices), -1, -1)
            value = samples.interval(self.output).both_known()
            plain = torch.cat([value.lower, -value.upper], 1)
            return torch.maximum(self.walked(samples, rows), plain.nan_to_num(-torch.inf, -torch.inf, -torch.inf))

        x, flat = self._spread(which, epsilon)
        everything = torch.arange(len(flat))
        ends = self._bounded(x, flat, everything, bound, 2 * self.classes, None)
        if self.backward and self.refines:
            ends = torch.maximum(ends, self._bounded(x, flat, everything, bound, 2 * self.classes, self.tighten))
        return Interval(ends[:, : self.classes], -ends[:, self.classes :])

    def losses(
        self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]
    ) -> tuple[list[str], Float[Tensor, "levels layers"]]:
        r"""What the proof loses at each operation, averaged over samples.

        With :math:`v` the values of the unperturbed network, an operation loses :math:`\langle A, f(v) \rangle -
        \langle A', v \rangle - c`: a layer the noise of its weights, a ReLU or a pool its relaxation. The losses of
        the weakest row add up to its unperturbed margin less the proven one. Samples without finite bounds are left
        out.

        Returns:
            The operations in order, and their losses ``[E, L]``.
        """
        x, flat = self._spread(which, epsilon)
        labels = y[which].repeat(len(epsilon))
        tighten = self.tighten if self.backward else None
        size = self._size(self.classes - 1)
        chunks: list[dict[int, Tensor]] = []
        with torch.no_grad(), sound_kernels():
            for part in torch.arange(len(flat)).split(size):
                samples = self.samples(x[part], flat[part], tighten)
                plain = self.samples(x[part], torch.zeros_like(flat[part]))
                walk = Walk(samples, Frame(slice(None)), self.classes - 1)
                walk.account(_middles(plain))
                walk.give(self.output, margin_rows(labels[part].to(flat.device), self.classes))
                weakest = walk.run().masked_fill(~samples.finite[:, None], torch.nan).argmin(1, keepdim=True)
                chunks.append({i: lost.gather(1, weakest)[:, 0].cpu() for i, lost in walk.losses.items()})
        passed = [o for o in self.graph.operations if any(o.index in chunk for chunk in chunks)]
        table = torch.stack([torch.cat([chunk[o.index] for chunk in chunks]) for o in passed], 1)
        # A module that does several things, or is called several times: which of them, by its name in the graph.
        names = [o.where or o.name for o in passed]
        names = [n if names.count(n) == 1 else f"{n} ({o.name})" for n, o in zip(names, passed, strict=True)]
        return names, table.view(*epsilon.shape, -1).nanmean(1)

    def profile(self, which: Which, epsilon: Float[Tensor, "levels samples"], y: Int[Tensor, " all"]) -> Profile | None:
        """How the loss is shared out over the operations, for as many samples as are quickly done."""
        indices = torch.arange(len(self.problem.x))[which][: max(1, PROFILED_ROWS // len(epsilon))]
        cheap = self if not self.backward else Linear(self.problem, {"intermediate": "interval"})
        names, lost = cheap.losses(indices, epsilon[:, : len(indices)], y)
        # At ε = 0 only rounding is lost.
        lost = torch.where(epsilon[:, :1] > 0, lost.nan_to_num(0.0).clamp(min=0.0), 0.0)
        share = lost / lost.sum(1, keepdim=True).clamp(min=torch.finfo(lost.dtype).tiny)
        shown = (share >= LEAST_SHARE).any(0).nonzero().squeeze(1)
        if not len(shown):
            return None
        caption = (
            "Where linear bounds, with intervals for pre-activations, lose what they prove less than the unperturbed "
            "margin: in the noise of a layer's weights, or in the relaxation of a ReLU or pool. Mean of "
            f"{len(indices)} samples; layers below {LEAST_SHARE:.1%} are left out."
        )
        return Profile("losses", [names[i] for i in shown.tolist()], share[:, shown], "margin", caption)

    def walked(self, samples: Samples, rows: Float[Tensor, "samples rows classes"]) -> Float[Tensor, "samples rows"]:
        """Lower bounds of combinations of the logits; minus infinity where the samples' intervals are not finite."""
        walk = Walk(samples, Frame(slice(None)), rows.shape[1])
        walk.give(self.output, rows)
        return walk.run().masked_fill(~samples.finite[:, None], -torch.inf)

    def samples_at_once(self, levels: int) -> int:
        """How many samples fit memory: walks are cut into chunks of their own, so only inputs count."""
        return max(1, min(4 * MOST_ITEMS, (1 << 24) // (self.problem.x[:1].numel() * max(levels, 1))))

    def _provable(self, x: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Those of the places where the unperturbed network is right: nothing else can be proven."""

        def bound(samples: Samples, part: Tensor) -> Tensor:
            logits = samples.interval(self.output)
            rows = margin_rows(labels[part].to(samples.epsilon.device), self.classes)
            highest = rows.clamp(min=0) @ logits.upper[..., None] + rows.clamp(max=0) @ logits.lower[..., None]
            return highest[..., 0].amin(1, keepdim=True)

        zero = torch.zeros(len(x), dtype=torch.float64)
        highest = self._bounded(x, zero, indices, bound, self.classes - 1, None)[:, 0]
        return indices[~(highest <= 0)]

    def _spread(self, which: Which, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and ε, a row each for every sample and ε."""
        x = self.problem.x[which]
        return x.repeat(len(epsilon), *[1] * (x.dim() - 1)), epsilon.reshape(-1).double()

    def _bounded(
        self, x: Tensor, epsilon: Tensor, indices: Tensor, bound: BoundFunction, rows: int, tighten: Tighten | None
    ) -> Tensor:
        """``bound`` of the samples ``indices``, in chunks that fit memory; on the CPU."""
        size = self._size(rows)
        with torch.no_grad(), sound_kernels():
            chunks = []
            # Where rounding is all there is, a deep network is walked with more digits: never beside others.
            alone = epsilon[indices] <= (ROUNDING_ONLY if self.norms is not None else -1.0)
            order = torch.argsort(alone.long(), stable=True)
            parts = [p for group in (indices[~alone], indices[alone]) if len(group) for p in group.split(size)]
            for part in parts:
                try:
                    chunks.append(self._chunk(x, epsilon, part, bound, tighten))
                except OneEpsilonAtATime:
                    if len(epsilon[part].unique()) == 1:
                        raise
                    chunks.append(torch.cat([self._chunk(x, epsilon, one, bound, tighten) for one in part.split(1)]))
        if not chunks:
            return torch.zeros(0, rows, dtype=torch.float64)
        together = torch.cat(chunks)
        return torch.empty_like(together).index_copy(0, order, together)

    def _size(self, rows: int) -> int:
        """Samples of one walk."""
        return max(1, min(MOST_ITEMS, WALK_NUMBERS // (rows * self.problem.network.largest())))

    def _chunk(self, x: Tensor, epsilon: Tensor, part: Tensor, bound: BoundFunction, tighten: Tighten | None) -> Tensor:
        meter = self.meter.part(part)
        meter.check_time()
        samples = self.samples(x[part], epsilon[part], tighten, meter)
        return bound(samples, part).cpu().masked_fill(samples.stopped[:, None], -torch.inf)

    def samples(
        self, x: Tensor, epsilon: Float[Tensor, " samples"], tighten: Tighten | None = None, meter: Meter = FREE
    ) -> Samples:
        """Intervals of every value for inputs ``x`` at their ε."""
        settings = replace(self.problem.settings, rounding=self.rounding)
        inputs = input_interval(x, settings)
        context = Context(
            RowEpsilons(epsilon.to(settings.device)[None]),
            self.rounding,
            correlated=self.generators[tighten is not None],
        )
        balls = None if self.norms is None else Balls(self.norms)
        return Samples(self.graph, self.tensors, inputs, context, tighten, meter, balls)


def _middles(samples: Samples) -> dict[int, Tensor]:
    """The unperturbed network's values, to rounding."""
    plain = {i: samples.interval(i) for i in samples.values if samples.plain(i)}
    return {i: (v.lower + v.upper) / 2 for i, v in plain.items()}


def margin_rows(labels: Int[Tensor, " samples"], classes: int) -> Float[Tensor, "samples rows classes"]:
    """Rows ``logit_y - logit_k`` for every other class ``k``."""
    one = torch.eye(classes, dtype=torch.float64, device=labels.device)
    others = torch.arange(classes - 1, device=labels.device)
    others = others + (others >= labels[:, None]).long()
    return one[labels][:, None] - one[others]
