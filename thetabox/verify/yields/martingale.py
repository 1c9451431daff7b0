"""The proof T1 of ``docs/yield.md``: backward rows whose noise adds up in squares, for every graph that it fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thetabox.errors import InputError, NoProof
from thetabox.models.memory import identity, named_tensors
from thetabox.noise import Noise
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interpreter.tensors import Tensors
from thetabox.verify.interpreter.walk import Value
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.domain import margin_rows
from thetabox.verify.linear.region import Frame
from thetabox.verify.network import RecurrentNetwork
from thetabox.verify.network.graph import Graph
from thetabox.verify.network.samples_first import samples_first
from thetabox.verify.problem import Problem, input_interval
from thetabox.verify.yields.failure import MARGINS, Failure
from thetabox.verify.yields.ledger import Ledger
from thetabox.verify.yields.noisy_walk import NoisyWalk
from thetabox.verify.yields.operators import followed, reads, refusal
from thetabox.verify.yields.plan import plan
from thetabox.verify.yields.rows import NoisySamples
from thetabox.verify.yields.sizes import at_places, gains, read_more_than_once
from thetabox.verify.yields.tails import tail

# Numbers of the largest temporary tensors of one batch of samples.
NUMBERS = 1 << 22
MOST_SAMPLES = 64
# Of a product and a sum that shift a parameter.
SHIFT_ERROR = 2.0**-47


class Common(NamedTuple):
    """An error that all parameters share, in units of their sizes: known but for ``around``."""

    middle: float = 0.0
    around: float = 0.0


class Martingale:
    """Failure probabilities of one network under one noise.

    Args:
        problem: the traced network; its own box is not looked at.
        sizes: name → square roots of the variance proxies at σ = 1.
        noise: its kind, and its drift.

    Raises:
        InputError: a network that the proof does not fit.
    """

    name: ClassVar[str] = "martingale"
    dear: ClassVar[bool] = False

    def __init__(self, problem: Problem, sizes: Mapping[str, Tensor], noise: Noise) -> None:
        if isinstance(problem.network, RecurrentNetwork):
            raise NoProof(
                "proven yield is for networks without time, which read each parameter once; use sampled_yield"
            )
        main = problem.network.main
        several = read_more_than_once(main, problem.model, sizes)
        parts = [name for name, whole in several.items() if not whole]
        if parts or (several and (noise.kind != "gaussian" or noise.correlated.get("layer"))):
            raise NoProof(
                f"{(parts or list(several))[0]} is read more than once, so its errors are not independent of what they "
                "meet; proven yield covers that for whole tensors, Gaussian noise and no factor of each tensor: use "
                "sampled_yield, or leave it out of the box"
            )
        self.graph = samples_first(main)
        outputs = self.graph.outputs
        layout = self.graph.layouts.get(outputs[0]) if len(outputs) == 1 else None
        if layout is None or len(layout.shape) != 2 or (layout.batch, layout.merged) != (0, 1):
            raise InputError("the network must return logits of shape [samples, classes]")
        self.output, self.classes = outputs[0], int(layout.shape[1] or 1)
        self.problem, self.noise = problem, noise
        self.unit = dict(sizes)
        self.rounding = Rounding(torch.float64)
        self.sizes = followed(self.graph, at_places(self.graph, problem.model, sizes))
        self.tied = {i: name for i in self.sizes if (name := _owner(self.graph, problem.model, several, i))}
        for operation in self.graph.operations:
            # What is moved stands elsewhere under no name: its noise would be taken as independent.
            if set(operation.inputs) & set(self.tied) and not reads(operation, self.sizes):
                raise refusal(operation)
        self.gains = gains(problem.model, problem.settings.box, sizes)
        layer = noise.correlated.get("layer", 0.0)
        shared = {name: gain * (layer * (1.0 + SHIFT_ERROR)) for name, gain in self.gains.items()} if layer else {}
        self.shared = followed(self.graph, at_places(self.graph, problem.model, shared))
        for name, gain in shared.items():
            # Each reading would get a common error of its own.
            positions = followed(self.graph, at_places(self.graph, problem.model, {name: gain}))
            readers = [o for o in self.graph.operations if reads(o, positions)]
            if sum(i in positions for o in readers for i in o.operands) > 1:
                raise NoProof(
                    f"parts of {name} are read apart, and its errors have a factor in common; proven yield covers that "
                    "for tensors that are read as a whole: use sampled_yield, or leave it out of the box"
                )
        noisy = {o.index for o in self.graph.operations if reads(o, self.sizes)}
        self.plan = plan(self.graph, noisy)
        self.largest = problem.network.largest()

    def failure(
        self,
        x: Tensor,
        y: Int[Tensor, " samples"],
        sigma: Float[Tensor, " samples"],
        spent: Float[Tensor, " samples"],
        common: Common = Common(),  # noqa: B008  # a tuple
    ) -> Failure:
        """Upper bounds of the probability that a chip misclassifies each sample; a tie counts as wrong.

        Args:
            x: inputs.
            y: labels.
            sigma: of each sample.
            spent: probability that all intermediate bounds of a sample together may fail with.
            common: error that all parameters share.
        """
        parts = []
        size = max(1, min(MOST_SAMPLES, NUMBERS // (self.classes * self.largest)))
        tensors = self._tensors(common)
        with torch.no_grad(), sound_kernels():
            for part in torch.arange(len(x)).split(size):
                parts.append(self._of(x[part], y[part], sigma[part], spent[part], tensors))
        groups = parts[0].events
        return Failure(
            torch.cat([p.probability for p in parts]),
            {
                g: (torch.cat([p.events[g][0] for p in parts]), torch.cat([p.events[g][1] for p in parts]))
                for g in groups
            },
        )

    def _of(self, x: Tensor, y: Tensor, sigma: Tensor, spent: Tensor, tensors: dict[int, Value]) -> Failure:
        settings = replace(self.problem.settings, rounding=self.rounding)
        inputs = input_interval(x, settings)
        context = Context(RowEpsilons(torch.ones(1, len(x), dtype=torch.float64)), self.rounding)
        ledger = Ledger(spent, self.plan.shares(), self.noise.kind)
        samples = NoisySamples(
            self.graph, tensors, inputs, context, sigma, self.sizes, self.shared, self.tied, self.plan, ledger
        )
        walk = NoisyWalk(samples, Frame(slice(None)), self.classes - 1)
        walk.give(self.output, margin_rows(y, self.classes))
        constant, deviation = walk.run(), walk.deviation()
        exact = self.output in self.plan.single and self.noise.kind == "gaussian"
        z = torch.where(deviation > 0, constant / deviation, torch.where(constant > 0, torch.inf, -torch.inf))
        each = tail("exact" if exact else self.noise.kind, z)
        events = {g: (count, share) for g, count, share in ledger.entries()}
        events[MARGINS] = (torch.full_like(sigma, self.classes - 1.0), each.sum(1))
        total = torch.stack([share for _, share in events.values()]).sum(0) * (1.0 + gamma_sum(self.classes + 64))
        hopeless = ~samples.finite | ~total.isfinite() | (constant.amin(1) <= 0)
        return Failure(total.masked_fill(hopeless, 1.0).clamp(max=1.0), events)

    def _tensors(self, common: Common) -> dict[int, Value]:
        """Parameters at their centres, with the box of what is unknown of them and not random."""
        model, held = self.problem.model, named_tensors(self.problem.model)
        instead, around = {}, {}
        by_tensor = {identity(held[name]): name for name in self.unit}
        for name, tensor in held.items():
            own = by_tensor.get(identity(tensor))
            if own is None:
                continue
            theta, gain = tensor.detach().double(), self.gains[own]
            shift, bound = self.noise.shift(own), self.noise.bound(own)
            if shift or common.middle:
                instead[name] = theta * (1.0 + shift) + gain * common.middle
            radius = theta.abs() * bound + gain.abs() * common.around
            error = SHIFT_ERROR * (theta.abs() * (1.0 + abs(shift)) + gain.abs() * abs(common.middle))
            around[name] = radius * (1.0 + SHIFT_ERROR) + (error if name in instead else 0.0)
        with torch.no_grad():
            tensors = Tensors(model, self.problem.settings.box, self.rounding, self.problem.settings.device, instead)
            values = tensors.of(self.graph)
        widened = {i: replace(v, factor=0.0, absolute=None) for i, v in values.items() if isinstance(v, Parameter)}
        for index, name in self.graph.tensors.items():
            if name in around and bool((around[name] > 0).any()):
                widened[index] = replace(widened[index], factor=1.0, absolute=around[name])
        for index, view in self.graph.views.items():
            if view.name in around and bool((around[view.name] > 0).any()):
                widened[index] = replace(widened[index], factor=1.0, absolute=view.of(around[view.name]))
        return dict(widened)


def _owner(graph: Graph, model: nn.Module, names: Iterable[str], index: int) -> str | None:
    """Which of the parameters stands at a position."""
    held = named_tensors(model)
    name = graph.tensors.get(index) or (graph.views[index].name if index in graph.views else None)
    return next((n for n in names if name is not None and identity(held[n]) == identity(held[name])), None)
