r"""The proof T2 of ``docs/yield.md``: entropic bounds backwards through dense layers and ReLU, for Gaussian noise.

For :math:`\lambda > 0`, :math:`\rho_\lambda(X) = -\tfrac1\lambda \ln E[e^{-\lambda X} 1_E]`, with E the events of all
layers before. Given the layers before, a layer's neurons are :math:`z_i = \mu_i + s_i n_i`, independent, with
:math:`\mu = W h + b` and :math:`s_i^2 = \sum_q \tau_{iq}^2 h_q^2 + \tau_i^2`; on the events both lie in boxes, so that
(:mod:`~thetabox.verify.yields.neuron`)

.. math:: \rho_\lambda\Big(\sum_i a_i h_i - \tfrac\lambda2 v_i h_i^2\Big)
          \ge \rho_\lambda\Big(\sum_i \alpha_i \mu_i\Big) + \sum_i c_i ,

and :math:`\sum_i \alpha_i\mu_i` is linear in the layer before. Every event is closed by
:math:`P(X < t, E) \le e^{\lambda (t - \rho_\lambda)}`, at the best of several λ:

* *means*: both ends of each μ of a later hidden layer, X = ±μ.
* *spreads*: both ends of each s² there. Above: :math:`E e^{(\lambda^2/2) \sum v_q h_q^2}`, the same with a = 0. Below:
  :math:`h^2 \ge 2 h_0 h - h_0^2` for any number :math:`h_0`, which is linear.
* *margin spreads*: the lower end of the variance of a margin's own noise.

A margin's own noise comes last and is Gaussian, of variance :math:`\sum_q v_q h_q^2 + v_b` given h: this is where v
comes from, and it is worth a further factor (:mod:`~thetabox.verify.yields.last_noise`).

The union is over the first event that fails: up to there all earlier ones hold.

Rounding: coefficients on activations are rounded down (activations are at least 0), variances outward; constants are
lowered by γ bounds on the sizes of what is added up. What is not finite proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.verify.kernels import sound_kernels
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.chain import Chain, Dense
from thetabox.verify.yields.last_noise import beyond_chernoff
from thetabox.verify.yields.neuron import FEW, SLACK, TINY, NoisyNeurons, relax
from thetabox.verify.yields.tails import probability, tail

# Shares of what intermediate events may fail with; of those groups that a chain has.
SHARES = {"means": 0.67, "spreads": 0.25, "margin spreads": 0.08}
# λ of a row's end in units of its best one for a Gaussian; of a sum of squares, its square in units of where the
# moment is infinite; and of a margin, in units of 1 / its nominal deviation.
RATES = (0.85, 1.0, 1.2)
SQUARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
MARGINS = (0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 11.0)
# h0 in units of the nominal activation.
BELOW = 0.8
# A deviation is taken to be at least this part of the rows' mean one: λ is only a choice.
LEAST_DEVIATION = 0.3
# Numbers of the largest temporary tensors.
NUMBERS = 1 << 19


@dataclass(frozen=True)
class DenseLayer:
    """A dense layer with what the walks need of it: weights, magnitudes, and squares of sizes at σ = 1, rounded up."""

    weight: Tensor
    bias: Tensor
    magnitude: Tensor
    square: Tensor
    bias_square: Tensor

    @classmethod
    def of(cls, dense: Dense) -> DenseLayer:
        """Of a stage's layer."""
        square, bias_square = (t.square() * (1.0 + FEW) for t in (dense.weight_size, dense.bias_size))
        return cls(dense.weight, dense.bias, dense.weight.abs(), square, bias_square)


def fits(chain: Chain) -> bool:
    """Whether a chain is dense layers with ReLU between, and nothing else."""
    *hidden, last = chain.stages
    plain = all(isinstance(s.layer, Dense) and s.average is None and s.largest is None for s in chain.stages)
    return plain and all(s.relu for s in hidden) and not last.relu


def events(chain: Chain) -> dict[str, tuple[int, float]]:
    """Group → number of its events, and its share of what all of them may fail with: 0 where it has none."""
    widths = [len(s.layer.bias) for s in chain.stages]
    later = sum(widths[1:-1])
    counts = {"means": 2 * later, "spreads": 2 * later, "margin spreads": widths[-1] - 1 if len(widths) > 1 else 0}
    shares = {group: SHARES[group] if count else 0.0 for group, count in counts.items()}
    whole = sum(shares.values()) or 1.0
    return {group: (count, shares[group] / whole) for group, count in counts.items()}


def failure(
    chain: Chain,
    x: Float[Tensor, "samples inputs"],
    y: Int[Tensor, " samples"],
    sigma: float | Float[Tensor, " samples"],
    spent: float | Float[Tensor, " samples"],
) -> Float[Tensor, " samples"]:
    """Upper bound of the probability that a chip misclassifies each sample, at most 1; a tie counts as wrong.

    ``spent`` (where there are intermediate events), and the margins' own probabilities.

    Args:
        chain: that :func:`fits`.
        x: inputs, float64, exact.
        y: labels.
        sigma: noise.
        spent: what all intermediate events of a sample may fail with together.
    """
    layers = [DenseLayer.of(s.layer) for s in chain.stages if isinstance(s.layer, Dense)]
    shares = events(chain)
    sigmas, amounts = (torch.as_tensor(t, dtype=torch.float64).expand(len(x)) for t in (sigma, spent))
    wide = max(max(layer.weight.shape) for layer in layers)
    rows = max([2 * len(layer.bias) for layer in layers[1:-1]], default=len(layers[-1].bias))
    parts = []
    with torch.no_grad(), sound_kernels():
        for part in torch.arange(len(x)).split(max(1, NUMBERS // (rows * wide))):
            walk = EntropicWalk(layers, x[part], sigmas[part])
            costs = {g: _cost(amounts[part] * share / max(count, 1)) for g, (count, share) in shares.items()}
            while len(walk.neurons) < len(layers) - 1:
                walk.go_on(costs["means"], costs["spreads"])
            total = walk.margins(y[part], costs["margin spreads"]).sum(1)
            if any(count for count, _ in shares.values()):
                total = total + amounts[part]
            total = total * (1.0 + gamma_sum(len(layers[-1].bias)))
            parts.append(torch.where(total.isfinite(), total, 1.0).clamp(max=1.0))
    return torch.cat(parts) if parts else x.new_zeros(0)


def _cost(probability: Float[Tensor, " part"]) -> Float[Tensor, "part 1"]:
    """-ln of the probability of one event, rounded up; shares of one whole are rounded down by as much."""
    return (-probability.log() * (1.0 + SLACK) + SLACK)[:, None]


class EntropicWalk:
    """Some samples, layer by layer.

    Attributes:
        nominal: each hidden layer's μ at the weights as they are, up to that layer, ``[samples, units]``.
        spread: of its noise there, same shape.
        neurons: boxes of each hidden layer so far.
    """

    def __init__(self, layers: Sequence[DenseLayer], x: Tensor, sigma: Float[Tensor, " samples"]) -> None:
        self.layers, self.x = layers, x
        # Rounded up, by far more than its sizes, which may have been rounded up themselves.
        self.variance = (sigma.square() * (1.0 + FEW))[:, None]
        first, relative = layers[0], gamma_sum(layers[0].weight.shape[1])
        mean, square = x @ first.weight.T + first.bias, self._variance(x.square(), first)
        self.error = relative * (x.abs() @ first.magnitude.T + first.bias.abs()) + TINY
        self.nominal, self.spread = [mean], [square.sqrt()]
        self.neurons = [
            NoisyNeurons(
                mean - self.error, mean + self.error, *(square.sqrt() * (1.0 + d * relative) for d in (-1.0, 1.0))
            )
        ]

    def go_on(self, means: Float[Tensor, "samples 1"], spreads: Float[Tensor, "samples 1"]) -> None:
        """Boxes of the next hidden layer, whose events cost so much each."""
        hidden_layer = len(self.neurons) - 1
        layer = self.layers[hidden_layer + 1]
        h = self.nominal[-1].relu()
        mean, spread = h @ layer.weight.T + layer.bias, self._variance(h.square(), layer).sqrt()
        a = torch.cat([layer.weight, -layer.weight]).expand(len(h), -1, -1)
        units = len(layer.bias)
        least = self._least(hidden_layer, a, means) + torch.cat([layer.bias, -layer.bias])
        least = least - FEW * (least.abs() + 2.0 * torch.cat([layer.bias, layer.bias]).abs())
        lower, upper = least[:, :units], -least[:, units:]
        v = self.variance[..., None] * layer.square * (1.0 + FEW)
        own = self.variance * layer.bias_square
        few, more = self._squares(hidden_layer, v, spreads)
        relative = gamma_sum(layer.weight.shape[1])
        box = NoisyNeurons(
            torch.minimum(lower, upper),
            torch.maximum(lower, upper),
            (few + own).sqrt() * (1.0 - relative),
            (more + own).sqrt() * (1.0 + relative) + TINY,
        )
        self.nominal.append(mean)
        self.spread.append(spread)
        self.neurons.append(box)

    def margins(self, y: Int[Tensor, " samples"], cost: Float[Tensor, "samples 1"]) -> Float[Tensor, "samples others"]:
        """Upper bounds of the probabilities that a chip's margins over the other classes are at most 0."""
        last = self.layers[-1]
        classes = len(last.bias)
        others = torch.arange(classes - 1).expand(len(y), -1)
        others = others + (others >= y[:, None])
        own = self.variance * (last.bias_square[y][:, None] + last.bias_square[others])
        bias = last.bias[y][:, None] - last.bias[others]
        bias = bias - FEW * bias.abs()
        weight = last.weight[y][:, None] - last.weight[others]
        weight = weight - FEW * weight.abs()
        v = self.variance[..., None] * (last.square[y][:, None] + last.square[others]) * (1.0 + FEW)
        own = own * (1.0 + FEW)
        if len(self.layers) == 1:
            return self._known(weight, v, bias, own)
        hidden_layer = len(self.neurons) - 1
        few = self._least_squares(hidden_layer, v, cost)
        deviation = self._deviation(hidden_layer, weight, v, own)
        least = (few + own).sqrt() * (1.0 - gamma_sum(16))
        best = torch.zeros_like(deviation)
        for z in MARGINS:
            rate = z / deviation
            value = self._value(hidden_layer, weight, v, rate) + bias - 0.5 * rate * own
            size = value.abs() + 2.0 * bias.abs() + 2.0 * rate * own
            log = SLACK * rate * size - rate * value - beyond_chernoff(rate * least * (1.0 - FEW))
            best = torch.fmin(best, log + SLACK * log.abs())
        return probability(best)

    def _known(self, weight: Tensor, v: Tensor, bias: Tensor, own: Tensor) -> Tensor:
        """A single layer: margins are Gaussian."""
        x, relative = self.x[..., None], gamma_sum(self.x.shape[1])
        mean = (weight @ x)[..., 0] + bias
        mean = mean - relative * ((weight.abs() @ x.abs())[..., 0] + bias.abs()) - TINY
        spread = ((v @ x.square())[..., 0] + own).sqrt() * (1.0 + relative) + TINY
        return tail("exact", mean / spread)

    def _variance(self, squares: Tensor, layer: DenseLayer) -> Tensor:
        return self.variance * (squares @ layer.square.T + layer.bias_square)

    def _squares(self, hidden_layer: int, v: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper ends of ``Σ v h²``."""
        return self._least_squares(hidden_layer, v, cost), self._most_squares(hidden_layer, v, cost)

    def _most_squares(self, hidden_layer: int, v: Float[Tensor, "samples rows units"], cost: Tensor) -> Tensor:
        most = torch.full_like(v[..., 0], torch.inf)
        largest = (v * self._about(hidden_layer)[:, None]).amax(-1)
        for share in SQUARES:
            rate = (share / largest.clamp(min=TINY)).sqrt()
            value = self._value(hidden_layer, None, v, rate)
            exponent = cost - rate * value + SLACK * (cost + rate * value.abs())
            most = torch.fmin(most, 2.0 * exponent / rate.square() * (1.0 + FEW))
        return torch.where((v == 0).all(-1), 0.0, most)

    def _about(self, hidden_layer: int) -> Tensor:
        """Upper end of a neuron's variance, or what its nominal activation is worth where that is nearly 0."""
        h = self.nominal[hidden_layer].relu()
        return self.neurons[hidden_layer].most.square() + 1e-4 * h.square()

    def _least_squares(self, hidden_layer: int, v: Float[Tensor, "samples rows units"], cost: Tensor) -> Tensor:
        at = (BELOW * self.nominal[hidden_layer].relu())[:, None]
        a = 2.0 * v * at * (1.0 - gamma_sum(16))
        lost = (v * at * at).sum(-1)
        least = self._least(hidden_layer, a, cost) - lost
        return (least - gamma_sum(v.shape[-1]) * (least.abs() + 2.0 * lost)).nan_to_num(0.0).clamp(min=0.0)

    def _least(self, hidden_layer: int, a: Float[Tensor, "samples rows units"], cost: Tensor) -> Tensor:
        """Numbers that ``Σ a h`` falls below with a probability that costs so much."""
        deviation = self._deviation(hidden_layer, a)
        best = torch.full_like(deviation, -torch.inf)
        for share in RATES:
            rate = share * (2.0 * cost).sqrt() / deviation
            value, paid = self._value(hidden_layer, a, None, rate), cost / rate
            best = torch.fmax(best, value - paid - FEW * (value.abs() + 2.0 * paid))
        return best

    def _deviation(self, hidden_layer: int, a: Tensor, v: Tensor | None = None, own: Tensor | float = 0.0) -> Tensor:
        """About the standard deviation of rows, for the choice of λ."""
        variance = torch.zeros_like(a[..., 0]) + own
        if v is not None:
            variance = variance + (v @ self.nominal[hidden_layer].relu().square()[..., None])[..., 0]
        for here in range(hidden_layer, -1, -1):
            spread = self.spread[here]
            a = a * torch.special.ndtr(self.nominal[here] / spread.clamp(min=TINY))[:, None]
            variance = variance + (a.square() @ spread.square()[..., None])[..., 0]
            if here:
                a = a @ self.layers[here].weight
        deviation = variance.sqrt()
        return torch.maximum(deviation, LEAST_DEVIATION * deviation.mean(1, keepdim=True)).clamp(min=1e-12)

    def _value(
        self, hidden_layer: int, a: Tensor | None, v: Tensor | None, rate: Float[Tensor, "samples rows"]
    ) -> Float[Tensor, "samples rows"]:
        """Lower bounds of ``ρ(Σ a h - λ/2 Σ v h²)`` over a hidden layer's activations; a of None is 0."""
        if a is None:
            assert v is not None
            a = torch.zeros_like(v)
        constant, size = torch.zeros_like(rate), torch.zeros_like(rate)
        terms = 0
        for here in range(hidden_layer, -1, -1):
            layer, units = self.layers[here], a.shape[-1]
            slope, put_aside = relax(a, v, rate[..., None], self.nominal[here][:, None], self.neurons[here])
            v = None
            magnitude = slope.abs()
            constant = constant + put_aside.sum(-1)
            size = size + put_aside.abs().sum(-1)
            if here == 0:
                mean = self.nominal[0][..., None]
                constant = constant + (slope @ mean)[..., 0]
                wrong = (magnitude @ self.error[..., None])[..., 0]
                constant = constant - wrong * (1.0 + gamma_sum(units))
                size = size + (magnitude @ mean.abs())[..., 0] + wrong
            else:
                constant = constant + slope @ layer.bias
                size = size + magnitude @ layer.bias.abs()
                a = slope @ layer.weight - gamma_sum(units) * (magnitude @ layer.magnitude) - TINY
            terms += 2 * units + 4
        value = constant - gamma_sum(terms) * size - TINY
        return torch.where(value.isfinite(), value, -torch.inf)
