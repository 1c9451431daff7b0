"""Backward rules owe what a float32 network rounds, as interval rules do: the bounds of both speak of that network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from tests.verify.linear import test_operators as cases
from tests.verify.linear import test_operators_structure as structure
from thetabox.box import Box
from thetabox.verify.linear import BACKWARD, Linear
from thetabox.verify.linear.walk import Walk
from thetabox.verify.network.operators import RELU

pytestmark = pytest.mark.usefixtures("traced_once")

# Their results are numbers that are there already, or the largest of some; what is looked at rounds nothing.
EXACT = (
    *RELU, "abs.", "relu6.", "hardtanh.", "clamp", "max_pool", "nearest", "gather.", "index", "where.", "embedding.",
    "expand.", "repeat", "pad", "flip.", "im2col.", "unfold.", "slice", "select", "getitem", "clone.", "copy",
)  # words, several to a line  # fmt: skip


@pytest.fixture
def taken_off(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the rules of an operator take off for rounding, summed over all coefficients."""
    sums: dict[str, float] = {}
    running: list[str] = []
    penalty = Walk.penalty

    def noted(walk: Walk, a: Tensor, z: Tensor, relative: float | Tensor, least: float | Tensor = 0.0) -> None:
        if running:
            lost = torch.as_tensor(z * relative + least, dtype=a.dtype)
            sums[running[-1]] = sums.get(running[-1], 0.0) + float((a.abs() * lost[:, None]).sum())
        penalty(walk, a, z, relative, least)

    def named(operator: str) -> Callable[..., None]:
        rule = BACKWARD[operator]

        def named_rule(*given: object) -> None:
            running.append(operator)
            try:
                rule(*given)  # type: ignore[arg-type]  # passed on as they come
            finally:
                running.pop()

        return named_rule

    monkeypatch.setattr(Walk, "penalty", noted)
    for operator in BACKWARD:
        monkeypatch.setitem(BACKWARD, operator, named(operator))
    return sums


CASES = {operator: cases.CASES[name] for operator, name in cases.OPERATORS.items()}
CASES |= {operator: structure.CASES[name] for operator, name in structure.OPERATORS.items() if operator not in CASES}


@pytest.mark.thin(quick=13)
@pytest.mark.parametrize("operator", [name for name in CASES if not any(exact in name for exact in EXACT)])
def test_a_rule_takes_off_what_the_network_rounds(operator: str, taken_off: dict[str, float]) -> None:
    lost = {}
    module, x = cases.made(CASES[operator], False)
    for arithmetic in ("real", "float32"):
        taken_off.clear()
        domain = Linear(cases.problem_of(module, x, Box(), arithmetic), {"intermediate": "interval"})
        with torch.no_grad():
            samples = domain.samples(x, torch.zeros(len(x), dtype=torch.float64))
            domain.walked(samples, cases.rows().expand(len(x), -1, -1))
        lost[arithmetic] = taken_off.get(operator, 0.0)
    # One roundoff of float32 is half a billion of those of float64, of which a rule allows for some hundreds.
    assert lost["float32"] == 0.0 or lost["float32"] > 1e4 * lost["real"]


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "exp of a sum": lambda h: torch.exp(h + 0.25),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "erf": torch.erf,
    "logsigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
    "sin": torch.sin,
    "cos": torch.cos,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "log": lambda h: torch.log(h.abs() + 0.5),
    "log1p": lambda h: torch.log1p(h.abs()),
    "sqrt": lambda h: torch.sqrt(h.abs() + 0.5),
    "square": lambda h: h**2,
    "leaky_relu": lambda h: F.leaky_relu(h, 0.3),
    "a third": lambda h: h / 3.0,
    "softmax": lambda h: h.softmax(1) * 2.0,
    "layer_norm": lambda h: F.layer_norm(h, (4,)) * 0.5,
}


class Last(nn.Module):
    """A function of small numbers that are hardly rounded, whose own error is that of the logits."""

    def __init__(self, function: Callable[[Tensor], Tensor], size: float, shift: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.function = nn.Linear(2, 4), function
        with torch.no_grad():
            self.layer.weight.mul_(size)
            self.layer.bias.mul_(size).add_(shift)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.function(self.layer(x))
        return answer


@pytest.mark.thin(3, quick=5)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("size", "shift"), [(1e-3, 0.0), (1e-2, 1.0), (1.0, -4.0)])
def test_what_torch_computes_lies_inside(name: str, size: float, shift: float) -> None:
    net, x = Last(FUNCTIONS[name], size, shift), torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answer = net(x).double()
    for domain in ("interval", "linear"):
        bounds = tb.logit_bounds(net, x, 0.0, domain=domain, arithmetic="float32")
        assert ((bounds.lower <= answer) & (answer <= bounds.upper)).all()
