"""Weights of n bits: levels by hand, accuracy over widths, mismatch of the quantised network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.measure.networks import labelled
from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.measure import mismatch
from thetabox.measure.quantise import quantisation, quantised, rounded
from thetabox.models import LSNN


def linear() -> tuple[nn.Sequential, Tensor, Tensor]:
    return labelled(4, 16, 3, samples=200)


def test_three_bits_by_hand() -> None:
    model = nn.Linear(5, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-3.0, 1.4, 0.6, 0.5, -1.6]]))
        model.bias.fill_(0.123)
    twin = quantised(model, 3)  # full scale 3, step 1; halves go to the even level
    assert twin.weight.tolist() == [[-3.0, 1.0, 1.0, 0.0, -2.0]]
    assert twin.bias.tolist() == model.bias.tolist()
    assert model.weight.tolist()[0][1] == pytest.approx(1.4)


@given(st.integers(2, 12), st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20))
def test_levels(bits: int, values: list[float]) -> None:
    w = torch.tensor(values, dtype=torch.float64)
    full = float(w.abs().max())
    q = rounded(w, full, bits)
    step = full / (2 ** (bits - 1) - 1)
    assert torch.all((q - w).abs() <= step / 2 * (1 + 1e-9))
    assert len(q.unique()) <= 2**bits - 1
    assert torch.allclose(rounded(q, full, bits), q, rtol=1e-12)
    assert torch.equal(rounded(-w, full, bits), -q)
    if step > 1e-30:
        np.testing.assert_allclose((q / step).round().numpy(), (q / step).numpy(), atol=1e-6)


def test_beyond_full_scale_clips_and_no_scale_leaves_alone() -> None:
    assert rounded(torch.tensor([5.0, -9.0]), 2.0, 8).tolist() == [2.0, -2.0]
    assert rounded(torch.tensor([5.0, -9.0]), 0.0, 8).tolist() == [5.0, -9.0]


def test_accuracy_over_widths() -> None:
    model, x, y = linear()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    calls: list[tuple[int, int]] = []
    found = quantisation(model, x, y, (12, 2), progress=lambda a, b: calls.append((a, b)))
    assert found.clean_accuracy == 1
    with torch.no_grad():
        expected = [float((quantised(model, b)(x).argmax(1) == y).double().mean()) for b in (12, 2)]
    assert found.accuracy.tolist() == expected
    assert expected[0] > 0.98 > expected[1]
    assert calls == [(1, 2), (2, 2)]
    assert found.mismatch is None
    assert [row["bits"] for row in found.to_json()["bits"]] == [12, 2]
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_mismatch_after_quantisation() -> None:
    model, x, y = linear()
    found = quantisation(model, x, y, [4], level=[0.0, 0.3], samples=5, seed=3)
    assert found.mismatch is not None
    alone = mismatch(quantised(model, 4), x, y, [0.0, 0.3], 5, seed=3)
    assert torch.equal(found.mismatch[0].accuracy, alone.accuracy)
    assert float(found.mismatch[0].mean[0]) == pytest.approx(float(found.accuracy[0]))
    assert found.to_json()["bits"][0]["mismatch"]["levels"][1]["level"] == 0.3


def test_which_weights() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    changed = {
        name
        for (name, a), b in zip(net.named_parameters(), quantised(net, 2).parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert changed == {"0.weight", "3.weight"}
    assert torch.equal(quantised(net, 2, box=Box(exclude="3.*"))[3].weight, net[3].weight)
    lsnn = LSNN(3, 8, 2)
    assert torch.equal(quantised(lsnn, 2).threshold, lsnn.threshold)
    assert len(quantised(lsnn, 2).W_in.unique()) <= 3


@pytest.mark.parametrize("bits", [1, 0, 25, 4.0, True])
def test_bad_widths(bits: object) -> None:
    model, x, y = linear()
    with pytest.raises(InputError, match="integer from 2 to 24"):
        quantised(model, bits)
    with pytest.raises(InputError, match="integer from 2 to 24"):
        quantisation(model, x, y, [bits])


def test_no_width() -> None:
    with pytest.raises(InputError, match="bits is empty"):
        quantisation(*linear(), [])
