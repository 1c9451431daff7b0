r"""Margins that a chip keeps with probability 1 - δ, for dense layers and ReLU: the entropic bound, made fast.

Boxes of every layer's μ (its pre-activations given the layers before) run forwards: means of the activations as an
interval, their own noise in L2. The margin row alone goes backwards, by :mod:`thetabox.train.yields.neuron`:

.. math:: m \ge \max_\lambda\; \rho_\lambda - \tfrac{q}{\lambda}, \qquad q = \ln\frac{\text{rows}}{\delta'}

with δ' the share of δ that the margins may spend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.train.yields.neuron import PreActivations, lines, mean_relu

Layers = Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]
"""Weight, bias, and the sizes of their errors at σ = 1, of each dense layer."""

SHARES = (0.55, 0.4, 0.05)
"""Of δ: for margins, ends of μ, ends of activations."""
SHALLOW = (0.9, 0.0, 0.1)
"""The same with one hidden layer, whose μ is known."""
SMALL = 1e-12
"""Variance that every neuron has at least."""


def entropic_margins(
    layers: Layers, x: Float[Tensor, "samples inputs"], y: Int[Tensor, " samples"], sigma: float, delta: float
) -> Float[Tensor, "samples classes"]:
    """Lower bounds of logit_y - logit_k for every class k; the column of y itself says nothing."""
    rows, ends, events = _spent(layers, delta)
    nominal = [_affine(x, layers[0])]
    for layer in layers[1:]:
        nominal.append(_affine(nominal[-1].relu(), layer))
    boxes = _boxes(layers, x, nominal, sigma, ends, events)
    classes = len(layers[-1][1])
    identity = torch.eye(classes, dtype=x.dtype, device=x.device)
    a = identity[y][:, None] - identity
    spread = _spread(layers, x, nominal, a, sigma)
    # A row that is hardly noisy has no use for a λ of its own.
    spread = torch.maximum(spread, 0.3 * spread.mean(1, keepdim=True))
    rate = (math.sqrt(2 * rows) / spread)[..., None]
    return _row(layers, x, a, boxes, rate, sigma) - rows / rate[..., 0]


def _spent(layers: Layers, delta: float) -> tuple[float, float, float]:
    """ln(1/probability) of one margin, z of one end of μ, z of one end of an activation."""
    hidden = [len(bias) for _, bias, _, _ in layers[:-1]]
    shares = SHARES if len(hidden) > 1 else SHALLOW
    rows = math.log(max(len(layers[-1][1]) - 1, 1) / (shares[0] * delta))
    ends = math.sqrt(2 * math.log(2 * sum(hidden[1:]) / (shares[1] * delta))) if len(hidden) > 1 else 0.0
    events = 2 * sum(hidden[:-1]) + hidden[-1] if hidden else 1
    return rows, ends, -NormalDist().inv_cdf(shares[2] * delta / events)


def _affine(h: Tensor, layer: tuple[Tensor, ...]) -> Tensor:
    return h @ layer[0].T + layer[1]


def _own(h: Tensor, layer: tuple[Tensor, ...], sigma: float) -> Tensor:
    """Standard deviation of a layer's own noise."""
    return (sigma**2 * (h.square() @ layer[2].square().T + layer[3].square()) + SMALL).sqrt()


def _boxes(
    layers: Layers, x: Tensor, nominal: Sequence[Tensor], sigma: float, end: float, events: float
) -> list[PreActivations]:
    boxes: list[PreActivations] = []
    lower = upper = nominal[0]
    smallest = largest = x
    for layer, here in zip(layers[:-1], nominal[:-1], strict=True):
        if boxes:
            before = boxes[-1]
            first, last = mean_relu(before.lower, before.least)[:, 0], mean_relu(before.upper, before.most)[:, 0]
            centre, radius = (first + last) / 2, (last - first) / 2
            moved = end * (before.most[:, 0].square() @ layer[0].square().T + SMALL).sqrt()
            middle, radius_sums = _affine(centre, layer), radius @ layer[0].abs().T + moved
            lower, upper = middle - radius_sums, middle + radius_sums
        least, most = _own(smallest, layer, sigma), _own(largest, layer, sigma)
        smallest, largest = (lower - events * most).relu(), (upper + events * most).relu()
        ends = (lower[:, None],) * 2 if upper is lower else (lower[:, None], upper[:, None])
        boxes.append(PreActivations(*ends, *(t[:, None] for t in (least, most, largest, here))))
    return boxes


def _spread(layers: Layers, x: Tensor, nominal: Sequence[Tensor], a: Tensor, sigma: float) -> Tensor:
    """Standard deviation of rows at the weights as they are, ``[samples, rows]``: for the choice of λ."""
    variance = torch.zeros_like(a[..., 0])
    for k in range(len(layers) - 1, -1, -1):
        own = _own(nominal[k - 1].relu() if k else x, layers[k], sigma)
        variance = variance + (a.square() @ own.square()[..., None])[..., 0]
        a = a @ layers[k][0]
        if k:
            a = a * (nominal[k - 1] > 0)[:, None]
    return (variance + SMALL).sqrt()


def _row(
    layers: Layers, x: Tensor, a: Tensor, boxes: Sequence[PreActivations], rate: Tensor, sigma: float
) -> Float[Tensor, "samples rows"]:
    """ρ of rows of logits, for a given λ."""
    weight, bias, weight_size, bias_size = layers[-1]
    const = a @ bias - rate[..., 0] / 2 * sigma**2 * (a.square() @ bias_size.square())
    if len(layers) == 1:
        variance = sigma**2 * (a.square() @ (x.square() @ weight_size.square().T)[..., None])[..., 0]
        return const - rate[..., 0] / 2 * variance + (a @ weight @ x[..., None])[..., 0]
    v: Tensor | None = sigma**2 * (a.square() @ weight_size.square())
    a = a @ weight
    for layer, box in zip(reversed(layers[:-1]), reversed(boxes), strict=True):
        a, c = lines(a, v, rate, box)
        v = None
        const = const + c.sum(-1) + a @ layer[1]
        a = a @ layer[0]
    return const + (a @ x[..., None])[..., 0]
