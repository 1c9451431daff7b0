"""Tiles: hand-computed conductances, a scale and a correction for each tile, which tensors are stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.measure import devices
from thetabox.measure.crossbar import Array, Chip, edges, stored
from thetabox.models import LSNN, ResNet32


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(1, 700), st.integers(1, 300), st.integers(1, 9))
def test_edges_cover_all_in_fewest_equal_parts(count: int, limit: int, unit: int) -> None:
    if unit > limit:
        with pytest.raises(InputError, match="does not hold one kernel"):
            edges(count * unit, limit, unit)
        return
    parts = edges(count * unit, limit, unit)
    assert sum(parts) == count * unit
    assert max(parts) <= limit
    assert max(parts) - min(parts) in (0, unit)
    assert all(part % unit == 0 for part in parts)
    assert len(parts) == -(-count // (limit // unit))


def test_hand_computed_conductances() -> None:
    array = Array(torch.tensor([[2.0, -1.0, 0.0], [0.5, -4.0, 1.0]]), 256)
    assert array.scale.tolist() == [[4.0]]
    assert array.target[0].tolist() == [[0.5, 0.0, 0.0], [0.125, 0.0, 0.25]]
    assert array.target[1].tolist() == [[0.0, 0.25, 0.0], [0.0, 1.0, 0.0]]


def test_each_tile_has_its_own_scale() -> None:
    weight = torch.tensor([[1.0, -2.0, 30.0], [0.5, 1.0, 60.0], [0.0, 0.0, -0.25]])
    array = Array(weight, 2)
    assert (array.rows, array.columns) == ([2, 1], [2, 1])
    assert array.scale.tolist() == [[2.0, 60.0], [0.0, 0.25]]
    assert array.target[0].tolist() == [[0.5, 0.0, 0.5], [0.25, 0.5, 1.0], [0.0, 0.0, 0.0]]
    assert array.target[1].tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert torch.equal(array.weights(array.target), weight)
    # A tile of nothing but zeros stands for zeros, however noisy its devices.
    assert torch.equal(array.weights(torch.rand(2, 3, 3))[2, :2], torch.zeros(2))


def test_kernels_are_not_cut() -> None:
    array = Array(torch.randn(5, 7, 3, 3), 25)
    assert array.columns == [18, 18, 18, 9]
    assert array.rows == [5]
    weight, gain = array.program(stream()).read(25.0, True, stream())
    assert weight.shape == (5, 7, 3, 3)
    assert gain.shape == (1, 4)


def test_reading_is_the_composition_of_the_sources() -> None:
    """Programming, drift and read noise in this order, exponents by target, Q by programmed: bit for bit."""
    weight = torch.randn(6, 5, dtype=torch.float64)
    array = Array(weight, 256)
    shared = stream(3)
    chip = array.program(shared)
    found, _ = chip.read(3600.0, False, stream(4))
    again = stream(3)
    programmed = devices.programmed(array.target, generator=again)
    exponent = devices.drift_exponents(array.target, generator=again)
    size = float(weight.abs().max())
    noise = torch.randn(2, 6, 5, generator=stream(4), dtype=torch.float64)
    g = (programmed * (3620 / 20) ** -exponent).numpy()
    q = np.minimum(0.0088 / np.maximum(programmed.numpy(), 1e-300) ** 0.65, 0.2)
    g = np.maximum(g * (1 + q * np.sqrt(np.log((3620 + 250e-9) / 500e-9)) * noise.numpy()), 0)
    np.testing.assert_allclose(found.numpy(), (g[0] - g[1]) * size, rtol=1e-12)


def test_compensation_restores_the_mean_size_of_every_tile() -> None:
    weight = torch.randn(64, 64)
    weight[:, 32:] *= 7
    array = Array(weight, 32)
    chip = array.program(stream())
    before = array.by_tile(array.weights(chip.g), lambda tile: tile.abs().mean())
    for time in (25.0, 31536000.0):
        raw, ones = chip.read(time, False, stream(1))
        restored, gain = chip.read(time, True, stream(1))
        assert torch.equal(ones, torch.ones(2, 2))
        found = array.by_tile(restored, lambda tile: tile.abs().mean())
        assert torch.allclose(found, before, rtol=1e-5)
        assert torch.allclose(restored, raw * array.spread(gain), rtol=1e-5)
    # After a year about 0.05·ln(1.6e6) of the size is gone, and the correction differs from tile to tile.
    assert 1.7 < float(gain.mean()) < 2.5
    assert len(gain.unique()) == 4
    # Weight by weight the size comes back too, a little more of it: of a tile's current, the noise of the devices that
    # should be at 0 fades fastest.
    lost, kept = (float((w * weight).sum() / (weight * weight).sum()) for w in (raw, restored))
    assert lost < 0.6
    assert kept == pytest.approx(1.0, abs=0.1)


def test_tiles_without_current_need_no_correction() -> None:
    array = Array(torch.zeros(3, 3), 2)
    weight, gain = array.program(stream()).read(25.0, True, stream())
    assert torch.equal(weight, torch.zeros(3, 3))
    assert torch.equal(gain, torch.ones(2, 2))


def test_a_chip_ages_and_is_read_afresh() -> None:
    array = Array(torch.randn(8, 8), 256)
    chip = array.program(stream())
    assert isinstance(chip, Chip)
    early, late = (chip.read(time, False, stream(1))[0] for time in (25.0, 86400.0))
    assert float(late.abs().mean()) < float(early.abs().mean())
    assert torch.equal(early, chip.read(25.0, False, stream(1))[0])
    assert not torch.equal(early, chip.read(25.0, False, stream(2))[0])


def test_what_is_stored() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))
    assert stored(net) == ["0.weight", "3.weight"]
    assert stored(net, Box(exclude="3.*")) == ["0.weight"]
    assert stored(LSNN(3, 4, 2)) == ["W_in", "W_rec", "W_out"]
    names = stored(ResNet32())
    assert len(names) == 34
    assert not any("norm" in name or "bias" in name for name in names)
    with pytest.raises(InputError, match="no weight matrix"):
        stored(net, Box(include="*bias"))
    for box in (Box(kind="absolute"), Box(scale={"*": 2.0})):
        with pytest.raises(InputError, match="leave kind and scale"):
            stored(net, box)


def test_correction_is_that_of_aihwkit() -> None:
    """α of one tile and the corrected weights, over many chips, as aihwkit's inference tile in torch has them."""
    why = "aihwkit is not installed: pip install --no-deps --only-binary :all: aihwkit==1.1.0"
    configs = pytest.importorskip("aihwkit.simulator.configs", reason=why)  # aihwkit may be absent
    inference = pytest.importorskip("aihwkit.inference", reason=why)  # aihwkit may be absent
    layers = pytest.importorskip("aihwkit.nn", reason=why)  # aihwkit may be absent
    config = configs.TorchInferenceRPUConfig()
    config.noise_model = inference.PCMLikeNoiseModel(g_max=25.0)
    config.drift_compensation = inference.GlobalDriftCompensation()
    config.forward.is_perfect, config.mapping.weight_scaling_omega = True, 0.0
    weight, chips, time = 0.3 * torch.randn(32, 64), 40, 86400.0
    theirs, ours = [], []
    for seed in range(chips):
        layer = layers.AnalogLinear(64, 32, bias=False, rpu_config=config)
        layer.set_weights(weight, None)
        layer.eval()
        layer.program_analog_weights()
        layer.drift_analog_weights(time)
        (tile,) = layer.analog_tiles()
        with torch.no_grad():
            theirs.append((float(tile.alpha), layer(torch.eye(64)).T))
        generator = stream(seed)
        found, gain = Array(weight, 256).program(generator).read(time, True, generator)
        ours.append((float(gain), found))
    # The tile of aihwkit drifts the difference of a pair as one device, where we drift both: 0.6 % in α.
    measures = (
        lambda gain, found: gain,
        lambda gain, found: float((found * weight).sum() / (weight * weight).sum()),
        lambda gain, found: float((found - weight).square().mean().sqrt()),
    )
    for measure, share in zip(measures, (0.01, 0.01, 0.03), strict=True):
        means = [np.mean([measure(*chip) for chip in side]) for side in (ours, theirs)]
        assert means[0] == pytest.approx(means[1], rel=share)
