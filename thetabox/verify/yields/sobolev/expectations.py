r"""Linear bounds of the mean output of a place, given the layers before, as a form over what it reads.

Given the layers before, :math:`z_k = \mu_k + ⟨n, h_k⟩` with :math:`\mu_k = ⟨M_k, h⟩ + b` and independent Gaussian n of
variances :math:`\tau^2`. The output is :math:`f = \max(z_1, \dots, z_K)`, or :math:`\max(f, 0)` where the ReLU may be
off.

*Upper.* :math:`\max(z_k)^+ \le z_r^+ + \sum_{k \ne r} \min((z_k - z_r)^+, z_k^+)`, and
:math:`\max(z_k) = z_r + \max_k (z_k - z_r)^+`. :math:`E z^+` is convex in the mean and grows with the spread: a chord
at the largest spread.

*Lower.* For an event e that depends on n, :math:`z_r^+ \ge 1_e z_r` and
:math:`\max(z_r, z_k) \ge z_r + 1_e (z_k - z_r)`. With :math:`e = \{⟨n, g⟩ > -t |g|_\tau\}, g_q = h^0_q`, a normal
number,

.. math:: E[1_e z_r] = \Phi(t) \mu_r + \varphi(t) \sum_q \tau_q^2 h^0_q h_q / s_0, \quad
    s_0^2 = \sum_q \tau_q^2 (h^0_q)^2 ,

which is linear in h, and holds for **every** h and every t; :math:`t = \mu^0_r / s_0` is the tangent at
:math:`h = h^0`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from thetabox.verify.yields.neuron import mean_relu
from thetabox.verify.yields.sobolev.convolved import FEW, TINY, StageInputs
from thetabox.verify.yields.sobolev.ends import Ends
from thetabox.verify.yields.sobolev.patterns import DerivativeRange, Pattern, of_all, of_reference

# Relative error of Φ, of φ and of the few operations around them, and more.
SLACK = 1e-12
# Of variances that are too small to be squared.
VANISHING = 1e-60
# Spreads below this have lost digits where their squares underflow; φ(FAR) times any spread is nothing.
LOST, FAR = 1e-90, 35.0
# Chords between ends that are closer, in spreads, are flat.
NARROW = 1e-9
# Of the functions below the outputs, the one whose gradient is fixed at every place (but for what it reads).
FIXED = 1


class OutputForm(NamedTuple):
    """``⟨slopes, h⟩ + constant`` of every place.

    Attributes:
        slopes: ``[channels, places, inputs * patch]``.
        constant: ``[channels, places]``, for these slopes as they are.
        size: upper bound of ``⟨|slopes| before cancellation, |h|⟩ + |constants|``.
    """

    slopes: Tensor
    constant: Tensor
    size: Tensor

    def where(self, condition: Tensor, other: OutputForm) -> OutputForm:
        """This one there, the other elsewhere, by ``[channels, places]``."""
        slopes = torch.where(condition[..., None], self.slopes, other.slopes)
        return OutputForm(slopes, *(torch.where(condition, a, b) for a, b in zip(self[1:], other[1:], strict=True)))

    def at(self, read: StageInputs) -> Tensor:
        """At the nominal input, ``[channels, places]``."""
        return torch.einsum("coq,oq->co", self.slopes, read.patches) + self.constant


class Below(NamedTuple):
    """A function below the output: its mean's lower bound, and the range of its gradient."""

    form: OutputForm
    range: DerivativeRange


def _combined(
    read: StageInputs, weights: Tensor, constant: Tensor, gate: Tensor, sizes: Tensor | None = None
) -> OutputForm:
    """``Σ_k weights_k z_k`` in mean, plus a constant, where the gate is open."""
    sizes = weights.abs() if sizes is None else sizes
    weights, constant = weights * gate[..., None], constant * gate
    slopes = torch.einsum("cok,ckq->coq", weights, read.stage.kernels)
    bias = (weights * read.stage.bias[:, None, None]).sum(-1)
    size = ((sizes * read.term_sizes).sum(-1) + constant.abs()) * gate * (1.0 + SLACK)
    return OutputForm(slopes, bias + constant, size)


def upper(read: StageInputs, ends: Ends, pattern: Pattern) -> OutputForm:
    """Of the largest of the open candidates, rectified where the ReLU may be off."""
    live = (~pattern.off).to(read.means.dtype)
    others = pattern.open & (read.reference == 0)
    own, between = read.spreads
    first = tuple(read.of_reference(e) for e in ends.mean)
    slope, start = _chord(first[0], first[1], read.of_reference(own))
    slope, start = torch.where(pattern.on, 1.0, slope), torch.where(pattern.on, 0.0, start)
    apart, apart_start = _chord(*ends.distance, between)
    alone, alone_start = _chord(*ends.mean, own)
    distance = read.means - read.of_reference(read.means)[..., None]
    by_itself = (alone * read.means + alone_start < apart * distance + apart_start) & ~pattern.on[..., None]
    apart, alone = apart * (others & ~by_itself), alone * (others & by_itself)
    weights = read.reference * (slope - apart.sum(-1))[..., None] + apart + alone
    sizes = read.reference * (slope + apart.sum(-1))[..., None] + apart + alone
    starts = torch.where(by_itself, alone_start, apart_start) * others
    form = _combined(read, weights, start + starts.sum(-1), live, sizes)
    total_size = form.size + (start.abs() + starts.abs().sum(-1)) * live
    return OutputForm(form.slopes, form.constant + SLACK * total_size, total_size)


def lower(read: StageInputs, ends: Ends, pattern: Pattern) -> list[Below]:
    """Functions below the output whatever the events; the first is the tightest at the nominal input."""
    own = _nominal_spread(read, read.taps_of_reference(read.nominal))
    reference = of_reference(read)
    live = ~pattern.off
    tangent = _rectified(read, own)
    plain = _plain(read, torch.ones_like(tangent.constant))
    two = _two(read, pattern)
    value, plain_value = tangent.at(read), plain.at(read)
    single = plain.where(pattern.on, tangent)
    best_single = torch.where(pattern.on, plain_value, value)
    use_two = two.at(read) > best_single
    zero = OutputForm(*(torch.zeros_like(t) for t in plain))
    form = two.where(use_two, single).where(live, zero)
    gate = live.to(value.dtype)
    everything = of_all(read, pattern)
    range_ = everything.where(use_two, reference.where(pattern.on, reference.with_zero())).times(gate)
    below = [Below(form, range_)]
    mean = read.of_reference(read.means)
    sign = (mean > 0).to(mean.dtype)
    held = Below(_plain(read, sign), reference.times(sign))
    for threshold in (0.0, 1.0, 2.0):
        fix = (mean.abs() >= threshold * own) & live
        below.append(Below(held.form.where(fix, form), held.range.where(fix, range_)))
    return below


def _chord(low: Tensor, high: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Slope (in [0, 1]) and constant of a line above ``E max(m + s n, 0)`` for m between ends, s up to ``spread``."""
    first, last = mean_relu(low, spread)[1], mean_relu(high, spread)[1]
    width = high - low
    slope = ((last - first) / width.clamp(min=TINY)).clamp(0.0, 1.0)
    slope = torch.where(width > NARROW * spread, slope, 0.0)
    constant = torch.maximum(first - slope * low, last - slope * high)
    return slope, constant + FEW * (last.abs() + slope * torch.maximum(low.abs(), high.abs())) + TINY


def _nominal_spread(read: StageInputs, taps: Tensor) -> Tensor:
    """Own standard deviation at the nominal input, ``[channels, places]``; about."""
    return torch.einsum("ct,cot->co", read.stage.variance, taps.square()).sqrt()


def _plain(read: StageInputs, gate: Tensor) -> OutputForm:
    """The reference's mean itself, where the gate is open."""
    form = _combined(read, read.reference, torch.zeros_like(gate), gate)
    return form._replace(constant=form.constant - SLACK * form.size)


def _with_noise(read: StageInputs, form: OutputForm, density: Tensor, taps: Tensor, weights: Tensor) -> OutputForm:
    """Add ``density Σ_q τ_q² taps_q (Σ_k weights_k h_k)_q``.

    Args:
        density: ``[channels, places]``.
        taps: the direction of the event, ``[channels, places, taps]``.
        weights: of candidates, ``[channels, places, candidates]``.
    """
    force = density[..., None] * read.stage.variance[:, None] * taps
    scattered = read.stage.windows.gather_taps(force[..., :-1], weights)
    # The bias' input is 1 for every candidate.
    constant = force[..., -1] * weights.sum(-1)
    size = (weights.abs() * torch.einsum("cot,okt->cok", force.abs(), read.most)).sum(-1)
    size = form.size + size * (1.0 + SLACK)
    return OutputForm(form.slopes + scattered, form.constant + constant - SLACK * size - VANISHING, size)


def _rectified(read: StageInputs, own: Tensor) -> OutputForm:
    """Below ``E max(z_r, 0)``."""
    share, density = _share_and_density(read.of_reference(read.means), own)
    form = _combined(read, read.reference * share[..., None], torch.zeros_like(own), torch.ones_like(own))
    return _with_noise(read, form, density, read.taps_of_reference(read.nominal), read.reference)


def _two(read: StageInputs, pattern: Pattern) -> OutputForm:
    """Below ``E max(z_r, z_k)`` for the other open candidate k with which that is largest; minus infinity if none."""
    others = pattern.open & (read.reference == 0)
    pairs = (read.nominal[:, :, None] - read.nominal[:, None]).square()
    pairs = torch.einsum("ct,okjt->cokj", read.stage.variance, pairs)
    spread = (pairs * read.reference[:, :, None]).sum(-1).sqrt()
    distance = read.means - read.of_reference(read.means)[..., None]
    gain = torch.where(others, mean_relu(distance, spread)[0], -1.0)
    chosen = torch.zeros_like(gain).scatter_(-1, gain.argmax(-1, keepdim=True), 1.0)
    between = (spread * chosen).sum(-1)
    share, density = _share_and_density((distance * chosen).sum(-1), between)
    change = chosen - read.reference
    ones = torch.ones_like(share)
    sizes = read.reference + share[..., None] * (chosen + read.reference)
    form = _combined(read, read.reference + share[..., None] * change, torch.zeros_like(share), ones, sizes)
    taps = torch.einsum("cok,okt->cot", chosen, read.nominal) - read.taps_of_reference(read.nominal)
    form = _with_noise(read, form, density, taps, change)
    return form._replace(constant=torch.where(others.any(-1), form.constant, -torch.inf))


def _share_and_density(mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Φ(t) and φ(t) / spread, t = mean / spread: any t will do, one far out where the spread has lost its digits."""
    known = spread > LOST
    t = torch.where(known, mean / spread.clamp(min=LOST), mean.sign() * FAR).clamp(-FAR, FAR)
    density = torch.exp(-0.5 * t * t) * (1.0 / math.sqrt(2.0 * math.pi))
    return torch.special.log_ndtr(t).exp(), torch.where(known, density / spread.clamp(min=LOST), 0.0)
