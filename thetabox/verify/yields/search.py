"""The smallest failure probability of every sample that the proofs give, part by part."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thetabox.json_text import parse
from thetabox.verify.effort import Deadline
from thetabox.verify.problem import Progress
from thetabox.verify.search.chunkstore import ChunkStore
from thetabox.verify.yields.martingale import Groups
from thetabox.verify.yields.proofs import METHODS, Proof
from thetabox.verify.yields.question import Question

# Share of the failure probability asked for that goes to intermediate bounds first, and what more by where that proves
# nothing; no more than MOST.
FIRST, MORE, MOST = 0.5, 8.0, 0.5
# The rest of a failure probability hardly falls as more is spent: least is about where this share of it is spent.
AIM = 0.05
# Another amount is tried where it differs by this factor, and the last one lowered the bound to this share of it.
CLOSE, GAIN = 1.5, 0.95
# Failures below this share of what was asked for are all the same to a user.
ENOUGH = 1e-4
# Runs of a proof, of one whose runs are long; samples of one run, and of one with long runs.
TRIES, TRIES_OF_DEAR = 8, 3
PART, PART_OF_DEAR = 64, 8


@dataclass
class SampleGroup:
    """Samples that are searched together at one σ.

    Attributes:
        members: which they are.
        delta: smallest failure probability proven of each; 1 where nothing is.
        by: which proof gave it, by its place among :data:`~thetabox.verify.yields.proofs.METHODS`; -1 where none did.
        ledger: what the proof of the hardest sample with a ``delta`` of at most ``asked`` spent.
        asked: failure probability that counts as proven.
    """

    members: Int[Tensor, " part"]
    delta: Float[Tensor, " part"]
    by: Int[Tensor, " part"]
    ledger: Groups
    asked: float

    @property
    def hardest(self) -> int | None:
        """The proven sample of the largest ``delta``; ``None`` where no sample is proven."""
        worst = int(torch.where(self.delta <= self.asked, self.delta, -1.0).argmax())
        return worst if self.delta[worst] <= self.asked else None

    def tensors(self) -> dict[str, Tensor]:
        """For the store."""
        ledger = torch.tensor(list(json.dumps(self.ledger).encode()), dtype=torch.uint8)
        return {"members": self.members, "delta": self.delta, "by": self.by, "ledger": ledger}

    @classmethod
    def of(cls, held: dict[str, Tensor], members: Int[Tensor, " part"], asked: float) -> SampleGroup | None:
        """What the store holds, if it is of these samples and bounds of probabilities."""
        delta, by = held["delta"], held["by"]
        if not torch.equal(held["members"], members) or delta.shape != by.shape or delta.shape != members.shape:
            return None
        if delta.dtype != torch.float64:
            return None
        if not bool(((delta >= 0.0) & (delta <= 1.0)).all()) or not bool(((by >= 0) == (delta < 1.0)).all()):
            return None
        return cls(members, delta, by, parse(bytes(held["ledger"].tolist())), asked)


class Search:
    """Every σ's row of a certificate, from the proofs that fit.

    Attributes:
        delta, proven_by, ledger: a row for each σ so far, as in the certificate.
        finished: whether nothing was cut for want of time.
    """

    def __init__(
        self,
        question: Question,
        asked: float,
        sweeps: int,
        store: ChunkStore,
        deadline: Deadline,
        progress: Progress | None,
    ) -> None:
        self.question, self.asked, self.sweeps = question, asked, sweeps
        self.store, self.deadline, self.progress = store, deadline, progress
        self.size = PART_OF_DEAR if any(proof.dear for proof in question.proofs) else PART
        self.delta: list[Tensor] = []
        self.proven_by: list[list[str]] = []
        self.ledger: list[dict[str, Groups]] = []
        self.finished = True

    def at(self, sweep: int, sigma: float) -> None:
        """Add the row of one σ."""
        samples, members = len(self.question.y), self.question.right.nonzero().squeeze(1)
        delta, by = torch.ones(samples, dtype=torch.float64), [""] * samples
        ledger, largest = {}, -1.0
        done = samples - len(members)
        self._tell(sweep, done)
        for place, which in enumerate(members.split(self.size) if len(members) else ()):
            part = self._part(f"{sigma!r}-{place}", sigma, which)
            delta[which] = part.delta
            for n, proof in zip(which.tolist(), part.by.tolist(), strict=True):
                by[n] = METHODS[proof] if proof >= 0 else ""
            hardest = part.hardest
            if hardest is not None and float(part.delta[hardest]) > largest:
                largest, ledger = float(part.delta[hardest]), {by[int(which[hardest])]: part.ledger}
            done += len(which)
            self._tell(sweep, done)
        self.delta.append(delta)
        self.proven_by.append(by)
        self.ledger.append(ledger)

    def _part(self, name: str, sigma: float, members: Int[Tensor, " part"]) -> SampleGroup:
        """From the store, or searched now and kept there if no time was lacking."""
        held = self.store.read_part(name, ("members", "delta", "by", "ledger"))
        known = None if held is None else SampleGroup.of(held, members, self.asked)
        if known is not None:
            return known
        blank = torch.full((len(members),), -1)
        part = SampleGroup(members, torch.ones(len(members), dtype=torch.float64), blank, {}, self.asked)
        spent: dict[int, Groups] = {}
        for proof in self.question.proofs:
            if self.deadline.passed:
                break
            self._smallest(proof, sigma, members, part, spent)
        hardest = part.hardest
        part.ledger = {} if hardest is None else spent[hardest]
        if self.deadline.passed:
            # What a search was cut at may still fall.
            self.finished = False
        else:
            self.store.write_part(name, part.tensors())
        return part

    def _smallest(
        self, proof: Proof, sigma: float, members: Int[Tensor, " part"], part: SampleGroup, ledger: dict[int, Groups]
    ) -> None:
        """Lower failure probabilities to what a proof gives, spending less or more while that helps."""
        question, kind = self.question, METHODS.index(proof.name)
        open_ = torch.arange(len(members))
        if proof.dear:
            open_ = open_[part.delta > ENOUGH * self.asked]
        least = FIRST * ENOUGH * self.asked
        own = torch.ones(len(members), dtype=torch.float64)
        spent = torch.full((len(open_),), FIRST * self.asked if sigma > 0 else 0.0, dtype=torch.float64)
        for _ in range(TRIES_OF_DEAR if proof.dear else TRIES):
            if not len(open_):
                break
            which = members[open_]
            failure = proof.failure(question.x[which], question.y[which], torch.full_like(spent, sigma), spent)
            gained = (failure.probability >= 1.0) | (failure.probability < GAIN * own[open_])
            own[open_] = torch.minimum(own[open_], failure.probability)
            improved = (failure.probability < part.delta[open_]) & (failure.probability < 1.0)
            part.delta[open_] = torch.minimum(part.delta[open_], failure.probability)
            for row in improved.nonzero().squeeze(1).tolist():
                n = int(open_[row])
                part.by[n], ledger[n] = kind, failure.groups(row)
            rest = (failure.probability - spent).clamp(min=least)
            again = torch.where(failure.probability < 1.0, (spent * AIM * rest).sqrt(), spent * MORE).clamp(min=least)
            apart = torch.maximum(again / spent, spent / again) >= CLOSE
            useful = gained & apart & (again <= MOST) & (own[open_] > ENOUGH * self.asked)
            open_, spent = open_[useful], again[useful]
            if sigma == 0.0 or self.deadline.passed:
                break

    def _tell(self, sweep: int, done: int) -> None:
        if self.progress is not None:
            samples = len(self.question.y)
            self.progress(sweep * samples + done, samples * self.sweeps)
