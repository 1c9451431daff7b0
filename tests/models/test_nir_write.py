"""Networks of ours as NIR files: read back, they spike alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

pytest.importorskip("nir", reason="the package nir is not installed")

import thetabox as tb
from thetabox.cli import thetabox
from thetabox.errors import InputError
from thetabox.models import LSNN, LeakyCells
from thetabox.models.nir import NirNetwork
from thetabox.models.nir.write import DYNAMICS, nir_bytes
from thetabox.models.recurrent import RecurrentModule


def lsnn(*, recurrent: bool, refractory: int = 0, beta: float = 0.0, dt: float = 1.0) -> LSNN:
    torch.manual_seed(0)
    tau = torch.linspace(3, 30, 16).tolist()
    network = LSNN(5, 16, 3, tau=tau, threshold=0.3, beta=beta, refractory=refractory, dt=dt, recurrent=recurrent)
    with torch.no_grad():
        network.W_in.mul_(4)
        network.b_out.normal_()
    return network


def back(model: nn.Module, path: Path) -> NirNetwork:
    path.write_bytes(nir_bytes(model))
    network = tb.load(path, dynamics=DYNAMICS)
    assert isinstance(network, NirNetwork)
    return network


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("refractory", [0, 1])
def test_lsnn(tmp_path: Path, recurrent: bool, refractory: int) -> None:
    network, x = lsnn(recurrent=recurrent, refractory=refractory), torch.randn(20, 50, 5)
    other = back(network, tmp_path / "net.nir")
    with torch.no_grad():
        logits, spikes = network(x, return_outputs=True)
        assert 0.02 < float(spikes.mean()) < 0.5
        assert int((other.spikes(x)["lif1"] != spikes).sum()) == 0
        torch.testing.assert_close(other(x), logits, rtol=1e-4, atol=1e-5)
    assert {n for n, _ in other.named_parameters()} == {"fc1.weight", "out.weight", "out.bias"} | (
        {"rec1.weight"} if recurrent else set()
    )


class TwoLayers(RecurrentModule):
    """Two feed-forward layers without a bias of the readout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Parameter(3 * torch.randn(5, 8)), nn.Parameter(3 * torch.randn(8, 6))
        self.out = nn.Parameter(torch.randn(6, 3))
        for name, units in (("one", 8), ("two", 6)):
            self.register_buffer(f"tau_{name}", torch.full((units,), 9.0))
            self.register_buffer(f"threshold_{name}", torch.full((units,), 0.4))

    def leaky_cells(self) -> list[LeakyCells]:
        def cells(name: str, out: str | None) -> LeakyCells:
            return LeakyCells(
                name, None, out, None, f"threshold_{name}", f"tau_{name}", None, None, dt=1.0, refractory=0
            )

        return [cells("one", None), cells("two", "out")]


def test_several_layers(tmp_path: Path) -> None:
    network, x = TwoLayers(), torch.randn(10, 30, 5)
    alpha = torch.exp(torch.tensor(-1 / 9.0))
    v = [torch.zeros(10, n) for n in (8, 6)]
    z = [torch.zeros(10, n) for n in (8, 6)]
    taken = []
    for x_t in x.unbind(1):
        u = x_t
        for k, weight in enumerate((network.one, network.two)):
            v[k] = alpha * v[k] + (1 - alpha) * (u @ weight) - z[k] * 0.4
            u = z[k] = (v[k] > 0.4).float()
        taken.append(u)
    spikes = torch.stack(taken, 1)
    found = back(network, tmp_path / "net.nir")
    with torch.no_grad():
        assert torch.equal(found.spikes(x)["lif2"], spikes)
        torch.testing.assert_close(found(x), spikes.mean(1) @ network.out, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"beta": 0.5}, "thresholds adapt: beta is not 0"),
        ({"refractory": 2}, "silent for 2 steps"),
        ({"dt": 0.5}, "the threshold times dt = 0.5"),
    ],
)
def test_what_nir_does_not_express(how: dict[str, float], line: str) -> None:
    with pytest.raises(InputError, match=line):
        nir_bytes(lsnn(recurrent=True, **how))
    with pytest.raises(InputError, match="MLP does not describe leaky cells"):
        nir_bytes(tb.models.MLP([3, 4, 2]))


def test_command_line(tmp_path: Path) -> None:
    for name, network in (("good", lsnn(recurrent=True)), ("bad", lsnn(recurrent=True, beta=1.0))):
        tb.save(network, tmp_path / f"{name}.safetensors")
    good, bad = (
        CliRunner().invoke(thetabox, ["export", f"{tmp_path}/{name}.safetensors", "--nir", f"{tmp_path}/{name}.nir"])
        for name in ("good", "bad")
    )
    assert good.exit_code == 0, good.output
    assert "read it with --dynamics snntorch" in good.output
    assert tb.load(tmp_path / "good.nir", dynamics="snntorch").inputs == 5
    assert bad.exit_code == 2
    assert "thresholds adapt" in bad.stderr
    assert not (tmp_path / "bad.nir").exists()
