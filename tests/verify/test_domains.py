"""What is made of domains: the table, the intersection with intervals, ``auto``'s stages, budget and resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.fake_domain import RADIUS, Fake, fake
from thetabox.verify import cascade, domains

SWEEP = [0.0, 1e-4, 1e-3, 1e-2, 0.1]
__all__ = ["fake"]


@pytest.fixture(scope="module")
def task() -> tuple[nn.Module, Tensor, Tensor]:
    """Sixteen samples, every fifth misclassified; plain intervals prove little above 1e-2."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 3))
    x = torch.randn(16, 4)
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % 3
    return model, x, y


def closed_form(task: Any, sweep: list[float], reach: float) -> Tensor:
    """Verified by the fake or by intervals, among the samples that are right."""
    model, x, y = task
    plain = tb.certify(model, x, y, sweep, domain="interval")
    radius = RADIUS.repeat(2) * reach
    return plain.verified | ((radius > torch.tensor(sweep)[:, None]) & (plain.predicted == y))


def test_the_table(fake: type[Fake], task: Any) -> None:
    model, x, y = task
    assert domains.names() == ["auto", "interval", "unsound", "fake"]
    for name in ("polyhedra", "absent"):
        with pytest.raises(tb.InputError, match="choose one of auto, interval, unsound, fake"):
            tb.certify(model, x, y, 0.1, domain=name)
    bad: list[tuple[str, dict[str, Any], str]] = [
        ("fake", {"speed": 1}, "no option 'speed'; it has reach, word"),
        ("fake", {"reach": "far"}, "must be a number, not 'far'"),
        ("fake", {"reach": True}, "must be a number"),
        ("fake", {"word": 3}, "must be a word"),
        ("interval", {"reach": 1.0}, "no option 'reach'"),
        ("auto", {"reach": 1.0}, "it has budget"),
        ("auto", {"budget": -1}, "at least 0"),
        ("auto", {"budget": float("nan")}, "at least 0"),
        ("auto", {"budget": "much"}, "at least 0"),
    ]
    for name, options, message in bad:
        for call in (tb.certify, tb.certified_radius, tb.logit_bounds):
            arguments = (x, y, 0.1) if call is tb.certify else (x, y) if call is tb.certified_radius else (x, 0.1)
            with pytest.raises(tb.InputError, match=message):
                call(model, *arguments, domain=name, options=options)
    fake.refuses = "made"
    with pytest.raises(tb.InputError, match="interval does"):
        tb.certify(model, x, y, 0.1, domain="fake")


def test_every_sound_domain_is_intersected_with_intervals(fake: type[Fake], task: Any) -> None:
    model, x, y = task
    plain = tb.certify(model, x, y, SWEEP, domain="interval")
    both = tb.certify(model, x, y, SWEEP, domain="fake", options={"reach": 0.5})
    assert (both.margin >= plain.margin).all()
    own = 10 * (RADIUS.repeat(2) * 0.5 - torch.tensor(SWEEP, dtype=torch.float64)[:, None])
    assert torch.equal(both.margin, torch.maximum(plain.margin, own))
    assert (both.domain, both.options, both.sound) == ("fake", {"reach": 0.5}, True)
    alone = tb.certify(model, x, y, SWEEP, domain="unsound")
    assert not alone.sound
    assert torch.equal(alone.margin, 10 * (RADIUS.repeat(2) - torch.tensor(SWEEP, dtype=torch.float64)[:, None]))
    box = tb.logit_bounds(model, x, 0.05, domain="interval")
    for name in ("fake", "auto"):
        found = tb.logit_bounds(model, x, 0.05, domain=name)
        assert torch.equal(found.lower, torch.maximum(box.lower, torch.tensor([-torch.inf, 0.25, -1.0]).double()))
        assert torch.equal(found.upper, torch.minimum(box.upper, torch.tensor([0.5, torch.inf, 1.0]).double()))
    by_logits = tb.certify(model, x, y, 0.05, domain="fake", criterion="logits")
    expected = tb.certify(model, x, y, 0.05, domain="interval", criterion="logits").margin[0]
    # Only class 1 is bounded from below by the fake, and nothing bounds it from above: no margin can be better.
    assert (by_logits.margin[0] >= expected).all()


def test_auto_tries_only_what_is_open_cheap_stages_first(fake: type[Fake], task: Any) -> None:
    model, x, y = task
    sweep = [*SWEEP[:-1], 0.033, 0.04, 0.045, 0.1]
    plain = tb.certify(model, x, y, sweep, domain="interval")
    found = tb.certify(model, x, y, sweep)
    assert torch.equal(found.verified, closed_form(task, sweep, 1.0))
    assert (found.margin >= plain.margin).all()
    right = plain.predicted == y
    tried = {"0.1": set(), "1.0": set()}
    for reach, n, epsilon in fake.asked:
        assert right[n], "a misclassified sample was tried"
        assert not plain.verified[sweep.index(epsilon), n], "what intervals proved was tried again"
        assert (n, epsilon) not in tried[str(reach)], "tried twice in one stage"
        proven_above = [e for m, e in tried[str(reach)] if m == n and e > epsilon and RADIUS[n % 8] * reach > e]
        assert not proven_above, "a proof at a larger ε was not counted"
        tried[str(reach)].add((n, epsilon))
    first = closed_form(task, sweep, 0.1)
    assert tried["1.0"], "the second stage never ran"
    assert all(not first[sweep.index(e), n] for n, e in tried["1.0"])
    order = [reach for reach, _, _ in fake.asked]
    assert order == sorted(order)
    counts = {
        "interval": plain.verified.sum(1),
        "fake reach=0.1": (first & ~plain.verified).sum(1),
        "fake reach=1.0": (found.verified & ~first).sum(1),
    }
    assert found.options["proven_by"] == {name: count.tolist() for name, count in counts.items()}
    assert found.domain == "auto"
    assert found.options["budget"] == cascade.SECONDS_IN_ALL / 16


def test_verified_at_a_larger_epsilon_counts_below(fake: type[Fake], task: Any) -> None:
    """The fake proves nothing between 5e-3 and 0.03, yet a proof at 0.05 is one at 1e-2."""
    model, x, y = task
    sweep = [0.0, 1e-4, 1e-3, 1e-2, 0.05]
    fake.holes = ((5e-3, 0.03),)
    plain = tb.certify(model, x, y, sweep, domain="interval").verified
    for name in ("fake", "auto"):
        found = tb.certify(model, x, y, sweep[::-1], domain=name)
        rising = found.verified.flip(0)
        assert (rising[:-1] >= rising[1:]).all()
        right = found.predicted == y
        assert torch.equal(rising[3] & right, plain[3] | closed_form(task, sweep, 1.0)[4])
    assert (rising[3] & ~plain[3]).any()


def test_chunks_do_not_change_the_result(fake: type[Fake], task: Any) -> None:
    model, x, y = task
    answers = []
    for fake.at_once in (1, 3, 100):
        answers.append(tb.certify(model, x, y, SWEEP, options={"budget": float("inf")}))
    assert all(torch.equal(answer.margin, answers[0].margin) for answer in answers)
    assert all(answer.options == answers[0].options for answer in answers)
    assert answers[0].options["budget"] is None


class Clock:
    """A clock that only the fake moves: 1 second a sample and trial."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(fake: type[Fake], monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock, plain = Clock(), fake.margins

    def margins(self: Fake, which: Any, epsilon: Tensor, y: Tensor) -> Tensor:
        clock.now += epsilon.numel()
        return plain(self, which, epsilon, y)

    monkeypatch.setattr(fake, "margins", margins)
    monkeypatch.setattr(cascade, "time", clock)
    return clock


@pytest.mark.parametrize("budget", [0, 0.2, 0.4, 1.0, 2.5, 1e6])
def test_the_budget_is_kept(clock: Clock, fake: type[Fake], task: Any, budget: float) -> None:
    model, x, y = task
    found = tb.certify(model, x, y, [0.1], options={"budget": budget})
    most = closed_form(task, [0.1], 1.0)
    assert (found.verified <= most).all()
    # One trial a sample and stage here; the first part of a stage, whose cost is not known, may overrun.
    assert clock.now <= 16 * budget + cascade.FIRST_PART
    assert (clock.now == 0) == (budget == 0)
    assert found.options["budget"] == budget
    if budget == 1e6:
        assert torch.equal(found.verified, most)
    if budget == 0.2:
        assert "fake reach=1.0" not in found.options["proven_by"]
    radius = tb.certified_radius(model, x, y, options={"budget": budget})
    plain = tb.certified_radius(model, x, y, domain="interval")
    assert (radius >= plain).all()
    assert torch.equal(radius, plain) == (budget == 0)


def test_an_interrupted_auto_goes_on(clock: Clock, fake: type[Fake], task: Any, tmp_path: Path) -> None:
    """The second run asks nothing again that the first one finished, and spends what was left of the budget."""
    model, x, y = task
    fake.at_once = 2
    options = {"budget": 3.0}
    whole = tb.certify(model, x, y, SWEEP, options=options)
    asked = list(fake.asked)
    for after in (3, len(asked) // 2, len(asked) - 2):
        fake.asked.clear()
        plain = fake.margins

        def margins(self: Fake, *args: Any, plain: Any = plain, after: int = after) -> Tensor:
            if len(self.asked) >= after:
                raise KeyboardInterrupt
            return plain(self, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fake, "margins", margins)
            with pytest.raises(KeyboardInterrupt):
                tb.certify(model, x, y, SWEEP, options=options, resume=tmp_path)
        done = len(fake.asked)
        again = tb.certify(model, x, y, SWEEP, options=options, resume=tmp_path)
        assert torch.equal(again.margin, whole.margin)
        assert again.options == whole.options
        # Only the part that was cut off is asked for again: two samples.
        assert set(fake.asked) == set(asked)
        assert len(fake.asked) <= len(asked) + 2 * len(SWEEP)
        assert after == 3 or len(fake.asked) < done + len(asked)
        assert not tmp_path.exists() or not any(tmp_path.iterdir())


def test_a_domain_that_gives_up_leaves_the_proofs_so_far(fake: type[Fake], task: Any) -> None:
    model, x, y = task
    plain = tb.certify(model, x, y, SWEEP, domain="interval")
    fake.refuses = "asked"
    found = tb.certify(model, x, y, SWEEP)
    assert torch.equal(found.verified, plain.verified)
    assert found.options["left_out"] == {"fake reach=0.1": "fake cannot do this"}
    fake.refuses = "made"
    found = tb.certify(model, x, y, SWEEP)
    assert list(found.options["proven_by"]) == ["interval"]
    assert found.options["left_out"] == {"fake": "fake takes no such network; interval does"}
    assert torch.equal(tb.certified_radius(model, x, y), tb.certified_radius(model, x, y, domain="interval"))


def test_progress_ends_at_all_rows(fake: type[Fake], task: Any) -> None:
    model, x, y = task
    for name in ("fake", "auto"):
        seen: list[tuple[int, int]] = []
        tb.certify(model, x, y, SWEEP, domain=name, progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen[-1] == (80, 80)
        assert all(0 <= done <= 80 for done, _ in seen)


@pytest.mark.parametrize("domain", ["fake", "auto"])
@pytest.mark.parametrize("holes", [(), ((2e-3, 8e-3), (0.02, 0.04), (0.12, 0.125))])
@pytest.mark.parametrize("rtol", [1e-2, 0.3])
def test_radius_was_proven_and_a_little_more_was_not(
    fake: type[Fake], task: Any, domain: str, holes: tuple[tuple[float, float], ...], rtol: float
) -> None:
    model, x, y = task
    fake.holes = holes
    found = tb.certified_radius(
        model, x, y, domain=domain, rtol=rtol, details=True, options={"budget": 1e9} if domain == "auto" else None
    )
    plain = tb.certified_radius(model, x, y, domain="interval", rtol=rtol)
    right = model(x).argmax(1) == y
    trials = {(n, e) for reach, n, e in fake.asked if reach == 1.0}
    assert (found.radius[~right] == 0).all()
    assert all(right[n] for _, n, _ in fake.asked)
    for n in right.nonzero().flatten().tolist():
        r = float(found.radius[n])
        assert r >= float(plain[n]) * (1 - rtol)
        verified = tb.certify(model, x[n : n + 1], y[n : n + 1], [r], domain="interval").verified[0, 0]
        inside = any(low < r < high for low, high in holes)
        assert verified or (r <= RADIUS[n % 8] and not inside), "a radius that was never proven"
        if r < 1.0:
            assert (n, min(r * (1 + rtol), 1.0)) in trials
        if not holes:
            limit = max(min(float(RADIUS[n % 8]), 1.0), float(plain[n]))
            assert limit / (1 + rtol) <= r * (1 + 1e-12)
    assert found.status[0] == "misclassified"


def test_the_search_needs_few_trials(fake: type[Fake], task: Any) -> None:
    """From the first-order estimate a linear margin is met in a handful of trials a sample, where halving takes 20."""
    model, x, y = task
    tb.certified_radius(model, x, y, domain="fake")
    right = int((model(x).argmax(1) == y).sum())
    assert len(fake.asked) <= 9 * right


def test_nothing_is_flushed_to_zero(fake: type[Fake], task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine is set to, a domain computes and is intersected with small numbers kept."""
    tiny = torch.tensor(3e-310, dtype=torch.float64)
    seen: list[bool] = []

    def logits(self: Fake, which: Any, epsilon: Tensor) -> tb.Interval:
        seen.append(float(tiny * 1.0) > 0)
        wide = torch.full((epsilon.numel(), 3), torch.inf, dtype=torch.float64)
        return tb.Interval(-wide, wide)

    def margins(self: Fake, which: Any, epsilon: Tensor, y: Tensor) -> Tensor:
        seen.append(float(tiny * 1.0) > 0)
        return torch.full_like(epsilon, -torch.inf)

    monkeypatch.setattr(fake, "logits", logits)
    monkeypatch.setattr(fake, "margins", margins)
    layer = nn.Linear(1, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1e-310], [0.0], [0.0]]))
    x, y = torch.ones(1, 1), torch.tensor([0])
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        bounds = tb.logit_bounds(layer, x, 0.5, domain="fake")
        tb.certify(layer, x, y, 0.5, domain="fake")
        tb.certified_radius(layer, x, y, domain="fake")
    finally:
        torch.set_flush_denormal(False)
    assert seen
    assert all(seen)
    assert bounds.upper[0, 0] >= 1.5e-310
