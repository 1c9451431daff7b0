r"""Recurrent layers through time as affine forms: how the units depend on each other is kept from step to step.

Boxes forget that the units of a state moved together: what one step widens, the next multiplies by :math:`|W_h|`, and
after sixty steps nothing is known. Here a state is a zonotope (affine arithmetic: de Figueiredo and Stolfi, Numerical
Algorithms 37, 2004; for networks: Singh et al., Fast and Effective Robustness Certification, NeurIPS 2018),

.. math:: s = \hat s + \sum_k g_k \xi_k, \qquad \xi_k \in [-1, 1],

and a step multiplies its generators by the signed weights. What a step adds by itself, the noise of the weights, the
error of a linear relaxation, second-order terms and every rounding, is a radius of each unit, which becomes generators
of its own. A weight is still off by another amount in every step.

A sigmoid or hyperbolic tangent is replaced by the line with the least slope in its interval, which never leaves the
function's own range, however wide the interval (min-range approximation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import gamma
from thetabox.verify.interpreter.context import Context
from thetabox.verify.interpreter.rules.monotone import ULPS
from thetabox.verify.interpreter.rules.recurrent_steps import RecurrentWeights

# Numbers in the largest tensor of generators.
NUMBERS = 1 << 22
# Layers that have such steps: values of a state, and gates.
WALKED = {"aten.lstm.input": (2, 4), "aten.gru.input": (1, 3), "aten.rnn_tanh.input": (1, 1)}
# Operations on each number of a generator's product with the weights, beside that product.
ELEMENTWISE = 6


def most_generators(wanted: int, states: int, units: int) -> int:
    """How many are kept: enough for those of two steps to stand beside as many older ones."""
    return max(wanted, 4 * states * units)


def work(operator: str, wanted: int, units: int, steps: int) -> int:
    """Multiply-adds and other operations of one direction of a layer, for a sample."""
    states, gates = WALKED[operator]
    most = most_generators(wanted, states, units)
    kept = sum(min(most, states * units * step) for step in range(1, steps + 1))
    return kept * gates * units * (units + ELEMENTWISE)


@dataclass
class AffineForm:
    """``centre + Σ generators ξ ± radius``, the radius of each unit by itself.

    Centre and radius are ``[rows, units]``, generators ``[rows, K, units]``.
    """

    centre: Tensor
    generators: Tensor
    radius: Tensor

    def deviation(self, inflate: float) -> Tensor:
        """Largest deviation from the centre, with the rounding of its own sum."""
        return (self.generators.abs().sum(1) + self.radius) * inflate


class Line(NamedTuple):
    """``f(a)`` lies in ``middle + slope (a - centre) ± error``, and within ``deviation`` of the middle."""

    middle: Tensor
    slope: Tensor
    error: Tensor
    deviation: Tensor


class RecurrentSteps:
    """The steps of one layer and direction, for some of the rows.

    Args:
        context: rounding.
        weights: of the layer, parameters.
        epsilon: of each row ``[rows, 1]``, for the factor of the weights and for that of the bias.
        most: generators that are kept.
    """

    def __init__(self, context: Context, weights: RecurrentWeights, epsilon: tuple[Tensor, Tensor], most: int) -> None:
        rounding = context.rounding
        assert isinstance(weights.hidden, Parameter)
        self.weight, self.bias = weights.hidden, weights.hidden_bias
        self.epsilon, self.bias_epsilon = epsilon
        self.most = most
        self.relative = rounding.of_dot(weights.terms) + 2.0 * self.weight.theta_error
        self.of_bounds, self.of_both = 64.0 * rounding.roundoff, rounding.of_operation(8)
        self.of_function = rounding.of_operation(2 * ULPS) + 2.0 * rounding.flushed
        self.tiny = 4.0 * rounding.subnormal * weights.terms
        self.inflate = 1.0 + 4.0 * gamma(most + 4 * self.weight.theta.shape[1] + 64, rounding.roundoff)

    def recurrent(self, h: AffineForm) -> AffineForm:
        """``W h + b`` over the boxes of the weights."""
        weight, size = self.weight, h.centre.abs() + h.deviation(self.inflate)
        radius = F.linear(size, weight.unit_radius) * self.epsilon
        radius = radius + F.linear(size, weight.magnitude) * ((1.0 + self.epsilon) * (4.0 * self.relative)) + self.tiny
        centre = F.linear(h.centre, weight.theta)
        if isinstance(self.bias, Parameter):
            centre = centre + self.bias.theta
            relative = 4.0 * (self.relative + self.bias.theta_error)
            radius = radius + self.bias.unit_radius * self.bias_epsilon + self.bias.magnitude * relative
        # Radii of a state are generators by now.
        return AffineForm(centre, F.linear(h.generators, weight.theta), radius * self.inflate)

    def sum(self, drive: Interval, form: AffineForm) -> AffineForm:
        """With the input's part, known up to its ends; how a network rounds this sum, its parts are charged with."""
        centre, radius = _middle(drive, self.of_bounds)
        total = form.centre + centre
        rounded = (form.centre.abs() + centre.abs() + radius + form.radius) * (self.of_bounds + self.of_both)
        return AffineForm(total, form.generators, (form.radius + radius + rounded) * self.inflate)

    def line(self, form: AffineForm, function: str) -> Line:
        """The least slope inside the interval, which an end has: both derivatives fall away from 0."""
        deviation = form.deviation(self.inflate) * (1.0 + self.of_bounds) + form.centre.abs() * self.of_bounds
        f = torch.sigmoid if function == "sigmoid" else torch.tanh
        low, high = f(form.centre - deviation), f(form.centre + deviation)
        ends = (low * (1 - low), high * (1 - high)) if function == "sigmoid" else (1 - low * low, 1 - high * high)
        slope = (torch.minimum(*ends) - self.of_bounds).clamp(min=0.0)
        # f less the line rises, so its ends are the extremes.
        middle, half = (low + high) / 2, (high - low) / 2
        rounded = self.of_function + self.of_bounds * (1.0 + slope * deviation)
        error = (half - slope * deviation).clamp(min=0.0) + rounded
        return Line(middle, slope, error, half + rounded)

    def lstm(self, drive: Interval, h: AffineForm, c: AffineForm) -> tuple[AffineForm, ...]:
        gates = self.sum(drive, self.recurrent(h))
        i, f, g, o = self._gates(gates, 4)
        li, lf, lg, lo = self.line(i, "sigmoid"), self.line(f, "sigmoid"), self.line(g, "tanh"), self.line(o, "sigmoid")
        deviation = c.deviation(self.inflate)
        centre = lf.middle * c.centre + li.middle * lg.middle
        generators = _scaled(c.generators, lf.middle)
        generators += _scaled(f.generators, c.centre * lf.slope)
        generators += _scaled(g.generators, li.middle * lg.slope)
        generators += _scaled(i.generators, lg.middle * li.slope)
        radius = c.centre.abs() * _line_radius(lf, f) + lf.deviation * deviation + li.middle.abs() * _line_radius(lg, g)
        radius = radius + lg.middle.abs() * _line_radius(li, i) + li.deviation * lg.deviation
        size = (lf.middle + lf.deviation) * (c.centre.abs() + deviation) + (li.middle + li.deviation) * (
            lg.middle.abs() + lg.deviation
        )
        radius = self._rounded(radius, size)
        old = generators.shape[1]
        c = AffineForm(centre, torch.cat([generators, torch.diag_embed(radius)], 1), torch.zeros_like(radius))
        t = self.line(c, "tanh")
        generators = _scaled(c.generators, lo.middle * t.slope)
        generators[:, :old] += _scaled(o.generators, t.middle * lo.slope)
        radius = lo.middle * t.error + t.middle.abs() * _line_radius(lo, o) + lo.deviation * t.deviation
        radius = self._rounded(radius, (lo.middle + lo.deviation) * (t.middle.abs() + t.deviation))
        new = torch.diag_embed(radius)
        h = AffineForm(lo.middle * t.middle, torch.cat([generators, new], 1), torch.zeros_like(radius))
        c.generators = torch.cat([c.generators, torch.zeros_like(new)], 1)
        return self._reduced(h, c)

    def gru(self, drive: Interval, h: AffineForm) -> tuple[AffineForm, ...]:
        recurrent = self.recurrent(h)
        (br, bz, bn) = self._gates(recurrent, 3)
        ar, az, an = _parts(drive, 3)
        r, z = self.sum(ar, br), self.sum(az, bz)
        lr, lz = self.line(r, "sigmoid"), self.line(z, "sigmoid")
        deviation = bn.deviation(self.inflate)
        generators = _scaled(bn.generators, lr.middle) + _scaled(r.generators, bn.centre * lr.slope)
        radius = lr.middle * bn.radius + bn.centre.abs() * _line_radius(lr, r) + lr.deviation * deviation
        radius = self._rounded(radius, (lr.middle + lr.deviation) * (bn.centre.abs() + deviation))
        n = self.sum(an, AffineForm(lr.middle * bn.centre, generators, radius))
        ln, keep = self.line(n, "tanh"), lz.middle
        apart = h.centre - ln.middle
        generators = _scaled(n.generators, (1 - keep) * ln.slope) + _scaled(h.generators, keep)
        generators += _scaled(z.generators, apart * lz.slope)
        width = h.deviation(self.inflate)
        radius = (
            (1 - keep) * _line_radius(ln, n) + apart.abs() * _line_radius(lz, z) + lz.deviation * (width + ln.deviation)
        )
        radius = self._rounded(radius, h.centre.abs() + width + ln.middle.abs() + ln.deviation)
        centre = ln.middle + keep * apart
        return self._reduced(
            AffineForm(centre, torch.cat([generators, torch.diag_embed(radius)], 1), torch.zeros_like(radius))
        )

    def rnn_tanh(self, drive: Interval, h: AffineForm) -> tuple[AffineForm, ...]:
        a = self.sum(drive, self.recurrent(h))
        line = self.line(a, "tanh")
        radius = self._rounded(_line_radius(line, a), line.middle.abs() + line.deviation)
        generators = torch.cat([_scaled(a.generators, line.slope), torch.diag_embed(radius)], 1)
        return self._reduced(AffineForm(line.middle, generators, torch.zeros_like(radius)))

    def _rounded(self, radius: Tensor, size: Tensor) -> Tensor:
        """With the rounding of a few operations on values, and their generators, of some size."""
        return (radius + size * (self.of_bounds + self.of_both) + self.tiny) * self.inflate

    def _gates(self, form: AffineForm, count: int) -> list[AffineForm]:
        parts = (t.chunk(count, -1) for t in (form.centre, form.generators, form.radius))
        return [AffineForm(*part) for part in zip(*parts, strict=True)]

    def _reduced(self, *state: AffineForm) -> tuple[AffineForm, ...]:
        """With fewer generators once there are too many: the smallest become radii (Girard, HSCC 2005)."""
        count, units = state[0].generators.shape[1:]
        if count + 2 * units <= self.most:
            return state
        kept = max(self.most // 2, 1)
        sizes = sum(f.generators.abs().sum(2) for f in state)
        assert isinstance(sizes, Tensor)
        order = sizes.argsort(1, descending=True)[..., None].expand(-1, -1, units)
        out = []
        for place, form in enumerate(state):
            sorted_ = form.generators.gather(1, order)
            radius = sorted_[:, kept:].abs().sum(1) * self.inflate
            blocks = [torch.diag_embed(radius if place == at else torch.zeros_like(radius)) for at in range(len(state))]
            out.append(AffineForm(form.centre, torch.cat([sorted_[:, :kept], *blocks], 1), form.radius))
        return tuple(out)


def walked(
    context: Context,
    kind: str,
    drive: Interval,
    state: tuple[Interval, ...],
    weights: RecurrentWeights,
    *,
    backwards: bool,
) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]] | None:
    """Ends of the output of every step (in order of time) and of the last state; ``None`` where this does not apply."""
    if not isinstance(weights.hidden, Parameter) or not isinstance(weights.hidden_bias, Parameter | None):
        return None
    if weights.projection is not None or not hasattr(RecurrentSteps, kind) or drive.batch != 1:
        return None
    roundoff = context.rounding.roundoff
    drive, state = drive.settled(roundoff), tuple(s.settled(roundoff) for s in state)
    rows, times = drive.shape[1], drive.shape[0]
    if any(s.shape[0] != rows for s in state):
        return None
    units = state[0].shape[-1]
    most = most_generators(context.correlated, len(state), units)
    epsilons = []
    for parameter in (weights.hidden, weights.hidden_bias):
        factor = 0.0 if parameter is None else parameter.factor
        uniform = context.uniform(factor)
        each = context.epsilon(factor).reshape(-1) if uniform is None else drive.lower.new_full((rows,), uniform)
        epsilons.append(each[:, None] * (1.0 + 8.0 * roundoff))
        if len(each) != rows:
            return None
    widest = max(1, min(most, len(state) * units * times)) * weights.hidden.theta.shape[0]
    pieces = []
    for part in torch.arange(rows, device=drive.lower.device).split(max(1, NUMBERS // widest)):
        steps = RecurrentSteps(context, weights, (epsilons[0][part], epsilons[1][part]), most)
        forms = _initial(state, part, steps.of_bounds)
        step = getattr(steps, kind)
        narrow: list[tuple[Tensor, Tensor]] = [(drive.lower, drive.upper)] * times
        for time in reversed(range(times)) if backwards else range(times):
            forms = step(Interval(drive.lower[time, part], drive.upper[time, part]), *forms)
            narrow[time] = _ends(forms[0], steps)
        pieces.append((narrow, [_ends(f, steps) for f in forms]))
    outputs, last = zip(*pieces, strict=True)
    return _together(outputs), _together(last)


def _initial(state: tuple[Interval, ...], part: Tensor, roundoff: float) -> tuple[AffineForm, ...]:
    """Each unit's own radius as a generator."""
    middles = [_middle(Interval(s.lower[part], s.upper[part]), roundoff) for s in state]
    moves = [bool((radius > 0).any()) for _, radius in middles]
    forms = []
    for place, (centre, radius) in enumerate(middles):
        blocks = [
            torch.diag_embed(radius if place == at else torch.zeros_like(radius))
            for at, moved in enumerate(moves)
            if moved
        ]
        empty = centre.new_zeros(len(centre), 0, centre.shape[1])
        forms.append(AffineForm(centre, torch.cat([empty, *blocks], 1), torch.zeros_like(radius)))
    return tuple(forms)


def _middle(x: Interval, roundoff: float) -> tuple[Tensor, Tensor]:
    centre = (x.lower + x.upper) / 2
    # Further from one end than half of the width by rounding.
    return centre, torch.maximum(x.upper - centre, centre - x.lower) * (1.0 + roundoff)


def _ends(form: AffineForm, steps: RecurrentSteps) -> tuple[Tensor, Tensor]:
    deviation = (form.deviation(steps.inflate) + form.centre.abs() * steps.of_bounds) * (1.0 + steps.of_bounds)
    return form.centre - deviation, form.centre + deviation


def _together(pieces: tuple[list[tuple[Tensor, Tensor]], ...]) -> list[tuple[Tensor, Tensor]]:
    return [(torch.cat([p[0] for p in each]), torch.cat([p[1] for p in each])) for each in zip(*pieces, strict=True)]


def _scaled(generators: Tensor, by: Tensor) -> Tensor:
    return generators * by[:, None]


def _line_radius(line: Line, form: AffineForm) -> Tensor:
    """What a line leaves to each unit by itself."""
    return line.slope * form.radius + line.error


def _parts(drive: Interval, count: int) -> list[Interval]:
    return [Interval(*p) for p in zip(drive.lower.chunk(count, -1), drive.upper.chunk(count, -1), strict=True)]
