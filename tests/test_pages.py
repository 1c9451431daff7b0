"""What the pages show runs, and is what they say."""

from __future__ import annotations

import importlib.machinery
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import thetabox as tb
from thetabox.cli import thetabox
from thetabox.train.methods import METHODS
from thetabox.verify import domains
from thetabox.verify.interpreter.rules.table import TABLE
from thetabox.verify.linear import BACKWARD
from thetabox.verify.linear.walk import Walk

DOCS = Path(__file__).parents[1] / "docs"
OPERATOR = "aten.asinh.default"


class Arctangent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.asinh(x)


def blocks(page: str) -> list[str]:
    """Python of a page, without lines for a table of tests."""
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    return [block for block in found if not block.startswith('"')]


@pytest.mark.slow
def test_workers_of_the_page(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(blocks("cluster.md")[0])
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, cwd=Path.cwd(), timeout=120)
    assert done.stdout.startswith("tensor(["), done.stderr


@pytest.mark.long
def test_workers_of_the_page_without_what_keeps_them_from_starting_workers(tmp_path: Path) -> None:
    """One line, with the mend."""
    file = tmp_path / "mine.py"
    file.write_text(blocks("cluster.md")[0].replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, cwd=Path.cwd(), timeout=300)
    assert "put that below `if __name__ == '__main__':`" in done.stderr.strip().splitlines()[-1]


def test_a_method_of_the_page_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("\n".join(blocks("write-a-method.md")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    command = ["train", "--task", "digits", "--epochs", "1", "--method", "standard+mine:SmallLogits"]
    done = CliRunner().invoke(thetabox, [*command, "--set", "penalty=0.1", "--out", "model.safetensors"])
    assert done.exit_code == 0, done.output
    for method, told in (
        ("mine:Absent", "no training method"),
        ("absent:Mine", "cannot import"),
        ("mine:dataclass", "no training method"),
    ):
        done = CliRunner().invoke(
            thetabox, ["train", "--task", "digits", "--method", method, "--out", "other.safetensors"]
        )
        assert done.exit_code == 2
        assert told in done.output
    sys.modules.pop("mine")


def test_a_domain_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    space: dict[str, Any] = {}
    exec(blocks("write-a-domain.md")[0], space)
    module = types.ModuleType("my_package_corners")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    module.Corners = space["Corners"]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(domains.DOMAINS, "corners", f"{module.__name__}:Corners")
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4)
    y = net(x).argmax(1)
    found = tb.certify(net, x, y, [0.0, 0.1], domain="corners", options={"count": 3}, criterion="logits")
    proven = tb.certify(net, x, y, [0.0, 0.1], domain="linear")
    assert not found.sound
    assert (found.margin[0] > 0).all()
    assert (tb.logit_bounds(net, x, 0.1, domain="corners").upper <= tb.logit_bounds(net, x, 0.1).upper).all()
    assert proven.sound


def test_the_number_of_methods() -> None:
    words = {16: "Sixteen", 17: "Seventeen", 18: "Eighteen", 19: "Nineteen", 20: "Twenty"}
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert f"{words[len(METHODS)]} methods are built in" in readme


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
def test_a_backward_rule_of_the_page_owes_what_a_float32_network_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run shows it, for torch is more exact than what is allowed for: so what is taken off is looked at."""
    owed, penalty = [], Walk.penalty

    def noted(walk: Walk, a: Tensor, z: Tensor, relative: Any, least: Any = 0.0) -> None:
        owed.append((sys._getframe(1).f_code.co_name, float(torch.as_tensor(relative).min())))
        penalty(walk, a, z, relative, least)

    monkeypatch.setattr(Walk, "penalty", noted)
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), Arctangent(), nn.Linear(6, 3)), torch.randn(8, 4)
    bounds = tb.logit_bounds(net, x, 0.0, domain="linear", arithmetic="float32")
    own = [relative for rule, relative in owed if rule == "inverse_sine_backward"]
    assert own
    assert min(own) >= torch.finfo(torch.float32).eps / 2
    answer = net(x).detach().double()
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
