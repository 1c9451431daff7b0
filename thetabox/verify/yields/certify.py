"""Proof of yield for a set of samples over several σ."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thetabox import checks
from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.noise import Noise
from thetabox.verify import agreement, arguments
from thetabox.verify.effort import Deadline
from thetabox.verify.problem import Problem, Progress, model_facts, tensor_hash
from thetabox.verify.yields.certificate import YieldCertificate
from thetabox.verify.yields.martingale import Groups
from thetabox.verify.yields.proofs import AUTO, Proof, proofs
from thetabox.verify.yields.sizes import sizes

# Share of the failure probability asked for that goes to intermediate bounds first.
FIRST = 0.5
# What is spent next by what: less while that proves more, or more where nothing is proven.
LESS, MORE = 0.1, 8.0
# Failures below this are all the same to a user; and no more may be spent than that.
LEAST, MOST = 1e-12, 0.5
# A smaller failure is worth a further run where it is below the last by this factor.
GAIN = 0.7
# Runs of a proof, of one whose runs are long, and samples of one run.
TRIES, TRIES_OF_DEAR, PART = 8, 3, 64


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
    model_info: dict[str, Any] | None = None,
    data_info: dict[str, Any] | None = None,
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
        model_info, data_info: entries for the certificate, over those found here.

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
    arguments.beside(None, model_info, data_info)
    arguments.check_progress(progress)
    asked = failure_probability(delta)
    sigmas = checks.numbers(sigma, "sigma")
    question = Question.of(model, x, y, sigmas, noise, box, method, device)
    started = time.perf_counter()
    search = Search(question, asked, len(sigmas), deadline, progress)
    for sweep, value in enumerate(sigmas.tolist()):
        search.at(sweep, value)
    facts = {**model_facts(model, question.box), **question.facts, **(model_info or {})}
    hashed = tensor_hash([question.x, question.y])
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


def failure_probability(delta: Any) -> float:
    """A failure probability that is asked for.

    Raises:
        InputError: it is no number between 0 and 1.
    """
    value = checks.number(delta, "delta")
    if not 0.0 < value < 1.0:
        raise InputError(f"delta is {value:g}; it must lie above 0 and below 1")
    return value


@dataclass(frozen=True)
class Question:
    """A network, its samples and its noise, looked at before any proof.

    Attributes:
        problem: the traced network.
        proofs: that fit it.
        x, y: samples.
        logits: without errors.
        right: samples that the network classifies right, in real arithmetic and in its own precision.
        noise, box: as asked for.
        facts, checked: for the certificate.
    """

    problem: Problem
    proofs: list[Proof]
    x: Tensor
    y: Int[Tensor, " samples"]
    logits: Float[Tensor, "samples classes"]
    right: Tensor
    noise: Noise
    box: Box
    facts: dict[str, Any]
    checked: dict[str, Any]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        x: arguments.Inputs,
        y: arguments.Array,
        sigmas: Float[Tensor, " sweeps"],
        noise: Noise | None,
        box: Box | None,
        method: str,
        device: str,
    ) -> Question:
        """Checked and traced.

        Raises:
            InputError: anything wrong.
        """
        if noise is not None and not isinstance(noise, Noise):
            raise InputError(f"noise must be a thetabox.Noise, not {type(noise).__name__}")
        noise = noise or Noise()
        chosen = arguments.settings("interval", box, "real", "float64", device, None)
        given = arguments.network(model, x, chosen)
        labels = arguments.labels(y, len(given.x))
        problem, agreed = agreement.checked_problem(given.model, chosen, given.x, sigmas, given.given)
        arguments.check_labels(labels, agreed.logits.shape[1])
        found = proofs(problem, sizes(problem.model, chosen.box, noise), noise, method)
        margins = arguments.margins_of(agreed.logits, labels)
        return cls(
            problem, found, given.x, labels, agreed.logits, margins > 0, noise, chosen.box, given.facts, agreed.record
        )


class Search:
    """The smallest failure probability of every sample that the proofs give, σ by σ.

    Attributes:
        delta, proven_by, ledger: a row for each σ so far, as in the certificate.
        finished: whether nothing was cut for want of time.
    """

    def __init__(
        self, question: Question, asked: float, sweeps: int, deadline: Deadline, progress: Progress | None
    ) -> None:
        self.question, self.asked, self.sweeps = question, asked, sweeps
        self.deadline, self.progress = deadline, progress
        self.delta: list[Tensor] = []
        self.proven_by: list[list[str]] = []
        self.ledger: list[dict[str, Groups]] = []
        self.finished = True

    def at(self, sweep: int, sigma: float) -> None:
        """Add the row of one σ."""
        question = self.question
        samples = len(question.y)
        best, by = torch.ones(samples, dtype=torch.float64), [""] * samples
        spent: dict[int, Groups] = {}
        members = question.right.nonzero().squeeze(1)
        self._tell(sweep, samples - len(members))
        for place, proof in enumerate(question.proofs):
            for part in members.split(PART):
                if self.deadline.passed:
                    self.finished = False
                    break
                self._smallest(proof, sigma, part, best, by, spent)
                if place == len(question.proofs) - 1:
                    self._tell(sweep, samples - len(members) + int((members <= part[-1]).sum()))
        self.delta.append(best)
        self.proven_by.append(by)
        hardest = int(torch.where(best <= self.asked, best, -1.0).argmax())
        known = bool(best[hardest] <= self.asked)
        self.ledger.append({by[hardest]: spent[hardest]} if known else {})

    def _smallest(
        self,
        proof: Proof,
        sigma: float,
        members: Int[Tensor, " part"],
        best: Float[Tensor, " samples"],
        by: list[str],
        ledger: dict[int, Groups],
    ) -> None:
        """Lower ``best`` of the members to what a proof gives, spending less or more while that helps."""
        question = self.question
        own = torch.ones(len(members), dtype=torch.float64)
        spent = torch.full_like(own, FIRST * self.asked if sigma > 0 else 0.0)
        open_ = torch.arange(len(members))
        for _ in range(TRIES_OF_DEAR if proof.dear else TRIES):
            which = members[open_]
            found = proof.failure(question.x[which], question.y[which], torch.full_like(spent, sigma), spent)
            better = found.probability < own[open_]
            gained = found.probability < GAIN * own[open_]
            own[open_] = torch.minimum(own[open_], found.probability)
            improved = (found.probability < best[which]) & (found.probability < 1.0)
            best[which] = torch.minimum(best[which], found.probability)
            for row in improved.nonzero().squeeze(1).tolist():
                n = int(which[row])
                by[n], ledger[n] = proof.name, found.groups(row)
            nothing = own[open_] >= 1.0
            again = torch.where(nothing, spent * MORE, own[open_] * LESS)
            useful = (nothing & (again <= MOST)) | (~nothing & better & gained & (own[open_] > LEAST))
            open_, spent = open_[useful], again[useful]
            if not len(open_) or sigma == 0.0 or self.deadline.passed:
                break

    def _tell(self, sweep: int, done: int) -> None:
        if self.progress is not None:
            samples = len(self.question.y)
            self.progress(sweep * samples + done, samples * self.sweeps)
