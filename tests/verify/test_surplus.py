"""What samples leave of their effort goes to open proofs that promise most, and no further than the effort goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.fake_domain import Fake, fake
from thetabox.verify.search import surplus
from thetabox.verify.unfinished import Unfinished, pairs

pytestmark = pytest.mark.usefixtures("traced_once")

__all__ = ["fake"]

EPSILON = 0.3
# Forward passes that the proof of each sample takes beyond the first; none proves it where the share stays below 0.
NEEDS = torch.tensor([10.0, 40.0, 60.0, 100.0, 150.0, 400.0, 1e6, -1.0])


class Branching:
    """The fake as a search: a proof takes NEEDS passes, one at a time, and may go on where it stopped."""

    calls: ClassVar[list[tuple[int, float, float]]] = []  # sample, what it had before, what it was given

    @staticmethod
    def margins(domain: Fake, which: Any, epsilon: Tensor, y: Tensor) -> Tensor:
        places = torch.arange(len(domain.problem.x))[which]
        out = []
        for row, pair in enumerate(pairs(places, epsilon)):
            done = 0.0 if domain.unfinished is None else (domain.unfinished.take(pair) or 0.0)
            meter, need = domain.meter.part(torch.tensor([row])), float(NEEDS[pair[0] % len(NEEDS)])
            before = done
            while (need < 0 or done < need) and bool(meter.pay(torch.ones(1))):
                done += 1.0
            Branching.calls.append((pair[0], before, done - before))
            proven = 0 <= need <= done
            out.append(1.0 if proven else -1.0)
            if domain.unfinished is not None:
                domain.unfinished.keep(pair, done, -1.0 if proven or need < 0 else done / need)
        return torch.tensor(out, dtype=torch.float64).view(epsilon.shape)


@pytest.fixture
def search(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(fake, "margins", lambda self, *args: Branching.margins(self, *args))
    monkeypatch.setattr(fake, "resumes", lambda self, criterion: criterion == "margin", raising=False)
    monkeypatch.setattr(fake, "cascade", ({"reach": 1.0},))
    monkeypatch.setattr(Branching, "calls", [])
    return fake


@pytest.fixture(scope="module")
def task() -> tuple[nn.Module, Tensor, Tensor]:
    """Sixteen samples of which intervals prove none at EPSILON, and two are misclassified."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3))
    x = torch.randn(16, 4)
    y = model(x).argmax(1)
    y[14:] = (y[14:] + 1) % 3
    assert not tb.certify(model, x, y, EPSILON, domain="interval").verified.any()
    return model, x, y


def certify(task: Any, effort: float, **more: Any) -> tb.Certificate:
    model, x, y = task
    return tb.certify(model, x, y, EPSILON, options={"effort": effort}, **more)


@pytest.mark.parametrize("effort", [5.0, 41.0, 61.0, 90.0, 120.0, 300.0, 3e3])
def test_no_more_is_spent_than_there_is_and_each_has_its_own(search: type[Fake], task: Any, effort: float) -> None:
    found = certify(task, effort).verified[0]
    tried = len({sample for sample, _, _ in Branching.calls})
    assert tried == 14
    assert sum(given for _, _, given in Branching.calls) + tried * search.cost <= 14 * effort
    alone = torch.tensor([0 <= need <= effort - search.cost for need in NEEDS.repeat(2).tolist()])
    alone[14:] = False
    assert (found >= alone).all()
    # Each goes on where it stopped, and is offered more once at most.
    for sample in range(14):
        own = [(before, given) for n, before, given in Branching.calls if n == sample]
        assert len(own) <= 2
        assert all(before == own[0][1] for before, _ in own[1:])


def test_it_goes_to_those_of_most_promise(search: type[Fake], task: Any) -> None:
    """89 of 90 each: the three of 100 and 150 want 11 and 61 more; what the ones of 10, 40 and 60 leave is enough."""
    found = certify(task, 90.0).verified[0]
    assert found[[0, 1, 2, 3, 4, 8, 9, 10, 11, 12]].all()
    assert not found[[5, 6, 7, 13]].any()
    more = [sample for sample, before, _ in Branching.calls if before > 0]
    assert set(more[:2]) == {3, 11}
    assert set(more[2:4]) == {4, 12}
    assert 7 not in more, "more was given to a proof that cannot be had"


def test_nothing_is_shared_where_nothing_is_counted_or_can_go_on(
    search: type[Fake], task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "resumes", lambda self, criterion: False)
    certify(task, 90.0)
    assert all(before == 0 for _, before, _ in Branching.calls)
    assert len(Branching.calls) == 14


def test_each_epsilon_has_its_own(search: type[Fake], task: Any) -> None:
    model, x, y = task
    sweep = [EPSILON, 0.31, 0.35]
    found = tb.certify(model, x, y, sweep, options={"effort": 90.0})
    for place, epsilon in enumerate(sweep):
        assert torch.equal(tb.certify(model, x, y, epsilon, options={"effort": 90.0}).margin[0], found.margin[place])


@pytest.mark.slow
@pytest.mark.parametrize(("at_once", "kept"), [(1, 4096), (3, 1), (100, 4096)])
def test_an_interrupted_run_comes_to_the_same_end(
    search: type[Fake], task: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at_once: int, kept: int
) -> None:
    """Open proofs are not stored: those that are asked for again are made anew, also where too many were open."""
    whole = certify(task, 90.0)
    monkeypatch.setattr(search, "at_once", at_once)
    monkeypatch.setattr(surplus, "MOST_KEPT", kept)
    Branching.calls.clear()
    assert torch.equal(certify(task, 90.0).margin, whole.margin)
    asked = len(Branching.calls)
    for after in (1, asked // 2, asked - 1):
        Branching.calls.clear()

        def margins(self: Fake, *args: Any, after: int = after) -> Tensor:
            if len(Branching.calls) >= after:
                raise KeyboardInterrupt
            return Branching.margins(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "margins", margins)
            try:
                certify(task, 90.0, resume=tmp_path)
            except KeyboardInterrupt:
                again = None
            else:
                continue
        again = certify(task, 90.0, resume=tmp_path)
        assert torch.equal(again.margin, whole.margin)
        assert again.options == whole.options


def test_what_is_kept() -> None:
    kept: Unfinished[str] = Unfinished(2)
    for place, promise in enumerate((0.5, 0.25, -1.0, 0.75, 0.5, 0.1, 0.5)):
        kept.keep((place, 0.1), str(place), promise)
    assert [kept.holds((n, 0.1)) for n in range(7)] == [True, False, False, True, False, False, True]
    assert kept.promise((1, 0.1)) == 0.25, "the promise of what was let go is still known"
    assert kept.take((3, 0.1)) == "3"
    assert kept.take((3, 0.1)) is None
    assert kept.promise((9, 0.1)) < 0
