"""Several layers: bounded as the one layer that they amount to, and no spike a step early or late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.errors import InputError
from thetabox.models import LSNN, LeakyCells, RecurrentModule
from thetabox.models.lsnn import LSNNState
from thetabox.verify import arguments
from thetabox.verify.histories import Histories
from thetabox.verify.problem import Problem

pytestmark = pytest.mark.usefixtures("traced_once")

INPUTS, CLASSES = 4, 3
CORNERS = 6


class Deep(RecurrentModule):
    """LSNNs of these sizes one above the other, the spikes of each going into the next in the same step."""

    layers: Any  # a ModuleList, of LSNNs: its type says modules

    def __init__(self, sizes: Sequence[int], more: Sequence[dict[str, Any]] | None = None, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        widths = [INPUTS, *sizes]
        settings = more or [{} for _ in sizes]
        self.layers = nn.ModuleList(LSNN(widths[d], widths[d + 1], CLASSES, **own) for d, own in enumerate(settings))
        with torch.no_grad():
            for d, layer in enumerate(self.layers):
                layer.W_in.mul_(0.5 if d == 0 else 2.0)
                if layer.recurrent:
                    layer.W_rec.mul_(0.3)
        for layer in self.layers[:-1]:
            del layer.W_out, layer.b_out

    def initial_state(self, batch: int) -> Any:
        top = self.layers[-1].W_out
        return tuple(LSNNState(*(top.new_zeros(batch, layer.units) for _ in range(4))) for layer in self.layers)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        after = []
        for layer, own in zip(self.layers, state, strict=True):
            x_t, own = layer.step(x_t, own)
            after.append(own)
        return x_t, tuple(after)

    def readout(self, outputs: Tensor) -> Tensor:
        return self.layers[-1].readout(outputs)

    def leaky_cells(self) -> list[LeakyCells]:
        found = []
        for d, layer in enumerate(self.layers):
            said = layer.leaky_cells()
            last = d + 1 == len(self.layers)
            names = {
                role: f"layers.{d}.{name}" if last or not role.endswith("_out") else None
                for role, name in vars(said).items()
                if isinstance(name, str)
            }
            found.append(replace(said, **names))
        return found


MIXED: list[dict[str, Any]] = [
    {"refractory": 3, "tau": 12.0},
    {"refractory": 0, "recurrent": False, "beta": 0.5},
    {"threshold": 0.02, "tau_adapt": 30.0},
]


def eager(seed: int) -> Deep:
    """The upper cells spike before anything reaches them: a negative threshold."""
    model = Deep([10, 6], seed=seed)
    model.layers[1].threshold.fill_(-0.01)
    return model


NETWORKS = {
    "two": lambda seed: Deep([16, 12], seed=seed),
    "three, each its own": lambda seed: Deep([12, 10, 8], MIXED, seed=seed),
    "eager": eager,
}


def domain(
    model: nn.Module, x: Tensor, box: tb.Box | None = None, precision: str = "float64", **options: int
) -> Histories:
    return Histories(Problem(model, arguments.settings("interval", box, "real", precision, "cpu"), x), options)


def inputs(samples: int = 5, steps: int = 25) -> Tensor:
    return torch.randn(samples, steps, INPUTS, generator=torch.Generator().manual_seed(4))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETWORKS))
def test_nothing_is_lost_where_nothing_is_uncertain(name: str) -> None:
    """At ε = 0 counts and margins are the network's own, although layers run behind one another."""
    model, x = NETWORKS[name](0).double(), inputs(20)
    answer = model(x.double()).detach()
    assert model.outputs(x.double())[:, -1].any(), "no spike in the last step, which a layer too few would miss"
    y = answer.argmax(1)
    found = domain(model, x)
    truth = answer.gather(1, y[:, None])[:, 0] - answer.scatter(1, y[:, None], -torch.inf).amax(1)
    margin = found.margins(slice(0, 20), torch.zeros(1, 20, dtype=torch.float64), y)[0]
    torch.testing.assert_close(margin, truth, rtol=0, atol=1e-9)
    share = found.uncertain(slice(0, 5), torch.zeros(1, 5, dtype=torch.float64))
    assert share.shape == (1, 25)
    assert not share.any()


@pytest.mark.slow
@pytest.mark.parametrize("refractory", [2, 3, 5])
def test_a_cell_is_silent_after_a_spike_that_it_may_have(refractory: int) -> None:
    """One cell that may spike in the second step, or else in the third, and once more if it was not silent for long:
    cells above it, of many thresholds, tell when it did.
    """
    levels, epsilon = 40, 0.1
    settings: list[dict[str, Any]] = [{"refractory": refractory}, {"refractory": 0, "tau": 4.0}]
    model = Deep([1, levels], [{"recurrent": False, "beta": 0.0} | own for own in settings]).double()
    cell, top = model.layers
    edge = cell.threshold.item() / (1.0 - torch.exp(-cell.dt / cell.tau).item())
    drive = [0.0, edge, *[0.5] * (refractory - 1), 0.0, -9.0, -9.0]
    x = torch.tensor(drive, dtype=torch.float64)[None, :, None] * torch.eye(INPUTS, dtype=torch.float64)[0]
    with torch.no_grad():
        cell.W_in.copy_(torch.eye(INPUTS)[:, :1])
        top.W_in.fill_(1.0)
        top.threshold.copy_(torch.linspace(0.02, 0.6, levels))
    top.W_out, top.b_out = (nn.Parameter(t.double()) for t in (torch.eye(levels), torch.zeros(levels)))
    held, factors = cell.W_in.detach().clone(), torch.linspace(1.0 - epsilon, 1.0 + epsilon, 5, dtype=torch.float64)
    answers = torch.cat(
        [torch.func.functional_call(model, {"layers.0.W_in": held * factor}, (x,)) for factor in factors]
    ).detach()
    assert (answers[0] != answers[-1]).any()
    for histories in (1, 2, 4):
        bounds = domain(model, x, tb.Box(include="layers.0.W_in"), histories=histories).logits(
            slice(None), torch.full((1, 1), epsilon, dtype=torch.float64)
        )
        assert (bounds.lower <= answers + 1e-12).all()
        assert (answers <= bounds.upper + 1e-12).all()


BOXES = {
    "relative": tb.Box(),
    "absolute": tb.Box(kind="absolute"),
    "a part": tb.Box(exclude="layers.1.W_in"),
    "scaled": tb.Box(scale={"layers.0.*": 3.0}),
}


OPTIONS: list[dict[str, Any]] = [{"histories": 1, "precision": "float32"}, {"histories": 3, "splits": 20}]


@pytest.mark.thin(quick=11)
@pytest.mark.parametrize("kind", list(BOXES))
@pytest.mark.parametrize("name", list(NETWORKS)[1:])
def test_sampled_networks_inside(name: str, kind: str) -> None:
    """Logits and margins of corners of the box, whatever part of the parameters it moves."""
    box, model, x = BOXES[kind], NETWORKS[name](1), inputs()
    y = model.double()(x.double()).argmax(1)
    found = [domain(model, x, box, **options) for options in OPTIONS]
    held = {n: p.detach().clone() for n, p in model.named_parameters()}
    factors, values = found[0].problem.tensors.factors, found[0].problem.tensors.values
    for epsilon in (1e-3, 0.2):
        rows = torch.full((1, 5), epsilon, dtype=torch.float64)
        bounds = [d.logits(slice(0, 5), rows) for d in found]
        margins = [d.margins(slice(0, 5), rows, y)[0] for d in found]
        for _ in range(CORNERS):
            corner = {}
            for n, theta in held.items():
                size = theta.abs() if box.kind == "relative" else torch.ones_like(theta)
                reach = 0.999999 * epsilon * factors.get(id(values[n]), 0.0)
                corner[n] = theta + reach * size * torch.randn_like(theta).sign()
            answer = torch.func.functional_call(model, corner, x.double())
            truth = answer.gather(1, y[:, None])[:, 0] - answer.scatter(1, y[:, None], -torch.inf).amax(1)
            for b, margin in zip(bounds, margins, strict=True):
                assert (b.lower <= answer + 1e-12).all()
                assert (answer <= b.upper + 1e-12).all()
                assert (margin <= truth + 1e-12).all()


@pytest.mark.slow
def test_tighter_than_intervals_and_taken_by_auto() -> None:
    model, x = NETWORKS["two"](2), inputs(20)
    y = tb.models.logits(model, x).argmax(1)
    plain = tb.certify(model, x, y, [1e-5, 1e-4], domain="interval")
    auto = tb.certify(model, x, y, [1e-5, 1e-4], options={"effort": 5000.0})
    assert auto.verified.sum() > plain.verified.sum()
    found = tb.attack(model, x, y, [1e-5, 1e-4], steps=5, restarts=1)
    assert not (auto.verified & ~found.correct).any()


class Confused(Deep):
    """Says something else than it is."""

    says: dict[int, dict[str, Any]]

    def leaky_cells(self) -> list[LeakyCells]:
        return [replace(layer, **self.says.get(d, {})) for d, layer in enumerate(super().leaky_cells())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("says", "message"),
    [
        ({0: {"weight_out": "layers.0.W_out"}}, "last layer alone"),
        ({1: {"weight_out": None}}, "last layer alone"),
        ({1: {"weight_in": "layers.1.W_rec", "weight_rec": "layers.1.W_in"}}, "of shape"),
        ({0: {"dt": 2.0}}, "different length"),
        ({0: {"refractory": 5}}, "something else"),
        ({1: {"threshold": "layers.0.threshold"}}, "holds 6 values, not 5"),
    ],
)
def test_wrong_descriptions(says: dict[int, dict[str, Any]], message: str) -> None:
    model = Confused([6, 5])
    model.says = says
    with pytest.raises(InputError, match=message):
        domain(model, inputs())


def test_a_silent_layer() -> None:
    """Nothing in a run tells what lies below a layer that never spikes; the graph does."""
    model, x = Deep([6, 5]), inputs()
    with torch.no_grad():
        model.layers[1].W_in.zero_()
    found = domain(model, x).logits(slice(None), torch.full((1, len(x)), 0.1, dtype=torch.float64))
    torch.testing.assert_close(found.lower, model.layers[1].b_out.double().expand_as(found.lower))

    class Late(Deep):
        """The upper layer sees the spikes of the step before."""

        def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
            _, lower = self.layers[0].step(x_t, state[0])
            z, upper = self.layers[1].step(state[0].z, state[1])
            return z, (lower, upper)

    late = Late([6, 5])
    late.load_state_dict(model.state_dict())
    with pytest.raises(InputError, match="something else"):
        domain(late, x)


def test_no_description_at_all() -> None:
    class Silent(Deep):
        def leaky_cells(self) -> list[LeakyCells]:
            return []

    with pytest.raises(InputError, match="must return a LeakyCells"):
        domain(Silent([6, 5]), inputs())
