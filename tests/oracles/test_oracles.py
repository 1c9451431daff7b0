"""The oracles themselves: forward against torch, hulls against brute force, float32 sums against exact rounding."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from tests.oracles import layers, lsnn, networks, orders
from tests.oracles.rational import assert_contains, box_ends, exact, interior_points, vertex_count, vertices


def test_exact_keeps_every_bit() -> None:
    values = np.array([0.1, -0.0, 5e-324, 1.7e308], dtype=np.float64)
    assert [float(v) for v in exact(values)] == [0.1, 0.0, 5e-324, 1.7e308]
    assert exact(torch.tensor([0.1]))[0] == Fraction(13421773, 134217728)


def test_box_ends_and_vertices() -> None:
    low, high = box_ends([2.0, -4.0, 0.0], 1.5)
    assert list(low) == [-1, -10, 0]
    assert list(high) == [5, 2, 0]
    corners = {tuple(v) for v in vertices(low, high)}
    assert corners == {(-1, -10, 0), (-1, 2, 0), (5, -10, 0), (5, 2, 0)}
    assert vertex_count(low, high) == 4
    for point in interior_points(low, high, 20):
        assert (low <= point).all()
        assert (point <= high).all()
    assert box_ends([2.0, -4.0], 0.5, "range")[1][0] == 5
    assert box_ends([2.0, -4.0], 0.5, "absolute", factor=2.0)[0][1] == -5


def test_assert_contains_notices_one_ulp() -> None:
    truth = exact([0.1])
    assert_contains([0.1], [0.1], truth, truth)
    with pytest.raises(AssertionError, match="above the truth"):
        assert_contains([np.nextafter(0.1, 1)], [1.0], truth, truth)


NETWORKS = {
    "mlp": (nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.1), nn.Linear(4, 2)), (3,)),
    "conv2d": (
        nn.Sequential(
            nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1, padding=1),
            nn.Flatten(),
            nn.Linear(4 * 4 * 8, 3),
        ),
        (2, 6, 5),
    ),
    "same": (nn.Sequential(nn.Conv2d(1, 2, 4, padding="same"), nn.AvgPool2d(2, padding=1), nn.Flatten()), (1, 5, 5)),
    "conv1d": (nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, bias=False), nn.MaxPool1d(3), nn.Flatten()), (2, 7)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_equals_torch(name: str) -> None:
    torch.manual_seed(0)
    model, shape = NETWORKS[name]
    model = model.double()
    x = torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x[None])[0]
    got = networks.forward(model, x)
    assert np.abs(got.astype(float) - expected.numpy()).max() < 1e-12


@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 0.1, 1.5])
def test_dense_hull_is_the_least_and_greatest_vertex(epsilon: float) -> None:
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(1, 3)), rng.normal(size=1)
    x_low = rng.normal(size=3)
    x_high = x_low + rng.uniform(0, 1, 3)
    low = np.concatenate([part.ravel() for part in (box_ends(weight, epsilon)[0], box_ends(bias, epsilon)[0])])
    high = np.concatenate([part.ravel() for part in (box_ends(weight, epsilon)[1], box_ends(bias, epsilon)[1])])
    low, high = np.concatenate([low, exact(x_low)]), np.concatenate([high, exact(x_high)])
    brute = [(p[:3] * p[4:]).sum() + p[3] for p in vertices(low, high)]
    hull = layers.dense_hull(box_ends(weight, epsilon), box_ends(bias, epsilon), (x_low, x_high))
    assert (hull[0][0], hull[1][0]) == (min(brute), max(brute))


def test_conv_hull_is_the_least_and_greatest_vertex() -> None:
    rng = np.random.default_rng(2)
    weight, x = rng.normal(size=(2, 1, 2, 2)), rng.normal(size=(2, 3, 3))
    setting = {"stride": 2, "padding": 1, "groups": 2}
    ends = box_ends(weight, 0.1)
    values = [layers.conv(corner, None, exact(x), **setting) for corner in vertices(*ends)]
    low, high = layers.conv_hull(ends, None, (x, x), **setting)
    assert (np.minimum.reduce(values) == low).all()
    assert (np.maximum.reduce(values) == high).all()


def test_margin_minimum_is_attained_and_never_undercut() -> None:
    rng = np.random.default_rng(3)
    weight, bias = box_ends(rng.normal(size=(2, 2)), 0.1), box_ends(rng.normal(size=2), 0.1)
    hidden = exact([0.2, -0.3]), exact([0.5, 0.4])
    low = np.concatenate([weight[0].ravel(), bias[0], hidden[0]])
    high = np.concatenate([weight[1].ravel(), bias[1], hidden[1]])
    brute = [
        (p[:2] * p[6:]).sum() + p[4] - (p[2:4] * p[6:]).sum() - p[5]
        for source in (vertices(low, high), interior_points(low, high, 200))
        for p in source
    ]
    assert layers.margin_minimum(weight, bias, hidden, 0) == [0, min(brute)]


def test_extremes_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[2].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[2].bias.copy_(torch.tensor([0.0, 1.0]))
    truth = networks.extremes(model, [3.0], 0.5, label=0)
    assert list(truth.lower) == [1.5, -13]
    assert list(truth.upper) == [13.5, 0]
    assert truth.margin == Fraction(3, 2) + Fraction(3, 2) - Fraction(3, 2)
    assert truth.exhaustive


def _float_lsnn(x: np.ndarray, values: dict) -> np.ndarray:
    """The same dynamics in float64, written apart."""
    p = {name: value.astype(float) for name, value in values.items()}
    recurrent = p["W_rec"] * (1 - np.eye(len(p["W_rec"])))
    alpha, rho = np.exp(-1 / p["tau"]), np.exp(-1 / p["tau_adapt"])
    v = b = z = r = np.zeros(len(p["tau"]))
    out = []
    for row in x.astype(float):
        b = rho * b + (1 - rho) * z
        a = p["threshold"] + p["beta"] * b
        v = alpha * v + (1 - alpha) * (row @ p["W_in"] + z @ recurrent) - z * a
        z = (r <= 0.1) * (v > a) * 1.0
        r = np.clip(r + 2 * z - 1, 0, 2)
        out.append(z)
    return np.array(out)


def test_lsnn_spikes_equal_the_float_simulation() -> None:
    fired = 0
    for seed in range(20):
        values, x = lsnn.tiny(seed), lsnn.random_inputs(seed, steps=12)
        train = lsnn.spikes(x, values)
        assert (train == _float_lsnn(x, values)).all()
        expected = train.mean(0) @ values["W_out"].astype(float) + values["b_out"].astype(float)
        assert np.abs(lsnn.logits(x, values).astype(float) - expected).max() < 1e-12
        fired += int(train.sum())
    assert 50 < fired < 500


def test_lsnn_tie_is_silent_and_never_undecided() -> None:
    values = lsnn.tiny(0)
    values = {**values, "threshold": exact(np.zeros(3))}
    assert lsnn.spikes(exact(np.zeros((3, 2))), values).sum() == 0


def test_lsnn_reachable_holds_every_train_that_vertices_and_sampling_find() -> None:
    values, x = lsnn.tiny(4), lsnn.random_inputs(4)
    reach = lsnn.reachable(values, x, 0.1)
    assert len(reach) > 1
    found = set()
    for seed in range(300):
        point = {**values, **dict(lsnn.some_point(values, 0.1, seed))}
        found.add(tuple(tuple(int(z) for z in row) for row in lsnn.spikes(x, point)))
    assert found <= set(reach)
    whole = lsnn.readout_extremes(values, [np.array(t) for t in reach], 0.1, label=0)
    part = lsnn.extremes(values, x, 0.1, label=0, limit=64)
    assert_contains(whole.lower, whole.upper, part.lower, part.upper)
    assert whole.margin is not None
    assert part.margin is not None
    assert whole.margin <= part.margin


def _round(value: Fraction) -> float:
    """Correct rounding to float32, by exact comparison with the neighbours."""
    near = np.float32(float(value))
    around = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    return float(min(around, key=lambda f: (abs(Fraction(float(f)) - value), int(f.view(np.int32)) & 1)))


def test_fused_multiply_add_rounds_once() -> None:
    rng = np.random.default_rng(5)
    for scale in (1.0, 1e-7, 1e-20):
        a, b = rng.normal(size=500).astype(np.float32), (rng.normal(size=500) * scale).astype(np.float32)
        c = (-a * b * (1 + rng.normal(size=500) * 1e-7) * rng.choice([1, 1e3, 1e-3], 500)).astype(np.float32)
        got = orders.fused_multiply_add(a, b, c)
        for i in range(500):
            value = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
            assert float(got[i]) == _round(value)
    # 1 + 2^-24 + 2^-60 lies just above a tie: two roundings would give 1
    a, b = np.float32(2.0**-24), np.float32(1.0)
    assert orders.fused_multiply_add(a, b, np.float32(1.0)) == 1.0
    tiny = np.float32(2.0**-24 * (1 + 2.0**-23))
    assert orders.fused_multiply_add(tiny, b, np.float32(1.0)) == np.float32(1 + 2.0**-23)


def test_sampled_sums_are_among_all_sums() -> None:
    rng = np.random.default_rng(6)
    w, x = rng.normal(size=5).astype(np.float32), rng.normal(size=5).astype(np.float32)
    every = orders.all_dots(w, x, 0.3)
    assert len(every) > 1
    draws = {float(orders.sample_dots(w, x, 0.3, rng=random.Random(seed))) for seed in range(200)}
    assert draws <= every
    truth = float((exact(w) * exact(x)).sum() + exact(np.float32(0.3))[()])
    assert max(abs(v - truth) for v in every) < 2e-6


def test_sampled_forward_is_near_torch_and_differs_between_orders() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    x = torch.randn(2, 2, 8, 8)
    with torch.no_grad():
        expected = model(x).numpy()
    draws = [orders.sample_forward(model, x, rng=random.Random(seed)) for seed in range(10)]
    assert max(np.abs(d - expected).max() for d in draws) < 1e-5
    assert len({d.tobytes() for d in draws}) > 1


def test_sampled_lsnn_is_near_the_exact_one() -> None:
    same = 0
    for seed in range(20):
        values, x = lsnn.tiny(seed), lsnn.random_inputs(seed, steps=10)
        expected = lsnn.logits(x, values).astype(float)
        got = orders.sample_lsnn(x, values, rng=random.Random(seed))
        same += bool(np.abs(got - expected).max() < 1e-5)
    assert same >= 19
