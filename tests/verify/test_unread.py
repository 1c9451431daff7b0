"""What a network computes and does not read is left out of its graph, and what writes to something is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb


class Answering(nn.Module):
    def __init__(self, answer: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.answer, self.layer, self.norm = answer, nn.Linear(4, 3), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(self, x)


def negated(net: nn.Module, x: Tensor) -> Tensor:
    y = net.layer(x)
    with torch.no_grad():
        y.mul_(-1)
    return y


def a_view_moved(net: nn.Module, x: Tensor) -> Tensor:
    y = net.layer(x)
    first = y[:, :1]
    with torch.no_grad():
        first.add_(3.0)
    return y


def places_written(net: nn.Module, x: Tensor) -> Tensor:
    y = net.layer(x).clone()
    y[:, 1] = 0.25
    y[:, 0].mul_(2.0)
    return y


def copied_into(net: nn.Module, x: Tensor) -> Tensor:
    kept = torch.zeros(x.shape[0], 3)
    kept.copy_(net.layer(x))
    return kept


@pytest.mark.parametrize("answer", [negated, a_view_moved, places_written, copied_into])
def test_what_is_written_without_a_result_that_is_read(answer: Callable[[nn.Module, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net, x = Answering(answer).eval(), torch.randn(6, 4)
    ends = tb.logit_bounds(net, x, 0.0, arithmetic="real")
    with torch.no_grad():
        assert torch.allclose(ends.lower.float(), net(x), atol=1e-5)
        assert torch.allclose(ends.upper.float(), net(x), atol=1e-5)


def loop(net: nn.Module, x: Tensor) -> Tensor:
    u = total = torch.zeros(x.shape[0], 3)
    for _ in range(3):
        u = 0.9 * u + net.layer(x)
        spike = (u > 0.5).to(u.dtype)
        u, total = u - spike, total + spike  # of the last step u is not read
    return total


def unused_layers(net: nn.Module, x: Tensor) -> Tensor:
    torch.relu(net.norm(x)).amax(1)
    return net.layer(x)


@pytest.mark.parametrize("answer", [loop, unused_layers])
def test_no_decomposition_for_what_is_not_read(
    answer: Callable[[nn.Module, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", fail)
    net, x = Answering(answer).eval(), torch.randn(6, 4)
    with torch.no_grad():
        y = net(x).argmax(1)
    assert tb.certify(net, x, y, 0.0, domain="interval").verified.any()
    assert not any("relu" in operator.operator for operator in tb.inspect(net, x))
