"""How much a proof is let spend: few long runs, each where the last ones point, and nothing lost that was found."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from thetabox.verify.effort import Deadline
from thetabox.verify.yields.failure import Failure
from thetabox.verify.yields.question import YieldQuestion
from thetabox.verify.yields.search import FailureJob, SampleGroup, search_group

ASKED = 0.01
# What is left of a failure probability beside what was spent, by what was spent.
RESTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda spent: 0.0 * spent,
    "a little": lambda spent: 1e-4 + 0.0 * spent,
    "soon everything": lambda spent: torch.where(spent < 1e-5, 1.0, 1e-9),
    "slowly more": lambda spent: 1e-9 * spent.pow(-0.7),
    "much": lambda spent: 0.5 + 0.0 * spent,
    "all": lambda spent: 1.0 + 0.0 * spent,
    "all of what is small": lambda spent: torch.where(spent < 0.01, 1.0, 1e-3),
    "steeply less": lambda spent: 1e-5 * (0.04 / spent).pow(9.0),
}


class Known:
    """A proof of which the rest is known; it counts its runs."""

    def __init__(self, rest: Callable[[Tensor], Tensor], *, dear: bool) -> None:
        self.rest, self.dear, self.name = rest, dear, "log-sobolev" if dear else "martingale"
        self.runs: list[float] = []

    def failure(self, x: Tensor, y: Tensor, sigma: Tensor, spent: Tensor) -> Failure:
        self.runs.append(float(spent[0]))
        return Failure((spent + self.rest(spent)).clamp(max=1.0), {"any": (torch.ones_like(spent), spent)})


def found(*proofs: Known) -> SampleGroup:
    question = SimpleNamespace(x=torch.zeros(1, 1), y=torch.zeros(1).long(), proofs=list(proofs))
    job = FailureJob(0.1, torch.arange(1), ASKED, Deadline(None))
    return search_group(cast(YieldQuestion, cast(Any, question)), job)[0]


@pytest.mark.parametrize("dear", [True, False])
@pytest.mark.parametrize("rest", RESTS)
def test_nothing_that_a_run_has_shown_is_lost(rest: str, dear: bool) -> None:
    proof = Known(RESTS[rest], dear=dear)
    group = found(proof)
    spent = torch.tensor(proof.runs, dtype=torch.float64)
    assert float(group.delta) == float((spent + RESTS[rest](spent)).clamp(max=1.0).min())
    assert len(proof.runs) <= ((3 if float(group.delta) <= ASKED else 4) if dear else 8)
    assert (int(group.by) >= 0) == (float(group.delta) < 1.0)
    if group.hardest is not None:
        assert group.ledger["any"]["probability"] == proof.runs[int((spent + RESTS[rest](spent)).argmin())]


def test_one_long_run_that_spends_the_least_is_enough_where_it_loses_nothing() -> None:
    proof = Known(RESTS["nothing"], dear=True)
    assert float(found(proof).delta) <= 1e-4 * ASKED
    assert len(proof.runs) == 1


def test_a_least_run_that_shows_too_little_is_followed_by_more() -> None:
    easy = Known(lambda spent: (3.0 * ASKED * (1e-5 / spent).pow(0.5)).clamp(max=1.0), dear=True)
    assert float(found(easy).delta) < 0.5 * ASKED
    assert easy.runs[1] == pytest.approx(0.2 * ASKED)
    hard = Known(lambda spent: (5.0 * ASKED * (1e-3 / spent)).clamp(max=0.5), dear=True)
    found(hard)
    assert hard.runs[1:3] == pytest.approx([0.2 * ASKED, 0.5 * ASKED])


@pytest.mark.parametrize("asked", [1e-12, 1e-8, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("rest", RESTS)
def test_no_long_run_spends_more_than_it_may(rest: str, asked: float, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = Known(RESTS[rest], dear=True)
    monkeypatch.setitem(globals(), "ASKED", asked)
    found(proof)
    assert len(proof.runs) <= 4
    assert all(run <= max(0.1, proof.runs[0]) for run in proof.runs)
    # Behind one that did not prove what was asked for, no more than half of that.
    if len(proof.runs) > 1 and proof.runs[0] + float(RESTS[rest](torch.tensor(proof.runs[0]))) > asked:
        assert proof.runs[1] <= 0.5 * asked * (1.0 + 1e-12)


def test_a_long_run_that_spent_too_little_is_followed_by_one_between() -> None:
    proof = Known(RESTS["soon everything"], dear=True)
    delta = float(found(proof).delta)
    assert proof.runs[1] == 0.5 * ASKED
    assert proof.runs[0] < proof.runs[2] < proof.runs[1]
    assert delta < 0.11 * proof.runs[1]


def test_no_long_run_spends_what_was_spent_in_vain() -> None:
    proof = Known(RESTS["steeply less"], dear=True)
    delta = float(found(proof).delta)
    assert proof.runs[0] < proof.runs[1] < proof.runs[3] < proof.runs[2]
    assert delta < 0.7 * proof.runs[2]


def test_long_runs_that_show_nothing_end_soon() -> None:
    proof = Known(RESTS["all"], dear=True)
    assert float(found(proof).delta) == 1.0
    assert len(proof.runs) == 3


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("behind", RESTS)
def test_behind_a_long_run_a_cheap_proof_is_tried_where_what_is_asked_for_is_not_proven(rest: str, behind: str) -> None:
    long, cheap = Known(RESTS[behind], dear=True), Known(RESTS[rest], dear=False)
    alone = float(found(Known(RESTS[behind], dear=True)).delta)
    assert float(found(long, cheap).delta) <= alone
    assert bool(cheap.runs) == (ASKED < alone < 1.0)


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("behind", RESTS)
def test_a_run_in_vain_is_followed_by_others_only_where_long_runs_show_nothing(rest: str, behind: str) -> None:
    cheap, long = Known(RESTS[rest], dear=False), Known(RESTS[behind], dear=True)
    both, alone = found(cheap, long), found(Known(RESTS[rest], dear=False))
    if cheap.runs[0] + float(RESTS[rest](torch.tensor(cheap.runs[0]))) >= 1.0 and float(found(long).delta) < 1.0:
        assert len(cheap.runs) == 1
    else:
        assert float(both.delta) <= float(alone.delta)
    assert float(both.delta) <= max(float(found(Known(RESTS[behind], dear=True)).delta), 1e-4 * ASKED)
    assert len(set(cheap.runs)) == len(cheap.runs)


def test_samples_are_searched_each_by_itself() -> None:
    class Mixed(Known):
        def failure(self, x: Tensor, y: Tensor, sigma: Tensor, spent: Tensor) -> Failure:
            which = y
            rest = torch.stack([RESTS[name](spent) for name in RESTS]).gather(0, which[None])[0]
            self.runs.append(float(len(spent)))
            return Failure((spent + rest).clamp(max=1.0), {"any": (torch.ones_like(spent), spent)})

    proof = Mixed(RESTS["nothing"], dear=True)
    question = SimpleNamespace(x=torch.zeros(len(RESTS), 1), y=torch.arange(len(RESTS)), proofs=[proof])
    job = FailureJob(0.1, torch.arange(len(RESTS)), ASKED, Deadline(None))
    together = search_group(cast(YieldQuestion, cast(Any, question)), job)[0].delta
    alone = [float(found(Known(RESTS[name], dear=True)).delta) for name in RESTS]
    assert together.tolist() == alone
