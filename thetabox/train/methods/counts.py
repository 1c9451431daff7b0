"""Training for margins that hold when every unit's spike count is off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from thetabox.errors import InputError
from thetabox.models import is_recurrent
from thetabox.train.methods.method import Method, Step, Weights, check_range


@dataclass(frozen=True)
class Counts(Method):
    r"""Adds the cross entropy of the worst case over a box of spike counts and readout weights.

    With :math:`W_{uk} = \partial f_k / \partial c_u` the weight of unit u's spike count :math:`c_u` in logit k and
    :math:`d = W_y - W_k`, the worst margin over counts :math:`c_u \pm w` (none below 0) and weights
    :math:`W \pm \varepsilon |W|` is

    .. math::
        m_k = f_y - f_k - \varepsilon (|b_y| + |b_k|) - \sum_u \max_{c \in \{(c_u - w)^+,\, c_u + w\}}
            \big( d_u (c_u - c) + \varepsilon (|W_{uy}| + |W_{uk}|)\, c \big)

    and the loss is :math:`(1 - \kappa)\,\mathrm{CE}(f, y) + \kappa\,\mathrm{CE}(-m, y)`. w, ε and κ rise in a straight
    line over ``ramp`` of the training; best weights are looked for behind it.

    A proof by histories ends with an interval of each unit's count, one or two spikes wide: this makes the readout bear
    it, at the price of one more row of products, where an interval loss through time (``ibp``) sees every spike as
    uncertain. Own to this project; for networks whose readout is linear in the spikes.
    """

    name: ClassVar[str] = "counts"
    summary: ClassVar[str] = "cross entropy of the worst case over a box of spike counts (spiking networks)"
    source: ClassVar[str] = "this project"
    meanings: ClassVar[dict[str, str]] = {
        "width": "how many spikes each unit's count may be off, at the end",
        "epsilon": "relative error of the readout's weights at the end",
        "kappa": "share of the worst case in the loss at the end, 0 to 1",
        "ramp": "share of the training over which all three rise",
    }

    width: float = 1.0
    epsilon: float = 1e-2
    kappa: float = 0.5
    ramp: float = 0.7

    def __post_init__(self) -> None:
        check_range("width", self.width, 0)
        check_range("epsilon", self.epsilon, 0)
        check_range("kappa", self.kappa, 0, 1)
        check_range("ramp", self.ramp, 0, 1)

    @property
    def settled_at(self) -> float:
        return self.ramp

    @property
    def gradients_per_step(self) -> float:
        return 2.0

    def extra(self, step: Step, logits: Tensor | None) -> Tensor | None:
        if not is_recurrent(step.model):
            raise InputError("the method 'counts' is for recurrent networks, whose outputs are spikes")
        risen = min(step.progress / self.ramp, 1.0) if self.ramp else 1.0
        clean, outputs = step.logits_and_outputs(step.theta)
        bias, weight = _readout(step.model, step.theta, outputs)
        counts = outputs.sum(1)
        difference = weight[step.y][:, None] - weight
        size = risen * self.epsilon * (weight[step.y].abs()[:, None] + weight.abs())
        lower, upper = (counts - risen * self.width).clamp(min=0)[:, None], (counts + risen * self.width)[:, None]
        slope = difference - size
        margins = (slope.clamp(min=0) * lower + slope.clamp(max=0) * upper).sum(-1)
        spread = risen * self.epsilon * (bias[step.y].abs()[:, None] + bias.abs())
        margins = margins + bias[step.y][:, None] - bias - spread
        is_label = torch.zeros_like(margins, dtype=torch.bool).scatter_(1, step.y[:, None], True)
        worst = nn.functional.cross_entropy((-margins).masked_fill(is_label, 0.0), step.y)
        # The task loss stands outside with weight 1.
        return risen * self.kappa * (worst - nn.functional.cross_entropy(clean, step.y))


def _readout(
    model: nn.Module, theta: Weights, outputs: Float[Tensor, "batch time units"]
) -> tuple[Float[Tensor, " classes"], Float[Tensor, "classes units"]]:
    """Bias and weights a spike of a readout that is linear in the spikes, differentiable by ``theta``."""
    silent = torch.zeros_like(outputs[:1])

    def readout(spikes: Tensor) -> Tensor:
        result: Tensor = functional_call(_Readout(model), {f"model.{n}": w for n, w in theta.items()}, (spikes,))
        return result[0]

    bias = readout(silent)
    by_spike = torch.func.jacrev(readout)(silent)[:, 0]  # [classes, time, units]
    weight: Tensor = by_spike.mean(1)
    with torch.no_grad():
        again = outputs.sum(1) @ weight.T + bias
        expected = functional_call(_Readout(model), {f"model.{n}": w for n, w in theta.items()}, (outputs,))
        if not torch.allclose(again, expected, rtol=1e-3, atol=1e-4):
            raise InputError("the method 'counts' needs logits that are linear in each unit's spike count")
    return bias, weight


class _Readout(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, outputs: Tensor) -> Tensor:
        return self.model.readout(outputs)  # type: ignore[operator]  # the protocol
