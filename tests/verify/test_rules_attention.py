"""Softmax, norms over moments, attention, and pointwise functions beside the activations, put through the contract."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.verify.contract import Case, RuleContract

pytestmark = pytest.mark.usefixtures("traced_once")

IMAGE, SIGNAL = (4, 3, 2), (3, 5)
MASK = torch.tensor([True, False, False, True])


def norm(module: nn.Module) -> nn.Module:
    """With weights of both signs."""
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if value.is_floating_point():
                numbers = torch.linspace(0.3, 1.7, value.numel()).view(value.shape)
                value.copy_(numbers if "var" in name else numbers * (-1) ** torch.arange(value.shape[-1]))
    return module.eval()


class TestCurves(RuleContract):
    cases: ClassVar = {
        "hardswish": Case(nn.Hardswish()),
        "mish": Case(nn.Mish()),
        "erf": Case(lambda h, g: torch.erf(h), tight=True),
        "log": Case(lambda h, g: (h.relu() + 0.1).log(), tight=True),
        "logsigmoid": Case(nn.LogSigmoid(), tight=True),
        "logsigmoid kernel": Case(lambda h, g: torch.ops.aten.log_sigmoid_forward(h)[0], tight=True),
        "celu": Case(nn.CELU(0.7), tight=True),
        "sin": Case(lambda h, g: torch.sin(h)),
        "cos": Case(lambda h, g: torch.cos(h * 3)),
        "prelu": Case(nn.PReLU()),
        "prelu of channels": Case(norm(nn.PReLU(4)), IMAGE),
        "prelu of features": Case(norm(nn.PReLU(4))),
        "prelu of values": Case(lambda h, g: torch.ops.aten._prelu_kernel(h, g)),
        "floor": Case(lambda h, g: torch.floor(h * 3), smooth=False),
        "ceil": Case(lambda h, g: torch.ceil(h * 3), smooth=False),
        "round": Case(lambda h, g: torch.round(h * 3), smooth=False),
        "trunc": Case(lambda h, g: torch.trunc(h * 3), smooth=False),
        "hardshrink": Case(lambda h, g: F.hardshrink(h, 0.3) + g, smooth=False),
        "softshrink": Case(lambda h, g: F.softshrink(h, 0.3) + g),
        "threshold": Case(nn.Threshold(0.1, -0.7)),
        "threshold above": Case(nn.Threshold(0.1, 0.3)),
        "softsign": Case(nn.Softsign()),
        "tanhshrink": Case(nn.Tanhshrink()),
        "masked_fill": Case(lambda h, g: h.masked_fill(MASK, -0.3), tight=True),
        "masked_fill of a tensor": Case(lambda h, g: h.masked_fill(MASK, torch.tensor(0.1)), tight=True),
        "masked_fill by a value": Case(lambda h, g: h.masked_fill(g > 0.1, 0.2), smooth=False),
        "tril": Case(lambda h, g: h.tril(1), SIGNAL, tight=True),
        "triu": Case(lambda h, g: h.triu(), SIGNAL, tight=True),
    }


class TestSoftmax(RuleContract):
    cases: ClassVar = {
        "softmax": Case(nn.Softmax(1)),
        "softmax of rows": Case(lambda h, g: (h * 5).softmax(-2), SIGNAL),
        "softmax of one": Case(lambda h, g: h[:, :1].softmax(1) * g[:, :1]),
        "softmin": Case(nn.Softmin(1)),
        "softmax kernel": Case(lambda h, g: torch.ops.aten._softmax(h, 1, False)),
        "masked softmax": Case(lambda h, g: h.masked_fill(MASK, -torch.inf).softmax(1)),
        "softmax masked by a value": Case(
            lambda h, g: h.masked_fill(g > 0.1, -torch.inf).softmax(1), smooth=False, largest=1.0
        ),
        "log_softmax": Case(nn.LogSoftmax(1)),
        "log_softmax kernel": Case(lambda h, g: torch.ops.aten._log_softmax(h * 20, 1, False)),
        "log_softmax of rows": Case(lambda h, g: F.log_softmax(h, 1), SIGNAL),
        "logsumexp": Case(lambda h, g: h.logsumexp(1, keepdim=True), tight=False),
        "logsumexp of two": Case(lambda h, g: h.logsumexp((1, 2))[:, None], SIGNAL),
    }


class TestNorms(RuleContract):
    cases: ClassVar = {
        "layer norm": Case(norm(nn.LayerNorm(4))),
        "layer norm of rows": Case(norm(nn.LayerNorm(5)), SIGNAL),
        "layer norm of matrices": Case(norm(nn.LayerNorm((3, 5))), SIGNAL),
        "layer norm without bias": Case(norm(nn.LayerNorm(5, bias=False)), SIGNAL),
        "layer norm without weights": Case(nn.LayerNorm(5, elementwise_affine=False, eps=0.1), SIGNAL),
        "layer norm of one": Case(norm(nn.LayerNorm(1)), (3, 1)),
        "native layer norm": Case(lambda h, g: torch.ops.aten.native_layer_norm(h, [4], None, None, 1e-5)[0]),
        "group norm": Case(norm(nn.GroupNorm(2, 4)), IMAGE),
        "group norm of features": Case(norm(nn.GroupNorm(2, 4))),
        "group norm without weights": Case(nn.GroupNorm(1, 4, affine=False), IMAGE),
        "native group norm": Case(
            lambda h, g: torch.ops.aten.native_group_norm(h, None, None, h.shape[0], 4, 6, 2, 1e-5)[0], IMAGE
        ),
        "instance norm": Case(norm(nn.InstanceNorm2d(4)), IMAGE),
        "instance norm with weights": Case(norm(nn.InstanceNorm1d(3, affine=True)), SIGNAL),
        "instance norm with statistics": Case(
            norm(nn.InstanceNorm1d(3, affine=True, track_running_stats=True)), SIGNAL
        ),
        "rms norm": Case(norm(nn.RMSNorm(4))),
        "rms norm of rows": Case(norm(nn.RMSNorm(5, eps=1e-3)), SIGNAL),
    }


class Embedded(nn.Module):
    """A table in the box, read at constant places."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.other = nn.Parameter(torch.randn(5, 4, generator=torch.Generator().manual_seed(6)))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.table(torch.tensor([3, 0, 3])).sum(0) * F.embedding(torch.tensor(1), self.other)


def heads(h: Tensor) -> Tensor:
    return h.view(-1, 3, 2, 2).transpose(1, 2)


class TestAttention(RuleContract):
    cases: ClassVar = {
        "attention": Case(lambda h, g: F.scaled_dot_product_attention(h, g, h), SIGNAL),
        "attention of heads": Case(
            lambda h, g: F.scaled_dot_product_attention(heads(h), heads(g), heads(g * 0.3)), (3, 4)
        ),
        "causal attention": Case(lambda h, g: F.scaled_dot_product_attention(h, g, g, is_causal=True), SIGNAL),
        "attention with a mask": Case(
            lambda h, g: F.scaled_dot_product_attention(h, g, h, torch.ones(3, 3).bool().tril(), scale=0.3), SIGNAL
        ),
        "attention with a mask of numbers": Case(
            lambda h, g: F.scaled_dot_product_attention(h, g, h, torch.tensor([[0.0, -torch.inf, 0.3]] * 3)), SIGNAL
        ),
        "attention with a mask of values": Case(
            lambda h, g: F.scaled_dot_product_attention(h, g, h, (g @ g.transpose(1, 2)) * 0.1), SIGNAL
        ),
        "attention by hand": Case(lambda h, g: (h @ g.transpose(1, 2) / 2).softmax(-1) @ h, SIGNAL),
        "embedding": Case(Embedded()),
    }
