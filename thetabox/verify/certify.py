"""Certification of a set of samples over a sweep of ε."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.verify import request
from thetabox.verify.certificate import Certificate
from thetabox.verify.chunkstore import ChunkStore
from thetabox.verify.engine import Engine, Progress
from thetabox.verify.interval import Interval
from thetabox.verify.profile import profile_of


def certify(
    model: nn.Module,
    x: request.Array,
    y: request.Array,
    epsilon: float | Sequence[float],
    *,
    domain: str = "auto",
    box: Box | None = None,
    criterion: str = "margin",
    arithmetic: str = "real",
    precision: str = "float64",
    device: str = "auto",
    options: dict[str, Any] | None = None,
    baseline: bool = False,
    profile: bool = False,
    progress: Progress | None = None,
    resume: str | Path | None = None,
    model_info: dict[str, Any] | None = None,
    data_info: dict[str, Any] | None = None,
) -> Certificate:
    r"""Prove which predictions survive every choice of all parameters in their boxes.

    A sample is verified at ε when :math:`\min_\theta \min_{k \ne y} (logit_y - logit_k) > 0` is proven for θ over the
    whole box.

    Args:
        model: any ``nn.Module`` that ``torch.export`` can trace and whose operators have rules, or a recurrent network
            that implements the protocol of :class:`thetabox.models.Recurrent`. Left as it was.
        x: inputs ``[N, ...]``.
        y: labels ``[N]``.
        epsilon: one ε or several, each finite and at least 0.
        domain: ``interval``, or ``auto``: the tightest sound domain that the network allows.
        box: which parameters, and how ε is meant; every weight and bias, relative, by default.
        criterion: ``margin`` (exact rows over the last layer) or ``logits`` (disjoint logit intervals).
        arithmetic: ``real``, or ``float32`` to cover every IEEE binary32 evaluation of the network.
        precision: in which the bounds are computed, ``float64`` or ``float32``; both are sound.
        device: ``auto``, ``cpu`` or ``cuda``.
        options: of the domain.
        baseline: also compute verified accuracy by disjoint logit intervals.
        profile: also find where verification fails first.
        progress: called with rows done and rows in all.
        resume: folder for finished chunks; the next call with the same input goes on from there.
        model_info, data_info: entries for the certificate, over those found here.

    Raises:
        InputError: anything wrong with what was given, in one line.
        UnsupportedOperator: the network holds an operator without a rule.
    """
    chosen = request.settings(domain, box, arithmetic, precision, device, options)
    if criterion not in request.CRITERIA:
        raise InputError(f"unknown criterion {criterion!r}; choose one of {', '.join(request.CRITERIA)}")
    sweep = request.epsilons(epsilon)
    inputs = request.inputs(x)
    labels = request.labels(y, len(inputs))
    engine = Engine(model, chosen, inputs)
    clean = engine.clean_logits()
    if clean.dim() != 2:
        raise InputError(f"the network must answer logits [samples, classes], not {list(clean.shape)}")
    request.check_labels(labels, clean.shape[1])
    found = request.model_facts(model, chosen.box)
    facts = {**found, **(model_info or {})}
    key = [found["sha256"], engine.signature(), request.tensor_hash([inputs, labels, sweep]), repr(chosen), criterion]
    started = time.perf_counter()
    with ChunkStore(resume, key, len(inputs)) as store:
        margin = _margins(engine, labels, sweep, criterion, store, progress)
    seconds = time.perf_counter() - started
    base = None
    if baseline:
        base = (_margins(engine, labels, sweep, "logits", ChunkStore(None, key, 0), None) > 0).double().mean(1)
    data = {"name": "", "sha256": request.tensor_hash([inputs, labels]), "samples": len(inputs), **(data_info or {})}
    return Certificate(
        epsilon=sweep,
        margin=margin,
        label=labels,
        predicted=clean.argmax(1),
        domain=chosen.domain,
        criterion=criterion,
        arithmetic=arithmetic,
        precision=precision,
        box=chosen.box,
        model_info=facts,
        data_info=data,
        seconds=seconds,
        baseline=base,
        profile=profile_of(engine, sweep) if profile else None,
    )


def _margins(
    engine: Engine, labels: Tensor, sweep: Tensor, criterion: str, store: ChunkStore, progress: Progress | None
) -> Tensor:
    total = len(labels) * len(sweep)
    margin = torch.empty(len(sweep), len(labels), dtype=torch.float64)
    # Samples of one class together: the margin's products are one for each class of a chunk.
    order = torch.argsort(labels, stable=True)
    for start, stop in engine.chunks(len(labels), len(sweep)):
        part = store.read(start, stop)
        if part is None:
            epsilon = sweep[:, None].expand(-1, stop - start)
            part = engine.margins(order[start:stop], epsilon, labels, criterion)
            store.write(start, stop, part)
        margin[:, order[start:stop]] = part
        if progress is not None:
            progress(stop * len(sweep), total)
    return margin


def logit_bounds(
    model: nn.Module,
    x: request.Array,
    epsilon: float | Sequence[float] | Tensor,
    *,
    domain: str = "auto",
    box: Box | None = None,
    arithmetic: str = "real",
    precision: str = "float64",
    device: str = "auto",
    options: dict[str, Any] | None = None,
) -> Interval:
    """Bounds of every logit over the whole box.

    Args:
        model, x, domain, box, arithmetic, precision, device, options: as for :func:`certify`.
        epsilon: a float or a tensor ``[N]`` (one ε a sample) → ``[N, K]``; a list → ``[E, N, K]``.

    Returns:
        Interval with ``lower`` and ``upper``, float64 on the CPU.

    Raises:
        InputError: anything wrong with what was given.
    """
    chosen = request.settings(domain, box, arithmetic, precision, device, options)
    inputs = request.inputs(x)
    sweep = request.epsilons(epsilon)
    each = isinstance(epsilon, Tensor) and epsilon.dim() == 1
    if each and len(sweep) != len(inputs):
        raise InputError(f"epsilon has {len(sweep)} values for {len(inputs)} samples")
    values = sweep[None] if each else sweep[:, None].expand(-1, len(inputs))
    engine = Engine(model, chosen, inputs)
    lower, upper = [], []
    for start, stop in engine.chunks(len(inputs), len(values)):
        bounds = engine.logits(slice(start, stop), values[:, start:stop])
        lower.append(bounds.lower.view(len(values), stop - start, -1))
        upper.append(bounds.upper.view(len(values), stop - start, -1))
    low, high = torch.cat(lower, 1), torch.cat(upper, 1)
    if each or not isinstance(epsilon, Sequence):
        low, high = low[0], high[0]
    return Interval(low, high)
