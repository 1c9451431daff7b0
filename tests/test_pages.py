"""What the pages show runs, and is what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify.interpreter.rules.table import TABLE
from thetabox.verify.linear import BACKWARD

DOCS = Path(__file__).parents[1] / "docs"
OPERATOR = "aten.atan.default"


class Arctangent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.atan(x)


def blocks(page: str) -> list[str]:
    """Python of a page, without lines for a table of tests."""
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in found if not block.startswith('"')]


@pytest.fixture
def with_rules() -> Iterator[None]:
    assert OPERATOR not in TABLE
    assert OPERATOR not in BACKWARD
    space: dict[str, object] = {}
    try:
        for block in blocks("write-a-rule.md"):
            exec(block, space)
        yield
    finally:
        TABLE.pop(OPERATOR, None)
        BACKWARD.pop(OPERATOR, None)


@pytest.mark.parametrize("options", [{}, {"intermediate": "interval"}, {"intermediate": "backward"}], ids=str)
@pytest.mark.usefixtures("with_rules")
def test_a_rule_of_the_page_holds(options: dict[str, str]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), Arctangent(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    x, epsilon = torch.randn(8, 4, dtype=torch.float64), 0.1
    bounds = tb.logit_bounds(net, x, epsilon, domain="linear" if options else "interval", options=options)
    at_zero = tb.logit_bounds(net, x, 0.0, domain="linear" if options else "interval", options=options)
    with torch.no_grad():
        answer = net(x)
        assert (at_zero.upper - at_zero.lower).max() < 1e-9
        assert ((at_zero.lower <= answer) & (answer <= at_zero.upper)).all()
        own = [p.clone() for p in net.parameters()]
        for _ in range(200):
            for p, value in zip(net.parameters(), own, strict=True):
                p.copy_(value * (1 + epsilon * (1 - 1e-9) * torch.randn_like(value).sign()))
            answer = net(x)
            assert ((bounds.lower <= answer) & (answer <= bounds.upper)).all()


@pytest.mark.usefixtures("with_rules")
def test_a_backward_rule_of_the_page_is_tighter() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 9), Arctangent(), nn.Linear(9, 9), Arctangent(), nn.Linear(9, 3)).double()
    x = torch.randn(8, 4, dtype=torch.float64) / 4
    found = tb.logit_bounds(net, x, 0.01, domain="linear")
    BACKWARD.pop(OPERATOR)
    without = tb.logit_bounds(net, x, 0.01, domain="linear")
    assert (found.upper - found.lower).mean() < (without.upper - without.lower).mean()
