"""What is made of domains: the table, the intersection with intervals, ``auto``'s stages, effort and resumption."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.fake_domain import RADIUS, Fake, fake
from thetabox.verify import domains, effort

pytestmark = pytest.mark.usefixtures("traced_once")

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
        ("auto", {"reach": 1.0}, "it has effort"),
        *(("auto", {name: bad}, "at least 0") for name in ("effort", "budget") for bad in (-1, float("nan"), "much")),
        ("auto", {"effort": True}, "at least 0"),
        ("auto", {"effort": 1, "budget": 1}, "give 'effort' alone"),
        ("fake", {"effort": 1}, "no option 'effort'"),
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
        tried[str(reach)].add((n, epsilon))
    first = closed_form(task, sweep, 0.1)
    assert tried["1.0"], "the second stage never ran"
    assert all(not first[sweep.index(e), n] for n, e in tried["1.0"])
    assert {(n, e) for n, e in tried["0.1"] if not first[sweep.index(e), n]} == tried["1.0"]
    order = [reach for reach, _, _ in fake.asked]
    assert order == sorted(order)
    counts = {
        "interval": plain.verified.sum(1),
        "fake reach=0.1": (first & ~plain.verified).sum(1),
        "fake reach=1.0": (found.verified & ~first).sum(1),
    }
    assert found.options["proven_by"] == {name: count.tolist() for name, count in counts.items()}
    assert found.domain == "auto"
    assert found.options["effort"] == effort.DEFAULT
    assert found.finished


@pytest.mark.slow
def test_each_epsilon_is_decided_by_itself(fake: type[Fake], task: Any) -> None:
    """The fake proves nothing between 5e-3 and 0.03, whatever it proves at 0.05 beside it."""
    model, x, y = task
    sweep = [0.0, 1e-4, 1e-3, 1e-2, 0.05]
    fake.holes = ((5e-3, 0.03),)
    plain = tb.certify(model, x, y, sweep, domain="interval").verified
    for name in ("fake", "auto"):
        found = tb.certify(model, x, y, sweep[::-1], domain=name)
        rising = found.verified.flip(0)
        assert torch.equal(rising[3], plain[3])
        right = found.predicted == y
        assert torch.equal(rising[4] & right, closed_form(task, sweep, 1.0)[4] & right)
        for place, epsilon in enumerate(sweep[::-1]):
            alone = tb.certify(model, x, y, epsilon, domain=name)
            assert torch.equal(alone.margin[0], found.margin[place])


def test_chunks_do_not_change_the_result(fake: type[Fake], task: Any) -> None:
    model, x, y = task
    answers = []
    for fake.at_once in (1, 3, 100):
        answers.append(tb.certify(model, x, y, SWEEP, options={"effort": float("inf")}))
    assert all(torch.equal(answer.margin, answers[0].margin) for answer in answers)
    assert all(answer.options == answers[0].options for answer in answers)
    assert answers[0].options["effort"] is None


@pytest.mark.slow
@pytest.mark.parametrize("given", [0, 9, 10, 19.5, 20, 1e6])
def test_the_effort_is_kept(fake: type[Fake], task: Any, given: float) -> None:
    """Ten passes a trial: one stage for 10 to 20, both from there on."""
    model, x, y = task
    fake.cost = 10.0
    reach = 0.0 if given < 10 else 0.1 if given < 20 else 1.0
    found = tb.certify(model, x, y, SWEEP, options={"effort": given})
    assert torch.equal(found.verified, closed_form(task, SWEEP, reach))
    assert {r for r, _, _ in fake.asked} == {r for r in (0.1, 1.0) if r <= reach}
    assert found.options["effort"] == given
    out = found.options.get("left_out", {})
    expected = ["fake reach=0.1"] if 0 < given < 10 else ["fake reach=1.0"] if 10 <= given < 20 else []
    assert list(out) == expected
    assert all("forward passes" in why for why in out.values())
    radius = tb.certified_radius(model, x, y, options={"effort": given})
    plain = tb.certified_radius(model, x, y, domain="interval")
    assert (radius >= plain).all()
    assert torch.equal(radius, plain) == (given < 10)


@pytest.mark.parametrize(("given", "reach"), [(24.0, 0.1), (25.0, 1.0)])
def test_what_a_stage_paid_the_next_one_has_not(fake: type[Fake], task: Any, given: float, reach: float) -> None:
    """Ten passes a trial and five more that only the trial itself shows: 25 for a first stage and a second."""
    model, x, y = task
    fake.cost, fake.extra = 10.0, 5.0
    found = tb.certify(model, x, y, SWEEP, options={"effort": given})
    assert torch.equal(found.verified, closed_form(task, SWEEP, reach))
    assert {r for r, _, _ in fake.asked} == {r for r in (0.1, 1.0) if r <= reach}


def test_a_budget_in_seconds_is_read_as_effort(fake: type[Fake], task: Any) -> None:
    model, x, y = task
    for seconds, passes in ((0, 0.0), (0.25, effort.DEFAULT), (2.0, 8 * effort.DEFAULT), (float("inf"), None)):
        with pytest.warns(FutureWarning, match="read as effort") as told:
            found = tb.certify(model, x, y, SWEEP, options={"budget": seconds})
        assert len(told) == 1
        assert told[0].filename == __file__
        assert len(str(told[0].message).splitlines()) == 1
        assert found.options["effort"] == passes
        assert "budget" not in found.options


def test_an_interrupted_auto_goes_on(fake: type[Fake], task: Any, tmp_path: Path) -> None:
    """The second run asks nothing again that the first one finished, and comes to the same end."""
    model, x, y = task
    fake.at_once = 2
    fake.cost = 10.0
    options = {"effort": 25.0}
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
        again = tb.certify(model, x, y, SWEEP, options=options, resume=tmp_path)
        assert torch.equal(again.margin, whole.margin)
        assert again.options == whole.options
        # Nothing is asked for twice but the part that was cut off.
        assert set(fake.asked) == set(asked)
        assert len(fake.asked) <= len(asked) + 2
        assert not tmp_path.exists() or not any(tmp_path.iterdir())


ERRORS = [tb.InputError, AssertionError, IndexError, RuntimeError, TypeError, ZeroDivisionError]


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("error", ERRORS)
def test_a_domain_that_gives_up_leaves_the_proofs_so_far(fake: type[Fake], task: Any, error: type[Exception]) -> None:
    model, x, y = task
    plain = tb.certify(model, x, y, SWEEP, domain="interval")
    fake.error = error
    said = "" if error is tb.InputError else f"{error.__name__}: "
    fake.refuses = "asked"
    found = tb.certify(model, x, y, SWEEP)
    assert torch.equal(found.verified, plain.verified)
    assert found.options["left_out"] == {"fake reach=0.1": f"{said}fake cannot do this"}
    assert torch.equal(tb.certified_radius(model, x, y), tb.certified_radius(model, x, y, domain="interval"))
    fake.refuses = "made"
    found = tb.certify(model, x, y, SWEEP)
    assert list(found.options["proven_by"]) == ["interval"]
    assert found.options["left_out"] == {"fake": f"{said}fake takes no such network; interval does"}
    assert torch.equal(tb.certified_radius(model, x, y), tb.certified_radius(model, x, y, domain="interval"))
    bounds = [tb.logit_bounds(model, x, 0.05, domain=name) for name in ("auto", "interval")]
    assert torch.equal(bounds[0].lower, bounds[1].lower)
    for fake.refuses in ("asked", "made"):
        for call in (tb.certify, tb.certified_radius):
            with pytest.raises(tb.InputError) as told:
                call(model, x, y, *([0.1] if call is tb.certify else []), domain="fake")
            assert len(str(told.value).splitlines()) == 1


def test_a_domain_that_gives_up_on_one_epsilon_serves_the_others(fake: type[Fake], task: Any) -> None:
    model, x, y = task
    fake.refuses = "above 0.01"
    found = tb.certify(model, x, y, SWEEP)
    plain = tb.certify(model, x, y, SWEEP, domain="interval")
    assert torch.equal(found.verified[4], plain.verified[4])
    assert torch.equal(found.verified[:4], closed_form(task, SWEEP, 1.0)[:4])
    assert list(found.options["left_out"]) == ["fake reach=0.1"]


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_want_of_memory_is_no_reason_to_prove_less(fake: type[Fake], task: Any, error: type[Exception]) -> None:
    model, x, y = task
    fake.error, fake.refuses = error, "asked"
    for name in ("auto", "fake"):
        with pytest.raises(error):
            tb.certify(model, x, y, SWEEP, domain=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto", "fake", "interval"])
def test_a_timeout_cuts_and_says_so(fake: type[Fake], task: Any, name: str, tmp_path: Path) -> None:
    model, x, y = task
    whole = tb.certify(model, x, y, SWEEP, domain=name)
    assert whole.finished
    cut = tb.certify(model, x, y, SWEEP, domain=name, timeout=0, resume=tmp_path / "parts")
    assert not cut.finished
    assert not cut.verified.any()
    assert cut.to_json()["finished"] is False
    cut.save(tmp_path / "out")
    assert not tb.Certificate.load(tmp_path / "out").finished
    assert "the time that was given was over" in (tmp_path / "out" / "report.html").read_text("utf-8")
    again = tb.certify(model, x, y, SWEEP, domain=name, timeout=1e6, resume=tmp_path / "parts")
    assert again.finished
    assert torch.equal(again.margin, whole.margin)
    radii = tb.certified_radius(model, x, y, domain=name, timeout=0, details=True)
    assert not radii.finished
    assert (radii.radius == 0).all()
    with pytest.warns(RuntimeWarning, match="time"):
        tb.certified_radius(model, x, y, domain=name, timeout=0)
    for bad in (-1, float("nan"), "soon"):
        with pytest.raises(tb.InputError, match="timeout"):
            tb.certify(model, x, y, SWEEP, domain=name, timeout=bad)


def test_what_was_proven_before_the_timeout_stands(
    fake: type[Fake], task: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A clock that moves one second with each sample that the fake is asked for."""
    model, x, y = task
    fake.at_once = 2
    monkeypatch.setattr(effort, "time", SimpleNamespace(monotonic=lambda: float(len(fake.asked))))
    whole = tb.certify(model, x, y, SWEEP)
    asked = len(fake.asked)
    before = tb.certify(model, x, y, SWEEP, domain="interval").verified
    for seconds in (1, asked // 3, asked // 3):
        fake.asked.clear()
        cut = tb.certify(model, x, y, SWEEP, timeout=seconds, resume=tmp_path / "parts")
        assert not cut.finished
        assert (cut.verified <= whole.verified).all()
        assert (cut.verified >= before).all()
        before = cut.verified
        assert len(fake.asked) <= seconds + 2
    again = tb.certify(model, x, y, SWEEP, resume=tmp_path / "parts")
    assert torch.equal(again.margin, whole.margin)
    assert again.options == whole.options
    fake.asked.clear()
    cut = tb.certified_radius(model, x, y, timeout=30, details=True)
    assert not cut.finished
    assert (cut.radius >= tb.certified_radius(model, x, y, domain="interval")).all()
    assert (cut.radius <= tb.certified_radius(model, x, y)).all()


def test_progress_ends_at_all_rows(fake: type[Fake], task: Any) -> None:
    model, x, y = task
    for name in ("fake", "auto"):
        seen: list[tuple[int, int]] = []
        tb.certify(model, x, y, SWEEP, domain=name, progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen[-1] == (80, 80)
        assert all(0 <= done <= 80 for done, _ in seen)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("domain", ["fake", "auto"])
@pytest.mark.parametrize("holes", [(), ((2e-3, 8e-3), (0.02, 0.04), (0.12, 0.125))])
@pytest.mark.parametrize("rtol", [1e-2, 0.3])
def test_radius_was_proven_and_a_little_more_was_not(
    fake: type[Fake], task: Any, domain: str, holes: tuple[tuple[float, float], ...], rtol: float
) -> None:
    model, x, y = task
    fake.holes = holes
    found = tb.certified_radius(
        model, x, y, domain=domain, rtol=rtol, details=True, options={"effort": 1e9} if domain == "auto" else None
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
        layer.weight.copy_(torch.tensor([[1e-310], [0.0], [0.0]], dtype=torch.float64))
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


def test_two_domains_keep_their_chunks_apart(
    fake: type[Fake], task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intervals and a domain that takes all ε at once, as they do, are kept in one folder."""
    model, x, y = task
    monkeypatch.setattr(Fake, "shares", True)
    alone = tb.certify(model, x, y, SWEEP, domain="fake")
    fake.asked.clear()
    assert torch.equal(tb.certify(model, x, y, SWEEP, domain="fake", resume=tmp_path).margin, alone.margin)
    assert fake.asked
