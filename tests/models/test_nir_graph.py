"""Graphs put together here: every primitive of NIR by its equation, circles, subgraphs, delays, names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

nir = pytest.importorskip("nir", reason="the package nir is not installed")

import thetabox as tb  # noqa: E402  # after what may skip this file
from thetabox.errors import InputError  # noqa: E402  # after what may skip this file
from thetabox.models.nir import NirNetwork  # noqa: E402  # after what may skip this file
from thetabox.models.nir.graph import CELLS, LAYERS, NirNode  # noqa: E402  # after what may skip this file
from thetabox.models.nir.layers import layer  # noqa: E402  # after what may skip this file

Write = Callable[..., Path]
F32 = np.float32
STEP = "euler:0.1"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A file of nodes, one after the other or along edges."""

    def made(
        nodes: Mapping[str, Any], edges: list[tuple[str, str]] | None = None, inputs: Any = (3,), outputs: Any = (3,)
    ) -> Path:
        held = {"input": nir.Input(np.array(inputs)), **nodes, "output": nir.Output(np.array(outputs))}
        edges = list(itertools.pairwise(held)) if edges is None else edges
        nir.write(tmp_path / "net.nir", nir.NIRGraph(held, edges, type_check=False), compression=None)
        return tmp_path / "net.nir"

    return made


def read(path: Path, dynamics: str = STEP) -> NirNetwork:
    network = tb.load(path, dynamics=dynamics)
    assert isinstance(network, NirNetwork)
    return network


def full(*values: float) -> Any:
    return np.array(values, F32)


def outputs(path: Path, x: torch.Tensor, dynamics: str = STEP) -> torch.Tensor:
    with torch.no_grad():
        return read(path, dynamics)(x, return_outputs=True)[1]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def array(*shape: int, seed: int = 1) -> Any:
    return draw(*shape, seed=seed).numpy()


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted.flatten(2), rtol=1e-5, atol=1e-6)


# Maps within a time step.


def test_affine_linear_scale(write: Write) -> None:
    x, w, b, s = draw(2, 4, 3), array(5, 3), array(5, seed=2), array(5, seed=3)
    path = write({"fc": nir.Affine(w, b), "scale": nir.Scale(s), "last": nir.Linear(array(2, 5, seed=4))}, outputs=(2,))
    same(
        outputs(path, x), F.linear(F.linear(x, torch.tensor(w), torch.tensor(b)) * torch.tensor(s), draw(2, 5, seed=4))
    )
    assert {n for n, _ in read(path).named_parameters()} == {"fc.weight", "fc.bias", "scale.scale", "last.weight"}


@pytest.mark.parametrize("padding", ["same", "valid", 1, (1, 0)])
def test_convolutions_of_two_dimensions(write: Write, padding: Any) -> None:
    x, w, b = draw(2, 3, 2 * 6 * 5), array(4, 1, 3, 3), array(4, seed=2)
    conv = nir.Conv2d(None, w, 1, padding, 1, 2, b)
    values = vars(conv) | {"input_shape": (6, 5)}  # HDF5 holds no None
    conv.input_shape = values["input_shape"]
    wanted = F.conv2d(x.reshape(-1, 2, 6, 5), torch.tensor(w), torch.tensor(b), 1, padding, 1, 2)
    path = write(
        {"conv": conv, "flat": nir.Flatten(np.array(wanted.shape[1:]), 0, -1)}, None, (2, 6, 5), [wanted[0].numel()]
    )
    same(outputs(path, x), wanted.reshape(2, 3, -1))


def test_convolution_of_one_dimension_with_stride_and_dilation(write: Write) -> None:
    x, w, b = draw(2, 3, 2 * 11), array(4, 2, 3), array(4, seed=2)
    wanted = F.conv1d(x.reshape(-1, 2, 11), torch.tensor(w), torch.tensor(b), 2, 1, 2)
    path = write({"conv": nir.Conv1d(11, w, 2, 1, 2, 1, b)}, None, (2, 11), wanted.shape[1:])
    same(outputs(path, x), wanted.reshape(2, 3, -1))


def test_pools(write: Write) -> None:
    x = draw(2, 3, 2 * 6 * 6)
    window = {"kernel_size": np.array([2, 3]), "stride": np.array([2, 1]), "padding": np.array([1, 0])}
    wanted = F.avg_pool2d(x.reshape(-1, 2, 6, 6), (2, 3), (2, 1), (1, 0))
    same(
        outputs(write({"pool": nir.AvgPool2d(**window)}, None, (2, 6, 6), wanted.shape[1:]), x),
        wanted.reshape(2, 3, -1),
    )
    same(
        outputs(write({"pool": nir.SumPool2d(**window)}, None, (2, 6, 6), wanted.shape[1:]), x),
        6 * wanted.reshape(2, 3, -1),
    )


def test_threshold_is_strict(write: Write) -> None:
    x = torch.tensor([[[0.5, 1.0, 2.0]]])
    assert outputs(write({"spike": nir.Threshold(full(0.5, 0.5, 2.5))}), x).tolist() == [[[0.0, 1.0, 0.0]]]


@given(st.lists(st.integers(0, 4), min_size=3, max_size=3))
def test_delays(steps: list[int]) -> None:
    x, node = draw(2, 7, 3), NirNode("wait", "Delay", {"delay": np.array(steps, F32) * F32(0.1)})
    wait = layer(node, torch.float32, 0.1)
    state, found = wait.start(torch.zeros(2, 3)), []
    for u in x.unbind(1):
        y, state = wait.advance(u, state)
        found.append(y)
    wanted = torch.stack([F.pad(x[..., i], (n, 0))[:, :7] for i, n in enumerate(steps)], 2)
    assert torch.equal(torch.stack(found, 1), wanted)


# Neurons by NIR's own equations: dt = 0.1, numbers that can be followed by hand.


def ones(*steps: float) -> torch.Tensor:
    return torch.tensor(steps)[None, :, None].expand(1, -1, 3)


def first(path: Path, x: torch.Tensor) -> list[float]:
    return [round(float(v), 6) for v in outputs(path, x)[0, :, 0]]


def test_integrators_by_hand(write: Write) -> None:
    three = np.ones(3, F32)
    # v ← v + 0.1·2·u
    assert first(write({"i": nir.I(2 * three)}), ones(1, 1, 0)) == [0.2, 0.4, 0.4]
    # v ← v + 0.5·(3u + 1 − v) from v = 1
    li = nir.LI(tau=three / 5, r=3 * three, v_leak=three)
    assert first(write({"li": li}), ones(1, 0, 0)) == [2.5, 1.75, 1.375]
    # i ← i + 0.5(4u − i); v ← v + 0.5(2i − v)
    cuba = nir.CubaLI(tau_syn=three / 5, tau_mem=three / 5, r=2 * three, v_leak=0 * three, w_in=4 * three)
    assert first(write({"li": cuba}), ones(1, 0, 0)) == [2.0, 2.0, 1.5]


def test_spiking_neurons_by_hand(write: Write) -> None:
    three = np.ones(3, F32)
    # v: .5, 1 (a tie, no spike), 1.5 → spike → .25, .75, 1.25 → spike
    spiking = nir.IF(r=5 * three, v_threshold=three, v_reset=three / 4)
    assert first(write({"if": spiking}), ones(1, 1, 1, 1, 1)) == [0.0, 0.0, 1.0, 0.0, 1.0]
    # v ← v + 0.5(u + 1 − v) from 1: with u = 1: 1.5 (spike → 0), 1 (a tie), 1.5 (spike)
    lif = nir.LIF(tau=three / 5, r=three, v_leak=three, v_threshold=three, v_reset=0 * three)
    assert first(write({"lif": lif}), ones(1, 1, 1, 0)) == [1.0, 0.0, 1.0, 0.0]
    # i: 2, 1, .5; v: 2·.5·… = 2 (a spike → −1), −1 + .5(2 + 1) = .5, .5 + .5(1 − .5) = .75
    cuba = nir.CubaLIF(
        tau_syn=three / 5,
        tau_mem=three / 5,
        r=2 * three,
        v_leak=0 * three,
        v_threshold=0.7 * three,
        v_reset=-three,
        w_in=4 * three,
    )
    assert first(write({"lif": cuba}), ones(1, 0, 0)) == [1.0, 0.0, 1.0]


# Circles.


def circle(weight: Any, bias: Any) -> dict[str, Any]:
    three = np.ones(3, F32)
    return {"lif": nir.IF(r=10 * three, v_threshold=three, v_reset=0 * three), "back": nir.Affine(weight, bias)}


def test_a_circle_carries_the_spikes_of_the_step_before(write: Write) -> None:
    w, b, x = array(3, 3), array(3, seed=2), draw(4, 9, 3) + 0.5
    edges = [("input", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "output")]
    v = z = torch.zeros(4, 3)
    wanted = []
    for u in x.unbind(1):
        v = v + (u + F.linear(z, torch.tensor(w), torch.tensor(b)))  # the bias counts from the first step on
        z = (v > 1).float()
        v = torch.where(z > 0, 0.0, v)
        wanted.append(z)
    found = outputs(write(circle(w, b), edges), x)
    assert torch.equal(found, torch.stack(wanted, 1))
    assert 0.1 < float(found.mean()) < 0.9
    # The order of the nodes in the file means nothing.
    turned = dict(reversed(circle(w, b).items()))
    assert torch.equal(outputs(write(turned, edges[::-1]), x), found)


def test_a_subgraph_is_opened(write: Write) -> None:
    w, b, x = array(3, 3), array(3, seed=2), draw(4, 9, 3) + 0.5
    edges = [("input", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "output")]
    flat = outputs(write(circle(w, b), edges), x)
    inner = nir.NIRGraph(
        {"input": nir.Input(np.array([3])), **circle(w, b), "output": nir.Output(np.array([3]))},
        edges,
        type_check=False,
    )
    outer = nir.NIRGraph(
        {"input": nir.Input(np.array([3])), "rnn": inner, "output": nir.Output(np.array([3]))},
        [("input", "rnn"), ("rnn", "output")],
        type_check=False,
    )
    path = write({"one": outer})
    assert torch.equal(outputs(path, x), flat)
    assert {n for n, _ in read(path).named_parameters()} == {"one.rnn.back.weight", "one.rnn.back.bias"}
    assert set(read(path).initial_state(1)) == {"one.rnn.lif.v", "one.rnn.lif.y"}


def test_feedback_between_layers_waits_and_the_way_forward_does_not(write: Write) -> None:
    three = np.ones(3, F32)
    names = ["a", "up", "b", "down"]
    cell = lambda: nir.IF(r=10 * three, v_threshold=three / 2, v_reset=0 * three)  # noqa: E731  # one line twice
    nodes = {"a": cell(), "up": nir.Linear(array(3, 3)), "b": cell(), "down": nir.Linear(array(3, 3, seed=2))}
    edges = [("input", "a"), *itertools.pairwise(names), ("down", "a"), ("b", "output")]
    x = draw(4, 9, 3)
    va = vb = zb = torch.zeros(4, 3)
    wanted = []
    for u in x.unbind(1):
        va = va + (u + F.linear(zb, torch.tensor(array(3, 3, seed=2))))
        za = (va > 0.5).float()
        va = torch.where(za > 0, 0.0, va)
        vb = vb + F.linear(za, torch.tensor(array(3, 3)))
        zb = (vb > 0.5).float()
        vb = torch.where(zb > 0, 0.0, vb)
        wanted.append(zb)
    assert torch.equal(outputs(write(nodes, edges), x), torch.stack(wanted, 1))


def test_a_reset_to_zero_among_several_neurons_is_not_known(write: Write) -> None:
    """RLeaky loses the input of a step with its reset, Leaky does not; in a circle of its own it is RLeaky."""
    three = np.ones(3, F32)
    cell = nir.LIF(tau=three / 1000, r=10 * three, v_leak=0 * three, v_threshold=three)
    own = [("input", "a"), ("a", "w"), ("w", "a"), ("a", "output")]
    wide = [("input", "a"), ("a", "b"), ("b", "w"), ("w", "a"), ("b", "output")]
    single, several = {"a": cell, "w": nir.Linear(array(3, 3))}, {"a": cell, "b": cell, "w": nir.Linear(array(3, 3))}
    assert set(read(write(single, own), "snntorch-zero").initial_state(1)) == {"a.v", "a.z"}
    assert "in a circle with other neurons" in refused(write(several, wide), "snntorch-zero")
    assert set(read(write(several, wide), "snntorch").initial_state(1)) == {"a.v", "a.z", "b.v", "b.z"}


def test_values_that_meet_are_added(write: Write) -> None:
    nodes = {"one": nir.Linear(array(3, 3)), "other": nir.Linear(array(3, 3, seed=2))}
    edges = [("input", "one"), ("input", "other"), ("one", "output"), ("other", "output"), ("input", "output")]
    x = draw(2, 3, 3)
    same(outputs(write(nodes, edges), x), x + F.linear(x, torch.tensor(array(3, 3) + array(3, 3, seed=2))))


# Names.


@pytest.mark.parametrize("name", ["step", "forward", "training", "facts", "0", "a.b", "weight", "a.weight", "é 1"])
def test_names_that_a_module_has_already(write: Write, name: str) -> None:
    path, x = write({"a": nir.Affine(array(3, 3), array(3)), name: nir.Linear(array(3, 3, seed=2))}), draw(2, 3, 3)
    network = read(path)
    same(
        network(x, return_outputs=True)[1],
        F.linear(F.linear(x, torch.tensor(array(3, 3)), torch.tensor(array(3))), torch.tensor(array(3, 3, seed=2))),
    )
    assert len(dict(network.named_parameters())) == 3
    assert network.places[name].rstrip("_") == name
    network.train()
    network.eval()
    assert network.facts["format"] == "nir"


# What is refused.


def test_every_primitive_of_the_package_is_known() -> None:
    ours = CELLS | LAYERS | {"Input", "Output", "NIRGraph"}
    assert ours == set(nir.ir.__all__) - {"NIRNode", "str2NIRNode", "dict2NIRNode", "typing"}


def refused(path: Path, dynamics: str = STEP) -> str:
    with pytest.raises(InputError) as error:
        tb.load(path, dynamics=dynamics)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    return str(error.value)


def test_graphs_that_mean_nothing(write: Write) -> None:
    three = np.ones(3, F32)
    linear, cell = nir.Linear(array(3, 3)), circle(array(3, 3), array(3))["lif"]
    loop = [("input", "a"), ("a", "b"), ("b", "a"), ("b", "output")]
    assert "node 'a' (Linear) is in a circle that no neuron closes" in refused(write({"a": linear, "b": linear}, loop))
    readout = nir.LI(tau=three, r=three, v_leak=three)
    assert "what a readout that does not spike gives out first" in refused(write({"a": linear, "b": readout}, loop))
    assert "node 'b' (Linear) has no input" in refused(
        write({"a": linear, "b": linear}, [("input", "a"), ("a", "output")])
    )
    apart = [("input", "output"), ("a", "b"), ("b", "a")]
    assert "is not reached from the input" in refused(write({"a": cell, "b": linear}, apart))
    both = [("input", "a"), ("a", "n"), ("n", "a"), ("n", "b"), ("b", "m"), ("m", "a"), ("b", "output")]
    nodes = {"a": cell, "n": linear, "b": cell, "m": linear}
    assert "the edge from 'a' to 'n' leads forward and back at once" in refused(write(nodes, both))
    assert "joins ['a', 'nowhere']" in refused(write({"a": cell}, [("input", "a"), ("a", "nowhere"), ("a", "output")]))
    assert "has 2 inputs" in refused(write({"a": nir.Input(np.array([3]))}, [("input", "output"), ("a", "output")]))
    narrow = write(
        {"a": nir.Linear(array(2, 3)), "b": nir.Linear(array(3, 3))},
        [*[("input", n) for n in "ab"], ("a", "output"), ("b", "output")],
    )
    assert "values of shapes [2] and [3] come to node 'output'" in refused(narrow)


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize(
    ("node", "line"),
    [
        (nir.Linear(array(3, 4)), "node 'n' (Linear) does not take values of shape [3]"),
        (nir.Linear(np.ones((3, 3), int)), "weight holds 9 numbers of type int64, not weights"),
        (nir.Linear(array(2, 3, 3)), "has weights of shape [2, 3, 3]"),
        (nir.Affine(array(3, 3), array(4)), "has weights of shape [3, 3], or a bias that does not fit them"),
        (nir.Linear(np.full((3, 3), np.nan, F32)), "weight holds NaN or infinite values"),
        (nir.Scale(array(4)), "node 'n' (Scale) does not take values of shape [3]"),
        (nir.Scale(array(2, 3)), "constants that do not fit values of shape [3]"),
        (nir.Flatten(np.array([3]), 0, 5), "node 'n' (Flatten) does not take values of shape [3]"),
        (nir.Flatten(np.array([3]), -2, -1), "makes values of shape"),
        (nir.SumPool2d(np.array([0, 2]), np.array([1, 1]), np.array([0, 0])), "has a window of (0, 2)"),
        (nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), "does not take values of shape [3]"),
        (nir.Conv1d(3, array(2, 1, 2), 1, 0, 1, 1, array(3)), "a bias that does not fit them"),
        (nir.Delay(full(0.15, 0.1, 0.1)), "no whole numbers of time steps of 0.1"),
        (nir.Delay(full(-0.1, 0.1, 0.1)), "-1 to 1 steps; 0 to 1000 are read"),
        (nir.Delay(full(1e9, 0.1, 0.1)), "steps; 0 to 1000 are read"),
        (nir.I(np.full(3, np.inf, F32)), "r holds NaN or infinite values"),
        (nir.I(np.array(["a"] * 3).astype("S1")), "node 'n' (I) is damaged"),
        (nir.LI(tau=full(0, 1, 1), r=full(1, 1, 1), v_leak=full(0, 0, 0)), "its tau makes dt/τ inf"),
        (nir.LI(tau=full(1, -1, 1), r=full(1, 1, 1), v_leak=full(0, 0, 0)), "its tau makes dt/τ -0.1"),
    ],
)
def test_nodes_that_mean_nothing(write: Write, node: Any, line: str) -> None:
    assert line in refused(write({"n": node}))


def test_delays_need_a_time_step(write: Write) -> None:
    path = write({"fc": nir.Linear(array(3, 3)), "wait": nir.Delay(full(1e-4, 1e-4, 2e-4))})
    assert "do not say how many time steps" in refused(path, "norse")
    x = draw(1, 4, 3)
    y = F.linear(x, torch.tensor(array(3, 3)))
    wanted = torch.stack([F.pad(y[..., i], (n, 0))[:, :4] for i, n in enumerate((1, 1, 2))], 2)
    same(outputs(path, x, "snntorch"), wanted)


@pytest.mark.parametrize(
    "dynamics", ["euler:", "euler:0", "euler:-1", "euler:inf", "euler:nan", "euler:a", "Norse", ""]
)
def test_dynamics_that_are_none(write: Write, dynamics: str) -> None:
    line = refused(write({"i": nir.I(full(1, 1, 1))}), dynamics)
    assert ("need a time step above 0" if dynamics.startswith("euler") else "known are snntorch") in line


def test_primitives_that_a_framework_does_not_write(write: Write) -> None:
    line = refused(write({"i": nir.I(full(1, 1, 1))}), "snntorch")
    assert "no update for node 'i' (I)" in line
    assert line.endswith("euler:DT have one")
    leaky = nir.LI(tau=full(1, 1, 1), r=full(1, 1, 1), v_leak=full(0, 0, 0))
    assert "norse, norse-subtract, sinabs, sinabs-unscaled, sinabs-single, euler:DT have one" in refused(
        write({"li": leaky}), "spikingjelly"
    )
