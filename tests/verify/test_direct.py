"""Exports that are read as they are: the same graphs and bounds as those of their decomposition."""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thetabox as tb
from tests.verify.linear import test_operators as cases
from tests.verify.linear import test_operators_structure as structure
from thetabox.models import LSNN
from thetabox.verify.network import network, operators, trace
from thetabox.verify.network.composites import WRITTEN_OUT
from thetabox.verify.network.graph import Graph, Ref
from thetabox.verify.network.nodes import is_core


class Everything(nn.Module):
    """Every operator that is taken as it is exported."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.b = nn.Parameter(torch.rand(4, 4) + 1), nn.Parameter(torch.rand(4))
        self.c1, self.c2 = nn.Conv1d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.c3 = nn.Conv2d(2, 2, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        y = torch.mm(F.linear(torch.addmm(self.b, x.abs() + self.b, self.w), self.w, self.b) @ self.w, self.w)
        y = F.gelu(F.elu(torch.cat([y, x], 1)[:, :4].clamp(-3, 3) / self.b).exp())
        for open_ in (y >= 0.0, y >= x, y > 0.0, y > x, y <= 0.0, y <= x, y < 0.0, y < x):
            y = torch.where(open_, y, x)
        y = F.leaky_relu(F.hardtanh(y) * self.b)
        y = (-(torch.maximum(y, x) - torch.minimum(y, self.b))).sigmoid()
        y = 1 - F.relu((y + 1).reciprocal())
        y = F.softplus(y.sign() * F.silu(y)).sqrt().tanh()
        z = F.avg_pool1d(F.max_pool1d(self.c1(torch.stack([y, y], 1)), 2, 1), 2, 1)
        u = F.avg_pool2d(F.max_pool2d(self.c3(self.c2(torch.stack([z, z], 2))), 2, 1), 1)
        count = (y.new_zeros(x.shape[0], 4) + self.b.expand(x.shape[0], -1) > 0.5).float().sum(1, keepdim=True)
        moved = self.moves(y) + self.curves(y)[:, :2] + self.groups(y)[:, :2]
        return z.transpose(1, 2).mean(1) + u.sum([2, 3]) + z.select(2, 0) + count + self.constants(y) + moved

    def curves(self, y: Tensor) -> Tensor:
        y = F.mish(F.hardswish(y)).erf() + F.logsigmoid(y) + (y.exp() + 1).log() + F.celu(y) + F.threshold(y, 0.1, -0.3)
        y = F.prelu(y.sin() + y.cos(), self.b)
        return y + y.floor() + y.ceil() + y.round() + y.trunc()

    def groups(self, y: Tensor) -> Tensor:
        kept = self.w[0] > 1.5
        y = y.masked_fill(kept, 0.3).softmax(1) + y.masked_fill(kept, self.b.sum()).log_softmax(1)
        y = (
            torch.ops.aten._softmax(y, 1, False)
            + torch.ops.aten._log_softmax(y, 1, False)
            - y.logsumexp(1, keepdim=True)
        )
        y = F.rms_norm(F.layer_norm(y, [4], self.b), [4]) + F.embedding(torch.arange(4), self.w).sum(0)
        y = F.instance_norm(F.group_norm(y.unsqueeze(1).expand(-1, 2, -1), 2))
        return F.scaled_dot_product_attention(y, y, y).sum(1)

    def constants(self, y: Tensor) -> Tensor:
        exact = torch.zeros(2) + torch.ones(2) + torch.full((2,), 0.5) + torch.arange(2)
        return y[:, :2] * exact + torch.ones_like(y[:, 2:]) - torch.zeros_like(y[:, :2]) * self.w.sum()

    def moves(self, y: Tensor) -> Tensor:
        v = F.pad(F.relu6(y.clone()) ** 2, (1, 1)).view(-1, 2, 3).permute(0, 2, 1)
        v = F.adaptive_avg_pool1d(v, 2) + F.adaptive_avg_pool2d(v.unsqueeze(1), (1, 2)).squeeze(1)
        first, second = v.split(2, 1)
        most = v.max(1).values + first.amax(1) - first.amin(1) + second.detach().squeeze(1)
        return most @ self.w[:2, :2].t()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "x"),
    [
        (Everything(), torch.rand(3, 4)),
        (LSNN(3, 5, 2), torch.rand(3, 4, 3)),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Unflatten(2, (3, 2)), nn.Linear(6, 3)),
            torch.rand(3, 1, 8, 8),
        ),
    ],
    ids=["every operator", "LSNN", "CNN"],
)
def test_an_export_that_is_not_decomposed_is_what_its_decomposition_would_be(
    net: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [renumbered(g) for g in network(net, x).graphs.values()]
    if isinstance(net, Everything):
        assert {o.operator for o in network(net, x).main.operations} >= operators.DIRECT
    monkeypatch.setattr(trace, "functional", lambda program: False)
    monkeypatch.setattr(trace, "_cache", WeakKeyDictionary())
    assert found == [renumbered(g) for g in network(net, x).graphs.values()]


def renumbered(graph: Graph) -> str:
    """What a graph does, whatever stood between its operations that does nothing."""
    places = {o.index: place for place, o in enumerate(graph.operations, graph.operations[0].index)}
    return re.sub(
        r"(?<=index=)\d+|(?<=\()\d+(?=, ')", lambda m: str(places.get(int(m[0]), int(m[0]))), graph.describe()
    )


def named(operator: str) -> Any:
    """An operator of torch, by its name; ``None`` of others."""
    _, name, overload = operator.split(".") if operator.startswith("aten.") else ("", "", "")
    return getattr(getattr(torch.ops.aten, name), overload) if name else None


# Written in other words, or as a copy, on the way of every case.
AROUND = ("aten.flatten.", "aten.reshape.", "aten.view.", "aten._unsafe_view.", "aten.sym_size.", "aten.clone.")
AROUND += ("aten.lift_fresh_copy.",)
CORE = {
    operator: case for operator, case in (cases.OPERATORS | structure.OPERATORS).items() if is_core(named(operator))
}


def test_operators_that_stand_for_no_others() -> None:
    found = {operator for operator in operators.RULED if is_core(named(operator))}
    assert found >= {"aten.relu.default", "aten.div.Tensor", "aten.rsqrt.default", "aten.view.default"}
    assert not found & {"aten.relu_.default", "aten.linear.default", "aten.dropout.default", "aten.softmax.int"}
    assert not found & (operators.DIRECT | operators.COMPOSITE | WRITTEN_OUT)


@pytest.mark.thin(7, quick=7)
@pytest.mark.parametrize("operator", sorted(CORE))
def test_an_operator_that_stands_for_no_others_is_left_as_it_is(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = cases.made((cases.CASES | structure.CASES)[CORE[operator]], True)

    def written() -> list[str]:
        monkeypatch.setattr(trace, "_cache", WeakKeyDictionary())
        operations = network(module, x).main.operations
        return [f"{o.operator} {plain(o.args)} {o.kwargs}" for o in operations if not o.operator.startswith(AROUND)]

    found = written()
    monkeypatch.setattr(trace, "functional", lambda program: False)
    assert found == written()
    assert operator.startswith(AROUND) or any(line.startswith(f"{operator} ") for line in found)


def plain(argument: Any) -> Any:
    """Without the places of operands."""
    if isinstance(argument, Ref):
        return "value"
    return [plain(a) for a in argument] if isinstance(argument, list | tuple) else argument


class InOtherWords(nn.Module):
    """What a decomposition writes in other words, and what it leaves out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(36, 3)
        self.dropout = nn.Dropout(0.5)
        with torch.no_grad():
            self.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]  # it has statistics
            self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]  # it has statistics

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(F.relu(self.norm(self.first(x)))).float()
        return self.last(self.dropout(h.reshape(-1, 2, 18).flatten(1)))


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["interval", "linear"])
@pytest.mark.parametrize("arithmetic", ["real", "float32"])
def test_other_words_for_the_same_bounds(domain: str, arithmetic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = InOtherWords().eval(), torch.rand(3, 1, 5, 5)
    met = {o.operator for o in network(net, x).main.operations}
    assert met >= operators.COMPOSITE - operators.RECURRENT.keys()  # which have tests of their own
    assert not met & {"aten.dropout.default", "aten._to_copy.default"}
    bounds = tb.logit_bounds(net, x, [0.0, 0.02], domain=domain, arithmetic=arithmetic)
    monkeypatch.setattr(trace, "functional", lambda program: False)
    assert not {o.operator for o in network(net, x).main.operations} & operators.COMPOSITE
    again = tb.logit_bounds(net, x, [0.0, 0.02], domain=domain, arithmetic=arithmetic)
    assert torch.equal(bounds.lower, again.lower)
    assert torch.equal(bounds.upper, again.upper)
