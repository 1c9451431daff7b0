"""Networks as four frameworks wrote them: every spike here is the framework's own, and they are certified."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

pytest.importorskip("nir", reason="the package nir is not installed")

import thetabox as tb  # after what may skip this file
from thetabox.cli import thetabox  # after what may skip this file
from thetabox.errors import InputError  # after what may skip this file
from thetabox.models import is_recurrent, run_steps  # after what may skip this file
from thetabox.models.nir import PRESETS, NirNetwork  # after what may skip this file

FILES = Path(__file__).resolve().parents[1] / "data" / "nir"
NAMES = sorted(path.stem for path in FILES.glob("*.npz"))


def fixture(name: str) -> tuple[NirNetwork, torch.Tensor, dict[str, Any]]:
    """The network, its inputs [100, steps, inputs], and what else is stored (see tests/data/nir/fixture.py)."""
    held = dict(np.load(FILES / f"{name}.npz"))
    network = tb.load(FILES / f"{name}.nir", dynamics=str(held["dynamics"]))
    assert isinstance(network, NirNetwork)
    x = torch.from_numpy(held["x"].astype(np.float32) / 16)
    return network, x if x.dim() == 3 else x[:, None].repeat(1, int(held["steps"]), 1), held


def test_there_is_a_file_for_every_preset() -> None:
    held = {str(np.load(FILES / f"{name}.npz")["dynamics"]) for name in NAMES}
    # Importing Rockpool runs an installer of one of its dependencies: it has a test by its equations.
    assert held == set(PRESETS) - {"rockpool"}
    assert len(NAMES) >= 29


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("name", NAMES)
def test_every_spike_is_that_of_the_framework(name: str) -> None:
    network, x, held = fixture(name)
    with torch.no_grad():
        found = network.spikes(x)
        logits, outputs = network(x, return_outputs=True)
    layers = [key for key in held if "/" in key]
    assert {key.split("/")[1] for key in layers} == set(found)
    for key in layers:
        kind, node = key.split("/")
        if kind == "mean":  # of a readout, whose potentials are real numbers
            np.testing.assert_allclose(found[node].mean(1).numpy(), held[key], rtol=1e-5, atol=1e-5)
            continue
        assert found[node].shape == held[key].shape
        wrong = int((found[node].numpy() != held[key]).sum())
        assert wrong == 0, f"{wrong} of {held[key].size} spikes of {node} differ"
        assert 0.01 < (held[key] > 0).mean() < 0.99, "silent or saturated neurons show nothing"
    torch.testing.assert_close(outputs, found[layers[-1].split("/")[1]].flatten(2))
    torch.testing.assert_close(logits, outputs.mean(1))


@pytest.mark.parametrize("name", ["snntorch_leaky", "snntorch_conv", "norse_lif", "spikingjelly_leaky", "sinabs_leaky"])
def test_the_networks_have_learnt(name: str) -> None:
    network, x, held = fixture(name)
    with torch.no_grad():
        right = (network(x).argmax(1).numpy() == held["y"]).mean()
    assert right > 0.85


@pytest.mark.parametrize("other", sorted(name for name in PRESETS if not name.startswith("snntorch")))
def test_dynamics_that_do_not_fit_are_refused(other: str) -> None:
    with pytest.raises(InputError, match=r"do not fit: of node '1'|have no update for node '1'"):
        tb.load(FILES / "snntorch_leaky.nir", dynamics=other)


@pytest.mark.parametrize("other", ["snntorch-zero", "snntorch-undelayed"])
def test_dynamics_that_the_file_leaves_open_are_other_networks(other: str) -> None:
    network, x, _ = fixture("snntorch_leaky")
    with torch.no_grad():
        assert not torch.equal(tb.load(FILES / "snntorch_leaky.nir", dynamics=other)(x), network(x))


def test_protocol_names_and_facts() -> None:
    network, x, _ = fixture("snntorch_rleaky")
    assert is_recurrent(network)
    assert not network.training
    assert {name for name, _ in network.named_parameters()} == {
        "0.weight",
        "0.bias",
        "1.w_rec.weight",
        "1.w_rec.bias",
        "2.weight",
        "2.bias",
    }
    assert {name for name, _ in network.named_buffers()} == {
        "1.lif.decay",
        "1.lif.threshold",
        "3.decay",
        "3.threshold",
    }
    assert network.facts == {
        "format": "nir",
        "producer": "nir 1.0.8",
        "dynamics": "snntorch",
        "framework": "snnTorch 1.0.0",
        "update": PRESETS["snntorch"].says,
    }
    state = network.initial_state(2)
    assert set(state) == {"1.lif.v", "1.lif.z", "3.v", "3.z"}
    y, after = network.step(x[:2, 0], state)
    assert y.shape == (2, 10)
    assert {name: t.shape for name, t in after.items()} == {name: t.shape for name, t in state.items()}
    torch.testing.assert_close(run_steps(network, x[:2]), network(x[:2], return_outputs=True)[1])
    assert set(tb.Box(include="*.decay,*.threshold").factors(network)) == dict(network.named_buffers()).keys()


def test_inputs_of_a_convolution_in_their_shape_or_in_rows() -> None:
    network, x, _ = fixture("snntorch_conv")
    with torch.no_grad():
        torch.testing.assert_close(network(x[:3].unflatten(2, (1, 8, 8))), network(x[:3]))
    for wrong in (x[:3, :, :63], x[:3, 0], x[:3, :0]):
        with pytest.raises(InputError, match=r"batch, time, 64\] \(its file's input is 1×8×8\)"):
            network(wrong)


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("name", ["snntorch_leaky", "norse_lif", "spikingjelly_leaky", "sinabs_leaky", "snntorch_conv"])
def test_certified(name: str) -> None:
    network, x, held = fixture(name)
    y = torch.from_numpy(held["y"])
    certificate = tb.certify(network, x[:10], y[:10], [0.0, 1e-6, 3e-3], domain="interval")
    with torch.no_grad():
        right = network(x[:10]).argmax(1) == y[:10]
    assert torch.equal(certificate.verified[0], right), "no noise, no spike in doubt"
    assert int(certificate.verified[1].sum()) >= int(right.sum()) - 2
    for seed in range(3):  # what is proven holds for weights drawn from the box
        generator = torch.Generator().manual_seed(seed)
        other = tb.load(FILES / f"{name}.nir", dynamics=str(held["dynamics"]))
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(1 + 3e-3 * (2 * torch.rand(p.shape, generator=generator) - 1))
            still = other(x[:10]).argmax(1) == y[:10]
        assert bool(still[certificate.verified[2]].all())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line, in a folder with a few samples."""
    _, x, held = fixture("snntorch_leaky")
    monkeypatch.chdir(tmp_path)
    np.savez("digits.npz", x=x[:6].numpy(), y=held["y"][:6])

    def call(*args: object) -> Result:
        threads = torch.get_num_threads()
        try:
            return CliRunner().invoke(thetabox, [str(a) for a in args])
        finally:
            torch.set_num_threads(threads)

    return call


@pytest.mark.slow
def test_command_line(run: Callable[..., Result]) -> None:
    model = (FILES / "snntorch_leaky.nir", "--dynamics", "snntorch")
    prove = ("--data", "digits.npz", "--epsilon", "0,1e-6", "--domain", "interval")
    result = run("certify", *model, *prove, "--out", "out")
    assert result.exit_code == 0, result.output
    stored = json.loads(Path("out/certificate.json").read_text())["model"]
    assert stored["dynamics"] == "snntorch"
    gate = ("gate", "out", "--epsilon", "1e-6", "--min-verified", "0.5")
    assert run(*gate).exit_code == 0
    assert run(*gate, "--dynamics", "snntorch").exit_code == 0
    other = run(*gate, "--dynamics", "snntorch-zero")
    assert other.exit_code == 2
    assert "--dynamics snntorch-zero asks for another" in other.stderr
    # The stored number of weights in the box is compared with the file, read with the stored dynamics.
    text = Path("out/certificate.json").read_text()
    Path("out/certificate.json").write_text(text.replace(f'"perturbed": {stored["perturbed"]}', '"perturbed": 7'))
    assert "is not as it was written" in run(*gate).stderr
    assert "dynamics: snntorch" in run("inspect", *model).output
    assert "[-1, 32]" in run("inspect", *model).output


def test_command_line_refuses(run: Callable[..., Result], tmp_path: Path) -> None:
    model = FILES / "snntorch_leaky.nir"

    def refused(*args: object) -> str:
        result = run("inspect", *args)
        assert result.exit_code == 2, result.output
        assert len(result.stderr.strip().splitlines()) == 1
        return result.stderr

    without = refused(model)
    assert all(name in without for name in [*PRESETS, "euler:DT"])
    assert "unknown dynamics 'brian'; known are snntorch," in refused(model, "--dynamics", "brian")
    assert "do not fit: of node '1' (LIF) its r is" in refused(model, "--dynamics", "norse")
    assert "leave --model" in refused(model, "--model", "lsnn", "--dynamics", "snntorch")
    assert "its dynamics are chosen" in refused(model, "--set", "units=3", "--dynamics", "snntorch")
    tb.save(tb.models.MLP([4, 3, 2]), tmp_path / "mlp.safetensors")
    assert "leave --dynamics" in refused(tmp_path / "mlp.safetensors", "--dynamics", "snntorch")
    assert "leave --dynamics" in refused(tmp_path / "some.onnx", "--dynamics", "snntorch")
    assert "no such file" in refused(tmp_path / "none.nir", "--dynamics", "snntorch")
