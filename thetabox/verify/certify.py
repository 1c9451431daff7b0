"""Certification of a set of samples over a sweep of ε."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.verify import bounds, cascade, domains, proof, request
from thetabox.verify.certificate import Certificate, Profile
from thetabox.verify.chunkstore import ChunkStore
from thetabox.verify.domain import Domain
from thetabox.verify.engine import Engine, Progress
from thetabox.verify.interval import Interval
from thetabox.verify.plain import PlainIntervals
from thetabox.verify.rounding import sound_kernels

# Samples of the profile.
PROFILED = 64


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
        domain: ``interval``; ``linear`` for networks without spikes; ``histories`` for spiking recurrent ones;
            ``lirpa``, a second opinion and no proof; or ``auto``: plain intervals on everything, then the stages of
            the tightest sound domain that the network allows on what is still open, cheap ones first. Every sound
            domain is intersected with plain intervals.
        box: which parameters, and how ε is meant; every weight and bias, relative, by default.
        criterion: ``margin`` (exact rows over the last layer) or ``logits`` (disjoint logit intervals).
        arithmetic: ``real``, or ``float32`` to cover every IEEE binary32 evaluation of the network.
        precision: in which the bounds are computed, ``float64`` or ``float32``; both are sound.
        device: ``auto``, ``cpu`` or ``cuda``.
        options: of the domain. That of ``auto`` is ``budget``: seconds a sample, on average, that the stages after
            plain intervals may take; a stage goes on only while its expected cost stays within. By default a quarter
            of a second, and 5 seconds in all at least; infinite for no limit.
        baseline: also compute verified accuracy by disjoint logit intervals.
        profile: also find where verification fails first.
        progress: called with rows that the present stage need not treat any more, and rows in all.
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
    known = request.model_facts(model, chosen.box)
    facts = {**known, **(model_info or {})}
    key = [known["sha256"], engine.signature(), request.tensor_hash([inputs, labels, sweep]), repr(chosen), criterion]
    budget = cascade.budget_of(chosen.options.get("budget"), len(inputs)) if domain == domains.AUTO else None
    started = time.perf_counter()
    with ChunkStore(resume, key, len(inputs)) as store, sound_kernels():
        if budget is None:
            found = proof.in_domain(engine, labels, sweep, criterion, store, progress)
        else:
            found = proof.in_stages(
                engine, labels, sweep, criterion, store, progress, request.margins_of(clean, labels), budget
            )
    seconds = time.perf_counter() - started
    base = None
    if baseline:
        plain, nowhere = PlainIntervals(engine), ChunkStore(None, key, 0)
        base = (proof.grid(plain, labels, sweep, "logits", nowhere, None) > 0).double().mean(1)
    data = {"name": "", "sha256": request.tensor_hash([inputs, labels]), "samples": len(inputs), **(data_info or {})}
    return Certificate(
        epsilon=sweep,
        margin=found.margin,
        label=labels,
        predicted=clean.argmax(1),
        domain=chosen.domain,
        criterion=criterion,
        options=proof.recorded(found, budget, chosen.options),
        sound=found.domain.sound,
        arithmetic=arithmetic,
        precision=precision,
        box=chosen.box,
        model_info=facts,
        data_info=data,
        seconds=seconds,
        baseline=base,
        profile=_profile(found.domain, sweep, labels) if profile else None,
    )


def _profile(domain: Domain, sweep: Tensor, labels: Tensor) -> Profile | None:
    samples = min(len(labels), PROFILED, max(1, domain.samples_at_once(len(sweep))))
    return domain.profile(slice(0, samples), sweep[:, None].expand(-1, samples), labels)


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

    ``auto`` intersects plain intervals with the first stage of the tightest domain that the network allows: the dearer
    stages are for proofs of single samples, and there is no telling when bounds are good enough.

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
    with sound_kernels():
        stack = _stack(engine)
    size = max(1, min(domain.samples_at_once(len(values)) for domain in stack))
    lower, upper = [], []
    for start in range(0, len(inputs), size):
        stop = min(start + size, len(inputs))
        rows = [bounds.logits(domain, slice(start, stop), values[:, start:stop]) for domain in stack]
        found = functools.reduce(bounds.intersected, rows)
        lower.append(found.lower.view(len(values), stop - start, -1))
        upper.append(found.upper.view(len(values), stop - start, -1))
    low, high = torch.cat(lower, 1), torch.cat(upper, 1)
    if each or not isinstance(epsilon, Sequence):
        low, high = low[0], high[0]
    return Interval(low, high)


def _stack(engine: Engine) -> list[Domain]:
    """The domains whose bounds are intersected."""
    plain, name = PlainIntervals(engine), engine.settings.domain
    if name == plain.name:
        return [plain]
    if name == domains.AUTO:
        return [plain, *(stage.domain for stage in itertools.islice(cascade.stages(engine), 1))]
    chosen = domains.domain_class(name)(engine, engine.settings.options)
    return [plain, chosen] if chosen.sound else [chosen]
