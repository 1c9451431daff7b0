"""The smallest failure probability of every sample that the proofs give, part by part."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thetabox.json_text import parse
from thetabox.verify.effort import Deadline
from thetabox.verify.problem import Progress
from thetabox.verify.search.chunkstore import ChunkStore
from thetabox.verify.yields.failure import Failure, Groups
from thetabox.verify.yields.proofs import METHODS, Proof
from thetabox.verify.yields.question import YieldQuestion
from thetabox.workers import Pool

# Share of the failure probability asked for that goes to intermediate bounds first, and what more by where that proves
# nothing; no more than MOST, or MOST_OF_DEAR of a proof whose runs are long. Such a proof begins with as little as
# matters: one run is enough for an easy sample.
FIRST, MORE, MOST, MOST_OF_DEAR = 0.5, 8.0, 0.5, 0.1
# Share of it that a proof with long runs goes on with where the least has shown something, but too little.
SECOND = 0.2
# The rest of a failure probability hardly falls as more is spent: least is about where this share of it is spent.
AIM = 0.05
# Another amount is tried where it differs by this factor, and the last one lowered the bound to this share of it.
CLOSE, GAIN = 1.5, 0.95
# How near to an amount that has shown something, on the way from one that was spent in vain, the next one lies.
NEAR = 0.75
# Failures below this share of what was asked for are all the same to a user.
ENOUGH = 1e-4
# Runs of a proof, of one whose runs are long, of which there is another where what is asked for is not proven yet;
# samples of one run, and of one with long runs.
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


@dataclass(frozen=True)
class FailureJob:
    """Samples whose failure probabilities at one σ are sought together.

    Attributes:
        sigma: of the noise.
        members: indices of the samples.
        asked: failure probability that counts as proven.
        deadline: when to stop.
    """

    sigma: float
    members: Int[Tensor, " part"]
    asked: float
    deadline: Deadline


def search_group(question: YieldQuestion, job: FailureJob) -> tuple[SampleGroup, bool]:
    """What the proofs that fit find of a group, and whether no time was lacking."""
    search, proofs, asked = _GroupSearch(question, job), question.proofs, job.asked
    delta = search.part.delta
    dear = [proof for proof in proofs if proof.dear]
    cheap = [proof for proof in proofs if not proof.dear]
    if proofs[0].dear:  # in whose network no other proof is cheaper, or as good
        for proof in dear:
            search.by_proof(proof, delta > ENOUGH * asked)
        for proof in cheap:
            search.by_proof(proof, (delta > asked) & (delta < 1.0), once_in_vain=True)
    else:
        # In front of long runs, a cheap proof goes on only where its first run has shown something. It goes on with
        # what the long ones leave open.
        for proof in cheap:
            search.by_proof(proof, delta > 0.0, once_in_vain=bool(dear))
        for proof in dear:
            search.by_proof(proof, delta > ENOUGH * asked)
        for proof in cheap if dear else ():
            search.by_proof(proof, delta >= 1.0, again=True)
    hardest = search.part.hardest
    search.part.ledger = {} if hardest is None else search.spent[hardest]
    return search.part, not job.deadline.passed


class _GroupSearch:
    """The search of one group: its best so far, and what each sample's proof spent."""

    def __init__(self, question: YieldQuestion, job: FailureJob) -> None:
        self.question, self.job = question, job
        count = len(job.members)
        one, none = torch.ones(count, dtype=torch.float64), torch.full((count,), -1)
        self.part = SampleGroup(job.members, one, none, {}, job.asked)
        self.spent: dict[int, Groups] = {}

    def by_proof(
        self, proof: Proof, among: Bool[Tensor, " part"], *, once_in_vain: bool = False, again: bool = False
    ) -> None:
        """Lower failure probabilities to what a proof gives, spending less or more while that helps.

        Args:
            proof: which.
            among: samples that are looked at.
            once_in_vain: whether a sample is left of which the first run has shown nothing.
            again: whether such a run has been made before.
        """
        question, part, kind = self.question, self.part, METHODS.index(proof.name)
        members, sigma, asked = part.members, self.job.sigma, part.asked
        open_ = among.nonzero().squeeze(1)
        least, first = FIRST * ENOUGH * asked, FIRST * asked
        # The lowest so far of each by this proof, what was spent for it, and the most that was spent in vain.
        own, at = torch.ones(2, len(members), dtype=torch.float64)
        start = (0.0 if sigma == 0 else least if proof.dear else first) * (MORE if again else 1.0)
        vain = torch.full_like(own, start / MORE if again else 0.0)
        spent = torch.full((len(open_),), min(start, MOST), dtype=torch.float64)
        for run in range(TRIES_OF_DEAR + 1 if proof.dear else TRIES):
            if not len(open_) or self.job.deadline.passed:
                break
            which = members[open_]
            failure = proof.failure(question.x[which], question.y[which], torch.full_like(spent, sigma), spent)
            before, best = own[open_], at[open_]
            at[open_] = torch.where(failure.probability < before, spent, best)
            own[open_] = torch.minimum(before, failure.probability)
            improved = (failure.probability < part.delta[open_]) & (failure.probability < 1.0)
            part.delta[open_] = torch.minimum(part.delta[open_], failure.probability)
            for row in improved.nonzero().squeeze(1).tolist():
                n = int(open_[row])
                part.by[n], self.spent[n] = kind, failure.groups(row)
            nothing = failure.probability >= 1.0
            vain[open_] = torch.where(nothing, torch.maximum(vain[open_], spent), vain[open_])
            amount, useful = _next_amount(failure, spent, before, best, vain[open_], least, dear=proof.dear)
            if proof.dear:
                # Behind the least, where that does not prove what is asked for: up to what others begin with.
                most = min(first, MOST_OF_DEAR)
                soon = ~nothing & (spent < SECOND * asked)
                then = torch.full_like(spent, most).masked_fill(soon, SECOND * asked)
                then = torch.maximum(amount, then).clamp(max=most)
                short = (own[open_] > asked) & (spent < then)
                amount, useful = torch.where(short, then, amount), useful | short
                useful &= (own[open_] > asked) | (run + 1 < TRIES_OF_DEAR)
            useful &= own[open_] > ENOUGH * asked
            if once_in_vain:
                useful &= own[open_] < 1.0
            open_, spent = open_[useful], amount[useful]
            if sigma == 0.0:
                break


def _next_amount(
    failure: Failure, spent: Tensor, before: Tensor, best: Tensor, vain: Tensor, least: float, *, dear: bool
) -> tuple[Tensor, Tensor]:
    """What the next run of a proof is let spend, and whether that is worth a run.

    Args:
        failure: what the last run left.
        spent: what that run was let spend.
        before: the lowest bound of the runs in front of it; 1 where there is none.
        best: what was spent for that.
        vain: the most that was spent by a run that has shown nothing; 0 where there is none.
        least: less makes no difference.
        dear: whether runs are long, so that few must do.
    """
    probability, rest = failure.probability, failure.probability - failure.spent
    balanced = (spent * AIM * rest.clamp(min=least)).sqrt()
    if dear:  # where nearly all is what was spent, as little as matters at once
        balanced = torch.where(rest <= least, least, balanced)
    # The rest falls steeply behind an amount that was spent in vain.
    balanced = torch.maximum(balanced, vain.pow(1.0 - NEAR) * spent.pow(NEAR))
    again = torch.where(probability < 1.0, balanced, spent * MORE).clamp(min=least)
    gained = (probability >= 1.0) | (probability < GAIN * before)
    if dear:  # a run that spent too little: the better amount lies between the two
        missed = (probability >= before) & (before < 1.0) & (spent < best)
        again, gained = torch.where(missed, (best * spent).sqrt(), again), gained | missed
    apart = torch.maximum(again / spent, spent / again) >= CLOSE
    return again, gained & apart & (again <= (MOST_OF_DEAR if dear else MOST))


class FailureSearch:
    """Every σ's row of a certificate, from the proofs that fit.

    Args:
        pool: does the parts.
        asked: failure probability that counts as proven.
        store: keeps finished parts.
        deadline: when to stop.
        progress: called with samples done and samples in all, over all σ.

    Attributes:
        delta, proven_by, ledger: a row for each σ, as in the certificate.
        finished: whether nothing was cut for want of time.
    """

    def __init__(
        self,
        question: YieldQuestion,
        pool: Pool,
        asked: float,
        store: ChunkStore,
        deadline: Deadline,
        progress: Progress | None,
    ) -> None:
        self.question, self.pool, self.asked = question, pool, asked
        self.store, self.deadline, self.progress = store, deadline, progress
        self.size = PART_OF_DEAR if any(proof.dear for proof in question.proofs) else PART
        self.delta: list[Tensor] = []
        self.proven_by: list[list[str]] = []
        self.ledger: list[dict[str, Groups]] = []
        self.finished = True

    def over(self, sigmas: list[float]) -> None:
        """Fill the rows of all σ."""
        members = self.question.right.nonzero().squeeze(1)
        groups = members.split(self.size) if len(members) else ()
        total = len(self.question.y) * len(sigmas)
        rows: list[list[SampleGroup | None]] = [[None] * len(groups) for _ in sigmas]
        away: dict[int, tuple[int, int]] = {}
        done = total - len(members) * len(sigmas)
        self._tell(done, total)

        def take(level: int, group: int, part: SampleGroup) -> None:
            nonlocal done
            rows[level][group] = part
            done += len(part.members)
            self._tell(done, total)

        for level, sigma in enumerate(sigmas):
            for group, which in enumerate(groups):
                held = self._held(_name(sigma, group), which)
                if held is not None:
                    take(level, group, held)
                else:
                    away[self.pool.add(search_group, FailureJob(sigma, which, self.asked, self.deadline))] = (
                        level,
                        group,
                    )
        for number, (part, whole) in self.pool.answers():
            level, group = away.pop(number)
            if whole:
                self.store.write_part(_name(sigmas[level], group), part.tensors())
            # What a search was cut at may still fall.
            self.finished &= whole
            take(level, group, part)
        for row in rows:
            self._add([part for part in row if part is not None])

    def _held(self, name: str, members: Tensor) -> SampleGroup | None:
        held = self.store.read_part(name, ("members", "delta", "by", "ledger"))
        return None if held is None else SampleGroup.of(held, members, self.asked)

    def _add(self, parts: list[SampleGroup]) -> None:
        """Add the row of one σ."""
        samples = len(self.question.y)
        delta, by = torch.ones(samples, dtype=torch.float64), [""] * samples
        ledger, largest = {}, -1.0
        for part in parts:
            delta[part.members] = part.delta
            for n, proof in zip(part.members.tolist(), part.by.tolist(), strict=True):
                by[n] = METHODS[proof] if proof >= 0 else ""
            hardest = part.hardest
            if hardest is not None and float(part.delta[hardest]) > largest:
                largest, ledger = float(part.delta[hardest]), {by[int(part.members[hardest])]: part.ledger}
        self.delta.append(delta)
        self.proven_by.append(by)
        self.ledger.append(ledger)

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


def _name(sigma: float, group: int) -> str:
    return f"{sigma!r}-{group}"
