r"""Linear lower bounds of one neuron's entropic value, and its expectation, rounded to the safe side.

Given the layers before, a neuron is :math:`z = \mu + s n`, n standard normal. For :math:`\lambda > 0`, :math:`v \ge 0`
and :math:`h = \max(z, 0)`,

.. math:: f(z) = a h - \tfrac\lambda2 v h^2, \qquad g(\mu, s) = -\tfrac1\lambda \ln E e^{-\lambda f(z)} ,

and :func:`relax` returns :math:`\alpha, c` with :math:`g(\mu, s) \ge \alpha\mu + c` for all
:math:`\mu \in [\mu_l, \mu_u]`, :math:`s \in [s_l, s_u]`. With
:math:`u = \mu/s,\; b = \lambda a s,\; w = \lambda^2 v s^2,\; p = 1 - w > 0`, completing the square gives

.. math:: E e^{-\lambda f} = \Phi(-u) + p^{-1/2} e^{(b^2 - 2ub + wu^2)/2p}\, \Phi\big((u - b)/\sqrt p\big) .

* **Chord**, :math:`a \le 0`. :math:`-\lambda f` is a convex function of z, so
  :math:`\ln E e^{-\lambda f(\mu + s n)}` is convex in μ (Hölder), and grows with s (:math:`e^{-\lambda f}` is convex;
  Jensen over the further noise). g is concave in μ and falls with s: a line below :math:`g(\cdot, s_u)` at both ends
  is below everywhere between them.
* **Tangent**, :math:`a \ge 0, v = 0`. :math:`-\lambda f` is concave in z, so :math:`e^{-\lambda f}` times a normal
  density is log-concave, its marginal :math:`E e^{-\lambda f(\mu + s n)}` too (Prékopa), and
  :math:`G = g(\cdot, s_0)` is convex: :math:`G(m) \ge G(m_0) + \alpha(m - m_0)` for all real m. With
  :math:`s^2 = s_0^2 + d^2`, the further noise d n' is inside: :math:`E e^{-\lambda f} = E e^{-\lambda G(\mu + d n')}
  \le e^{-\lambda(G(m_0) + \alpha(\mu - m_0)) + \lambda^2\alpha^2 d^2/2}`. So
  :math:`g \ge G(m_0) + \alpha(\mu - m_0) - \tfrac\lambda2\alpha^2(s_u^2 - s_0^2)` for any :math:`s_0 \le s_l`, 0
  included, where G is f itself.
* **a > 0, v > 0**: any of these. :math:`h^2 \le U h` on the event :math:`z \le U`, then as above.
  :math:`a h \ge 0`, then the chord. :math:`a h - \tfrac\lambda2 v h^2 \ge a z - \tfrac\lambda2 v z^2`, whose
  :math:`-\lambda f` is convex, so again a chord, of
  :math:`\ln E e^{-\lambda f} = (b^2 - 2ub + wu^2)/2p - \tfrac12\ln p`.

Rounding: all of these hold for any α that is written down, with c a lower bound for that α. Logarithms, exponentials,
``log_ndtr`` and the few operations on them lose some :math:`2^{-50}` of the numbers that they add; :data:`SLACK` of
their sizes is taken off, a thousand times as much. What is not finite becomes a constant of minus infinity.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Taken off of the sizes of numbers that are added; what is lost is about 2^-50 of them.
SLACK = 1e-12
# Relative error of a few operations, and what they may lose to underflow while their factors are below HUGE.
FEW = 2.0**-50
TINY = 1e-100
HUGE = 1e100
# Largest |μ| / s that is computed with: beyond it, spreads are enlarged (chord) or left out (tangent).
FAR = 1e7
# Least 1 - λ²vs²: below it, nothing is proven.
LEAST_COMPLEMENT = 1e-2


class NoisyNeurons(NamedTuple):
    """What is known of the neurons ``μ + s n`` of a layer.

    Attributes:
        lower, upper: ends of μ, ``[samples, *units]``.
        least, most: ends of the spread s, at least 0, same shape.
        event_upper: upper ends U of ``μ + s n`` on the events, same shape; None where no event says so.
    """

    lower: Tensor
    upper: Tensor
    least: Tensor
    most: Tensor
    event_upper: Tensor | None = None


class LowerLines(NamedTuple):
    """``slope μ + constant`` below g; the constant is minus infinity (and the slope 0) where nothing is proven."""

    slope: Tensor
    constant: Tensor


def relax(
    a: Float[Tensor, "samples rows *units"],
    v: Float[Tensor, "samples rows *units"] | None,
    rate: Float[Tensor, "samples rows *ones"],
    centre: Float[Tensor, "samples rows_or_1 *units"],
    neurons: NoisyNeurons,
) -> LowerLines:
    """Lines below the entropic value of each neuron, for each row.

    Args:
        a: coefficients of the ReLU's outputs, exact as given (whoever rounded them, rounded down: outputs are ≥ 0).
        v: variances that the next layer's noise adds for each unit of an output's square, exact or too large; None: 0.
        rate: λ of each row, above 0; broadcast over the units.
        centre: where tangents are drawn and lines compared.
        neurons: whose.
    """
    a = torch.where(a.abs() < HUGE, a, torch.nan)
    box = _Box.of(neurons, rate, centre, a.shape)
    if v is None:
        rising = a > 0
        lines = _merge(rising, _tangent(a[rising], box.at(rising)), _chord(a[~rising], None, box.at(~rising)))
    else:
        lines = _with_variance(a, torch.where(v.abs() < HUGE, v, torch.nan), box)
    proven = lines.slope.isfinite() & lines.constant.isfinite()
    return LowerLines(lines.slope.where(proven, 0.0), lines.constant.where(proven, -torch.inf))


def mean_relu(mean: Float[Tensor, "*any"], spread: Float[Tensor, "*any"]) -> tuple[Tensor, Tensor]:
    r"""Lower and upper bounds of :math:`E \max(m + s n, 0) = m\Phi(m/s) + s\varphi(m/s)`, rising in m and in s.

    Args:
        mean: m, exact as given.
        spread: s, at least 0.
    """
    u = mean / spread.clamp(min=1e-300)
    density = spread * torch.exp(-0.5 * u * u) * (1.0 / math.sqrt(2.0 * math.pi))
    # Not `ndtr`, which has no correct digits far below 0.
    share = mean * torch.special.log_ndtr(u).exp()
    value, complement = share + density, 4.0 * SLACK * (share.abs() + density) + TINY * (1.0 + spread)
    least = mean.clamp(min=0.0)
    most = least + 0.4 * spread * (1.0 + FEW)
    return torch.fmax(value - complement, least), torch.fmin(value + complement, most)


class _Box(NamedTuple):
    """Neurons for each row: all of one shape, or flat."""

    lower: Tensor
    upper: Tensor
    least: Tensor
    most: Tensor
    rate: Tensor
    centre: Tensor
    event_upper: Tensor | None

    @classmethod
    def of(cls, neurons: NoisyNeurons, rate: Tensor, centre: Tensor, shape: torch.Size) -> _Box:
        def rows(t: Tensor) -> Tensor:
            return t.unsqueeze(1).expand(shape)

        rate = torch.where((rate > 1.0 / HUGE) & (rate < HUGE), rate, torch.nan).expand(shape)
        most = torch.where((neurons.most >= 0) & (neurons.most < HUGE), neurons.most, torch.nan)
        event_upper = None if neurons.event_upper is None else rows(neurons.event_upper)
        ends = rows(neurons.lower), rows(neurons.upper), rows(neurons.least), rows(most)
        return cls(*ends, rate, centre.expand(shape), event_upper)

    def at(self, where: Bool[Tensor, "samples rows *units"]) -> _Box:
        """Flat, of some places."""
        event_upper = None if self.event_upper is None else self.event_upper[where]
        others = self.lower, self.upper, self.least, self.most, self.rate, self.centre
        return _Box._make([*(t[where] for t in others), event_upper])


def _merge(where: Tensor, yes: LowerLines, no: LowerLines) -> LowerLines:
    slope = yes.slope.new_empty(where.shape)
    constant = torch.empty_like(slope)
    slope[where], constant[where] = yes.slope, yes.constant
    slope[~where], constant[~where] = no.slope, no.constant
    return LowerLines(slope, constant)


def _better(one: LowerLines, other: LowerLines, box: _Box) -> LowerLines:
    """The larger at the centre; what is no number is the smaller."""
    first = (one.slope * box.centre + one.constant).nan_to_num(-torch.inf)
    second = (other.slope * box.centre + other.constant).nan_to_num(-torch.inf)
    take = second > first
    return LowerLines(torch.where(take, other.slope, one.slope), torch.where(take, other.constant, one.constant))


def _with_variance(a: Tensor, v: Tensor, box: _Box) -> LowerLines:
    rising = a > 0
    inside, steep, less = box.at(~rising), a[~rising], v[~rising]
    falling = _chord(steep, less, inside)
    if box.event_upper is not None:
        # Where λ²vs² is too large for an integral over all z.
        lacking = ~falling.constant.isfinite()
        others = LowerLines(falling.slope[~lacking], falling.constant[~lacking])
        falling = _merge(lacking, _linear(steep[lacking], less[lacking], inside.at(lacking)), others)
    inside, a, v = box.at(rising), a[rising], v[rising]
    best = _better(_chord(torch.zeros_like(a), v, inside), _chord(a, v, inside, rectified=False), inside)
    if box.event_upper is not None:
        best = _better(best, _linear(a, v, inside), inside)
    return _merge(rising, best, falling)


def _linear(a: Tensor, v: Tensor, box: _Box) -> LowerLines:
    """``h² ≤ U h`` on the events, for flat tensors."""
    assert box.event_upper is not None
    most = box.event_upper.clamp(min=0.0)
    lost = 0.5 * box.rate * v * most
    less = a - lost - FEW * (a.abs() + lost) - TINY
    less = torch.where(less.abs() < HUGE, less, torch.nan)
    rising = less > 0
    return _merge(rising, _tangent(less[rising], box.at(rising)), _chord(less[~rising], None, box.at(~rising)))


class _Moment(NamedTuple):
    """Upper bounds of the logarithms of both terms of ``E exp(-b y + w y² / 2), y = relu(u + n)``, and their slack."""

    below: Tensor
    above: Tensor
    slack: Tensor

    @property
    def log(self) -> Tensor:
        return torch.logaddexp(self.below, self.above) + SLACK


def _moment(u: Tensor, b: Tensor, w: Tensor | None) -> _Moment:
    """For numbers exact as given, ``|u|`` at most about FAR."""
    exponent, slack, t = 0.5 * (b * (b - 2.0 * u)), b * (b.abs() + 2.0 * u.abs()), u - b
    slack = slack.abs()
    if w is not None:
        complement = 1.0 - w
        complement = torch.where(complement >= LEAST_COMPLEMENT, complement, torch.nan)
        square = w * u * u
        exponent = (exponent + 0.5 * square) / complement - 0.5 * complement.log()
        slack, t = (slack + square) / complement + 5.0, t * complement.rsqrt()
    # Of the argument's own error: the logarithm's slope there is at most |t| + 1.
    slack = SLACK * (1.0 + slack + t.clamp(max=0.0).square())
    below = torch.special.log_ndtr(-u)
    return _Moment(below * (1.0 - SLACK) + SLACK, exponent + torch.special.log_ndtr(t) + slack, slack)


def _chord(a: Tensor, v: Tensor | None, box: _Box, *, rectified: bool = True) -> LowerLines:
    """For ``a ≤ 0``, or any a where ``a z - λ/2 v z²`` stands for the ReLU's; flat tensors."""
    ends = box.lower, box.upper
    spread = torch.maximum(box.most, torch.maximum(ends[0].abs(), ends[1].abs()) * (1.0 / FAR)).clamp(min=TINY)
    b = box.rate * spread * a
    w = None if v is None else (box.rate * spread).square() * v * (1.0 + FEW) + TINY
    values = []
    for end in ends:
        u = end / spread
        if rectified:
            # The moment grows with u, with -b and with w.
            log = _moment(u + FEW * u.abs() + TINY, b - FEW * b.abs() - TINY, w).log
        else:
            assert w is not None
            complement = 1.0 - w
            complement = torch.where(complement >= LEAST_COMPLEMENT, complement, torch.nan)
            size = (b * b + 2.0 * (u * b).abs() + w * u * u) / complement
            log = 0.5 * (b * (b - 2.0 * u) + w * u * u) / complement - 0.5 * complement.log() + SLACK * (6.0 + size)
        values.append(-(log + SLACK * log.abs()) / box.rate)
    width = ends[1] - ends[0]
    slope = torch.where(width > 1e-9 * spread, (values[1] - values[0]) / width, 0.0)
    constants = []
    for end, value in zip(ends, values, strict=True):
        part = slope * end
        constants.append(value - part - FEW * (value.abs() + part.abs()) - TINY)
    return LowerLines(slope, torch.minimum(*constants))


def _tangent(a: Tensor, box: _Box) -> LowerLines:
    """For ``a > 0, v = 0``; flat tensors. Zero where that is better."""
    at, rate = box.centre, box.rate
    kink = (box.least * FAR <= at.abs()) | (box.least <= TINY)
    spread = torch.where(kink, 1.0, box.least)
    u, b = torch.where(kink, 0.0, at / spread), rate * a * spread
    # The moment falls with u and with b.
    u, b = u - FEW * u.abs() - TINY, (b - FEW * b - TINY).clamp(min=0.0)
    moment = _moment(u, b, None)
    log = moment.log
    value = -(log + SLACK * log.abs()) / rate
    # The slope is a p with p = 1 / (1 + exp(below - above)), and p moves by at most p (1 - p) e^r r for r in that.
    p, rest = (moment.above - log).exp(), (moment.below - log).exp()
    error = 4.0 * moment.slack + 4.0 * SLACK * (1.0 + u * u)
    slope = a * p
    wrong = torch.fmin(slope * rest * error * error.clamp(max=100.0).exp() + TINY * a, a)
    slope, value = torch.where(kink, torch.where(at > 0, a, 0.0), slope), torch.where(kink, 0.0, value)
    wrong, least = torch.where(kink, 0.0, wrong), torch.where(kink, 0.0, box.least)
    wide = torch.maximum((box.upper - at).abs(), (at - box.lower).abs())
    most = slope + wrong
    further = 0.5 * rate * most * most * ((box.most - least).clamp(min=0.0) * (box.most + least))
    start = torch.where(kink, 0.0, slope * at)
    lost = wrong * wide + further + SLACK * (wrong * wide + further) + FEW * (value.abs() + start.abs()) + TINY
    constant = value - start - lost
    zero = ~(slope * at + constant > 0)
    return LowerLines(slope.masked_fill(zero, 0.0), constant.masked_fill(zero, 0.0))
