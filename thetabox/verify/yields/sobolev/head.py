r"""Dense stages behind convolutions: neurons by their exact moments, rows through the convolutions by :mod:`.walk`.

See :mod:`thetabox.verify.yields.neuron` for the lines of neurons. A row on a hidden layer's means gives one end of a
mean; a row on the logits gives an entropic value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.yields.chain import Dense
from thetabox.verify.yields.last_noise import beyond_chernoff
from thetabox.verify.yields.neuron import NoisyNeurons, relax
from thetabox.verify.yields.sobolev.convolved import FEW, TINY
from thetabox.verify.yields.sobolev.rules import Quantile, Rate, Rule
from thetabox.verify.yields.sobolev.walk import Passed, lower_bounds
from thetabox.verify.yields.sobolev.windows import LinearForms
from thetabox.verify.yields.tails import probability, quantile

# λ of entropic bounds, in units of the one that suits a guessed variance.
ENDS, MARGINS = (0.6, 0.85), (0.3, 0.6, 1.0, 1.5)
# What rows are on: what enters a layer's noise, what comes out of it, or what the layer reads.
MEANS, VALUES, OUTPUTS = "means", "values", "outputs"
# A margin's own spread is bounded where the margin fails with so many times what that costs; around this part of where
# what it reads is without noise.
WORTH, AROUND = 4.0, 0.8
# How far below the first and above the last of these another λ is looked for; where nothing is known, below.
BELOW, ABOVE = 0.25, 1.5
LITTLE = 1e-2


class Hidden(NamedTuple):
    """A hidden dense layer: its neurons ``[1, units]``, and about where their means are, ``[units]``."""

    neurons: NoisyNeurons
    centre: Tensor


class MarginFailures(NamedTuple):
    """Of one sample.

    Attributes:
        probability: that all events hold and another class has at least the label's logit, at most, ``[others]``.
        spreads: how many margins' own spreads were bounded by an event.
    """

    probability: Tensor
    spreads: int


class DenseHead:
    """The dense layers behind convolutions whose events are known.

    Args:
        layers: all of them, the logits last.
        passed: the convolution stages.
        least, most: ends of their output, flat.
        centre: about where it is.
        sigma: σ.
        means, values: probability that the end of a mean, and of a value given its mean, may fail with.
    """

    def __init__(
        self,
        layers: Sequence[Dense],
        passed: Sequence[Passed],
        ends: tuple[Tensor, Tensor],
        centre: Tensor,
        sigma: float,
        means: float,
        values: float,
    ) -> None:
        self.layers, self.passed, self.sigma = layers, passed, sigma
        self.centre, self.most = centre, ends[1]
        self.means = means
        self.z = float(quantile("exact", torch.tensor(values, dtype=torch.float64)))
        self.hidden: list[Hidden] = []
        least, most = ends
        for layer in layers[:-1]:
            least, most = self._add(layer, least, most)
        # Of what the last layer reads: its lower ends, and about where its mean is.
        self.read = least, (self.hidden[-1].centre.clamp(min=0.0) if self.hidden else centre)

    def _add(self, layer: Dense, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Ends of the next hidden layer, and of its output."""
        both = torch.cat([torch.eye(len(layer.bias)), -torch.eye(len(layer.bias))]).to(layer.bias.dtype)
        if self.hidden:
            low = self._best(both, len(self.hidden), -math.log(self.means) * (1.0 + FEW) + FEW, MEANS)
        else:
            rows = torch.cat([layer.weight, -layer.weight])
            low = self._through(rows, torch.zeros_like(rows[:, 0]), Quantile(self.means))
            low = low + both @ layer.bias - FEW * (low.abs() + (both @ layer.bias).abs()) - TINY
        lower, minus = low.split(len(layer.bias))
        upper = -minus
        before = self.hidden[-1].centre.clamp(min=0.0) if self.hidden else self.centre
        centre = torch.minimum(torch.maximum(layer.weight @ before + layer.bias, lower), upper)
        spread = [self._spread(layer, h) for h in (least, most)]
        least_spread, most_spread = spread[0] * (1.0 - 1e-9), spread[1] * (1.0 + 1e-9) + TINY
        far = self.z * most_spread * (1.0 + FEW)
        error = FEW * (torch.maximum(lower.abs(), upper.abs()) + far) + TINY
        highest, lowest = upper + far + error, lower - far - error
        neurons = NoisyNeurons(lower[None], upper[None], least_spread[None], most_spread[None], highest[None])
        self.hidden.append(Hidden(neurons, centre))
        return lowest.clamp(min=0.0), highest.clamp(min=0.0)

    def _spread(self, layer: Dense, h: Tensor) -> Tensor:
        return ((self.sigma * layer.weight_size).square() @ h.square() + (self.sigma * layer.bias_size).square()).sqrt()

    def failures(self, label: int, probability: float, spreads: float) -> MarginFailures:
        """Upper bounds of the probability that all events hold and another class has at least the label's logit.

        Args:
            label: the right class.
            probability: about what will be small enough: λ is chosen for it.
            spreads: probability that the lower end of a margin's own spread may fail with.
        """
        classes = len(self.layers[-1].bias)
        rows = torch.eye(classes, dtype=torch.float64)
        rows = rows[label] - rows[torch.arange(classes) != label]
        k, q = len(self.layers) - 1, -math.log(probability)
        rates = self._rates(rows, k, q, MARGINS, VALUES)
        tried = self._tried(rows, k, rates, VALUES)
        # λ C - λ² V / 2 is largest at C / V; both from the best λ so far and the one before it.
        exponents = (rates * tried).nan_to_num(-torch.inf, neginf=-torch.inf)
        best = exponents.argmax(0, keepdim=True).clamp(min=1)
        pair = [t.gather(0, n) for t in (rates, tried) for n in (best - 1, best)]
        variance = 2.0 * (pair[2] - pair[3]) / (pair[1] - pair[0])
        vertex = (pair[2] + 0.5 * variance * pair[0]) / variance
        more = _within(vertex, rates)
        rates, tried = torch.cat([rates, more]), torch.cat([tried, self._tried(rows, k, more, VALUES)])
        # Markov: a margin of at most 0 is no rarer than exp(-λ value).
        exponents = rates * tried * (1.0 - FEW)
        # Its own noise comes last and is normal: that is worth more, the more the larger its spread is for certain.
        layer, (least, centre) = self.layers[-1], self.read
        squares = [(self.sigma * t).square() for t in (layer.weight_size, layer.bias_size)]
        v, own = (rows.abs() @ t * (1.0 - gamma_sum(16)) for t in squares)
        few = v @ least.square()
        found = _failing(exponents, rates, few + own)
        worth, events = (found < 1.0) & (found > WORTH * spreads), 0
        if bool(worth.any()):
            # h² ≥ 2 h₀ h - h₀² for any number h₀.
            at, some = AROUND * centre, v[worth]
            lost = some @ at.square() * (1.0 + gamma_sum(len(at) + 16))
            low = self._best(2.0 * some * at * (1.0 - FEW), k, -math.log(spreads) * (1.0 + FEW) + FEW, OUTPUTS)
            low = low - lost - FEW * (low.abs() + lost)
            rising = low > few[worth]
            few[worth] = torch.where(rising, low, few[worth])
            found, events = _failing(exponents, rates, few + own), int(rising.sum())
        return MarginFailures(found, events)

    def _best(self, rows: Tensor, k: int, q: float, of: str) -> Tensor:
        """Lower ends of rows on a layer, each of which fails with at most ``exp(-q)``."""
        rates = self._rates(rows, k, q, ENDS, of)
        tried = self._tried(rows, k, rates, of)
        # C - λ V / 2 - q / λ is largest at √(2q / V).
        variance = 2.0 * (tried[:1] - tried[1:]) / (rates[1:] - rates[:1])
        more = _within((2.0 * q / variance).sqrt(), rates)
        rates, values = torch.cat([rates, more]), torch.cat([tried, self._tried(rows, k, more, of)])
        lost = q / rates
        return (values - lost - FEW * (values.abs() + lost)).nan_to_num(-torch.inf).amax(0)

    def _rates(self, rows: Tensor, k: int, q: float, steps: tuple[float, ...], of: str) -> Tensor:
        """λ to begin with, ``[steps, rows]``."""
        spread = (self._guess(rows, k, of) + TINY).sqrt()
        spread = torch.maximum(spread, 0.3 * spread.mean())
        return torch.tensor(steps, dtype=rows.dtype)[:, None] * math.sqrt(2.0 * q) / spread

    def _tried(self, rows: Tensor, k: int, rates: Float[Tensor, "steps rows"], of: str) -> Tensor:
        """Entropic values, at least, of rows on a layer, ``[steps, rows]``."""
        return self._walk(rows.repeat(len(rates), 1), k, rates.flatten(), of).view_as(rates)

    def _walk(self, rows: Tensor, k: int, rates: Tensor, of: str) -> Tensor:
        """Lower bounds of entropic values, ``[rows]``."""
        layer, variance, a = self.layers[k], None, rows
        total, size = torch.zeros_like(rates), torch.zeros_like(rates)
        if of == VALUES:
            lost = 0.5 * rates * (rows.square() @ (self.sigma * layer.bias_size).square())
            total, size = total - lost, size + lost
            variance = rows.square() @ (self.sigma * layer.weight_size).square()
            variance = variance * (1.0 + gamma_sum(len(layer.bias))) + TINY
        slack = gamma_sum(len(layer.bias))
        if of != OUTPUTS:
            a, constant, constant_size = _back(rows, layer)
            total, size = total + constant, size + constant_size
        for j in range(k - 1, -1, -1):
            neurons, centre = self.hidden[j]
            lines = relax(
                a[None],
                None if variance is None else variance[None],
                rates[None, :, None],
                centre[None, None],
                neurons,
            )
            variance, offset = None, lines.constant[0]
            a, constant, constant_size = _back(lines.slope[0], self.layers[j])
            total, size = total + constant + offset.sum(1), size + constant_size + offset.abs().sum(1)
            slack += gamma_sum(2 * len(self.layers[j].bias))
        # Without a hidden layer, the noise of the logits' weights meets the convolutions' output.
        extra = torch.zeros_like(rates) if variance is None else variance @ self.most.square() * (1.0 + 1e-9)
        total = total + self._through(a, extra, Rate(rates[None]))
        return total - (slack + gamma_sum(64)) * size

    def _through(self, rows: Tensor, own: Tensor, rule: Rule) -> Tensor:
        """Lower bounds of rows on the convolutions' output, ``[rows]``."""
        return lower_bounds(self.passed, self._on_output(rows), own[None, None], rule)[0, 0]

    def _on_output(self, rows: Tensor) -> LinearForms:
        channels, height, width = self.passed[-1].outputs
        forms = rows.view(len(rows), channels, -1).transpose(0, 1)[None]
        return LinearForms(forms, torch.zeros(1, 2, dtype=torch.int64), (height, width))

    def _guess(self, rows: Tensor, k: int, of: str) -> Tensor:
        """About the variance of rows."""
        variance, a = torch.zeros_like(rows[:, 0]), rows
        for j in range(k, -1, -1):
            layer = self.layers[j]
            if j < k or of != OUTPUTS:
                h = self.hidden[j - 1].centre.clamp(min=0.0) if j else self.centre
                # Something of a mean's own noise too, lest neurons that are off leave nothing.
                part = 1.0 if j < k or of == VALUES else LITTLE
                variance = variance + part * (a.square() @ self._spread(layer, h).square())
                a = a @ layer.weight
            if j:
                a = a * (self.hidden[j - 1].centre > 0)
        return variance + self.passed[-1].guess(self.passed[:-1], self._on_output(a))[0]


def _failing(
    exponents: Float[Tensor, "steps others"], rates: Float[Tensor, "steps others"], squares: Float[Tensor, " others"]
) -> Float[Tensor, " others"]:
    """Upper bounds of the probability that margins are at most 0, whose own noise has at least these variances."""
    spread = squares.sqrt() * (1.0 - 1e-9)
    # What is no number proves nothing, whatever is added to it.
    exponents = exponents.nan_to_num(-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
    return probability(-(exponents + beyond_chernoff(rates * spread))).amin(0)


def _within(rate: Tensor, tried: Float[Tensor, "steps rows"]) -> Float[Tensor, "one rows"]:
    """A λ not far from those that were tried."""
    least, most = BELOW * tried[:1], ABOVE * tried[-1:]
    return torch.minimum(torch.maximum(torch.where(rate.isfinite(), rate, least), least), most)


def _back(a: Tensor, layer: Dense) -> tuple[Tensor, Tensor, Tensor]:
    """Row on what a layer reads (at least 0, so rounded down), its constant, and the constant's size."""
    error = gamma_sum(len(layer.bias))
    slopes = a @ layer.weight
    slopes = slopes - (a.abs() @ layer.weight.abs()) * error - TINY
    return slopes, a @ layer.bias, a.abs() @ layer.bias.abs()
