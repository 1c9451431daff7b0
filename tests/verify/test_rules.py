"""Every operator that has a rule, put through the contract."""

from __future__ import annotations

import importlib
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.verify import test_rules_attention, test_rules_recurrent  # noqa: F401  # they join the contract
from tests.verify.contract import Case, Probe, RuleContract, probe
from thetabox.verify.interpreter.rules.table import TABLE
from thetabox.verify.network.trace import trace

pytestmark = pytest.mark.usefixtures("traced_once")

IMAGE, SIGNAL = (2, 5, 6), (2, 9)


def batch_norm(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if value.is_floating_point():
                value.copy_(torch.linspace(0.3, 1.7, value.numel()) * (-1 if name == "weight" else 1))
    return module.eval()


class Spike(torch.autograd.Function):
    """The surrogate spike, as users write it."""

    @staticmethod
    def forward(ctx: object, v: Tensor) -> Tensor:
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class TestElementwise(RuleContract):
    cases: ClassVar = {
        "add": Case(lambda h, g: h + g),
        "add number": Case(lambda h, g: h + 0.1, tight=True),
        "add alpha": Case(lambda h, g: torch.add(h, g, alpha=-3)),
        "add alpha number": Case(lambda h, g: torch.add(h, 2, alpha=3), tight=True),
        "subtract": Case(lambda h, g: h - g),
        "subtract alpha": Case(lambda h, g: torch.sub(h, g, alpha=0.7)),
        "from number": Case(lambda h, g: 0.3 - h, tight=True),
        "rsub": Case(lambda h, g: torch.rsub(h, g)),
        "negate": Case(lambda h, g: -h, tight=True),
        "times": Case(lambda h, g: h * g),
        "times nonnegative": Case(lambda h, g: h.relu() * g),
        "both nonnegative": Case(lambda h, g: h.relu() * g.abs()),
        "times number": Case(lambda h, g: h * -0.7, tight=True),
        "times tensor": Case(lambda h, g: h * torch.tensor([0.5, -0.25, 0.0, 3.0]), tight=True),
        "square by itself": Case(lambda h, g: h * h),
        "minus itself": Case(lambda h, g: h - h),
        "read again": Case(lambda h, g: (h + g) * h - h.relu() * g + (g - h)),
        "chain": Case(lambda h, g: 0.5 - ((h - g) * -0.7 + 0.1).relu().clamp(max=0.9)),
        "divide by number": Case(lambda h, g: h / 3, tight=True),
        "divide by power of two": Case(lambda h, g: h / -8, tight=True),
        "divide": Case(lambda h, g: h / (g.abs() + 1)),
        "divide through zero": Case(lambda h, g: torch.sigmoid(1 / h) + (1 / g).clamp(-3, 3), smooth=False),
        "number divided": Case(lambda h, g: 2 / (h.abs() + 0.5)),
        "reciprocal": Case(lambda h, g: torch.reciprocal(h.exp() + 1)),
        "square": Case(lambda h, g: h**2),
        "cube": Case(lambda h, g: h**3, tight=True),
        "power -1": Case(lambda h, g: (h.abs() + 1) ** -1),
        "root": Case(lambda h, g: (h.relu() + 0.1).sqrt(), tight=True),
        "power 0.5": Case(lambda h, g: (h.exp() + 1) ** 0.5, tight=True),
        "rsqrt": Case(lambda h, g: torch.rsqrt(h.exp() + 1)),
        "relu": Case(lambda h, g: h.relu(), tight=True),
        "relu in place": Case(lambda h, g: F.relu(h, inplace=True), tight=True),
        "relu of relu": Case(lambda h, g: h.relu().relu(), tight=True),
        "relu6": Case(nn.ReLU6(), tight=True),
        "leaky relu": Case(nn.LeakyReLU(0.1), tight=True),
        "steep leaky relu": Case(nn.LeakyReLU(1.7), tight=True),
        "clamp": Case(lambda h, g: h.clamp(-0.3, 0.4), tight=True),
        "clamp below": Case(lambda h, g: h.clamp(min=0.1), tight=True),
        "clamp above": Case(lambda h, g: h.clamp(max=0.1), tight=True),
        "clamp_min": Case(lambda h, g: torch.clamp_min(h, -0.2), tight=True),
        "clamp_max": Case(lambda h, g: torch.clamp_max(h, 0.2), tight=True),
        "hardtanh": Case(nn.Hardtanh(), tight=True),
        "hardtanh of its own": Case(nn.Hardtanh(-0.1, 0.7), tight=True),
        "hardsigmoid": Case(nn.Hardsigmoid(), tight=True),
        "sigmoid": Case(nn.Sigmoid(), tight=True),
        "tanh": Case(nn.Tanh(), tight=True),
        "lerp": Case(lambda h, g: torch.lerp(h, g, 0.3)),
        "lerp with a constant": Case(lambda h, g: torch.lerp(h, torch.full_like(h, 0.2), 0.8), tight=True),
        "lerp beyond": Case(lambda h, g: torch.lerp(h, g, 1.7)),
        "lerp before": Case(lambda h, g: torch.lerp(h, g, -0.6)),
        "atan": Case(lambda h, g: h.atan(), tight=True),
        "asin": Case(lambda h, g: (h * 0.4).clamp(-0.9, 0.95).asin(), tight=True),
        "asin of all": Case(lambda h, g: torch.asin(h.clamp(-1, 1))),
        "acos": Case(lambda h, g: (h * 0.4).clamp(-0.9, 0.95).acos(), tight=True),
        "sinh": Case(lambda h, g: h.sinh(), tight=True),
        "cosh": Case(lambda h, g: h.cosh()),
        "cosh of nonnegative": Case(lambda h, g: h.relu().cosh(), tight=True),
        "tan": Case(lambda h, g: h.clamp(-1.2, 1.3).tan(), tight=True),
        "exp2": Case(lambda h, g: h.exp2(), tight=True),
        "expm1": Case(lambda h, g: h.expm1(), tight=True),
        "log2": Case(lambda h, g: (h.relu() + 0.1).log2(), tight=True),
        "log10": Case(lambda h, g: (h.relu() + 0.1).log10(), tight=True),
        "erfc": Case(lambda h, g: h.erfc(), tight=True),
        "arc sine by another name": Case(lambda h, g: torch.arcsin((h * 0.4).clamp(-0.9, 0.95)), tight=True),
        "exp2 by another name": Case(lambda h, g: torch.special.exp2(h), tight=True),
        "expm1 by another name": Case(lambda h, g: torch.special.expm1(h), tight=True),
        "erfc by another name": Case(lambda h, g: torch.special.erfc(h), tight=True),
        "logaddexp": Case(lambda h, g: torch.logaddexp(h, g), tight=True),
        "logaddexp2": Case(lambda h, g: torch.logaddexp2(h, g), tight=True),
        "hypot": Case(lambda h, g: torch.hypot(h, g.abs() + 0.1)),
        "hypot of nonnegative": Case(lambda h, g: torch.hypot(h.relu(), g.relu() + 0.1), tight=True),
        "power 1.5": Case(lambda h, g: h.relu() ** 1.5, tight=True),
        "power 2.7": Case(lambda h, g: (h.relu() + 0.1) ** 2.7, tight=True),
        "power -0.3": Case(lambda h, g: (h.relu() + 0.1) ** -0.3, tight=True),
        "power -2": Case(lambda h, g: (h.relu() + 0.1) ** -2, tight=True),
        "power 20": Case(lambda h, g: h.relu() ** 20, tight=True),
        "fmax": Case(lambda h, g: torch.fmax(h, g), tight=True),
        "fmin": Case(lambda h, g: torch.fmin(h, g), tight=True),
        "lerp by values": Case(lambda h, g: torch.lerp(h, g, h * 0.5 + 0.2)),
        "lerp by a value": Case(lambda h, g: torch.lerp(torch.full_like(h, 0.2), torch.ones_like(h), h), tight=True),
        "lerp by a constant": Case(lambda h, g: torch.lerp(h, g, torch.tensor([0.3, -0.6, 1.7, 1.0]).to(h))),
        "square by its own name": Case(lambda h, g: h.square()),
        "clip": Case(lambda h, g: h.clip(-0.2, 0.3), tight=True),
        "sigmoid by another name": Case(lambda h, g: torch.special.expit(h), tight=True),
        "gated": Case(lambda h, g: F.glu(torch.cat([h, g], -1))),
        "clamp between values": Case(lambda h, g: torch.clamp(h, g - 0.2, g + 0.1)),
        "clamp above a value": Case(lambda h, g: torch.clamp(h, min=g)),
        "clamp_min of a value": Case(lambda h, g: torch.clamp_min(h, g)),
        "clamp_max of a value": Case(lambda h, g: torch.clamp_max(h, g)),
        "tanh of nonnegative": Case(lambda h, g: h.relu().tanh(), tight=True),
        "exp": Case(lambda h, g: h.exp(), tight=True),
        "log1p": Case(lambda h, g: h.relu().log1p(), tight=True),
        "softplus": Case(nn.Softplus()),
        "softplus of its own": Case(nn.Softplus(beta=0.3, threshold=15.0)),
        "elu": Case(nn.ELU(0.7), tight=True),
        "selu": Case(nn.SELU(), tight=True),
        "gelu": Case(nn.GELU()),
        "gelu tanh": Case(nn.GELU("tanh")),
        "silu": Case(nn.SiLU()),
        "abs": Case(lambda h, g: h.abs()),
        "maximum": Case(lambda h, g: torch.maximum(h, g), tight=True),
        "minimum": Case(lambda h, g: torch.minimum(h, g), tight=True),
        "sign": Case(lambda h, g: torch.sign(h), smooth=False, tight=True),
        "sgn": Case(lambda h, g: torch.sgn(h), smooth=False, tight=True),
        "heaviside": Case(lambda h, g: torch.heaviside(h, torch.tensor(0.0).to(h)), smooth=False, tight=True),
        "heaviside of 1": Case(lambda h, g: torch.heaviside(h.round(), torch.ones(1).to(h)), smooth=False, tight=True),
        "heaviside of a value": Case(lambda h, g: torch.heaviside(h.round(), g), smooth=False),
        "finite": Case(lambda h, g: torch.nan_to_num(h) + torch.nan_to_num(g, 1.0, 2.0, 3.0), smooth=False),
        "is a number": Case(lambda h, g: torch.where(h.isnan() | g.isinf(), h, h + g), smooth=False),
        "is finite": Case(lambda h, g: h * torch.isfinite(g), smooth=False),
        "equal distances": Case(
            lambda h, g: h * torch.linspace(-0.3, 1.7, 4, dtype=h.dtype) + torch.linspace(3, 1, 4, dtype=h.dtype)
        ),
        "exclusive or": Case(
            lambda h, g: ((h > 0) ^ (g > 0)).to(h.dtype) + torch.logical_xor(h > 0.1, g > 0.1), smooth=False
        ),
        "greater": Case(lambda h, g: (h > g).to(h.dtype), smooth=False),
        "greater number": Case(lambda h, g: (h > 0.1).to(h.dtype), smooth=False, tight=True),
        "greater equal": Case(lambda h, g: (h >= g).to(h.dtype) - (h >= 0.1).to(h.dtype), smooth=False),
        "less": Case(lambda h, g: (h < g).to(h.dtype) * (h < 0.1), smooth=False),
        "less equal": Case(lambda h, g: (h <= g).to(h.dtype) + (h <= 0.1).to(h.dtype), smooth=False),
        "and": Case(lambda h, g: ((h > 0) & (g > 0)).to(h.dtype), smooth=False),
        "or": Case(lambda h, g: ((h > 0) | (g > 0)).to(h.dtype), smooth=False),
        "logical": Case(lambda h, g: torch.logical_and(h > 0, torch.logical_or(g > 0, h > 1)).float(), smooth=False),
        "not": Case(lambda h, g: (~(h > 0)).to(h.dtype) * torch.logical_not(g > 0), smooth=False),
        "sum of truths": Case(lambda h, g: ((h > 0) + (g > 0)).to(h.dtype), smooth=False),
        "count of truths": Case(lambda h, g: (h > 0).sum(1, keepdim=True).to(h.dtype), smooth=False),
        "whole number": Case(lambda h, g: (h > 0).int().to(h.dtype), smooth=False),
        "where": Case(lambda h, g: torch.where(h > 0, h, g)),
        "where number": Case(lambda h, g: torch.where(h > 0.2, 0.1, torch.where(g > 0, g, -0.1))),
        "spike": Case(lambda h, g: Spike.apply(h - 0.1), smooth=False, tight=True),
        "dropout": Case(nn.Sequential(nn.Dropout(0.5), nn.Tanh()), tight=True),
        "feature dropout": Case(nn.Sequential(nn.Dropout2d(0.5), nn.Tanh()), IMAGE, tight=True),
        "alpha dropout": Case(nn.AlphaDropout(0.5), tight=True),
        "casts": Case(lambda h, g: h.double().to(h.dtype).clone().detach() + 0 * g.contiguous(), smooth=False),
        "constants": Case(lambda h, g: h + torch.zeros_like(h) + 3 * torch.ones_like(g) + torch.full_like(h, 0.1)),
        "new constants": Case(
            lambda h, g: h + torch.zeros(4) + torch.ones(4) + torch.full((4,), 0.5) + torch.arange(4) * 2
        ),
        "constants of the batch": Case(
            lambda h, g: h + h.new_zeros(h.shape[0], 4) + h.new_ones(h.shape[0], 4) + h.new_full((h.shape[0], 4), 0.1)
        ),
        "fractions": Case(
            lambda h, g: h + torch.arange(0, 0.4, 0.1, dtype=torch.float64).to(h.dtype) + torch.scalar_tensor(0.5)
        ),
    }


class TestMovement(RuleContract):
    cases: ClassVar = {
        "flatten": Case(lambda h, g: torch.flatten(h, 1), IMAGE, tight=True),
        "view": Case(lambda h, g: h.view(-1, 3, 20).view(h.shape[0], 60), IMAGE, tight=True),
        "merge and back": Case(lambda h, g: h.view(-1, 6).relu().view(-1, 60), IMAGE, tight=True),
        "unflatten": Case(lambda h, g: h.unflatten(1, (2, -1)), tight=True),
        "permute": Case(lambda h, g: h.permute(0, 3, 1, 2), IMAGE, tight=True),
        "samples elsewhere": Case(lambda h, g: h.permute(2, 0, 1).relu().transpose(0, 1), SIGNAL, tight=True),
        "transpose": Case(lambda h, g: h.transpose(1, 2), IMAGE, tight=True),
        "movedim": Case(lambda h, g: h.movedim(1, -1), IMAGE, tight=True),
        "t": Case(lambda h, g: h.t().relu().t(), tight=True),
        "select": Case(lambda h, g: h[:, 1, 2] + h.select(-1, 0)[:, :1, 0], IMAGE),
        "slice": Case(lambda h, g: h[:, :, 1:-1:2], IMAGE, tight=True),
        "slice samples whole": Case(lambda h, g: h[:][0 : h.shape[0]], tight=True),
        "index": Case(lambda h, g: h[:, [3, 0, 0]], tight=True),
        "index two": Case(lambda h, g: h[:, [0, 1], [2, 3]], IMAGE, tight=True),
        "index_select": Case(lambda h, g: h.index_select(1, torch.tensor([2, 1])), tight=True),
        "cat": Case(lambda h, g: torch.cat([h, g, torch.ones_like(h)], 1), tight=True),
        "stack": Case(lambda h, g: torch.stack([h, g], 1), tight=True),
        "squeeze": Case(lambda h, g: h.unsqueeze(1).squeeze(1).unsqueeze(-1).squeeze((-1,)), tight=True),
        "squeeze all": Case(lambda h, g: h.unsqueeze(1).unsqueeze(-1).squeeze(), tight=True),
        "expand": Case(lambda h, g: h.unsqueeze(1).expand(-1, 3, -1), tight=True),
        "split": Case(lambda h, g: torch.cat(h.split(3, 1)[::-1], 1), tight=True),
        "split sizes": Case(lambda h, g: torch.cat(h.split([1, 3], 1)[::-1], 1), tight=True),
        "chunk": Case(lambda h, g: torch.cat(h.chunk(2, 1)[::-1], 1), tight=True),
        "unbind": Case(lambda h, g: torch.stack(h.unbind(1)[::-1], 1), tight=True),
        "pad": Case(lambda h, g: F.pad(h, (1, 2), value=0.1), SIGNAL, tight=True),
        "pad zeros": Case(lambda h, g: F.pad(h.relu(), (1, 0, 0, 2)), IMAGE, tight=True),
    }


class TestReduction(RuleContract):
    cases: ClassVar = {
        "sum": Case(lambda h, g: h.sum(1), SIGNAL),
        "sum of two": Case(lambda h, g: h.sum((1, -1)).unsqueeze(1), IMAGE),
        "mean": Case(lambda h, g: h.mean(-1, keepdim=True), IMAGE),
        "mean of nonnegative": Case(lambda h, g: h.relu().mean((2, 3)), IMAGE),
        "amax": Case(lambda h, g: h.amax(1) - g.amin((1,)), SIGNAL),
        "all": Case(lambda h, g: (h > 0).all(1) * g[:, 0], SIGNAL, smooth=False),
        "any": Case(
            lambda h, g: h.gt(0).any(-1, keepdim=True) * g + g.lt(0).any(1).to(g.dtype)[:, None], SIGNAL, smooth=False
        ),
        "all of several": Case(lambda h, g: (h > -1).all((1, -1))[:, None] * g.flatten(1), SIGNAL, smooth=False),
        "how many": Case(lambda h, g: torch.count_nonzero(h.relu(), -1) * g[:, :, 0], SIGNAL, smooth=False),
        "max": Case(lambda h, g: h.max(1).values - g.min(-1)[0].sum(1, keepdim=True), SIGNAL),
        "max pool": Case(nn.MaxPool2d(2), IMAGE, tight=False),
        "max pool with padding": Case(nn.MaxPool2d(3, stride=(2, 1), padding=1, dilation=1, ceil_mode=True), IMAGE),
        "max pool dilated": Case(nn.MaxPool2d(2, 1, 0, dilation=2), IMAGE),
        "max pool of rows": Case(nn.MaxPool1d(2), (7,), tight=False),
        "max pool without channels": Case(nn.MaxPool2d(2, 1), (3, 4)),
        "max pool in tiles without channels": Case(nn.MaxPool2d(2), (5, 4), tight=False),
        "max pool 1d": Case(nn.MaxPool1d(3, 2, 1), SIGNAL),
        "adaptive max pool": Case(nn.AdaptiveMaxPool2d((2, 3)), IMAGE),
        "adaptive max pool 1d": Case(nn.AdaptiveMaxPool1d(4), SIGNAL),
        "average pool": Case(nn.AvgPool2d(2), IMAGE),
        "average pool with padding": Case(nn.AvgPool2d(3, (2, 1), 1, ceil_mode=True), IMAGE),
        "average pool without padding": Case(nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), IMAGE),
        "average pool as a sum": Case(nn.AvgPool2d(2, divisor_override=1), IMAGE),
        "average pool 1d": Case(nn.AvgPool1d(3, 2, 1, count_include_pad=False), SIGNAL),
        "adaptive average pool": Case(nn.AdaptiveAvgPool2d((2, 4)), IMAGE),
        "adaptive average pool to one": Case(nn.AdaptiveAvgPool2d(1), IMAGE),
        "adaptive average pool 1d": Case(nn.AdaptiveAvgPool1d(4), SIGNAL),
        "batch norm": Case(batch_norm(nn.BatchNorm2d(2)), IMAGE),
        "batch norm 1d": Case(batch_norm(nn.BatchNorm1d(4))),
        "batch norm of signals": Case(batch_norm(nn.BatchNorm1d(2)), SIGNAL),
        "batch norm without weights": Case(batch_norm(nn.BatchNorm2d(2, affine=False)), IMAGE),
    }


class Products(nn.Module):
    """Matrix products with parameters and with values."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        torch.manual_seed(4)
        self.weight = nn.Parameter(torch.randn(9, 3))
        self.many = nn.Parameter(torch.randn(2, 9, 3))
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, h: Tensor) -> Tensor:
        if self.kind == "matmul":
            return h @ self.weight
        if self.kind == "vector":
            return h @ self.many[0, :, 0]
        if self.kind == "addmm":
            return torch.addmm(self.bias, h[:, 0], self.weight)
        if self.kind == "bmm":
            return torch.bmm(h.transpose(0, 1), self.many).transpose(0, 1)
        if self.kind == "values":
            return h @ (h * 0.5).transpose(1, 2)
        if self.kind == "bmm of values":
            return torch.bmm(h.transpose(1, 2), h)
        if self.kind == "computed weight":
            return h @ (self.weight.sigmoid() * 0.5) + self.bias * 2
        return F.linear(h, self.weight.t(), self.bias) + F.linear(h.relu(), self.weight.t())


class TestProducts(RuleContract):
    cases: ClassVar = {
        "linear": Case(nn.Linear(4, 3)),
        "linear without bias": Case(nn.Linear(4, 3, bias=False)),
        "linear of steps": Case(nn.Linear(9, 3), SIGNAL),
        "two linear": Case(Products("linear"), SIGNAL),
        "matmul": Case(Products("matmul"), SIGNAL),
        "vector": Case(Products("vector"), SIGNAL),
        "addmm": Case(Products("addmm"), SIGNAL),
        "bmm": Case(Products("bmm"), SIGNAL),
        "values": Case(Products("values"), SIGNAL),
        "bmm of values": Case(Products("bmm of values"), SIGNAL),
        "conv2d": Case(nn.Conv2d(2, 3, 3, padding=1), IMAGE),
        "conv2d strided": Case(
            nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2), IMAGE
        ),
        "conv2d same": Case(nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 2)), IMAGE),
        "conv2d valid": Case(nn.Conv2d(2, 3, 2, padding="valid", bias=False), IMAGE),
        "conv2d on relu": Case(nn.Sequential(nn.ReLU(), nn.Conv2d(2, 3, 2)), IMAGE),
        "conv1d": Case(nn.Conv1d(2, 4, 3, stride=2, padding=2, groups=2), SIGNAL),
        "conv1d same": Case(nn.Conv1d(2, 3, 4, padding="same"), SIGNAL),
        "mlp": Case(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))),
        "cnn": Case(
            nn.Sequential(
                nn.Conv2d(2, 4, 3, padding="same"),
                batch_norm(nn.BatchNorm2d(4)),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(4, 3, 2),
                nn.GELU(),
                nn.Flatten(),
                nn.Linear(6, 3),
            ),
            IMAGE,
        ),
    }


def test_weight_computed_from_parameters() -> None:
    """One ε at a time: such a weight differs from row to row."""
    contract = RuleContract()
    case = Case(Products("computed weight"), SIGNAL)
    for epsilon in (0.0, 1e-3, 0.1, 1.5):
        contract.sweep = lambda case, e=epsilon: [e]
        for arithmetic in ("real", "float32"):
            contract.test_holds_vertices_and_samples(case, arithmetic, "float64")


@pytest.mark.long
def test_every_rule_has_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule joins the contract with one line above, or in the files named here."""
    importlib.import_module("tests.verify.test_rules_structure")
    monkeypatch.setattr("thetabox.verify.network.trace.sizes_of_calls", lambda *_: set())  # which operators, no more
    reached = set()
    for contract in RuleContract.__subclasses__():
        for case in contract.cases.values():
            module, x = probe(case)
            assert isinstance(module, Probe)
            reached |= {o.operator for o in trace(module, module, "forward", [x]).operations}
    assert reached <= set(TABLE)
    # Of several names of one rule a trace shows one; arithmetic on sizes shows where reshapes need it.
    without = {rule.function.__name__ for rule in TABLE.values()} - {TABLE[name].function.__name__ for name in reached}
    assert without <= {"size_arithmetic", "adaptive_max_pool", "batch_norm", "relu6", "padded", "dropout"}, without
