"""Margins that a chip keeps with probability 1 - δ, as a differentiable function of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.train.yields.entropic import entropic_margins
from thetabox.train.yields.graph import ReadingLayer, Traced, dense_chain, traced
from thetabox.train.yields.intervals import interval_margins
from thetabox.train.yields.means import mean_margins
from thetabox.train.yields.rows import row_margins
from thetabox.train.yields.tails import spent

BOUNDS = ("auto", "l2", "means", "rows", "entropic")


def yield_margins(
    model: nn.Module,
    x: Float[Tensor, "samples ..."],
    y: Int[Tensor, " samples"],
    sigma: float,
    *,
    delta: float = 0.01,
    bound: str = "auto",
    box: Box | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Float[Tensor, "samples classes"]:
    r"""About the margins :math:`logit_y - logit_k` that a chip θ + σ|θ|n keeps with probability 1 - δ.

    Losses, not proofs: they follow the theorems of docs/yield.md, but are not rounded outward.

    Args:
        model: a feed-forward network that reads each parameter once.
        x, y: inputs and labels.
        sigma: of the noise.
        delta: probability that a chip keeps less.
        bound: ``l2``, ``means``, ``rows``, ``entropic``, or ``auto``: entropic for dense layers with ReLU, else rows,
            and l2 where there is more than dense and plain two-dimensional layers with ReLU and pools.
        box: which parameters have errors, and of which size at σ = 1; every weight and bias by default, relative.
        weights: parameters by name that stand in for the model's own (and get the gradient).

    Returns:
        Margins for every class k; the column of y itself says nothing.

    Raises:
        InputError: an unknown bound, or a network that it does not know.
    """
    if bound not in BOUNDS:
        raise InputError(f"bound={bound!r} is unknown; choose one of {', '.join(BOUNDS)}")
    net = traced(model, x, dict(model.named_parameters()) if weights is None else weights, box or Box())
    chain = dense_chain(net) if bound in ("auto", "entropic") else None
    if chain is not None:
        return entropic_margins([_whole(one) for one in chain], x.flatten(1).to(chain[0].weight), y, sigma, delta)
    if bound == "auto":
        bound = "rows" if net.simple else "l2"
    if bound == "entropic":
        raise InputError("bound='entropic' is for dense layers with ReLU between them; choose rows, means or l2")
    if bound != "l2" and not net.simple:
        raise InputError(f"bound={bound!r} knows dense and plain 2d layers with ReLU and pools alone; choose l2")
    forward = {"l2": interval_margins, "means": mean_margins, "rows": row_margins}[bound]
    return forward(net, x, y, sigma, spent(net, _classes(net), delta))


def _classes(net: Traced) -> int:
    return int(net.graph.layouts[net.output].shape[-1] or 1)


def _whole(one: ReadingLayer) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, bias and their sizes, zeros for what there is not."""
    none = torch.zeros_like(one.weight[:, 0])
    return (
        one.weight,
        none if one.bias is None else one.bias,
        torch.zeros_like(one.weight) if one.weight_size is None else one.weight_size,
        none if one.bias_size is None else one.bias_size,
    )
