"""What was proven is held against what the network itself returned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify.fake_domain import fake
from thetabox.verify import agreement, arguments
from thetabox.verify.agreement.claims import Observed, check_margins
from thetabox.verify.interpreter.rules import norms
from thetabox.verify.linear.domain import Linear
from thetabox.verify.linear.rules import curves

__all__ = ["fake"]

Task = tuple[nn.Module, Tensor, Tensor]
EPSILON = [0.0, 1e-3, 0.05]
WRONG = "the bounds are wrong, so there is no certificate"


@pytest.fixture
def task() -> Task:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(24, 4)
    return model, x, model(x).argmax(1)


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Margins and logits of the domain ``linear``, off by what a test says."""

    def by(change: Any) -> None:
        own, ends = Linear.margins, Linear.logits
        monkeypatch.setattr(Linear, "margins", lambda *args: change(own(*args), args[1]))

        def logits(*args: Any) -> Any:
            bounds = ends(*args)
            return tb.verify.Interval(change(bounds.lower, args[1]), bounds.upper)

        monkeypatch.setattr(Linear, "logits", logits)

    return by


@pytest.mark.parametrize("domain", ["linear", "auto"])
def test_a_bound_above_the_margin_is_no_certificate(task: Task, off: Any, domain: str) -> None:
    """Above it at the network's own weights, of a single sample."""
    model, x, y = task
    tb.certify(model, x, y, EPSILON, domain=domain)

    def one_more(bound: Tensor, which: Any) -> Tensor:
        return bound + torch.where(bound == bound.max(), 10.0, 0.0)

    off(one_more)
    with pytest.raises(tb.InputError, match=rf"domain '{domain}' says of sample \d+ at ε = .* margin.*{WRONG}"):
        tb.certify(model, x, y, [0.3], domain=domain)
    with pytest.raises(tb.InputError, match=rf"says of logit \d of sample \d+ that it lies in.*{WRONG}"):
        tb.logit_bounds(model, x, 0.3, domain=domain)


def test_what_holds_at_the_networks_weights_may_fail_in_the_box(task: Task, off: Any) -> None:
    """A domain that forgets ε: margins at the network's own weights, at every ε."""
    model, x, y = task
    logits = model(x).double().detach()
    margin = tb.certify(model, x, y, 0.0, domain="linear").margin[0]
    off(lambda bound, which: logits[which] if bound.shape[-1] == 3 else margin[which].expand_as(bound))
    tb.certify(model, x, y, 0.0, domain="linear")
    with pytest.raises(tb.InputError, match=WRONG):
        tb.certify(model, x, y, 0.2, domain="linear")
    with pytest.raises(tb.InputError, match=WRONG):
        tb.logit_bounds(model, x, 0.2, domain="linear")


def test_the_radius_is_held_against_moved_weights(task: Task, off: Any) -> None:
    """A domain that proves everything, at points of the box at which the network answers otherwise."""
    model, x, _ = task
    model[0].weight.data *= 0.02
    model[0].bias.data = torch.tensor([1.0] * 16)
    model[2].weight.data = torch.randn(3, 16)
    model[2].bias.data -= model(x).mean(0)
    y = model(x).argmax(1)
    off(lambda bound, which: torch.full_like(bound, 1e-9))
    with pytest.raises(tb.InputError, match=WRONG):
        tb.certified_radius(model, x, y, domain="linear")


def test_float32_is_held_against_the_network_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network rounds in exp, left out backwards: wrong by a few units in the last place."""

    class Exponential(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.full((3,), 2.0**-40))

        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(x + self.bias)

    torch.manual_seed(0)
    model, x = Exponential(), 0.1 * torch.randn(200, 3)
    y = model(x).argmax(1)
    options = {"domain": "linear", "arithmetic": "float32"}
    tb.logit_bounds(model, x, 0.0, **options)
    monkeypatch.setattr(curves, "library_error", lambda samples, operation: 0.0)
    monkeypatch.setattr("thetabox.verify.search.bounds.intersected", lambda one, other: other)
    with pytest.raises(tb.InputError, match=WRONG):
        tb.logit_bounds(model, x, 0.0, **options)
    with pytest.raises(tb.InputError, match=WRONG):
        tb.certify(model, x, y, [0.0], **options)


def test_a_network_that_overflows_in_float32_is_no_number_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group norm multiplies its weight by 1 / sqrt(variance + eps) first; a rule that forgets it is found out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.GroupNorm(1, 4), nn.Linear(4, 3))
    model[0].weight.data.fill_(5e37)
    model[1].weight.data *= 1e-35
    x = 1e-6 * torch.randn(6, 4)
    assert model(x).isnan().all()
    y = torch.zeros(6, dtype=torch.long)
    options = {"arithmetic": "float32", "domain": "interval"}
    assert not tb.certify(model, x, y, 0.0, **options).verified.any()
    assert tb.logit_bounds(model, x, 0.0, **options).upper.isinf().all()
    monkeypatch.setattr(norms, "_factor_first", lambda *_: torch.zeros(()))
    with pytest.raises(tb.InputError, match="in float32 lies outside the bounds at ε = 0"):
        tb.logit_bounds(model, x, 0.0, **options)


def test_bounds_of_what_is_no_number_are_wrong(task: Task) -> None:
    model, x, y = task
    settings = arguments.settings("auto", None, "float32", "float64", "auto", None)
    problem, agreed = agreement.checked_problem(model, settings, x, torch.zeros(1, dtype=torch.float64), x)
    at_zero = torch.zeros(1, len(x), dtype=torch.float64)
    gone = [replace(agreed.observed[-1], logits=torch.full((len(x), 3), torch.nan, dtype=torch.float64))]
    agreement.check_margins(problem, gone, y, at_zero[:, 0], at_zero - 1.0)
    for claimed in (at_zero, at_zero + 1e-3):  # a sign is claimed as 0
        with pytest.raises(tb.InputError, match=WRONG):
            agreement.check_margins(problem, gone, y, at_zero[:, 0], claimed)
    agreement.check_margins(problem, gone, y, at_zero[:, 0], torch.full_like(at_zero, torch.nan))
    nothing = torch.full((1, len(x), 3), torch.inf, dtype=torch.float64)
    agreement.check_logits(problem, gone, at_zero, -nothing, nothing)
    with pytest.raises(tb.InputError, match=WRONG):
        agreement.check_logits(problem, gone, at_zero, -nothing, torch.zeros_like(nothing))


def test_functions_behind_the_logits_leave_their_order_to_compare(task: Task, off: Any) -> None:
    model, x, y = task
    ended = nn.Sequential(model, nn.Softmax(1))
    assert tb.certify(ended, x, y, EPSILON, domain="linear").verified[0].all()
    off(lambda bound, which: torch.full_like(bound, 1e-9))
    assert tb.certify(ended, x, y, 0.0, domain="linear").verified.all(), "they are right"
    wrong = (y + 1) % 3
    with pytest.raises(tb.InputError, match="at least 0, where the network itself has -"):
        tb.certify(ended, x, wrong, 0.0, domain="linear")


def test_what_rounding_makes_is_no_contradiction() -> None:
    """Sums that cancel: double precision itself is off by more than the comparison by numbers allows."""
    model = nn.Linear(3, 2).double()
    model.weight.data = torch.tensor([[1e16, 1.0, -1e16], [0.0, 0.25, 0.0]], dtype=torch.float64)
    model.bias.data.zero_()
    x = torch.ones(1, 3, dtype=torch.float64)
    found = tb.certify(model, x, torch.tensor([0]), 0.0)
    assert found.margin.isfinite().all()
    settings = arguments.settings("auto", None, "real", "float64", "auto", None)
    problem, agreed = agreement.checked_problem(model, settings, x, torch.zeros(1, dtype=torch.float64), x)
    (own,) = agreed.observed
    at_zero = torch.zeros(1, dtype=torch.float64)
    claim = torch.tensor([[0.75]], dtype=torch.float64)  # true: 1 - 1/4
    off = Observed(0.0, own.samples, own.logits - torch.tensor([[1.0, 0.0]]), own.tolerance)
    agreement.check_margins(problem, [off], torch.tensor([0]), at_zero, claim)
    with pytest.raises(tb.InputError, match=WRONG):
        agreement.check_margins(problem, [off], torch.tensor([0]), at_zero, claim + 1e4)


@pytest.mark.parametrize("samples", [1, 7, 20])
@pytest.mark.parametrize("inputs", [3, 16, 64])
def test_sums_that_cancel_are_no_other_function_in_another_batch(samples: int, inputs: int) -> None:
    """Torch sums a batch of another size in another order; the graph does so too."""
    model = nn.Sequential(nn.Linear(inputs, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[0].weight[:, 0], model[0].weight[:, -1] = 1e16, -1e16
    x = 1.0 + torch.rand(samples, 1, dtype=torch.float64).expand(samples, inputs)
    found = tb.certify(model, x, torch.zeros(samples, dtype=torch.long), [0.0, 1e-3])
    assert not found.verified.any()
    assert found.margin.isfinite().all()


def test_a_second_opinion_is_no_claim(task: Task, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain that proves nothing says what it likes."""
    model, x, y = task
    monkeypatch.setattr(agreement, "check_margins", check_margins)
    assert not tb.certify(model, x, (y + 1) % 3, 0.0, domain="unsound").sound
    with pytest.raises(tb.InputError, match=WRONG):
        tb.certify(model, x, (y + 1) % 3, 0.0, domain="fake")


def test_every_level_whose_box_holds_the_weights_is_compared() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(2, 2).double(), torch.ones(1, 2, dtype=torch.float64), torch.tensor([0])
    settings = arguments.settings("auto", None, "real", "float64", "auto", None)
    problem, _ = agreement.checked_problem(model, settings, x, torch.zeros(1, dtype=torch.float64), x)
    given = [Observed(0.1, torch.tensor([0]), torch.tensor([[3.0, 1.0]], dtype=torch.float64), 1e-3, exact=True)]
    levels = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)

    def claims(*bounds: float) -> None:
        agreement.check_margins(problem, given, y, levels, torch.tensor(bounds, dtype=torch.float64)[:, None])

    claims(9.0, 2.0, 1.0)  # weights that are not in the box of the first
    claims(9.0, 2.0 + 5e-3, 1.0)  # off by what the answer may be off by
    for bounds in ((0.0, 2.1, 1.0), (0.0, 1.0, 2.1), (0.0, torch.nan, 2.1)):
        with pytest.raises(tb.InputError, match=WRONG):
            claims(*bounds)

    own = given[0].logits.expand(3, 1, 2)
    epsilon = levels[:, None]

    def holds(lower: Tensor, upper: Tensor) -> None:
        agreement.check_logits(problem, given, epsilon, lower, upper)

    holds(own + torch.tensor([1.0, 0.0, 0.0])[:, None, None], own)
    holds(own + 2e-3, own - 2e-3)
    for place in (1, 2):
        off = torch.zeros(3, 1, 1, dtype=torch.float64)
        off[place] = 0.1
        with pytest.raises(tb.InputError, match=r"logit 0 of sample 0 that it lies in \[3.1"):
            holds(own + off, own + 1.0)
        with pytest.raises(tb.InputError, match="the network itself has 3"):
            holds(own - 1.0, own - off)
