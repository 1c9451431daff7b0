"""Operators on polynomials: no number of a polynomial is taken for anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.evaluation import Evaluation
from thetabox.verify.histories.description.symbolic import Symbolic
from thetabox.verify.network.trace import trace

X = torch.tensor([[1.5, -2.0, 3.0]] * 2)


class Holding(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("two", torch.tensor([2.0]))
        self.register_buffer("twos", torch.full((3,), 2.0))
        self.register_buffer("some", torch.tensor([True, False, True]))
        self.register_buffer("places", torch.tensor([2, 0, 1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def answered(function: Callable[[Any, Tensor], Tensor]) -> tuple[Algebra, Tensor]:
    """The algebra, and the polynomials of the answer."""
    model, algebra = Holding(function), Algebra()
    graph = trace(model, model, "forward", [torch.zeros(1, 3)])
    maker = Symbolic(algebra, graph)
    x = maker.literals(X)
    leaves: dict[int, Callable[[], Tensor]] = {graph.inputs[0]: lambda: x}
    for index, name in graph.tensors.items():
        leaves[index] = lambda name=name: maker.literals(getattr(model, name))
    for index, value in graph.constants.items():
        leaves[index] = lambda value=value: maker.literals(value)
    return algebra, Evaluation(algebra, graph, leaves).outputs()[0]


FUNCTIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "power": lambda m, x: x**3,
    "power of a tensor": lambda m, x: x**m.two,
    "power of several": lambda m, x: x**m.twos,
    "number to a power": lambda m, x: 2.0**x,
    "alpha": lambda m, x: torch.add(x, m.twos, alpha=2.5),
    "clamped by tensors": lambda m, x: torch.clamp(x, -m.two, m.twos),
    "lerp": lambda m, x: torch.lerp(x, m.twos, m.two),
    "lerp by a number": lambda m, x: torch.lerp(x, m.twos, 0.25),
    "divided": lambda m, x: x / m.two,
    "divided down": lambda m, x: torch.div(x, m.two, rounding_mode="floor"),
    "sum of its own type": lambda m, x: x.sum(1, keepdim=True, dtype=torch.float64).float(),
    "sum in whole numbers": lambda m, x: x.sum(1, keepdim=True, dtype=torch.int64).float(),
    "chosen places": lambda m, x: x[:, m.places],
    "filled": lambda m, x: torch.full_like(x, 2.5) + x.new_full((3,), 1.5),
    "padded": lambda m, x: torch.constant_pad_nd(x, (1, 1), 0.5),
    "whole numbers padded with a half": lambda m, x: torch.constant_pad_nd((x > 0).long(), (1, 1), 0.5).float(),
    "truths padded": lambda m, x: torch.constant_pad_nd(x > 0, (1, 1), 0.5).float(),
    "where": lambda m, x: torch.where(m.some, x, m.twos),
    "masked fill": lambda m, x: x.masked_fill(m.some, 0.5),
    "masked fill by a tensor": lambda m, x: x.masked_fill(x > 0, m.two[0]),
    "masked fill in whole numbers": lambda m, x: (x > 0).long().masked_fill(m.some, 3).float(),
    "threshold": lambda m, x: nn.functional.threshold(x, 1.5, 0.25),
    "batch norm": lambda m, x: nn.functional.batch_norm(x, m.twos, m.two.expand(3), m.two.expand(3), m.twos, eps=0.0),
    "addcmul": lambda m, x: torch.addcmul(x, m.twos, m.two, value=0.5),
    "leaky": lambda m, x: nn.functional.leaky_relu(x, 0.5),
}
KNOWN = {
    "power", "alpha", "clamped by tensors", "lerp", "lerp by a number", "divided", "sum of its own type",
    "chosen places", "filled", "padded", "where", "addcmul",
    "masked fill", "masked fill by a tensor", "masked fill in whole numbers", "threshold",
}  # words, several to a line  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_answer_is_torch_s_or_unknown(name: str) -> None:
    algebra, found = answered(FUNCTIONS[name])
    expected = FUNCTIONS[name](Holding(FUNCTIONS[name]), X).double()
    numbers = [algebra.value(p) for p in found.reshape(-1).tolist()]
    for number, wanted in zip(numbers, expected.reshape(-1).tolist(), strict=True):
        assert number is None or float(number) == pytest.approx(wanted, rel=1e-6)
    assert (None not in numbers) or name not in KNOWN
