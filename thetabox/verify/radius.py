"""Certified radii: how large ε may be before a sample is no longer proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.verify import request
from thetabox.verify.engine import Engine, Progress

FLOOR = 1e-9


@dataclass(frozen=True)
class Radii:
    """Radii with the reason where there is none.

    Attributes:
        radius: ``[N]`` float64.
        status: ``certified``, ``misclassified`` or ``unproven`` for each sample.
    """

    radius: Float[Tensor, " samples"]
    status: list[str]


def certified_radius(
    model: nn.Module,
    x: request.Array,
    y: request.Array,
    *,
    domain: str = "auto",
    max_epsilon: float = 1.0,
    rtol: float = 1e-2,
    box: Box | None = None,
    criterion: str = "margin",
    arithmetic: str = "real",
    precision: str = "float64",
    device: str = "auto",
    options: dict[str, Any] | None = None,
    progress: Progress | None = None,
    details: bool = False,
) -> Float[Tensor, " samples"] | Radii:
    """Largest proven ε of each sample, by bisection of all samples at once.

    Each radius r was itself proven; r (1 + rtol) was tried and not proven, or r is ``max_epsilon``. It is 0 where
    the network is wrong, or where nothing at or above 1e-9 could be proven.

    Args:
        model, x, y, domain, box, criterion, arithmetic, precision, device, options: as for :func:`certify`.
        max_epsilon: where the search ends.
        rtol: relative resolution.
        progress: called with samples done and samples in all.
        details: answer :class:`Radii` instead of the radii alone.

    Raises:
        InputError: anything wrong with what was given.
    """
    chosen = request.settings(domain, box, arithmetic, precision, device, options)
    if criterion not in request.CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}; choose one of {', '.join(request.CRITERIA)}")
    top = float(request.epsilons(max_epsilon)[0])
    if top < FLOOR:
        raise InputError(f"max_epsilon must be at least {FLOOR}")
    if not 1e-6 <= rtol <= 1.0:
        raise InputError(f"rtol must lie between 1e-6 and 1, not {rtol}")
    inputs = request.inputs(x)
    labels = request.labels(y, len(inputs))
    engine = Engine(model, chosen, inputs)
    clean = engine.clean_logits()
    request.check_labels(labels, clean.shape[1])
    right = clean.argmax(1) == labels
    radius = torch.zeros(len(inputs), dtype=torch.float64)
    for start, stop in engine.chunks(len(inputs), 1):
        radius[start:stop] = _search(engine, labels, start, stop, criterion, top, rtol)
        if progress is not None:
            progress(stop, len(inputs))
    radius = torch.where(right, radius, 0.0)
    if not details:
        return radius
    status = [
        "certified" if r > 0 else "unproven" if ok else "misclassified" for r, ok in zip(radius, right, strict=True)
    ]
    return Radii(radius, status)


def _search(engine: Engine, labels: Tensor, start: int, stop: int, criterion: str, top: float, rtol: float) -> Tensor:
    """Bisection in log ε: ``low`` was proven, ``high`` tried and not proven; only open samples are evaluated."""

    def proven(which: Tensor, epsilon: Tensor) -> Tensor:
        return engine.margins(which + start, epsilon[None], labels, criterion)[0] > 0

    low, high = torch.zeros(stop - start, dtype=torch.float64), torch.full((stop - start,), top, dtype=torch.float64)
    open_ = torch.arange(stop - start)
    for first in (FLOOR, top):
        holds = proven(open_, torch.full((len(open_),), first, dtype=torch.float64))
        low[open_[holds]] = first
        open_ = open_[holds] if first == FLOOR else open_[~holds]
        if len(open_) == 0:
            return low
    while len(open_):
        wide = high[open_] > low[open_] * (1.0 + rtol)
        # Once the gap is below rtol, r (1 + rtol) itself is tried.
        trial = torch.where(wide, (low[open_] * high[open_]).sqrt(), (low[open_] * (1.0 + rtol)).clamp(max=top))
        holds = proven(open_, trial)
        low[open_] = torch.where(holds, trial, low[open_])
        high[open_] = torch.where(holds, high[open_], trial)
        open_ = open_[(wide | holds) & (low[open_] < top)]
    return low
