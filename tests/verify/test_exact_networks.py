"""Whole small networks against exact oracles: every vertex inside, the margin row exact, float32 in any order."""

from __future__ import annotations

import random
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.oracles import layers, lsnn, networks, orders
from tests.oracles.rational import assert_contains, box_ends, exact
from thetabox.models import LSNN
from thetabox.verify.interpreter.rules import shortcuts

pytestmark = pytest.mark.usefixtures("traced_once")

SWEEP = [0.0, 1e-9, 1e-3, 0.1, 1.5]


def mlp() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3)), torch.randn(2, 2)


def cnn() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(2)
    parts = (nn.Conv2d(1, 2, 2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(*parts), torch.randn(2, 1, 3, 3)


@cache
def reached(make: Any, sample: int, epsilon: float, label: int) -> networks.Extremes:
    model, x = make()
    return networks.extremes(model, x[sample], epsilon, label, limit=150 if make is mlp else 40, inner=5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("make", [mlp, cnn])
def test_every_vertex_inside(make: Any, precision: str) -> None:
    model, x = make()
    bounds = tb.logit_bounds(model, x, SWEEP, precision=precision)
    label = torch.tensor([0, 2])
    certificate = tb.certify(model, x, label, SWEEP, precision=precision)
    plain = tb.certify(model, x, label, SWEEP, precision=precision, criterion="logits")
    for place, epsilon in enumerate(SWEEP):
        for n in range(2):
            truth = reached(make, n, epsilon, int(label[n]))
            assert_contains(bounds.lower[place, n], bounds.upper[place, n], truth.lower, truth.upper)
            assert exact(certificate.margin[place, n]) <= truth.margin
            assert exact(plain.margin[place, n]) <= truth.margin
    room = {"float64": 1e-12, "float32": 1e-4}[precision]
    assert (certificate.margin >= plain.margin - room * plain.margin.abs().amax()).all()


@pytest.mark.parametrize("make", [mlp, cnn])
def test_exact_weights_take_one_product_a_layer(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At ε = 0 all that a layer behind the first has to bound is rounding: one number, above that of every output."""
    found, once = [], shortcuts.unperturbed

    def counted(*given: Any) -> Any:
        found.append(once(*given))
        return found[-1]

    monkeypatch.setattr(shortcuts, "unperturbed", counted)
    model, x = make()
    bounds = tb.logit_bounds(model, x, [0.0], domain="interval")
    # Both layers where the network is compared with its graph, and the one behind the first for the bounds.
    assert len(found) == 3
    assert all(known is not None for known in found)
    assert float((bounds.upper - bounds.lower).max()) < 1e-13
    for n in range(2):
        truth = networks.forward(model, x[n])
        assert_contains(bounds.lower[0, n], bounds.upper[0, n], truth, truth)
    # In float32 rounding is too much to be the same for all outputs.
    for other in ({"precision": "float32"}, {"arithmetic": "float32"}):
        tb.logit_bounds(model, x, [0.0], domain="interval", **other)
        assert found[-1] is None


def test_rounding_of_many_layers_is_bounded_output_by_output() -> None:
    """A slack that all outputs share would be widened by every layer behind: proofs were lost at ε = 0 alone."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(14):
        parts += [nn.Linear(64, 64), nn.ReLU()]
        nn.init.kaiming_normal_(parts[-2].weight)
    model, x = nn.Sequential(*parts, nn.Linear(64, 4)), torch.randn(20, 64)
    with torch.no_grad():
        y = model(x).argmax(1)
    none, little = (tb.certify(model, x, y, [e], domain="interval").margin[0] for e in (0.0, 1e-18))
    assert (none >= little).all()
    assert (none > 0).all()


def test_a_layer_that_reads_nothing() -> None:
    """Behind a layer whose output is known but for rounding."""

    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.nothing, self.last = nn.Linear(2, 3), nn.Linear(0, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            v = torch.relu(self.first(x))
            return self.last(v + self.nothing(v[:, :0]))

    model, x = Empty(), torch.randn(2, 2)
    bounds = tb.logit_bounds(model, x, [0.0], domain="interval")
    truth = model.double()(x.double()).detach()
    assert (bounds.lower[0] <= truth + 1e-14).all()
    assert (bounds.upper[0] >= truth - 1e-14).all()


class WithoutNeurons(nn.Module):
    """Beside the rest a layer of no neurons, whose ReLU another reads."""

    def __init__(self, added: bool) -> None:
        super().__init__()
        self.body, self.added = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), added
        self.none, self.reads = nn.Linear(3, 0), nn.Linear(0, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        none = torch.relu(self.none(x))
        return self.body(x) + self.reads(none) if self.added else self.body(torch.cat([x, none], 1))


@pytest.mark.slow
@pytest.mark.parametrize("added", [True, False], ids=["added", "beside"])
@pytest.mark.parametrize("domain", ["linear", "auto"])
def test_a_layer_of_no_neurons(added: bool, domain: str) -> None:
    model, x = WithoutNeurons(added), torch.randn(8, 3)
    y = model(x).argmax(1)
    found, alone = (tb.certify(m, x, y, [0.0, 1e-2, 5e-2], domain=domain) for m in (model, model.body))
    torch.testing.assert_close(found.margin[0], alone.margin[0], rtol=1e-9, atol=1e-12)
    # A sum or other columns behind the layers costs a little.
    assert (found.margin <= alone.margin + 1e-9).all()
    assert (found.margin >= alone.margin - 0.02).all()
    proven, before = (tb.certify_yield(m, x, y, [0.01, 0.05]) for m in (model, model.body))
    assert (proven.delta >= before.delta * (1 - 1e-6)).all()
    assert proven.proven_share[0] > 0.7


@pytest.mark.parametrize(
    ("bias", "kind", "relu", "huge"),
    [
        (True, "relative", True, False),
        (False, "relative", True, True),
        (True, "relative", False, True),
        (True, "absolute", True, False),
        (False, "absolute", False, False),
        (True, "range", True, True),
    ],
)
def test_margin_row_is_the_exact_minimum(bias: bool, kind: str, relu: bool, huge: bool) -> None:
    torch.manual_seed(3)
    body = nn.Linear(3, 5)
    model = nn.Sequential(body, nn.ReLU() if relu else nn.Identity(), nn.Linear(5, 4, bias=bias)).double()
    with torch.no_grad():
        model[2].weight[0, :3] = torch.tensor([0.0, 5e-324, 1e140 if huge else 1.0], dtype=torch.float64)
    x, y = torch.randn(3, 3, dtype=torch.float64), torch.tensor([0, 3, 1])
    box = tb.Box(kind=kind)
    hidden = tb.logit_bounds(nn.Sequential(model[0], model[1]), x, SWEEP, box=box)
    margin = tb.certify(model, x, y, SWEEP, box=box).margin
    plain = tb.certify(model, x, y, SWEEP, box=box, criterion="logits").margin
    assert (margin >= plain - 1e-12 * plain.abs().amax()).all()
    for place, epsilon in enumerate(SWEEP):
        weight = box_ends(model[2].weight, epsilon, kind)
        offset = box_ends(model[2].bias, epsilon, kind) if bias else None
        for n in range(3):
            inside = exact(hidden.lower[place, n]), exact(hidden.upper[place, n])
            rows = layers.margin_minimum(weight, offset, inside, int(y[n]))
            truth = min(r for k, r in enumerate(rows) if k != y[n])
            reach = np.maximum(abs(inside[0]), abs(inside[1])).max()
            size = reach * max(np.maximum(abs(weight[0]), abs(weight[1])).sum(1)) * 2 + 10
            got = Fraction(float(margin[place, n]))
            assert abs(got - truth) <= Fraction(1e-13) * size
            # Hidden bounds are settled a little wider inside than printed, so only a one-sided claim is exact.
            assert got <= truth + Fraction(1e-15) * size


def test_margin_of_known_hidden_values_without_tolerance() -> None:
    """Never above the exact minimum, not by one unit in the last place."""
    torch.manual_seed(4)
    model = nn.Linear(6, 3, bias=False).double()
    with torch.no_grad():
        # Terms that cancel: the margin is small beside its rounding.
        model.weight[:, 0] = torch.tensor([1e6, -1e6, 2e6])
        model.weight[:, 1] = -model.weight[:, 0]
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.randint(3, (40,))
    x[:, 0] = x[:, 1]
    for precision, samples in (("float64", x), ("float32", x.float())):
        margin = tb.certify(model, samples, y, [0.0, 1e-3], precision=precision).margin
        for place, epsilon in enumerate((0.0, 1e-3)):
            weight = box_ends(model.weight, epsilon)
            for n in range(40):
                known = exact(samples[n])
                rows = layers.margin_minimum(weight, None, (known, known), int(y[n]))
                assert exact(margin[place, n]) <= min(r for k, r in enumerate(rows) if k != y[n])


def test_margin_in_the_head() -> None:
    """h = 2 known, weights 3 and 1, no bias: 6 - 2 = 4, less ε (6 + 2); radius just below 1/2."""
    model = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0], [1.0]]))
    x, y = torch.tensor([[2.0]]), torch.tensor([0])
    certificate = tb.certify(model, x, y, [0.0, 0.25, 0.5, 1.0])
    assert certificate.margin.flatten().tolist() == pytest.approx([4.0, 2.0, 0.0, -4.0], abs=1e-12)
    assert certificate.verified.flatten().tolist() == [True, True, False, False]
    assert 0.5 / 1.01 <= tb.certified_radius(model, x, y).item() < 0.5


def test_a_tie_is_never_verified() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    assert not tb.certify(model, torch.ones(1, 2), torch.tensor([0]), [0.0]).verified.any()


NEURONS = ("threshold", "tau", "tau_adapt", "beta")


def tiny(seed: int) -> tuple[LSNN, dict[str, Any]]:
    values = lsnn.tiny(seed)
    model = LSNN(2, 3, 2)
    with torch.no_grad():
        for name, value in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
            if name in values:
                value.copy_(torch.from_numpy(values[name].astype(np.float32)))
    return model, lsnn.parameters(model)


@pytest.mark.slow
@pytest.mark.parametrize("neurons", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_lsnn_vertices_inside(seed: int, neurons: bool) -> None:
    """3 units, 5 steps; with the neuron parameters in the box too."""
    model, values = tiny(seed)
    x = lsnn.random_inputs(seed)
    inputs = torch.from_numpy(x.astype(np.float64))[None]
    box = tb.Box(include="*," + ",".join(NEURONS)) if neurons else tb.Box()
    perturbed = (*lsnn.WEIGHTS, *NEURONS) if neurons else lsnn.WEIGHTS
    sweep = [0.0, 1e-9, 1e-3, 0.1, 0.9]
    for precision in ("float64", "float32"):
        bounds = tb.logit_bounds(model, inputs, sweep, box=box, precision=precision)
        certificate = tb.certify(model, inputs, torch.tensor([seed]), sweep, box=box, precision=precision)
        for place, epsilon in enumerate(sweep):
            truth = lsnn.extremes(values, x, epsilon, seed, perturbed=perturbed, limit=60, inner=20)
            assert_contains(bounds.lower[place, 0], bounds.upper[place, 0], truth.lower, truth.upper)
            assert exact(certificate.margin[place, 0]) <= truth.margin


@pytest.mark.parametrize("seed", [2, 3])
def test_lsnn_reachable_trains_inside(seed: int) -> None:
    """All spike trains of the box, not its vertices alone."""
    model, values = tiny(seed)
    x = lsnn.random_inputs(seed)
    inputs = torch.from_numpy(x.astype(np.float64))[None]
    for epsilon in (1e-3, 0.05):
        trains = [np.array(t) for t in lsnn.reachable(values, x, epsilon)]
        truth = lsnn.readout_extremes(values, trains, epsilon, 0)
        bounds = tb.logit_bounds(model, inputs, epsilon)
        assert_contains(bounds.lower[0], bounds.upper[0], truth.lower, truth.upper)


def test_float32_dot_in_every_order() -> None:
    """Six terms and a bias, all orders and bracketings, fused or not; cancelling, tiny and huge terms."""
    rng = np.random.default_rng(0)
    layer = nn.Linear(5, 1)
    kinds = [rng.normal(size=5), [1e8, 1, -1e8, 1e-8, 3], [1e-30, 1e-38, -1e-40, 1e-45, 1], [1e37, -1e37, 1, 2, 1e30]]
    for weight in kinds:
        x = rng.normal(size=5).astype(np.float32)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(np.array([weight]), dtype=torch.float32))
            layer.bias.fill_(0.3)
        values = orders.all_dots(layer.weight[0].detach().numpy(), x, layer.bias.item())
        for precision in ("float64", "float32"):
            bounds = tb.logit_bounds(layer, torch.from_numpy(x)[None], 0.0, arithmetic="float32", precision=precision)
            assert bounds.lower.item() <= min(values)
            assert max(values) <= bounds.upper.item()


@pytest.mark.parametrize("make", [mlp, cnn])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_float32_networks_in_random_orders(make: Any, precision: str) -> None:
    model, x = make()
    bounds = tb.logit_bounds(model, x, [0.0, 1e-2], arithmetic="float32", precision=precision)
    rng = random.Random(1)
    for trial in range(30):
        point = [p.detach().clone() for p in model.parameters()]
        epsilon = (trial % 2) * 1e-2
        with torch.no_grad():
            for p, theta in zip(model.parameters(), point, strict=True):
                p.copy_(theta * (1 + epsilon * 0.999 * (2 * torch.rand_like(theta) - 1).sign()))
            answer = orders.sample_forward(model, x.numpy(), rng=rng)
            for p, theta in zip(model.parameters(), point, strict=True):
                p.copy_(theta)
        place = trial % 2
        assert (bounds.lower[place].numpy() <= answer).all()
        assert (answer <= bounds.upper[place].numpy()).all()


def test_float32_overflow_claims_nothing() -> None:
    """In real numbers class 0 wins by far; in binary32 its sum is infinite, and so is class 1's in some order."""
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3e38, 3e38], [3e38, 1e38]]))
    x, y = torch.tensor([[1.0, 1.0]]), torch.tensor([0])
    assert tb.certify(layer, x, y, [0.0]).verified.all()
    for precision in ("float64", "float32"):
        assert not tb.certify(layer, x, y, [0.0], arithmetic="float32", precision=precision).verified.any()
