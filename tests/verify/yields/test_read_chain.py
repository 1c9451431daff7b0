"""A chain is the network it was read from, and nothing else is read as one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thetabox as tb
from tests.verify.yields.networks import NETWORKS, network
from thetabox.verify import agreement, arguments
from thetabox.verify.yields.chain import Chain, Dense
from thetabox.verify.yields.proofs import proofs
from thetabox.verify.yields.read_chain import read
from thetabox.verify.yields.sizes import sizes


def read_of(model: nn.Module, x: Tensor, box: tb.Box | None = None) -> Chain | None:
    chosen = arguments.settings("interval", box, "real", "float64", "cpu", None)
    given = arguments.network(model, x, chosen)
    problem, _ = agreement.checked_problem(
        given.model, chosen, given.x, torch.tensor([1e-3]).double(), given.x_as_given
    )
    return read(problem, sizes(problem.model, chosen.box, tb.Noise()))


def run(chain: Chain, x: Tensor) -> Tensor:
    """What a chain computes."""
    for stage in chain.stages:
        layer = stage.layer
        if isinstance(layer, Dense):
            x = x.flatten(1) @ layer.weight.T + layer.bias
        else:
            x = F.conv2d(F.pad(x, layer.padding), layer.weight, layer.bias, layer.stride)
        for pool, function in ((stage.average, F.avg_pool2d), (stage.largest, F.max_pool2d)):
            if pool is not None:
                x = function(x, pool.kernel, pool.stride)
        x = x.relu() if stage.relu else x
    return x


class Functional(nn.Module):
    """Layers called as functions, a weight that is exact, a view in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.weight = nn.Parameter(torch.randn(3, 1, 2, 3)), nn.Parameter(torch.randn(5, 48))
        self.head = nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.conv2d(x, self.kernel, padding=(1, 0), stride=(2, 1)).relu().contiguous()
        return self.head(F.linear(h.view(-1, 48), self.weight).relu())


CHAINS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3)), (6,)),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3)), (1, 6, 6)),
    "pools": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding="same"), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 4, 2, padding=1), nn.ReLU(),
            nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(16, 3),
        ),
        (1, 6, 6),
    ),
    "even kernel": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 4, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)), (1, 6, 6)
    ),
    "average": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)), (1, 6, 6)
    ),
    "functional": (Functional, (1, 6, 6)),
}  # networks, several layers to a line  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_computes_what_the_network_does(name: str) -> None:
    make, shape = CHAINS[name]
    torch.manual_seed(0)
    model, x = make().double().eval(), torch.randn(4, *shape, dtype=torch.float64)
    chain = read_of(model, x)
    assert chain is not None
    torch.testing.assert_close(run(chain, x), model(x), rtol=1e-12, atol=1e-12)
    for stage in chain.stages:
        assert bool((stage.layer.weight_size >= stage.layer.weight.abs()).all())
        torch.testing.assert_close(stage.layer.weight_size, stage.layer.weight.abs(), rtol=1e-12, atol=0.0)
        torch.testing.assert_close(stage.layer.bias_size, stage.layer.bias.abs(), rtol=1e-12, atol=0.0)


def test_sizes_are_of_the_tensors_in_the_box_alone() -> None:
    make, shape = CHAINS["dense"]
    chain = read_of(make().eval(), torch.randn(4, *shape), tb.Box("absolute", include="0.weight"))
    assert chain is not None
    first, last = (stage.layer for stage in chain.stages)
    assert bool((first.weight_size >= 1.0).all())
    assert not bool(first.bias_size.any() or last.weight_size.any() or last.bias_size.any())


OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "no ReLU between": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)), (6,)),
    "two ReLUs": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.ReLU(), nn.Linear(5, 3)), (6,)),
    "tanh": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), (6,)),
    "groups": (
        lambda: nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
        (2, 6, 6),
    ),
    "dilation": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 2, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
        (1, 6, 6),
    ),
    "padded pool": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2, padding=1), nn.Flatten(), nn.Linear(18, 3)
        ),
        (1, 6, 6),
    ),
    "average behind a ReLU": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)),
        (1, 6, 6),
    ),
    "transposed values": (lambda: _Turned(), (4, 4)),
    **{name: NETWORKS[name] for name in ("residual", "branches", "tied", "batch norm", "steps", "signals", "leaky")},
}


class _Turned(nn.Module):
    """Numbers of a sample change their places between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.transpose(1, 2).flatten(1))


@pytest.mark.parametrize("name", OTHERS)
def test_another_network_is_no_chain(name: str) -> None:
    if name in NETWORKS:
        model, x = network(name)
    else:
        make, shape = OTHERS[name]
        torch.manual_seed(0)
        model, x = make().eval(), torch.randn(4, *shape)
    assert read_of(model, x) is None


def test_products_of_a_pass() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.dense = nn.Conv2d(1, 3, 4, stride=2, padding=1), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.dense(F.max_pool2d(self.conv(x).relu(), 2).flatten(1))

    chain = read_of(Two().eval(), torch.rand(1, 1, 8, 9))
    # 4 x 4 places of 3 kernels of 16 weights, pooled to 2 x 2.
    assert chain is not None
    assert chain.products((8, 9)) == 16 * 48 + 60


@pytest.mark.parametrize(("width", "order"), [(2, ["martingale", "log-sobolev"]), (64, ["log-sobolev", "martingale"])])
def test_in_large_networks_log_sobolev_comes_first(width: int, order: list[str]) -> None:
    net = nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * width, 2)),
    )
    settings = arguments.settings("interval", None, "real", "float64", "cpu", None)
    problem = agreement.checked_problem(net, settings, torch.rand(2, 1, 8, 8), torch.tensor([0.1]), None)[0]
    noise = tb.Noise().on(problem.model, settings.box.factors(problem.model))
    held = sizes(problem.model, settings.box, noise)
    assert [proof.name for proof in proofs(problem, held, noise)] == order
