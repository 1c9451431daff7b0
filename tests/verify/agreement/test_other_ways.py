"""A weight is the same weight by whatever way the code reads it: certified, attacked, drawn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thetabox as tb
from tests.verify.agreement.networks import OTHER_WAYS, Plain, samples

EPSILON = [0.0, 0.02, 0.2]


@pytest.mark.parametrize("kind", OTHER_WAYS, ids=lambda kind: kind.__name__)
def test_bounds_are_those_of_the_plain_network(kind: type[nn.Module]) -> None:
    x = samples()
    plain, other = Plain(), kind()
    y = plain(x).argmax(1)
    assert torch.equal(other(x), plain(x))
    expected = tb.certify(plain, x, y, EPSILON, domain="interval")
    found = tb.certify(other, x, y, EPSILON, domain="interval")
    assert torch.allclose(found.margin, expected.margin, rtol=1e-9, atol=1e-12)
    assert found.margin[0].gt(found.margin[2]).all()
    assert found.checked["unread"] == []


@pytest.mark.parametrize("domain", ["linear", "auto"])
@pytest.mark.parametrize("kind", OTHER_WAYS[:6], ids=lambda kind: kind.__name__)
def test_dearer_domains_as_well(kind: type[nn.Module], domain: str) -> None:
    x = samples(6)
    plain, other = Plain(), kind()
    y = plain(x).argmax(1)
    expected = tb.certify(plain, x, y, [0.02, 0.1], domain=domain)
    found = tb.certify(other, x, y, [0.02, 0.1], domain=domain)
    assert torch.equal(found.verified, expected.verified)


@pytest.mark.parametrize("kind", OTHER_WAYS, ids=lambda kind: kind.__name__)
def test_no_verified_sample_flips_inside_the_box(kind: type[nn.Module]) -> None:
    net, x = kind(), samples()
    y = net(x).argmax(1)
    found = tb.certify(net, x, y, [0.0, 0.2])
    own = [p.detach().clone() for p in net.parameters()]
    flipped = torch.zeros(len(x), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(100):
            for p, o in zip(net.parameters(), own, strict=True):
                p.data.copy_(o * (1 + 0.1999 * (2 * torch.randint(0, 2, o.shape, generator=generator) - 1)))
            flipped |= net(x).argmax(1) != y
    assert not bool((found.verified[1] & flipped).any())


@pytest.mark.parametrize("kind", OTHER_WAYS, ids=lambda kind: kind.__name__)
def test_measurements_move_them_too(kind: type[nn.Module]) -> None:
    plain, other, x = Plain(), kind(), samples(40)
    y = plain(x).argmax(1)
    if {n for n, _ in plain.named_parameters()} == {n for n, _ in other.named_parameters()}:
        expected, found = (tb.mismatch(net, x, y, 0.5, samples=6).accuracy for net in (plain, other))
        assert torch.equal(expected, found)
    attacked = tb.attack(other, x, y, [0.2], steps=5)
    assert attacked.accuracy[0] < 0.7
    assert tb.random_attack(other, x, y, [0.5], draws=30).accuracy[0] < 1.0
    assert tb.shared_attack(other, x, y, [0.5], steps=5).accuracy[0] < 1.0
    if kind.__name__ != "OneOwner":  # its one tensor has one dimension, which no array holds
        assert tb.pcm(other, x, y, samples=2).accuracy.min() < 1.0


class Listed(nn.Module):
    """Layers in a plain list."""

    def __init__(self, hold: type) -> None:
        super().__init__()
        layers = [nn.Linear(6, 16), nn.ReLU()]
        self.layers = layers if hold is list else {"first": layers[0], "act": layers[1]}
        self.out = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = self.layers if isinstance(self.layers, list) else list(self.layers.values())
        for layer in layers:
            x = layer(x)
        return self.out(x)


@pytest.mark.thin(2)
@pytest.mark.parametrize("hold", [list, dict])
def test_layers_in_a_plain_container_are_named(hold: type) -> None:
    where = "layers[0]" if hold is list else "layers['first']"
    for call in (
        lambda net, x: tb.certify(net, x, [0] * len(x), 0.1),
        lambda net, x: tb.logit_bounds(net, x, 0.1),
        lambda net, x: tb.certified_radius(net, x, [0] * len(x)),
    ):
        with pytest.raises(tb.InputError) as refused:
            call(Listed(hold), samples())
        assert where in str(refused.value)


OUTSIDE = nn.Linear(6, 3)
LOOSE = nn.Parameter(torch.randn(6, 3))


@pytest.mark.slow
@pytest.mark.usefixtures("whole_heap")
@pytest.mark.parametrize("thing", [lambda x: OUTSIDE(x), lambda x: x @ LOOSE])
def test_trainable_tensors_of_nobody_are_named(thing: object) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.other = nn.Linear(6, 3), thing

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.own(x) + self.other(x)

    with pytest.raises(tb.InputError, match=r"global (OUTSIDE|LOOSE)"):
        tb.certify(Net(), samples(), [0] * 12, 0.1)


def test_a_network_that_reads_copies_of_its_weights_is_refused() -> None:
    class Copies(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.kept = [self.w.detach().clone(), self.v.detach().clone()]

        def weights(self) -> tuple[torch.Tensor, torch.Tensor]:
            return self.kept[0], self.kept[1]

    with pytest.raises(tb.InputError, match="reads no parameter of the box"):
        tb.certify(Copies(), samples(), [0] * 12, 0.1)


def test_unread_parameters_stand_in_the_certificate() -> None:
    net = Plain()
    net.unused = nn.Parameter(torch.ones(3))
    x = samples()
    assert tb.certify(net, x, net(x).argmax(1), 0.01).checked["unread"] == ["unused"]


def test_tied_memory_moves_together() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.b.weight.data = self.a.weight.data
            self.out = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.b(torch.relu(self.a(x))))

    net, x = Tied(), samples()
    assert tb.certify(net, x, net(x).argmax(1), [0.0, 0.01]).checked["tensors_moved"] == 4
