"""Branch and bound over spikes that stops for want of effort, and goes on with what others leave."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import thetabox as tb
from tests.verify.histories.test_histories import domain, larger
from thetabox.verify.effort import Meter
from thetabox.verify.histories.engine import step_passes
from thetabox.verify.unfinished import Unfinished

pytestmark = pytest.mark.usefixtures("traced_once")


def paid(samples: int, passes: float) -> Meter:
    return Meter(torch.full((samples,), passes, dtype=torch.float64))


@pytest.mark.slow
def test_company_proves_more_and_never_less() -> None:
    model, x, y = larger(3)
    options = {"effort": 110.0}
    gained = 0
    for epsilon in (4e-3, 8e-3):
        together = tb.certify(model, x, y, epsilon, options=options).verified[0]
        own = [tb.certify(model, x[n, None], y[n, None], epsilon, options=options).verified[0] for n in range(len(x))]
        alone = torch.cat(own)
        assert (together >= alone).all()
        gained += int(together.sum() - alone.sum())
    assert gained > 0


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [4e-3, 8e-3])
def test_a_search_that_went_on_ends_as_one_that_never_stopped(epsilon: float) -> None:
    model, x, y = larger(3)
    rows = torch.full((1, len(x)), epsilon, dtype=torch.float64)

    def margins(found: object, which: Tensor) -> Tensor:
        return found.margins(which, rows[:, which], y)[0]  # type: ignore[attr-defined]  # a domain

    whole = domain(model, x, histories=4, splits=4096)
    whole.meter = paid(len(x), 4000.0)
    expected = margins(whole, torch.arange(len(x)))
    parted = domain(model, x, histories=4, splits=4096)
    parted.unfinished = Unfinished(100)
    parted.meter = paid(len(x), 40.0)
    first = margins(parted, torch.arange(len(x)))
    promises = torch.tensor([parted.unfinished.promise((n, epsilon)) for n in range(len(x))], dtype=torch.float64)
    assert (promises[first > 0] < 0).all()
    assert (promises < 1).all(), "a share of the proof stands, and not all of it"
    assert (promises > 0).any()
    open_ = (promises >= 0).nonzero().squeeze(1)
    assert len(open_), "no search was cut"
    parted.meter = paid(len(open_), 3960.0 + step_passes(1))
    found = margins(parted, open_)
    proven = expected[open_] > 0
    assert torch.equal(found > 0, proven)
    torch.testing.assert_close(found[proven], expected[open_][proven], rtol=0, atol=1e-9)
    assert torch.equal(first > 0, (expected > 0) & ~torch.isin(torch.arange(len(x)), open_[proven]))
