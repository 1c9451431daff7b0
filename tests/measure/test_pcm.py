"""Accuracy on phase-change memory: a digits network that ages, seeds, networks of every kind, bad input."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import Tensor, nn

from tests.measure.networks import labelled
from thetabox.box import Box
from thetabox.data import load
from thetabox.errors import InputError
from thetabox.measure import devices, pcm
from thetabox.measure.crossbar import Array
from thetabox.models import LSNN, ConvNet, RecurrentModule, ResNet32

YEAR = 31536000.0


def linear() -> tuple[nn.Sequential, Tensor, Tensor]:
    return labelled(4, 16, 3, samples=200)


@pytest.fixture(scope="module")
def cnn() -> ConvNet:
    """A small CNN after six passes over the digits."""
    torch.manual_seed(0)
    model, train = ConvNet.small(), load("digits", "train")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(6):
        for rows in torch.arange(len(train)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train.x[rows]), train.y[rows]).backward()
            optimizer.step()
    return model


def test_digits_over_a_year(cnn: ConvNet) -> None:
    """Worse from time to time, up to the noise of the mean of 8 chips; the correction keeps most of it."""
    test = load("digits")
    raw = pcm(cnn, test.x, test.y, samples=8, compensation=False)
    assert raw.accuracy.shape == (5, 8)
    error = raw.std / 8**0.5
    for early in range(4):
        assert raw.mean[early + 1] < raw.mean[early] + 2 * (error[early] ** 2 + error[early + 1] ** 2).sqrt()
    assert raw.mean[0] > raw.clean_accuracy - 0.1
    assert raw.mean[-1] < raw.mean[0] - 0.2
    kept = pcm(cnn, test.x, test.y, samples=8)
    assert kept.mean[-1] > raw.mean[-1] + 0.15
    assert kept.mean[-1] < kept.mean[0] + 2 * float((kept.std[0] ** 2 + kept.std[-1] ** 2) / 8) ** 0.5


def test_statistics_and_json() -> None:
    model, x, y = linear()
    calls: list[tuple[int, int]] = []
    found = pcm(model, x.numpy(), y.numpy(), [25.0, YEAR], samples=3, progress=lambda a, b: calls.append((a, b)))
    assert torch.allclose(found.mean, found.accuracy.mean(1))
    assert torch.allclose(found.std, found.accuracy.std(1))
    assert torch.equal(found.min, found.accuracy.min(1).values)
    assert found.clean_accuracy == 1
    assert calls[-1] == (6, 6)
    assert found.stored == found.converted == ["0.weight", "2.weight"]
    stored = json.loads(json.dumps(found.to_json()))
    assert [row["time"] for row in stored["times"]] == [25.0, YEAR]
    assert stored["accuracy"] == found.accuracy.tolist()
    assert pcm(model, x, y, 25.0, samples=1).std.tolist() == [0.0]


def test_a_seed_is_a_chip() -> None:
    """The same whatever the chunks, and whatever other times or how many other chips are asked for."""
    model, x, y = linear()
    one = pcm(model, x, y, [25.0, 3600.0, YEAR], samples=4, seed=1).accuracy
    assert torch.equal(one, pcm(model, x, y, [25.0, 3600.0, YEAR], samples=4, seed=1, chunk=7).accuracy)
    assert torch.equal(one[1:2, :2], pcm(model, x, y, 3600.0, samples=2, seed=1).accuracy)
    assert not torch.equal(one, pcm(model, x, y, [25.0, 3600.0, YEAR], samples=4, seed=2).accuracy)
    assert len({tuple(chip) for chip in one.T.tolist()}) > 1


def test_errors_can_be_switched_off_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without programming noise, drift and read noise the network is itself, whatever the tiles."""
    model, x, y = linear()
    monkeypatch.setattr(devices, "programmed", lambda g, *, generator: g)
    monkeypatch.setattr(devices, "read", lambda g, time, programmed, *, generator: g)
    monkeypatch.setattr(devices, "drifted", lambda g, time, exponent: g)
    assert pcm(model, x, y, 25.0, samples=1, adc_bits=0, dac_bits=0, tile=3).mean == 1
    assert pcm(model, x, y, 25.0, samples=1, adc_bits=16, dac_bits=16, tile=3).mean > 0.99
    # Even drift alone is fully corrected where it is the same for all devices.
    monkeypatch.setattr(devices, "drifted", lambda g, time, exponent: g * 0.3)
    assert pcm(model, x, y, 25.0, samples=1, adc_bits=0, dac_bits=0, tile=3).mean == 1
    # Left uncorrected it is the network with all of its matrices, and none of its biases, smaller.
    with torch.no_grad():
        shrunk = [p * (0.3 if p.ndim == 2 else 1) for p in model.parameters()]
        smaller = ((x @ shrunk[0].T + shrunk[1]).relu() @ shrunk[2].T + shrunk[3]).argmax(1)
    raw = pcm(model, x, y, 25.0, samples=1, adc_bits=0, dac_bits=0, compensation=False)
    assert float(raw.mean) == pytest.approx(float((smaller == y).double().mean()))
    assert raw.mean < 1
    # 3-bit converters cost accuracy by themselves.
    assert pcm(model, x, y, 25.0, samples=1, adc_bits=3, dac_bits=3).mean < 0.99


class Own(RecurrentModule):
    """A user's recurrent network that implements the protocol only."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.Linear(3 + 8, 8), nn.Linear(8, 2)

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, 8)

    def step(self, x_t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.tanh(self.cell(torch.cat([x_t, state], 1)))
        return state, state

    def readout(self, outputs: Tensor) -> Tensor:
        return self.out(outputs[:, -1])


@pytest.mark.parametrize("make", [lambda: LSNN(3, 16, 2), lambda: LSNN(3, 16, 2, recurrent=False).double(), Own])
@pytest.mark.parametrize("bits", [0, 8])
def test_recurrent_networks(make, bits: int) -> None:
    model = make().train()
    x = torch.randn(40, 9, 3)
    with torch.no_grad():
        steps = [model.initial_state(40)]
        outputs = []
        for x_t in x.to(next(model.parameters()).dtype).unbind(1):
            output, state = model.step(x_t, steps[-1])
            outputs.append(output)
            steps.append(state)
        y = model.readout(torch.stack(outputs, 1)).argmax(1)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    found = pcm(model, x, y, 25.0, samples=2, adc_bits=bits, dac_bits=bits)
    assert found.clean_accuracy > 0.95
    assert found.mean > 0.5
    assert found.converted == (found.stored if bits else [])
    assert model.training
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.slow
def test_resnet32_end_to_end() -> None:
    torch.manual_seed(0)
    model, x = ResNet32().eval(), torch.randn(12, 3, 32, 32)
    with torch.no_grad():
        y = model(x).argmax(1)
    found = pcm(model, x, y, [25.0, YEAR], samples=1)
    assert len(found.converted) == 34
    assert found.accuracy.shape == (2, 1)
    folded = pcm(model, x, y, 25.0, samples=1, box=Box(fold=True))
    assert len(folded.stored) == 34


def test_shared_weights_stand_on_the_same_devices() -> None:
    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    last.weight = first.weight
    model, x = nn.Sequential(first, nn.ReLU(), last), torch.randn(50, 4)
    with torch.no_grad():
        y = model(x).argmax(1)
    found = pcm(model, x, y, 25.0, samples=1)
    assert found.stored == found.converted == ["0.weight"]


def test_products_without_converters_are_told() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.out = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.rnn(x)[0][:, -1])

    found = pcm(Fused(), torch.randn(6, 4, 3), torch.tensor([0, 1] * 3), 25.0, samples=1)
    assert found.stored == ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "out.weight"]
    assert found.converted == ["out.weight"]


def test_tiles_are_a_setting() -> None:
    """Small tiles scale by smaller maxima, so their devices' noise weighs less."""
    weight = torch.randn(64, 64)
    weight[0, 0] = 50.0
    errors = []
    for tile in (64, 8):
        chip = Array(weight, tile).program(torch.Generator().manual_seed(0))
        errors.append(float((chip.array.weights(chip.g) - weight).abs().mean()))
    assert errors[1] < errors[0] / 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": -1.0}, "at least 0"),
        ({"times": []}, "times is empty"),
        ({"samples": 0}, "at least 1"),
        ({"tile": 0}, "at least 1"),
        ({"adc_bits": 1}, "integer from 2 to 24"),
        ({"dac_bits": 99}, "integer from 2 to 24"),
        ({"box": Box(include="none")}, "no weight matrix"),
        ({"box": Box(kind="range")}, "leave kind and scale"),
        ({"device": "tpu"}, "unknown device"),
    ],
)
def test_bad_input_is_one_clear_line(change: dict[str, object], message: str) -> None:
    model, x, y = linear()
    with pytest.raises(InputError, match=message):
        pcm(model, x, y, **change)


def test_a_kernel_larger_than_a_tile_is_refused() -> None:
    with pytest.raises(InputError, match="tiles of at least 9"):
        pcm(ConvNet.small(), torch.randn(2, 1, 8, 8), torch.tensor([0, 1]), 25.0, samples=1, tile=4)


def test_every_chip_and_every_reading_has_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module, keys = sys.modules["thetabox.measure.pcm"], []
    stream = module._stream
    monkeypatch.setattr(module, "_stream", lambda key: keys.append(key) or stream(key))
    pcm(torch.nn.Linear(3, 2), torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), [25.0, 60.0], samples=2, seed=7)
    assert keys == ["7 0", "7 0 25.0", "7 0 60.0", "7 1", "7 1 25.0", "7 1 60.0"]
