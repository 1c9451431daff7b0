"""Proof of yield for a set of samples over several σ."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thetabox import checks
from thetabox.box import Box
from thetabox.noise import Noise
from thetabox.verify import arguments
from thetabox.verify.effort import Deadline
from thetabox.verify.problem import Progress, model_facts, tensor_hash
from thetabox.verify.search.chunkstore import ChunkStore
from thetabox.verify.yields.certificate import YieldCertificate
from thetabox.verify.yields.proofs import AUTO
from thetabox.verify.yields.question import YieldQuestion, failure_probability
from thetabox.verify.yields.search import FailureSearch
from thetabox.workers import Pool, check_executor


def certify_yield(
    model: nn.Module,
    x: arguments.Inputs,
    y: arguments.Array,
    sigma: float | Sequence[float] = (0.02, 0.05, 0.1),
    delta: float = 0.01,
    *,
    noise: Noise | None = None,
    box: Box | None = None,
    method: str = AUTO,
    device: str = "auto",
    progress: Progress | None = None,
    timeout: float | None = None,
    resume: str | Path | None = None,
    model_info: dict[str, Any] | None = None,
    data_info: dict[str, Any] | None = None,
    executor: Executor | None = None,
) -> YieldCertificate:
    r"""Prove which samples at least 1 - δ of all chips classify right, without drawing any.

    A chip stores every parameter :math:`\theta` in the box as :math:`\theta + \sigma f r n`, r its unit size (|θ| in a
    relative box), with independent errors n (:class:`thetabox.Noise`). A sample is proven at σ when

    .. math:: P\bigl(\min_{k \ne y} (logit_y - logit_k) > 0\bigr) \ge 1 - \delta

    is proven over the errors. The theorems and their proofs stand in ``docs/yield.md``. Nothing is sampled, and
    nothing is claimed of a box: every single weight may be off by any amount, but rarely is.

    Args:
        model: any ``nn.Module`` that ``torch.export`` can trace and that reads each parameter once; left as it was.
        x: inputs ``[N, ...]``.
        y: labels ``[N]``.
        sigma: one σ or several, each finite and at least 0.
        delta: failure probability that counts as proven, above 0 and below 1.
        noise: kind of the errors, their scales and what they share; independent Gaussian ones by default.
        box: which parameters are off, and what their unit size is; every weight and bias, relative, by default.
        method: ``martingale`` (for every graph), ``entropic`` (dense ReLU networks, Gaussian noise), ``log-sobolev``
            (convolutions and pools in front of dense layers, Gaussian noise), or ``auto``: all that fit, the best of
            them for each sample.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: called with samples done and samples in all, over all σ.
        timeout: seconds after which the search stops; what was proven stands, and ``finished`` is false.
        resume: folder for finished parts; the next call with the same question goes on from there.
        model_info, data_info: entries for the certificate, over those found here.
        executor: whose workers do the parts of the proof (:mod:`thetabox.workers`); this process where ``None``. The
            certificate is the same.

    Returns:
        The certificate: ``proven [S, N]``, ``delta [S, N]``, ``proven_share [S]``, ``mean_accuracy [S]``, ``chips()``.

    Raises:
        InputError: anything wrong with what was given, or a network that reads a parameter more than once or in time.
        UnsupportedOperator: the network holds an operator without a rule.

    Example:
        >>> import torch, thetabox as tb
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> tb.certify_yield(model, x, y, sigma=[0.1, 0.3]).proven
        tensor([[ True,  True],
                [False, False]])
    """
    deadline = Deadline(arguments.seconds(timeout))
    arguments.beside(resume, model_info, data_info)
    arguments.check_progress(progress)
    check_executor(executor)
    asked = failure_probability(delta)
    sigmas = checks.numbers(sigma, "sigma")
    question = YieldQuestion.of(model, x, y, sigmas, noise, box, method, device)
    started = time.perf_counter()
    known, hashed = model_facts(model, question.box), tensor_hash([question.x, question.y])
    kept_for = [known["sha256"], question.problem.signature(), hashed]
    kept_for.append(repr((question.noise, question.box, method, asked)))
    with Pool(executor, question) as pool, ChunkStore(resume, kept_for, len(question.y)) as store:
        search = FailureSearch(question, pool, asked, store, deadline, progress)
        search.over(sigmas.tolist())
        store.keep = not search.finished
    facts = {**known, **question.facts, **(model_info or {})}
    return YieldCertificate(
        sigma=sigmas,
        delta=torch.stack(search.delta),
        asked=asked,
        label=question.y,
        predicted=question.logits.argmax(1),
        noise=question.noise,
        box=question.box,
        method=method,
        proven_by=search.proven_by,
        ledger=search.ledger,
        model_info=facts,
        data_info={"name": "", "sha256": hashed, "samples": len(question.y), **(data_info or {})},
        checked=question.checked,
        seconds=time.perf_counter() - started,
        finished=search.finished,
    )
