"""Certification of a set of samples over a sweep of ε."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.verify import agreement, arguments, domains
from thetabox.verify.certificate import Certificate
from thetabox.verify.domain import Domain, Profile
from thetabox.verify.effort import DEFAULT, Deadline
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.problem import Problem, Progress, model_facts, tensor_hash
from thetabox.verify.search import sweep
from thetabox.verify.search.chunkstore import ChunkStore
from thetabox.verify.search.failures import GaveUp, guarded
from thetabox.verify.search.question import Question
from thetabox.workers import Pool, check_executor

# Samples of the profile.
PROFILED = 64


def certify(
    model: nn.Module,
    x: arguments.Inputs,
    y: arguments.Array,
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
    timeout: float | None = None,
    resume: str | Path | None = None,
    model_info: dict[str, Any] | None = None,
    data_info: dict[str, Any] | None = None,
    executor: Executor | None = None,
) -> Certificate:
    r"""Prove which predictions survive every choice of all parameters in their boxes.

    A sample is verified at ε when :math:`\min_\theta \min_{k \ne y} (logit_y - logit_k) > 0` is proven for θ over the
    whole box.

    Args:
        model: any ``nn.Module`` that ``torch.export`` can trace and whose operators have rules, or a recurrent network
            that implements the protocol of :class:`thetabox.models.Recurrent`. Left as it was. It returns logits
            ``[N, K]``, alone, first in a tuple or called ``logits`` in a dictionary; probabilities of K classes, whose
            order is that of the logits in front of a softmax; or one logit for two classes (class 1 above 0).
        x: inputs ``[N, ...]``; those of a network of several, in a tuple or by name.
        y: labels ``[N]``.
        epsilon: one ε or several, each finite and at least 0.
        domain: ``interval``; ``linear`` for networks that trace to one graph; ``histories`` for spiking recurrent ones;
            ``lirpa``, a second opinion and no proof; or ``auto``: plain intervals on everything, then the stages of
            the tightest sound domain that the network allows on what is still open, cheap ones first. Every sound
            domain is intersected with plain intervals.
        box: which parameters, and how ε is meant; every weight and bias, relative, by default.
        criterion: ``margin`` (exact rows over the last layer) or ``logits`` (disjoint logit intervals).
        arithmetic: ``real``, or ``float32`` to cover every IEEE binary32 evaluation of the network.
        precision: in which the bounds are computed, ``float64`` or ``float32``; both are sound.
        device: ``auto``, ``cpu`` or ``cuda``.
        options: of the domain. That of ``auto`` is ``effort``: forward passes that the stages after plain intervals may
            take for each sample and ε, 300 by default, infinite for no limit. They are counted from shapes
            (:mod:`thetabox.verify.effort`), not timed: what is verified is the same on a slower or busier machine, and
            the same at an ε whatever the others of the sweep. Each sample has that much for itself; what it leaves goes
            to the branch and bound of others at the same ε (:mod:`thetabox.verify.search.surplus`), so more may be
            proven of it in company than alone. More effort of its own never proves less, but
            by a hair in networks of eight activations in a row and more.
        baseline: also compute verified accuracy by disjoint logit intervals.
        profile: also find where verification fails first.
        progress: called with the pairs of sample and ε that the present stage need not treat any more, and all pairs.
        timeout: seconds after which the proof stops where it is; what was proven stands, and ``finished`` of the
            certificate is false if anything was left undone.
        resume: folder for finished chunks; the next call with the same input goes on from there.
        model_info, data_info: entries for the certificate, over those found here.
        executor: whose workers do the parts of the proof (:mod:`thetabox.workers`); this process where ``None``. The
            certificate is the same.

    Raises:
        InputError: anything wrong with what was given, in one line.
        UnsupportedOperator: the network holds an operator without a rule.

    Example:
        >>> import torch, thetabox as tb
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> tb.certify(model, x, y, epsilon=[0.0, 0.1, 0.5]).verified
        tensor([[ True,  True],
                [ True,  True],
                [False, False]])
    """
    deadline = Deadline(arguments.seconds(timeout))
    arguments.beside(resume, model_info, data_info)
    arguments.check_progress(progress)
    check_executor(executor)
    chosen = arguments.settings(domain, box, arithmetic, precision, device, options)
    arguments.check_criterion(criterion)
    eps = arguments.epsilons(epsilon)
    asked = arguments.network(model, x, chosen)
    model, inputs = asked.model, asked.x
    labels = arguments.labels(y, len(inputs))
    problem, agreed = agreement.checked_problem(model, chosen, inputs, eps, asked.x_as_given)
    arguments.check_labels(labels, agreed.logits.shape[1])
    about = model_facts(model, chosen.box)
    facts = _with_what_is_left_out(problem, about | asked.facts | (model_info or {}))
    key = [about["sha256"], problem.signature(), tensor_hash([inputs, labels, eps]), repr(chosen), criterion]
    effort = float(chosen.options.get("effort", DEFAULT)) if domain == domains.AUTO else None
    started = time.perf_counter()
    question = Question(problem, labels)
    with Pool(executor, question) as pool:
        with ChunkStore(resume, key, len(inputs)) as store:
            task = sweep.SweepTask(question, eps, criterion, pool, store, progress, deadline)
            proof = _proof(task, agreed, effort)
        seconds = time.perf_counter() - started
        base = _baseline(task) if baseline else None
    whole = profile and not deadline.passed
    data = {"name": "", "sha256": tensor_hash([inputs, labels]), "samples": len(inputs), **(data_info or {})}
    return _packed(
        task,
        proof,
        agreed,
        options=sweep.recorded(proof, effort, chosen.options),
        arithmetic=arithmetic,
        model_info=facts | proof.domain.facts(whole=whole),
        data_info=data,
        seconds=seconds,
        baseline=base,
        profile=_profile(proof.domain, eps, labels) if whole else None,
    )


def _packed(task: sweep.SweepTask, proof: sweep.SweepResult, agreed: agreement.Agreement, **rest: Any) -> Certificate:
    """What was asked, compared and proven, as a certificate; ``rest`` are fields of it."""
    settings = task.problem.settings
    return Certificate(
        epsilon=task.sweep,
        margin=_own_class_decides(proof.margin, agreed, task.labels),
        label=task.labels,
        predicted=agreed.logits.argmax(1),
        domain=settings.domain,
        criterion=task.criterion,
        sound=proof.domain.sound,
        precision=settings.precision,
        box=settings.box,
        checked=agreed.record,
        finished=proof.finished,
        **rest,
    )


def _own_class_decides(
    margin: Float[Tensor, "levels samples"], agreed: agreement.Agreement, labels: Tensor
) -> Float[Tensor, "levels samples"]:
    """Not verified: what the network in its own precision does not classify right, whatever holds in real numbers."""
    margins = arguments.margins_of(agreed.logits, labels)
    wrong = agreed.reclassified & (margins < 0)
    return torch.where(wrong & (margin > 0), margins.to(margin), margin)


def _with_what_is_left_out(problem: Problem, facts: dict[str, Any]) -> dict[str, Any]:
    """What the certificate records, functions behind the logits among it, which keep the order of the classes."""
    ending = problem.network.ending
    if not ending:
        return facts
    read = facts.get("answer", "logits")
    return facts | {"answer": f"{read}; bounded in front of the {ending}, which keeps their order"}


def _proof(task: sweep.SweepTask, agreed: agreement.Agreement, effort: float | None) -> sweep.SweepResult:
    """In the stages of ``auto`` where there is an effort, else in the domain that was asked for."""
    with sound_kernels():
        if effort is None:
            proof = sweep.in_domain(task)
        else:
            proof = sweep.in_stages(task, arguments.margins_of(agreed.logits, task.labels), effort)
        if proof.domain.sound:
            agreement.check_margins(task.question.problem, agreed.observed, task.labels, task.sweep, proof.margin)
    # What was finished is worth keeping for a run with more time.
    task.store.keep = not proof.finished
    return proof


def _baseline(task: sweep.SweepTask) -> Float[Tensor, " levels"] | None:
    """Verified accuracy by disjoint intervals of the logits; ``None`` where the time did not suffice."""
    beside = replace(task, criterion="logits", store=ChunkStore(None, [], 0), progress=None)
    proof = sweep.grid(beside, PlainIntervals.name)
    return (proof.margin > 0).double().mean(1) if proof.finished else None


def _profile(domain: Domain, eps: Tensor, labels: Tensor) -> Profile | None:
    samples = min(len(labels), PROFILED, max(1, domain.samples_at_once(len(eps))))
    try:
        return guarded(partial(domain.profile, slice(0, samples), eps[:, None].expand(-1, samples), labels))
    except GaveUp:
        # The proof stands without it.
        return None
