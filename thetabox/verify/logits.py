"""Bounds of the logits of a set of samples."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.verify import agreement, arguments, domains
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.domain import Domain
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.problem import Problem
from thetabox.verify.search import bounds, cascade
from thetabox.verify.search.failures import GaveUp, guarded, insisted


def logit_bounds(
    model: nn.Module,
    x: arguments.Inputs,
    epsilon: float | Sequence[float] | Tensor,
    *,
    domain: str = "auto",
    box: Box | None = None,
    arithmetic: str = "real",
    precision: str = "float64",
    device: str = "auto",
    options: dict[str, Any] | None = None,
) -> Interval:
    """Bounds of every logit over the whole box, or of whatever else the network returns: a softmax too is bounded.

    ``auto`` intersects plain intervals with the first stage of the tightest domain that the network allows: the dearer
    stages are for proofs of single samples, and there is no telling when bounds are good enough. An effort of 0 leaves
    plain intervals alone.

    Args:
        model, x, domain, box, arithmetic, precision, device, options: as for :func:`thetabox.certify`.
        epsilon: a float or a tensor ``[N]`` (one ε a sample) → ``[N, K]``; a list → ``[E, N, K]``.

    Returns:
        Interval with ``lower`` and ``upper``, float64 on the CPU.

    Raises:
        InputError: anything wrong with what was given.

    Example:
        >>> import torch, thetabox as tb
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> bounds = tb.logit_bounds(model, x, epsilon=0.1)
        >>> bounds.lower.round(decimals=3), bounds.upper.round(decimals=3)
        (tensor([[0.9000, 0.4500],
                [0.4500, 0.9000]], dtype=torch.float64), tensor([[1.1000, 0.5500],
                [0.5500, 1.1000]], dtype=torch.float64))
    """
    chosen = arguments.settings(domain, box, arithmetic, precision, device, options)
    eps = arguments.epsilons(epsilon)
    asked = arguments.network(model, x, chosen, as_classes=False)
    model, inputs = asked.model, asked.x
    each = isinstance(epsilon, Tensor) and epsilon.dim() == 1
    if each and len(eps) != len(inputs):
        raise InputError(f"epsilon has {len(eps)} values for {len(inputs)} samples")
    values = eps[None] if each else eps[:, None].expand(-1, len(inputs))
    problem, agreed = agreement.checked_problem(model, chosen, inputs, eps, asked.x_as_given)
    problem = problem.with_ending
    with sound_kernels():
        interval = functools.reduce(bounds.intersected, _ends(problem, values))
        low, high = interval.lower.view(*values.shape, -1), interval.upper.view(*values.shape, -1)
        if domains.is_sound(domain):
            agreement.check_logits(problem, agreed.observed, values, low, high)
    if each or not isinstance(epsilon, Sequence | np.ndarray) or np.ndim(epsilon) == 0:
        low, high = low[0], high[0]
    return Interval(low, high)


def _ends(problem: Problem, values: Float[Tensor, "levels samples"]) -> Iterator[Interval]:
    """Bounds of the logits in each of the domains that are intersected."""
    plain, name = PlainIntervals(problem), problem.settings.domain
    chosen = None
    if name not in (plain.name, domains.AUTO):
        chosen = insisted(name, partial(domains.domain_class(name), problem, problem.settings.options))
    if chosen is None or chosen.sound:
        yield insisted(plain.name, partial(_logits, plain, values))
    if chosen is not None:
        yield insisted(name, partial(_logits, chosen, values))
    elif name == domains.AUTO and problem.settings.options.get("effort") != 0:
        # Intervals stand where the dearer domain cannot do the network after all.
        with suppress(GaveUp):
            for stage in cascade.stages(problem):
                yield guarded(partial(_logits, stage.domain, values))
                return


def _logits(domain: Domain, values: Float[Tensor, "levels samples"]) -> Interval:
    """In chunks, and one ε after the other where they share no work."""
    samples = values.shape[1]
    size = max(1, domain.samples_at_once(1))
    rows = [values] if domain.shares else values.split(1)
    parts = []
    for some in rows:
        chunks = [bounds.logits(domain, slice(n, n + size), some[:, n : n + size]) for n in range(0, samples, size)]
        lower, upper = ([end.view(len(some), -1, end.shape[-1]) for end in ends] for ends in _both(chunks))
        parts.append((torch.cat(lower, 1), torch.cat(upper, 1)))
    low, high = (torch.cat(ends).flatten(0, 1) for ends in zip(*parts, strict=True))
    return Interval(low, high)


def _both(chunks: list[Interval]) -> tuple[list[Tensor], list[Tensor]]:
    return [c.lower for c in chunks], [c.upper for c in chunks]
