"""Membrane potentials: distances from the threshold by a scalar simulation, shares, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thetabox.errors import InputError
from thetabox.measure import membrane
from thetabox.models import LSNN, MLP


def distances(model: LSNN, x: torch.Tensor) -> tuple[np.ndarray, int]:
    """(v − A)/A of every sample, step and unit, with Python floats, and the number of spikes."""
    found, count = [], 0
    w_in, w_rec = model.W_in.tolist(), model.W_rec.tolist()
    thr, beta = model.threshold.tolist(), model.beta.tolist()
    alpha, rho = (math.exp(-model.dt / float(t[0])) for t in (model.tau, model.tau_adapt))
    for sample in x.tolist():
        v, b, z, r = ([0.0] * model.units for _ in range(4))
        for frame in sample:
            new = []
            for j in range(model.units):
                drive = sum(f * w_in[i][j] for i, f in enumerate(frame))
                drive += sum(z[i] * w_rec[i][j] for i in range(model.units) if i != j)
                b[j] = rho * b[j] + (1 - rho) * z[j]
                limit = thr[j] + beta[j] * b[j]
                v[j] = alpha * v[j] + (1 - alpha) * drive - z[j] * limit * model.dt
                found.append((v[j] - limit) / limit)
                new.append(1.0 if r[j] <= 0.1 and v[j] > limit else 0.0)
                r[j] = min(max(r[j] + model.refractory * new[j] - 1, 0), model.refractory)
            z = new
            count += int(sum(z))
    return np.array(found), count


def test_distances_are_those_of_the_equations() -> None:
    torch.manual_seed(0)
    model, x = LSNN(3, 6, 2).double(), torch.randn(4, 20, 3, dtype=torch.float64)
    expected, spikes = distances(model, x)
    found = membrane(model, x, within=(0.05, 0.3, 10.0), chunk=3)
    counts, _ = np.histogram(expected, found.edges.numpy())
    assert found.total == expected.size == 4 * 20 * 6
    assert np.array_equal(found.counts.numpy(), counts)
    assert found.below == int((expected < -3).sum())
    assert found.above == int((expected > 1).sum())
    for x_value, share in zip((0.05, 0.3, 10.0), found.share.tolist(), strict=True):
        assert share == pytest.approx((np.abs(expected) <= x_value).mean())
    assert 0 < found.share[0] < found.share[1] < found.share[2]
    assert found.rate == pytest.approx(spikes / expected.size)
    width = found.edges.diff()
    assert float((found.density * width).sum()) == pytest.approx(1 - (found.below + found.above) / found.total)
    assert found.to_json()["within"][1]["distance"] == 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": MLP((3, 2))}, "not on MLP"),
        ({"x": torch.zeros(2, 3)}, "takes x of shape"),
        ({"x": torch.zeros(0, 5, 3)}, "at least 1"),
        ({"edges": [1.0, 0.0]}, "larger"),
        ({"within": [-1.0]}, "at least 0"),
    ],
)
def test_bad_input_is_one_clear_line(change: dict[str, object], message: str) -> None:
    arguments = {"model": LSNN(3, 6, 2), "x": torch.zeros(2, 5, 3), **change}
    with pytest.raises(InputError, match=message):
        membrane(**arguments)
