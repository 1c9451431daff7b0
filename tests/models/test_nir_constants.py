"""Constants of neurons from what frameworks wrote: exact again, or refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

nir = pytest.importorskip("nir", reason="the package nir is not installed")

from thetabox.errors import InputError  # noqa: E402  # after what may skip this file
from thetabox.models.nir import PRESETS, NirNetwork, read  # noqa: E402  # after what may skip this file
from thetabox.models.nir.constants import Stored  # noqa: E402  # after what may skip this file
from thetabox.models.nir.graph import NirNode  # noqa: E402  # after what may skip this file

F32 = np.float32
ONE = np.ones(1, F32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nir") / "net.nir"


def network(path: Path, cell: Any, dynamics: str, weights: Any = F32) -> NirNetwork:
    """A layer of one weight before the neurons."""
    n = np.asarray(cell.r).size
    nodes = {
        "input": nir.Input(np.array([n])),
        "fc": nir.Linear(np.eye(n, dtype=weights)),
        "cell": cell,
        "output": nir.Output(np.array([n])),
    }
    nir.write(path, nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False), compression=None)
    return read(path, dynamics)


def constant(cell: Any, dynamics: str, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One constant of the neurons that a preset makes of a node."""
    node = NirNode("cell", type(cell).__name__, vars(cell))
    return PRESETS[dynamics].cell(Stored(node, dtype, frozenset(), dynamics)).get_buffer(name)


def snntorch(decay: Any, threshold: float = 1.0) -> Any:
    """As snnTorch's exporter writes a Leaky layer."""
    tau = 1e-4 / (1 - decay)
    zero = np.zeros_like(decay)
    return nir.LIF(tau=tau, r=tau / 1e-4, v_leak=zero, v_threshold=zero + threshold, v_reset=zero)


decays = st.floats(0.5, np.nextafter(F32(1), F32(0)), width=32)
"""Decays that one stored number determines: below a half, 1 − β has fewer digits than β."""


@given(st.lists(decays, min_size=1, max_size=5))
def test_decays_come_back_to_the_last_bit(values: list[float]) -> None:
    held = np.array(values, F32)
    assert constant(snntorch(held), "snntorch", "decay").tolist() == held.tolist()
    # As RLeaky is written, with twice the digits.
    wide = constant(snntorch(held.astype(np.float64)), "snntorch", "decay")
    assert wide.dtype == torch.float32
    assert wide.tolist() == held.tolist()


@given(st.integers(1, 99))
def test_short_decimals_come_back_below_a_half_too(hundredths: int) -> None:
    value = np.array([hundredths / 100], F32)
    assert constant(snntorch(value), "snntorch", "decay").numpy() == value


@given(st.floats(0, 0.5, width=32))
def test_other_decays_come_back_to_float32(value: float) -> None:
    assert abs(float(constant(snntorch(np.array([value], F32)), "snntorch", "decay")) - value) <= 2**-23


@given(st.floats(1.0, 2000.0, width=32))
def test_rates_of_norse(inverse: float) -> None:
    def rate(inverse: torch.Tensor) -> torch.Tensor:
        tau = (0.001 / inverse).numpy()
        return constant(nir.LIF(tau=tau, r=ONE, v_leak=0 * ONE, v_threshold=ONE), "norse", "rate")

    torch.testing.assert_close(rate(torch.tensor([inverse])), 0.001 * torch.tensor([inverse]), rtol=3e-7, atol=0)
    short = torch.tensor([float(round(inverse))])
    assert torch.equal(rate(short), 0.001 * short)


@given(st.floats(1.0625, 100.0))
def test_time_constants_of_spikingjelly(tau: float) -> None:
    tau = round(tau, 3)
    cell = nir.LIF(
        tau=np.full(2, tau * 1e-4),
        r=np.full(2, tau),
        v_leak=np.full(2, -0.5),
        v_threshold=np.ones(2),
        v_reset=np.full(2, -0.5),
    )
    assert constant(cell, "spikingjelly", "rate").tolist() == [float(F32(1 / tau))] * 2


def test_learnt_decays_are_clamped_as_the_framework_does(path: Path) -> None:
    held = network(path, snntorch(np.array([1.25, -0.25, 0.5], F32)), "snntorch")
    assert held.get_buffer("cell.decay").tolist() == [1.0, 0.0, 0.5]


def test_the_widest_weights_say_what_is_computed_in(path: Path) -> None:
    cell = snntorch(np.array([0.9, 0.1]))
    assert network(path, cell, "snntorch").get_buffer("cell.decay").dtype == torch.float32
    held = network(path, cell, "snntorch", np.float64)
    assert held.get_buffer("cell.decay").dtype == torch.float64
    assert held.get_buffer("cell.decay").tolist() == [0.9, 0.1]


def test_one_number_for_all_neurons(path: Path) -> None:
    cell = snntorch(np.array(0.9, F32))
    nodes = {"input": nir.Input(np.array([3])), "cell": cell, "output": nir.Output(np.array([3]))}
    nir.write(path, nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False), compression=None)
    assert read(path, "snntorch").get_buffer("cell.decay").shape == ()
    assert read(path, "snntorch").initial_state(2)["cell.v"].shape == (2, 3)


FITTING = {
    "snntorch": {"tau": 1e-3 * ONE, "r": 10 * ONE, "v_leak": 0 * ONE, "v_threshold": ONE, "v_reset": 0 * ONE},
    "norse": {"tau": 1e-5 * ONE, "r": ONE, "v_leak": 0 * ONE, "v_threshold": ONE, "v_reset": 0 * ONE},
    "spikingjelly": {"tau": 2e-4 * ONE, "r": ONE, "v_leak": 0 * ONE, "v_threshold": ONE, "v_reset": 0 * ONE},
    "sinabs": {"tau": 20 * ONE, "r": ONE, "v_leak": 0 * ONE, "v_threshold": ONE, "v_reset": 0 * ONE},
}


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize(
    ("dynamics", "key", "value", "line"),
    [
        ("snntorch", "r", 9.0, "its r is 9, where tau/dt with dt = 0.0001 is expected"),
        ("snntorch", "v_leak", 0.1, "its v_leak is 0.1, where 0 is expected"),
        ("snntorch", "v_reset", 0.1, "its v_reset is 0.1, where 0 is expected"),
        ("snntorch", "v_threshold", 0.0, "its v_threshold is 0, not above 0"),
        ("snntorch", "tau", 1e-5, "its tau makes a decay -9"),
        ("snntorch-zero", "v_leak", 0.1, "the dynamics 'snntorch-zero' do not fit"),
        ("norse", "r", 10.0, "its r is 10, where 1 is expected"),
        ("norse", "tau", 20.0, "its tau makes dt/τ"),
        ("norse-subtract", "r", 10.0, "its r is 10, where 1 is expected"),
        ("spikingjelly", "r", 1.5, "where 1, or τ/dt where the input does not decay, is expected"),
        ("spikingjelly", "v_leak", 0.5, "its v_leak is 0.5, where v_reset is expected"),
        ("spikingjelly", "tau", 1e-5, "its tau makes τ/dt 0.1"),
        ("sinabs", "r", 10.0, "its r is 10, where 1 is expected"),
        ("sinabs", "tau", 1e-5, "its tau makes a time constant of so many steps, 9.9999997e-06"),
        ("sinabs", "v_reset", 0.5, "its v_reset is 0.5, where 0 is expected"),
        ("sinabs", "v_threshold", -1.0, "its v_threshold is -1, not above 0"),
        ("sinabs-single", "v_leak", 0.5, "its v_leak is 0.5, where 0 is expected"),
    ],
)
def test_constants_that_the_framework_would_not_have_written(
    path: Path, dynamics: str, key: str, value: float, line: str
) -> None:
    fitting = FITTING[dynamics.split("-")[0]]
    network(path, nir.LIF(**fitting), dynamics)
    with pytest.raises(InputError) as error:
        network(path, nir.LIF(**{**fitting, key: np.array([value], F32)}), dynamics)
    assert line in str(error.value)
    assert "of node 'cell' (LIF)" in str(error.value)


@pytest.mark.parametrize("key", ["w_in", "r", "tau_syn"])
@pytest.mark.parametrize("dynamics", ["snntorch", "norse", "spikingjelly"])
def test_a_synapse_that_the_framework_would_not_have_written(path: Path, dynamics: str, key: str) -> None:
    gain = 1.0 if dynamics == "norse" else 10.0
    tau = 1e-5 if dynamics == "norse" else 1e-3
    held = {
        "tau_syn": tau * ONE,
        "tau_mem": tau * ONE,
        "r": gain * ONE,
        "v_leak": 0 * ONE,
        "v_threshold": ONE,
        "v_reset": 0 * ONE,
        "w_in": gain * ONE,
    }
    network(path, nir.CubaLIF(**held), dynamics)
    with pytest.raises(InputError, match="do not fit"):
        network(path, nir.CubaLIF(**{**held, key: 1.5 * held[key] if key != "tau_syn" else -held[key]}), dynamics)


def test_ties_are_the_framework_s(path: Path) -> None:
    """A potential of exactly the threshold fires in SpikingJelly and sinabs, not in snnTorch and Norse."""
    x = torch.tensor([[[0.5], [0.5]]])
    fires = {"snntorch": False, "norse": False, "spikingjelly": True, "sinabs": True}
    for dynamics, wanted in fires.items():
        gain = 1e4 if dynamics == "spikingjelly" else 1.0
        cell = nir.IF(r=gain * ONE, v_threshold=ONE)
        if dynamics == "snntorch":  # which writes no IF: 0.5·0.5 + 0.75 = 1
            held, x_ = network(path, snntorch(np.array([0.5], F32)), dynamics), torch.tensor([[[0.5], [0.75]]])
        else:
            held, x_ = network(path, cell, dynamics), x
        assert held(x_, return_outputs=True)[1].flatten().tolist() == [0.0, float(wanted)], dynamics


def test_a_hard_reset_is_where_spikingjelly_starts(path: Path) -> None:
    cell = nir.LIF(**{**FITTING["spikingjelly"], "v_leak": -0.5 * ONE, "v_reset": -0.5 * ONE})
    assert network(path, cell, "spikingjelly").initial_state(2)["cell.v"].tolist() == [[-0.5], [-0.5]]


def rockpool(tau_mem: Any, tau_syn: Any, threshold: Any, dt: float) -> Any:
    """As Rockpool's exporter writes a LIFTorch layer."""
    mem = torch.tensor(tau_mem)
    r = (mem * torch.exp(-dt / mem) / dt).numpy()
    zero = np.zeros_like(r)
    return nir.CubaLIF(
        tau_syn=np.array(tau_syn, F32), tau_mem=mem.numpy(), r=r, v_leak=zero, v_threshold=np.array(threshold, F32)
    )


@given(st.floats(1e-4, 1e-2), st.lists(st.floats(2e-3, 0.5), min_size=1, max_size=4))
def test_the_time_step_of_rockpool_is_found(dt: float, taus: list[float]) -> None:
    dt = float(f"{dt:.3e}")
    cell = rockpool(taus, taus, [1.0] * len(taus), dt)
    found = constant(cell, "rockpool", "decay")
    assert torch.equal(found, torch.exp(-dt / torch.tensor(taus)))


def test_rockpool_by_its_equations(path: Path) -> None:
    """The update i ← β(i + u), v ← αv + i, z = ⌊v/θ⌋, v ← v − zθ, in the order of LIFTorch."""
    mem, syn, threshold, dt = torch.tensor([0.02, 0.05]), torch.tensor([0.01, 0.03]), torch.tensor([1.0, 0.7]), 1e-3
    held = network(path, rockpool(mem.tolist(), syn.tolist(), threshold.tolist(), dt), "rockpool")
    x = torch.randn(8, 40, 2, generator=torch.Generator().manual_seed(0)) + 0.3
    i = v = torch.zeros(8, 2)
    wanted = []
    for u in x.unbind(1):
        i = i + u
        v = torch.exp(-dt / mem) * v
        i = torch.exp(-dt / syn) * i
        v = v + i
        z = torch.where(v > 0, torch.floor(v / threshold), 0.0)
        v = v - z * threshold
        wanted.append(z)
    found = held(x, return_outputs=True)[1]
    assert torch.equal(found, torch.stack(wanted, 1))
    assert float(found.detach().max()) > 2
    with pytest.raises(InputError, match="do not fit: of node 'cell'"):
        network(path, rockpool([0.02, 0.05], [0.01, 0.01], [1.0, 1.0], 1e-3), "norse")
    other = rockpool([0.02, 0.05], [0.01, 0.01], [1.0, 1.0], 1e-3)
    other.r = 1.1 * other.r[::-1].copy()
    with pytest.raises(InputError, match=r"where \(τ/dt\)·exp"):
        network(path, other, "rockpool")


def test_presets_say_what_they_are() -> None:
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.framework.split()[0].lower().startswith(name.split("-")[0][:5])
        assert preset.says
