"""What goes to another process is there what it was here."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.user_code import object_at
from thetabox.verify import agreement, arguments
from thetabox.verify.effort import Deadline
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.problem import Problem
from thetabox.verify.search import bounds
from thetabox.workers.pickled import pickled, unpickled

BOX = tb.Box(exclude="*bias", scale={"0.*": 2.0})


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))[:, :3]


def problem(model: nn.Module, x: Tensor, box: tb.Box) -> Problem:
    chosen = arguments.settings("interval", box, "real", "float64", "cpu", None)
    asked = arguments.network(model, x, chosen)
    return agreement.checked_problem(asked.model, chosen, asked.x, torch.tensor([0.1]), asked.x_as_given)[0]


def margins(of: Problem, x: Tensor) -> Tensor:
    epsilon = torch.full((1, len(x)), 0.05, dtype=torch.float64)
    return bounds.margins(PlainIntervals(of), slice(None), epsilon, torch.zeros(len(x), dtype=torch.int64))


def sent(thing: Any) -> Any:
    return unpickled(pickled(thing))


@pytest.mark.parametrize("again", [sent, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("box", [tb.Box(), BOX, tb.Box(kind="absolute"), tb.Box(kind="range")])
def test_the_box_goes_along(again: Callable[[Any], Any], box: tb.Box) -> None:
    """Which tensors move is known by their identity: a copy whose tensors are others must not hold a box of nothing."""
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.rand(5, 4)
    here = problem(model, x, box)
    there = again(here)
    assert there.tensors.boxed == here.tensors.boxed
    assert torch.equal(margins(there, x), margins(here, x))
    assert not torch.equal(margins(there, x), margins(problem(model, x, tb.Box(exclude="0.*")), x))


def test_the_tensors_of_a_problem_alone_are_copied_with_their_box() -> None:
    here = problem(nn.Linear(4, 3), torch.rand(2, 4), tb.Box()).tensors
    for there in (sent(here), copy.deepcopy(here)):
        assert there.boxed == ["weight", "bias"]
        assert len(there.factors) == 2
        assert set(there.factors) == {id(value) for value in there.values.values()}


def test_tied_tensors_stay_tied() -> None:
    model = Tied()
    model.row = model.a.weight.detach()[0]
    model = sent(model)
    assert model.a.weight is model.b.weight
    with torch.no_grad():
        model.a.weight.zero_()
    assert not bool(model.row.any())
    x = torch.rand(3, 4)
    here = problem(Tied(), x, tb.Box())
    assert sent(here).tensors.boxed == here.tensors.boxed


def test_functions_of_no_module_go_along() -> None:
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda module, given, out: out + 1.0)
    x = torch.rand(3, 2)
    assert torch.equal(sent(model)(x), model(x))


@pytest.mark.slow
def test_a_class_of_a_file_goes_to_a_process_without_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine_alone.py"
    file.write_text(
        "import torch\n\ndef twice(x):\n    return 2.0 * x\n\n"
        "class Net(torch.nn.Linear):\n    def forward(self, x):\n        return twice(super().forward(x))\n"
    )
    model = object_at(f"{file}:Net", "network")(2, 2)
    data = tmp_path / "data"
    data.write_bytes(pickled(model))
    file.unlink()
    code = (
        "import sys, torch, pathlib; from thetabox.workers.pickled import unpickled; "
        f"model = unpickled(pathlib.Path({str(data)!r}).read_bytes()); print(model(torch.ones(1, 2)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == str(model(torch.ones(1, 2)).tolist())


def test_time_that_is_left_is_the_same_time_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent(Deadline()).left is None
    data = pickled(Deadline(100.0))
    left = unpickled(data).left
    assert left is not None
    assert 90.0 < left <= 100.0
    now = __import__("time").time
    monkeypatch.setattr("thetabox.verify.effort.time.time", lambda: now() + 60.0)  # it waited for a minute
    left = unpickled(data).left
    assert left is not None
    assert 30.0 < left <= 40.0
    monkeypatch.setattr("thetabox.verify.effort.time.time", lambda: now() - 3600.0)  # a clock that is late
    left = unpickled(data).left
    assert left is not None
    assert left <= 100.0
