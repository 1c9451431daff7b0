"""Every operator that has a backward rule, with every form of its arguments: contained, or left to the intervals."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError, UnsupportedOperator
from thetabox.verify.arguments import settings
from thetabox.verify.linear import BACKWARD, Linear
from thetabox.verify.linear.domain import INTERMEDIATE
from thetabox.verify.problem import Problem

pytestmark = pytest.mark.usefixtures("traced_once")

SWEEP = (0.0, 1e-3, 0.1, 1.5)
POINTS = 12
ROWS = 4
# Rounding of the float64 evaluation that stands for the truth.
EVALUATION = 1e-12


class Case(NamedTuple):
    """``apply(module, h)`` of a value ``h [N, *shape]``, with parameters (by shape) or modules that it reads."""

    apply: Callable[[Any, Tensor], Tensor]
    shape: tuple[int, ...] = (4,)
    held: dict[str, Any] = {}  # noqa: RUF012  # never written to
    refused: bool = False  # with one line, by every domain


class Buffer(NamedTuple):
    """An exact tensor of that shape."""

    shape: tuple[int, ...]


class Probe(nn.Module):
    """A layer, the operator, and another layer; with ``bent``, a ReLU in front and behind."""

    def __init__(self, case: Case, bent: bool) -> None:
        super().__init__()
        self.shape, self.bent, self.case_apply = case.shape, bent, case.apply
        count = torch.Size(case.shape).numel()
        self.front = nn.Linear(3, count)
        for name, held in case.held.items():
            if isinstance(held, Buffer):
                self.register_buffer(name, torch.randn(held.shape))
            elif isinstance(held, nn.Module):
                setattr(self, name, copy.deepcopy(held))
            else:
                setattr(self, name, nn.Parameter(torch.randn(held)))
        with torch.no_grad():
            size = flat(self.middle(torch.randn(2, 3))).shape[1]
        self.last = nn.Linear(size, 3)

    def middle(self, x: Tensor) -> Tensor:
        h = self.front(x)
        h = torch.relu(h) if self.bent else h
        h = self.case_apply(self, h.view(-1, *self.shape))
        return torch.relu(h - 0.1) if self.bent else h

    def forward(self, x: Tensor) -> Tensor:
        return self.last(flat(self.middle(x)))


def flat(h: Tensor) -> Tensor:
    """Of one dimension a sample, also where it is one number."""
    return h.flatten(1) if h.dim() > 1 else h[:, None]


def norm(kind: type[nn.Module], **settings: Any) -> nn.Module:
    """Batch norm with statistics of its own."""
    module = kind(2, **settings)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point():
            with torch.no_grad():
                value.copy_(torch.tensor([0.4, 1.3]) * (-1 if name in ("weight", "running_mean") else 1))
    return module


IMAGE, SIGNAL = (2, 4, 5), (2, 6)

CASES: dict[str, Case] = {
    # dense layers
    "linear": Case(lambda m, h: m.layer(h), held={"layer": nn.Linear(4, 3)}),
    "linear without bias": Case(lambda m, h: m.layer(h), held={"layer": nn.Linear(4, 3, bias=False)}),
    "linear at positions": Case(lambda m, h: m.layer(h), (3, 4), {"layer": nn.Linear(4, 3)}),
    "linear with one bias": Case(lambda m, h: F.linear(h, m.w, m.b), held={"w": (3, 4), "b": (1,)}),
    "linear with one bias at positions": Case(lambda m, h: F.linear(h, m.w, m.b), (2, 4), {"w": (3, 4), "b": (1,)}),
    "linear of exact weights": Case(lambda m, h: F.linear(h, m.w, m.b), held={"w": Buffer((3, 4)), "b": (3,)}),
    "linear with an exact bias": Case(lambda m, h: F.linear(h, m.w, m.b), held={"w": (3, 4), "b": Buffer((3,))}),
    "linear twice": Case(lambda m, h: F.linear(F.linear(h, m.w).relu(), m.w), held={"w": (4, 4)}),
    "linear of computed weights": Case(lambda m, h: F.linear(h, m.w * m.s), held={"w": (3, 4), "s": (3, 1)}),
    "linear of expanded weights": Case(lambda m, h: F.linear(h, m.w.expand(3, 4)), held={"w": (1, 4)}),
    "linear with a computed bias": Case(lambda m, h: F.linear(h, m.w, m.b * 2), held={"w": (3, 4), "b": (3,)}),
    "addmm": Case(lambda m, h: torch.addmm(m.b, h, m.w), held={"w": (4, 3), "b": (3,)}),
    "addmm with one bias": Case(lambda m, h: torch.addmm(m.b, h, m.w), held={"w": (4, 3), "b": (1,)}),
    "addmm with a number": Case(lambda m, h: torch.addmm(m.b, h, m.w), held={"w": (4, 3), "b": ()}),
    "addmm with a row": Case(lambda m, h: torch.addmm(m.b, h, m.w), held={"w": (4, 3), "b": (1, 3)}),
    "addmm with one in two dimensions": Case(lambda m, h: torch.addmm(m.b, h, m.w), held={"w": (4, 3), "b": (1, 1)}),
    "addmm of a value": Case(lambda m, h: torch.addmm(h[:, :3], h, m.w), held={"w": (4, 3)}),
    "addmm with an expanded bias": Case(
        lambda m, h: torch.addmm(m.b.expand(h.shape[0], 3), h, m.w), held={"w": (4, 3), "b": (3,)}
    ),
    "addmm with factors": Case(
        lambda m, h: torch.addmm(m.b, h, m.w, beta=2, alpha=0.5), held={"w": (4, 3), "b": (3,)}, refused=True
    ),
    "matmul": Case(lambda m, h: h @ m.w, held={"w": (4, 3)}),
    "mm": Case(lambda m, h: torch.mm(h, m.w), held={"w": (4, 3)}),
    "mm of a transposed parameter": Case(lambda m, h: torch.mm(h, m.w.t()), held={"w": (3, 4)}),
    "matmul and one bias": Case(lambda m, h: h @ m.w + m.b, held={"w": (4, 3), "b": (1,)}),
    "matmul at positions": Case(lambda m, h: h @ m.w, (2, 4), {"w": (4, 3)}),
    "matmul with a vector": Case(lambda m, h: h @ m.w, held={"w": (4,)}),
    "matmul with a vector at positions": Case(lambda m, h: h @ m.w, (2, 4), {"w": (4,)}),
    "matmul of a parameter": Case(lambda m, h: m.w @ h, (4, 2), {"w": (3, 4)}),
    "matmul of values": Case(lambda m, h: h @ h.transpose(1, 2), (2, 3)),
    "matmul with more dimensions": Case(lambda m, h: h[:, None] @ m.w, (2, 4), {"w": (2, 4, 3)}),
    # convolutions
    "conv1d": Case(lambda m, h: m.layer(h), SIGNAL, {"layer": nn.Conv1d(2, 3, 3, stride=2, padding=1)}),
    "conv1d dilated": Case(lambda m, h: m.layer(h), SIGNAL, {"layer": nn.Conv1d(2, 2, 2, dilation=2, bias=False)}),
    "conv1d in groups": Case(lambda m, h: m.layer(h), SIGNAL, {"layer": nn.Conv1d(2, 4, 3, groups=2, padding=2)}),
    "conv1d same": Case(lambda m, h: m.layer(h), SIGNAL, {"layer": nn.Conv1d(2, 2, 4, padding="same")}),
    "conv1d valid": Case(lambda m, h: m.layer(h), SIGNAL, {"layer": nn.Conv1d(2, 2, 2, padding="valid")}),
    "conv2d": Case(lambda m, h: m.layer(h), IMAGE, {"layer": nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0))}),
    "conv2d dilated": Case(lambda m, h: m.layer(h), IMAGE, {"layer": nn.Conv2d(2, 2, 2, dilation=(2, 3))}),
    "conv2d in groups": Case(lambda m, h: m.layer(h), IMAGE, {"layer": nn.Conv2d(2, 2, 3, groups=2, padding=1)}),
    "conv2d same": Case(lambda m, h: m.layer(h), IMAGE, {"layer": nn.Conv2d(2, 2, (2, 3), padding="same")}),
    "conv2d same dilated": Case(
        lambda m, h: m.layer(h), IMAGE, {"layer": nn.Conv2d(2, 2, 2, padding="same", dilation=2, bias=False)}
    ),
    "conv2d valid": Case(lambda m, h: m.layer(h), IMAGE, {"layer": nn.Conv2d(2, 2, 3, padding="valid")}),
    "conv2d twice": Case(lambda m, h: m.layer(m.layer(h).relu()), IMAGE, {"layer": nn.Conv2d(2, 2, 3, padding=1)}),
    "conv2d of exact weights": Case(lambda m, h: F.conv2d(h, m.w, m.b), IMAGE, {"w": Buffer((2, 2, 2, 2)), "b": (2,)}),
    "conv2d of expanded weights": Case(
        lambda m, h: F.conv2d(h, m.w.expand(2, 2, 2, 2), padding=1), IMAGE, {"w": (1, 1, 2, 2)}
    ),
    "conv2d with a bias of its own": Case(
        lambda m, h: F.conv2d(h, m.w) + m.b, IMAGE, {"w": (2, 2, 2, 2), "b": (2, 1, 1)}
    ),
    # means and sums
    "avg_pool1d": Case(lambda m, h: F.avg_pool1d(h, 3, 2, 1, True, False), SIGNAL),
    "avg_pool2d": Case(lambda m, h: F.avg_pool2d(h, 2), IMAGE),
    "avg_pool2d with padding": Case(lambda m, h: F.avg_pool2d(h, (3, 2), (2, 1), (1, 0), True, False), IMAGE),
    "avg_pool2d with a divisor": Case(lambda m, h: F.avg_pool2d(h, 2, divisor_override=3), IMAGE),
    "avg_pool2d with a divisor of 1": Case(lambda m, h: F.avg_pool2d(h, 2, divisor_override=1), IMAGE),
    "adaptive_avg_pool1d": Case(lambda m, h: F.adaptive_avg_pool1d(h, 4), SIGNAL),
    "adaptive_avg_pool2d": Case(lambda m, h: F.adaptive_avg_pool2d(h, (3, 2)), IMAGE),
    "adaptive_avg_pool2d to one": Case(lambda m, h: F.adaptive_avg_pool2d(h, 1), IMAGE),
    "mean": Case(lambda m, h: h.mean((-1, 1)), IMAGE),
    "mean kept": Case(lambda m, h: h.mean(2, keepdim=True) - h, IMAGE),
    "mean to one": Case(lambda m, h: h.mean(1)),
    "mean in another type": Case(lambda m, h: h.mean(1, dtype=torch.float64).to(h.dtype)),
    "mean of everything": Case(lambda m, h: h - h.mean(), refused=True),
    "sum": Case(lambda m, h: h.sum((1, -1), keepdim=True), IMAGE),
    "sum in another type": Case(lambda m, h: h.sum(1, dtype=torch.float64).to(h.dtype), IMAGE),
    "sum of truth values": Case(lambda m, h: (h > 0).sum(1).to(h.dtype), IMAGE),
    "mean of truth values": Case(lambda m, h: (h > 0).to(h.dtype).mean(1), IMAGE),
    # batch norm
    "batch_norm": Case(lambda m, h: m.layer(h), (2,), {"layer": norm(nn.BatchNorm1d)}),
    "batch_norm of signals": Case(lambda m, h: m.layer(h), SIGNAL, {"layer": norm(nn.BatchNorm1d, eps=0.1)}),
    "batch_norm of images": Case(lambda m, h: m.layer(h), IMAGE, {"layer": norm(nn.BatchNorm2d)}),
    "batch_norm and a write": Case(lambda m, h: torch.relu_(m.layer(h)), IMAGE, {"layer": norm(nn.BatchNorm2d)}),
    "batch_norm without parameters": Case(
        lambda m, h: m.layer(h), IMAGE, {"layer": norm(nn.BatchNorm2d, affine=False)}
    ),
    "batch_norm of other statistics": Case(
        lambda m, h: F.batch_norm(h, m.mean, m.spread.abs(), m.w, None, False, 0.1, 1e-3),
        IMAGE,
        {"mean": Buffer((2,)), "spread": Buffer((2,)), "w": (2,)},
    ),
    "batch_norm of computed statistics": Case(
        lambda m, h: F.batch_norm(h, m.mean * 2, m.spread.abs() + 0.1, m.w, m.b, False),
        IMAGE,
        {"mean": Buffer((2,)), "spread": Buffer((2,)), "w": (2,), "b": (2,)},
    ),
    "batch_norm of a batch": Case(
        lambda m, h: F.batch_norm(h, None, None, m.w, None, True), IMAGE, {"w": (2,)}, refused=True
    ),
    # bends
    "relu": Case(lambda m, h: torch.relu(h)),
    "relu in place": Case(lambda m, h: F.relu(h + 0.1, inplace=True)),
    "leaky_relu": Case(lambda m, h: F.leaky_relu(h)),
    "leaky_relu flat": Case(lambda m, h: F.leaky_relu(h, 0.0)),
    "leaky_relu straight": Case(lambda m, h: F.leaky_relu(h, 1.0)),
    "leaky_relu steep": Case(lambda m, h: F.leaky_relu(h, 1.7)),
    "leaky_relu falling": Case(lambda m, h: F.leaky_relu(h, -0.3)),
    "leaky_relu falling steeply": Case(lambda m, h: F.leaky_relu(h, -2.5)),
    "leaky_relu tiny": Case(lambda m, h: F.leaky_relu(h, 1e-42)),
    **{
        name: Case(function)
        for name, function in {
            "tanh": lambda m, h: torch.tanh(h * 2),
            "sigmoid": lambda m, h: torch.sigmoid(h * 5),
            "exp": lambda m, h: torch.exp(h),
            "silu": lambda m, h: F.silu(h),
            "gelu": lambda m, h: F.gelu(h * 2),
            "gelu tanh": lambda m, h: F.gelu(h, approximate="tanh"),
            "mish": lambda m, h: F.mish(h),
            "hardswish": lambda m, h: F.hardswish(h * 4),
            "hardsigmoid": lambda m, h: F.hardsigmoid(h * 4),
            "erf": lambda m, h: torch.erf(h),
            "atan": lambda m, h: torch.atan(h * 3),
            "asin": lambda m, h: torch.asin((h * 0.6).clamp(-0.9, 0.95)),
            "acos": lambda m, h: torch.acos((h * 0.6).clamp(-0.9, 0.95)),
            "sinh": lambda m, h: torch.sinh(h),
            "cosh": lambda m, h: torch.cosh(h * 2),
            "tan": lambda m, h: torch.tan(h.clamp(-1.2, 1.3)),
            "exp2": lambda m, h: torch.exp2(h),
            "expm1": lambda m, h: torch.expm1(h),
            "log2": lambda m, h: (h.abs() + 0.1).log2(),
            "log10": lambda m, h: (h.abs() + 0.1).log10(),
            "erfc": lambda m, h: torch.erfc(h),
            "tangent through poles": lambda m, h: torch.tan(h * 3),
            "asin beyond": lambda m, h: torch.asin(h * 0.9),
            "logsigmoid": lambda m, h: F.logsigmoid(h),
            "sin": lambda m, h: torch.sin(h * 3),
            "cos": lambda m, h: torch.cos(h * 3),
            "elu": lambda m, h: F.elu(h, 0.7),
            "celu": lambda m, h: F.celu(h, 0.7),
            "selu": lambda m, h: F.selu(h),
            "softplus": lambda m, h: F.softplus(h),
            "softplus of its own": lambda m, h: F.softplus(h * 50, 3.0, 25.0),
            "softplus far": lambda m, h: F.softplus(h, -2.0, 3.0),
            "relu6": lambda m, h: F.relu6(h * 5),
            "hardtanh": lambda m, h: F.hardtanh(h),
            "clamp": lambda m, h: h.clamp(-0.3, 0.4),
            "clamp below": lambda m, h: h.clamp(min=-0.1),
            "clamp_min": lambda m, h: torch.clamp_min(h, -0.2),
            "clamp_max": lambda m, h: torch.clamp_max(h, 0.2),
            "abs": lambda m, h: h.abs(),
            "log": lambda m, h: (h.abs() + 0.1).log(),
            "log1p": lambda m, h: h.relu().log1p(),
            "sqrt": lambda m, h: (h.relu() + 0.01).sqrt(),
            "root of a cube": lambda m, h: (h.relu() + 0.01) ** 1.5,
            "power with a rounded exponent": lambda m, h: (h.abs() + 0.1) ** -1.3,
            "power from zero": lambda m, h: h.relu() ** 2.4,
            "square": lambda m, h: h**2,
            "cube": lambda m, h: h**3,
        }.items()
    },
    "prelu": Case(lambda m, h: F.prelu(h, m.w), IMAGE, {"w": (2,)}),
    "prelu of one slope": Case(lambda m, h: F.prelu(h, m.w), held={"w": (1,)}),
    "masked_fill": Case(lambda m, h: h.masked_fill(m.p > 0, -0.3), held={"p": Buffer((4,))}),
    "masked_fill of a tensor": Case(lambda m, h: h.masked_fill(m.p > 0, torch.tensor(0.2)), held={"p": Buffer((4,))}),
    "masked_fill by a value": Case(lambda m, h: h.masked_fill(h > 0.1, -0.3)),
    # groups
    "softmax": Case(lambda m, h: (h * 3).softmax(1)),
    "softmax of rows": Case(lambda m, h: h.softmax(1), (3, 4)),
    "softmax kernel": Case(lambda m, h: torch.ops.aten._softmax(h, 1, False)),
    "masked softmax": Case(
        lambda m, h: h.masked_fill(m.p > 0.3, -torch.inf).softmax(-1), (2, 4), {"p": Buffer((2, 4))}
    ),
    "softmax with a mask added": Case(
        lambda m, h: (h + torch.where(m.p > 0.3, -torch.inf, 0.125).to(h)).softmax(-1), (2, 4), {"p": Buffer((2, 4))}
    ),
    "softmax with a mask of rows added": Case(
        lambda m, h: (torch.where(m.p > 0.3, -torch.inf, 0.125).to(h) + h).softmax(-1), (2, 4), {"p": Buffer((4,))}
    ),
    "mask that is cut off again": Case(
        lambda m, h: (h + torch.where(m.p > 0.3, -torch.inf, 0.125).to(h)).clamp(min=-0.7), (4,), {"p": Buffer((4,))}
    ),
    "mask in front of a curve": Case(
        lambda m, h: (h + torch.where(m.p > 0.3, -torch.inf, 0.125).to(h)).sigmoid(), (4,), {"p": Buffer((4,))}
    ),
    "softmax masked by a value": Case(lambda m, h: h.masked_fill(h > 0.5, -torch.inf).softmax(-1)),
    "layer_norm": Case(lambda m, h: F.layer_norm(h, [4], m.w, m.b), held={"w": (4,), "b": (4,)}),
    "layer_norm of rows": Case(lambda m, h: F.layer_norm(h, [4], m.w), (3, 4), {"w": (4,)}),
    "layer_norm of matrices": Case(
        lambda m, h: F.layer_norm(h, [2, 3], m.w, m.b, 0.01), (2, 2, 3), {"w": (2, 3), "b": (2, 3)}
    ),
    "layer_norm without weights": Case(lambda m, h: F.layer_norm(h, [4]), (3, 4)),
    "layer_norm of one": Case(lambda m, h: F.layer_norm(h, [1], None, m.b), (4, 1), {"b": (1,)}),
    # attention
    "attention": Case(lambda m, h: F.scaled_dot_product_attention(h, h * 2, h), (3, 4)),
    "attention of heads": Case(
        lambda m, h: F.scaled_dot_product_attention(m.q(h), m.k(h), h.view(-1, 2, 3, 2), scale=0.3),
        (2, 3, 2),
        {"q": nn.Linear(2, 3), "k": nn.Linear(2, 3)},
    ),
    "causal attention": Case(lambda m, h: F.scaled_dot_product_attention(h, h, h, is_causal=True), (3, 2)),
    "attention with a mask": Case(
        lambda m, h: F.scaled_dot_product_attention(h, h, h, torch.ones(3, 3).tril().bool() | (m.p > 0)),
        (3, 2),
        {"p": Buffer((3, 3))},
    ),
    "attention with a mask of numbers": Case(
        lambda m, h: F.scaled_dot_product_attention(h, h, h, m.p), (3, 2), {"p": Buffer((3, 3))}
    ),
    "attention with a parameter": Case(
        lambda m, h: F.scaled_dot_product_attention(m.q[None], h, h), (3, 2), {"q": (1, 2)}
    ),
    "attention of nn": Case(
        lambda m, h: m.layer(h, h, h, need_weights=False)[0],
        (3, 4),
        {"layer": nn.MultiheadAttention(4, 2, batch_first=True)},
    ),
    "attention of nn and its weights": Case(
        lambda m, h: (lambda out, weights: out + weights.amax(2, keepdim=True))(*m.layer(h, h, h)),
        (3, 4),
        {"layer": nn.MultiheadAttention(4, 2, batch_first=True)},
    ),
    "attention of nn with tokens first": Case(
        lambda m, h: m.layer(*[h.transpose(0, 1)] * 3)[0].transpose(0, 1),
        (3, 4),
        {"layer": nn.MultiheadAttention(4, 2)},
    ),
    "rows of positions folded into the samples": Case(
        lambda m, h: m.n(h.transpose(0, 1).reshape(-1, 4).tanh()).sigmoid().view(3, -1, 4).transpose(0, 1),
        (3, 4),
        {"n": nn.LayerNorm(4)},
    ),
    "index": Case(lambda m, h: h[:, [3, 0, 0]]),
    "index two": Case(lambda m, h: h[:, [0, 1], [2, 3]], IMAGE),
    "embedding": Case(lambda m, h: h + F.embedding(torch.tensor([1, 1, 0, 2]), m.w)[:, 0], held={"w": (3, 1)}),
    "max_pool2d": Case(lambda m, h: F.max_pool2d(h, 2), IMAGE),
    "max_pool2d without channels": Case(lambda m, h: F.max_pool2d(h, 2), (4, 5)),
    "max_pool2d without channels overlapping": Case(lambda m, h: F.max_pool2d(h.relu(), (2, 3), 1), (4, 5)),
    "max_pool2d overlapping": Case(lambda m, h: F.max_pool2d(h, (3, 2), 1), IMAGE),
    "max_pool2d with padding": Case(lambda m, h: F.max_pool2d(h, 3, 2, 1), IMAGE),
    "max_pool2d dilated": Case(lambda m, h: F.max_pool2d(h, 2, 1, 0, 2), IMAGE),
    "max_pool2d up to the edge": Case(lambda m, h: F.max_pool2d(h, 2, ceil_mode=True), IMAGE),
    "max_pool2d with gaps": Case(lambda m, h: F.max_pool2d(h, 2, 3), IMAGE),
    "max_pool2d of a convolution": Case(
        lambda m, h: F.max_pool2d(m.layer(h).relu(), 2), IMAGE, {"layer": nn.Conv2d(2, 2, 3, padding=1)}
    ),
    "max_pool2d of a strided convolution": Case(
        lambda m, h: F.max_pool2d(m.layer(h), 2, 1), IMAGE, {"layer": nn.Conv2d(2, 2, 2, stride=(1, 2), groups=2)}
    ),
    "max_pool2d with places": Case(lambda m, h: F.max_pool2d(h, 2, return_indices=True)[0], IMAGE),
    # sums
    "add": Case(lambda m, h: h + h.relu()),
    "add of another shape": Case(lambda m, h: h + h[:, :1]),
    "add a parameter": Case(lambda m, h: h + m.p, held={"p": (4,)}),
    "add one parameter": Case(lambda m, h: m.p + h, held={"p": (1,)}),
    "add a parameter without dimensions": Case(lambda m, h: h + m.p, IMAGE, {"p": ()}),
    "add a parameter with more dimensions": Case(lambda m, h: h + m.p, IMAGE, {"p": (1, 2, 1, 5)}),
    "add a buffer": Case(lambda m, h: h + m.p, IMAGE, {"p": Buffer((4, 1))}),
    "add a parameter that is wider": Case(lambda m, h: h + m.p, (4, 1), {"p": (4, 3)}),
    "add alpha": Case(lambda m, h: torch.add(h, m.p, alpha=-0.7), held={"p": (4,)}),
    "add an expanded parameter": Case(lambda m, h: h + m.p.expand(h.shape[0], 4), held={"p": (1, 4)}),
    "add an expanded number": Case(lambda m, h: h + m.p.expand(h.shape[0], 4), held={"p": (1,)}),
    "add expand_as": Case(lambda m, h: m.p.expand_as(h) + h, IMAGE, {"p": (2, 1, 1)}),
    "add a bent expanded parameter": Case(lambda m, h: h + (m.p.expand_as(h)).relu(), held={"p": (4,)}),
    "add a repeated parameter": Case(lambda m, h: h + m.p[None].expand(h.shape[0], -1), held={"p": (4,)}),
    "add number": Case(lambda m, h: h + 0.3, IMAGE),
    "add truth values": Case(lambda m, h: h + (h > 0), IMAGE),
    "add a true number": Case(lambda m, h: h + True),
    "subtract": Case(lambda m, h: h - h.relu()),
    "subtract itself": Case(lambda m, h: h - h),
    "subtract a parameter": Case(lambda m, h: h - m.p, IMAGE, {"p": (1, 5)}),
    "subtract from a parameter": Case(lambda m, h: m.p - h, IMAGE, {"p": (2, 1, 1)}),
    "subtract number": Case(lambda m, h: h - 1.1),
    "subtract from number": Case(lambda m, h: 1.1 - h),
    "rsub": Case(lambda m, h: torch.rsub(h, m.p), held={"p": (4,)}),
    "rsub alpha": Case(lambda m, h: torch.rsub(h, 2.0, alpha=3)),
    "add scalar": Case(lambda m, h: torch.ops.aten.add.Scalar(h, 2.5)),
    "sub scalar": Case(lambda m, h: torch.ops.aten.sub.Scalar(h, 2.5)),
    "rsub scalar": Case(lambda m, h: torch.ops.aten.rsub.Scalar(h, 2.5)),
    # products
    "times number": Case(lambda m, h: h * -0.7, IMAGE),
    "times scalar": Case(lambda m, h: torch.ops.aten.mul.Scalar(h, 0.3)),
    "times parameter": Case(lambda m, h: h * m.p, held={"p": (4,)}),
    "times a parameter with more dimensions": Case(lambda m, h: m.p * h, IMAGE, {"p": (1, 2, 1, 1)}),
    "times one parameter": Case(lambda m, h: h * m.p, IMAGE, {"p": (1,)}),
    "times a parameter without dimensions": Case(lambda m, h: h * m.p, IMAGE, {"p": ()}),
    "times a parameter that is wider": Case(lambda m, h: h * m.p, (4, 1), {"p": (4, 3)}),
    "times an expanded parameter": Case(lambda m, h: h * m.p.expand(h.shape[0], 4), held={"p": (1, 4)}),
    "times expand_as": Case(lambda m, h: h * m.p.expand_as(h), held={"p": (1, 4)}),
    "times a buffer": Case(lambda m, h: h * m.p, IMAGE, {"p": Buffer((2, 1, 1))}),
    "times itself": Case(lambda m, h: h * h),
    "times truth values": Case(lambda m, h: h * (h > 0.1)),
    "times zero": Case(lambda m, h: h * 0.0),
    "times tiny": Case(lambda m, h: h * 1e-40 * 1e38),
    "divided by number": Case(lambda m, h: h / 3, IMAGE),
    "divided by scalar": Case(lambda m, h: torch.ops.aten.div.Scalar(h, -7.0)),
    "divided by little": Case(lambda m, h: h / 5e-39 * 1e-38),
    "divided by much": Case(lambda m, h: h / 3e38 * 1e38),
    "divided by parameter": Case(
        lambda m, h: h / (m.p.abs() + 4),
        held={"p": (4,)},
    ),
    "divided by buffer": Case(lambda m, h: h / m.p, held={"p": Buffer((4,))}),
    "number divided": Case(lambda m, h: 2 / (h.relu() + 1)),
    "divided down": Case(lambda m, h: torch.div(h, 0.7, rounding_mode="floor"), refused=True),
    # movement
    "clone": Case(lambda m, h: h.clone()),
    "alias": Case(lambda m, h: torch.ops.aten.alias.default(h)),
    "detach": Case(lambda m, h: h.detach()),
    "contiguous": Case(lambda m, h: torch.ops.aten.contiguous.default(h.transpose(1, 2)), (2, 3)),
    "dropout": Case(lambda m, h: m.layer(h), held={"layer": nn.Dropout()}),
    "dropout of channels": Case(lambda m, h: m.layer(h), IMAGE, {"layer": nn.Dropout2d()}),
    "dropout keeping mean": Case(lambda m, h: m.layer(h), held={"layer": nn.AlphaDropout()}),
    "constant": Case(lambda m, h: h + torch.tensor([1.0, -2.0, 0.5, 0.1])),
    "copy to another type": Case(lambda m, h: h.double().to(h.dtype)),
    "copy to whole numbers": Case(lambda m, h: h.long().to(h.dtype), refused=True),
    "copy to truth values": Case(lambda m, h: h.bool().to(h.dtype), refused=True),
    "copy to half": Case(lambda m, h: h.half().to(h.dtype), refused=True),
    "to device": Case(lambda m, h: torch.ops.aten.to.device(h, torch.device("cpu"), h.dtype)),
    "to type": Case(lambda m, h: torch.ops.aten.to.dtype(h, torch.float64).to(h.dtype)),
    "first of several": Case(lambda m, h: h.split(2, 1)[0]),
    "second of several": Case(lambda m, h: h.split(2, 1)[1]),
    "all of several": Case(lambda m, h: h.unbind(1)[0] + h.unbind(1)[1], (2, 3)),
    "largest": Case(lambda m, h: h.max(1).values, (3, 2)),
    "view": Case(lambda m, h: h.view(h.shape[0], 4, 10), IMAGE),
    "unsafe_view": Case(lambda m, h: torch.ops.aten._unsafe_view.default(h, [h.shape[0], 10, 4]), IMAGE),
    "reshape": Case(lambda m, h: h.reshape(-1, 8, 5), IMAGE),
    "reshape with samples": Case(lambda m, h: h.reshape(-1, 5).relu().reshape(-1, 40), IMAGE),
    "flatten": Case(lambda m, h: h.flatten(1, 2), IMAGE),
    "flatten with samples": Case(lambda m, h: h.flatten(0, 1).relu().view(-1, 40), IMAGE),
    "unflatten": Case(lambda m, h: h.unflatten(-1, (2, 2))),
    "squeeze": Case(lambda m, h: torch.squeeze(h), (1, 4)),
    "squeeze one": Case(lambda m, h: h.squeeze(2), (4, 1)),
    "squeeze several": Case(lambda m, h: h.squeeze((1, 3)), (1, 4, 1)),
    "unsqueeze": Case(lambda m, h: h.unsqueeze(-1)),
    "permute": Case(lambda m, h: h.permute(0, 3, 1, 2), IMAGE),
    "permute samples": Case(lambda m, h: h.permute(1, 0, 2).relu().permute(1, 0, 2), SIGNAL),
    "transpose": Case(lambda m, h: h.transpose(-1, 1), IMAGE),
    "movedim": Case(lambda m, h: torch.ops.aten.movedim.int(h, 1, -1), IMAGE),
    "select": Case(lambda m, h: h.select(2, -1), IMAGE),
    "select to one": Case(lambda m, h: h[:, 2]),
    "slice": Case(lambda m, h: h[:, :, 1:-1:2], IMAGE),
    "slice from behind": Case(lambda m, h: h[:, -2:] + h[:, :2]),
    "pad": Case(lambda m, h: F.pad(h, (1, 2, 0, 1)), IMAGE),
    "pad less": Case(lambda m, h: F.pad(h, (-1, 1)), IMAGE),
    "pad with a number": Case(lambda m, h: F.pad(h, (1, 1), value=0.7), IMAGE),
    "pad reflecting": Case(lambda m, h: F.pad(h, (1, 1, 1, 1), mode="reflect"), IMAGE),
    "pad repeating": Case(lambda m, h: F.pad(h, (1, 1, 1, 1), mode="replicate"), IMAGE),
    "constant_pad_nd": Case(lambda m, h: torch.constant_pad_nd(h, (0, 1), 0.0), IMAGE),
    "pad samples": Case(lambda m, h: F.pad(h, (0, 0, 1, 0))[1:], refused=True),
    "expand": Case(lambda m, h: h.unsqueeze(1).expand(-1, 3, -1)),
    "expand_as": Case(lambda m, h: h[:, :1].expand_as(h), IMAGE),
}


def made(case: Case, bent: bool) -> tuple[Probe, Tensor]:
    """The case's module in float32 and three samples, one of them zero."""
    torch.manual_seed(7)
    module = Probe(case, bent).eval()
    x = torch.randn(3, 3)
    x[2] = 0
    return module, x


def moved(module: nn.Module, epsilon: float, box: Box, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """Corners and inner points of the box, the tensors all together and at random."""
    generator = torch.Generator().manual_seed(3)
    inside = 1.0 if dtype is torch.float64 else 1.0 - 1e-3
    points = []
    for number in range(POINTS if epsilon else 1):
        point = {}
        for name, p in module.named_parameters():
            theta = p.detach().double()
            noise = torch.rand(theta.shape, generator=generator, dtype=torch.float64) * 2 - 1
            noise = (torch.ones_like(noise), -torch.ones_like(noise), noise.sign(), noise)[min(number, 2 + number % 2)]
            point[name] = (
                (theta + noise * inside * epsilon * box.unit_radius(theta)).to(dtype) if epsilon else p.detach()
            )
        points.append({n: p.to(dtype) for n, p in point.items()})
    return points


def answers(module: nn.Module, point: dict[str, Tensor], x: Tensor) -> Tensor:
    dtype = next(iter(point.values())).dtype
    buffers = {n: b.to(dtype) if b.is_floating_point() else b for n, b in module.named_buffers()}
    with torch.no_grad():
        return torch.func.functional_call(module, {**buffers, **point}, (x.to(dtype),)).double()


def rows() -> Tensor:
    """Every logit, its negative, and a few combinations."""
    one = torch.eye(3, dtype=torch.float64)
    mixed = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.cat([one, -one, mixed])


def check(module: Probe, x: Tensor, arithmetic: str, box: Box, operator: str = "") -> str:
    """``"held"`` or ``"refused"``; fails for a bound that does not hold."""
    dtype = torch.float32 if arithmetic == "float32" else torch.float64
    try:
        problem = problem_of(module, x, box, arithmetic)
        if operator:
            written(problem, operator)
        domains = {intermediate: Linear(problem, {"intermediate": intermediate}) for intermediate in INTERMEDIATE}
        found = []
        for epsilon in SWEEP:
            values = torch.full((len(x),), epsilon, dtype=torch.float64)
            with torch.no_grad():
                samples = domains["interval"].samples(x, values)
                walked = domains["interval"].walked(samples, rows().expand(len(x), -1, -1))
            ends = domains["backward"].logits(slice(None), values[None])
            domains["backward"].margins(slice(None), values[None], torch.zeros(len(x), dtype=torch.long))
            found.append((walked, ends))
    except (InputError, UnsupportedOperator) as error:
        return "refused" if "\n" not in str(error) else "refused in several lines"
    for epsilon, (walked, ends) in zip(SWEEP, found, strict=True):
        for point in moved(module, epsilon, box, dtype):
            truths = [answers(module, point, x)]
            if arithmetic == "float32":
                truths.append(torch.cat([answers(module, point, x[:2])[:1], answers(module, point, x[1:])]))
            for truth in truths:
                room = 0.0 if arithmetic == "float32" else EVALUATION * (1.0 + float(truth.abs().nan_to_num().max()))
                reached = truth @ rows().T
                gone = ~reached.isfinite()
                exact = EVALUATION * (1.0 + truth.abs().nan_to_num().amax(1, keepdim=True))  # of these combinations
                assert ((walked <= reached + room + exact) | (gone & (walked == -torch.inf))).all(), epsilon
                gone = ~truth.isfinite()
                assert ((ends.lower <= truth + room) | (gone & (ends.lower == -torch.inf))).all(), epsilon
                assert ((ends.upper >= truth - room) | (gone & (ends.upper == torch.inf))).all(), epsilon
    return "held"


# Every operator of the table, and a case whose trace holds it.
OPERATORS = {
    "aten._native_batch_norm_legit_no_training.default": "batch_norm and a write",
    "aten._softmax.default": "softmax kernel",
    "aten._to_copy.default": "copy to another type",
    "aten.abs.default": "abs",
    "aten.celu.default": "celu",
    "aten.clamp.default": "clamp",
    "aten.cos.default": "cos",
    "aten.elu.default": "elu",
    "aten.erf.default": "erf",
    "aten.atan.default": "atan",
    "aten.asin.default": "asin",
    "aten.acos.default": "acos",
    "aten.sinh.default": "sinh",
    "aten.cosh.default": "cosh",
    "aten.tan.default": "tan",
    "aten.exp2.default": "exp2",
    "aten.expm1.default": "expm1",
    "aten.log2.default": "log2",
    "aten.log10.default": "log10",
    "aten.erfc.default": "erfc",
    "aten.exp.default": "exp",
    "aten.gelu.default": "gelu",
    "aten.hardsigmoid.default": "hardsigmoid",
    "aten.hardswish.default": "hardswish",
    "aten.hardtanh.default": "hardtanh",
    "aten.index.Tensor": "index",
    "aten.scaled_dot_product_attention.default": "attention",
    "aten.layer_norm.default": "layer_norm",
    "aten.log.default": "log",
    "aten.log1p.default": "log1p",
    "aten.log_sigmoid.default": "logsigmoid",
    "aten.masked_fill.Scalar": "masked_fill",
    "aten.masked_fill.Tensor": "masked_fill of a tensor",
    "aten.mish.default": "mish",
    "aten.pow.Tensor_Scalar": "square",
    "aten.prelu.default": "prelu",
    "aten.sigmoid.default": "sigmoid",
    "aten.silu.default": "silu",
    "aten.sin.default": "sin",
    "aten.softmax.int": "softmax",
    "aten.softplus.default": "softplus",
    "aten.sqrt.default": "sqrt",
    "aten.tanh.default": "tanh",
    "aten._unsafe_view.default": "unsafe_view",
    "aten.adaptive_avg_pool1d.default": "adaptive_avg_pool1d",
    "aten.adaptive_avg_pool2d.default": "adaptive_avg_pool2d",
    "aten.add.Scalar": "add scalar",
    "aten.add.Tensor": "add",
    "aten.addmm.default": "addmm",
    "aten.alias.default": "alias",
    "aten.avg_pool1d.default": "avg_pool1d",
    "aten.avg_pool2d.default": "avg_pool2d",
    "aten.batch_norm.default": "batch_norm",
    "aten.clone.default": "clone",
    "aten.constant_pad_nd.default": "constant_pad_nd",
    "aten.conv1d.default": "conv1d",
    "aten.conv1d.padding": "conv1d same",
    "aten.conv2d.default": "conv2d",
    "aten.conv2d.padding": "conv2d same",
    "aten.detach.default": "detach",
    "aten.div.Scalar": "divided by scalar",
    "aten.div.Tensor": "divided by number",
    "aten.expand.default": "expand",
    "aten.leaky_relu.default": "leaky_relu",
    "aten.linear.default": "linear",
    "aten.matmul.default": "matmul",
    "aten.max_pool2d.default": "max_pool2d",
    "aten.max_pool2d_with_indices.default": "max_pool2d with places",
    "aten.mean.dim": "mean",
    "aten.mm.default": "mm",
    "aten.mul.Scalar": "times scalar",
    "aten.mul.Tensor": "times parameter",
    "aten.pad.default": "pad",
    "aten.permute.default": "permute",
    "aten.relu.default": "relu",
    "aten.rsub.Scalar": "rsub scalar",
    "aten.rsub.Tensor": "rsub",
    "aten.select.int": "select",
    "aten.slice.Tensor": "slice",
    "aten.squeeze.default": "squeeze",
    "aten.squeeze.dim": "squeeze one",
    "aten.squeeze.dims": "squeeze several",
    "aten.sub.Scalar": "sub scalar",
    "aten.sub.Tensor": "subtract",
    "aten.sum.dim_IntList": "sum",
    "aten.transpose.int": "transpose",
    "aten.unsqueeze.default": "unsqueeze",
    "aten.view.default": "view",
    "getitem": "max_pool2d with places",
}

# Those that a trace writes in terms of others: what stands in their place there, and the arguments behind the value.
WRITTEN_OUT: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "aten._adaptive_avg_pool2d.default": ("adaptive_avg_pool2d", "aten.adaptive_avg_pool2d.default", ([3, 2],)),
    "aten.alpha_dropout.default": ("clone", "aten.clone.default", (0.5, False)),
    "aten.contiguous.default": ("clone", "aten.clone.default", ()),
    "aten.dropout.default": ("clone", "aten.clone.default", (0.5, False)),
    "aten.feature_dropout.default": ("clone", "aten.clone.default", (0.5, False)),
    "aten.flatten.using_ints": ("view", "aten.view.default", (2,)),
    "aten.lift_fresh_copy.default": ("clone", "aten.clone.default", ()),
    "aten.movedim.int": ("movedim", "aten.permute.default", (1, -1)),
    "aten.relu_.default": ("relu", "aten.relu.default", ()),
    "aten.reshape.default": ("view", "aten.view.default", ([-1, 4, 10],)),
    "aten.to.device": ("clone", "aten.clone.default", (torch.device("cpu"), torch.float32)),
    "aten.to.dtype": ("clone", "aten.clone.default", (torch.float32,)),
    "aten.unflatten.int": ("unflatten", "aten.view.default", (-1, [2, 2])),
}
# Of the whole batch, which no rule takes apart.
OF_ALL_SAMPLES = {"aten.mean.default"}
# Of other inputs than these probes have; tests/verify/test_transformer.py holds an embedding of a sample's words.
ELSEWHERE = {f"aten.{name}.default" for name in ("embedding", "clamp_min", "clamp_max", "relu6", "selu")}
# And where rows meet infinity.
MASKS = {"mask that is cut off again", "mask in front of a curve", "softmax with a mask added"}
ONE_EACH = {*OPERATORS.values(), *(case for case, _, _ in WRITTEN_OUT.values()), *MASKS}


def problem_of(module: Probe, x: Tensor, box: Box, arithmetic: str) -> Problem:
    return Problem(module, settings("interval", box, arithmetic, "float64", "cpu"), x)


def written(problem: Problem, operator: str) -> None:
    """Put an operator in the place of those that the trace writes it as."""
    _, stands, rest = WRITTEN_OUT[operator]
    graph = problem.network.main
    name, overload = operator.removeprefix("aten.").split(".")
    target = getattr(getattr(torch.ops.aten, name), overload)
    operations = list(graph.operations)
    place = max(i for i, o in enumerate(operations) if o.operator == stands and i < len(operations) - 3)
    old = operations[place]
    operations[place] = replace(old, operator=operator, target=target, args=(old.args[0], *rest))
    problem.network.main = replace(graph, operations=operations, last_use={}, readers=Counter())


@pytest.mark.thin(quick=23)
@pytest.mark.parametrize("name", [n if n in ONE_EACH else pytest.param(n, marks=pytest.mark.long) for n in CASES])
@pytest.mark.parametrize("bent", [True, pytest.param(False, marks=pytest.mark.long)], ids=["bent", "straight"])
def test_contained_or_left_to_intervals(name: str, bent: bool) -> None:
    case = CASES[name]
    module, x = made(case, bent)
    boxes = [Box(), Box(kind="absolute")]
    for place, arithmetic in enumerate(("real", "float32")):
        box = boxes[(len(name) + place) % 2]
        assert check(module, x, arithmetic, box) == ("refused" if case.refused else "held")
    if not case.refused:
        met = {o.operator for o in problem_of(module, x, Box(), "real").network.main.operations}
        assert {o for o, where in OPERATORS.items() if where == name} <= met


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("operator", WRITTEN_OUT)
def test_operators_that_a_trace_writes_out(operator: str) -> None:
    module, x = made(CASES[WRITTEN_OUT[operator][0]], True)
    for arithmetic in ("real", "float32"):
        assert check(module, x, arithmetic, Box(), operator) == "held"


def test_every_operator_has_a_case() -> None:
    from tests.verify.linear import test_operators_structure as structure  # which reads this file

    elsewhere = {*OF_ALL_SAMPLES, *ELSEWHERE, *structure.OPERATORS, *structure.SAME}
    assert {*OPERATORS, *WRITTEN_OUT, *elsewhere} >= set(BACKWARD)
