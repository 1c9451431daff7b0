"""Networks without a gradient by their weights, as spikes without a surrogate have: one line, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.train import fit

X = torch.rand(12, 4, generator=torch.Generator().manual_seed(1))


class Steps(nn.Module):
    """A dense layer, compared with 0, and a little of the input, so that the classes differ."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense, self.step = nn.Linear(4, 3), step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.dense(x)) + 0.01 * x[:, :3]


STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "heaviside": lambda v: torch.heaviside(v, torch.zeros(1, dtype=v.dtype)),
    "comparison": lambda v: (v > 0).to(v.dtype),
}


def trained(model: nn.Module, y: Tensor, method: str) -> Any:
    return fit(model, (X, y), (X, y), method, epochs=1, progress=False)


@pytest.mark.parametrize("step", STEPS)
def test_one_line_says_what_is_missing(step: str) -> None:
    model = Steps(STEPS[step])
    y = model(X).argmax(1)
    calls = [lambda m=method: trained(model, y, m) for method in ("standard", "weight-attack", "awp", "ibp")]
    calls.append(lambda: tb.measure.shared_attack(model, X, y, [0.1]))
    calls += [lambda: tb.attack(model, X, y, [0.1])] * (step == "heaviside")
    for call in calls:
        with pytest.raises(tb.InputError, match="no gradient by its weights") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("step", STEPS)
def test_what_needs_none_does_without(step: str) -> None:
    model = Steps(STEPS[step])
    y = model(X).argmax(1)
    assert float(tb.certify(model, X, y, [1e-6]).verified_accuracy) > 0.5
    assert tb.mismatch(model, X, y, [0.0], samples=2).accuracy.eq(1.0).all()
    assert len(tb.random_attack(model, X, y, [0.1]).accuracy) == 1
