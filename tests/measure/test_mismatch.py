"""Random mismatch: shapes, seeds, the size of the noise, and the network left alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.measure.networks import labelled
from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.measure import mann_whitney, mismatch
from thetabox.models import LSNN


def linear() -> tuple[nn.Sequential, Tensor, Tensor]:
    return labelled(4, 3, samples=50)


def test_shapes_and_statistics() -> None:
    model, x, y = linear()
    result = mismatch(model, x, y, level=[0.0, 0.1, 1.0], samples=12)
    assert result.accuracy.shape == (3, 12)
    assert torch.equal(result.accuracy[0], torch.ones(12, dtype=torch.float64))
    assert torch.allclose(result.mean, result.accuracy.mean(1))
    assert torch.allclose(result.std, result.accuracy.std(1))
    assert torch.equal(result.min, result.accuracy.min(1).values)
    assert result.mean[0] > result.mean[1] > result.mean[2]
    assert result.clean_accuracy == 1
    assert mismatch(model, x, y, 0.1, samples=1).std.tolist() == [0.0]


def test_same_seed_same_draws_and_chunks_do_not_matter() -> None:
    model, x, y = linear()
    one = mismatch(model, x, y, 0.5, samples=6, seed=1).accuracy
    assert torch.equal(one, mismatch(model, x, y, 0.5, samples=6, seed=1, chunk=7).accuracy)
    assert not torch.equal(one, mismatch(model, x, y, 0.5, samples=6, seed=2).accuracy)


def test_noise_has_the_stated_spread() -> None:
    """One weight of 2, one input of 1, threshold moved through: the share of draws above it is the normal's."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0], [1.8]]))
    x, y = torch.ones(1, 1), torch.tensor([0])
    draws = mismatch(model, x, y, 0.1, samples=2000, box=Box(include="*", exclude="")).accuracy[0]
    sigma = 0.1 * (2.0**2 + 1.8**2) ** 0.5
    expected = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(0.2 / sigma))
    assert float(draws.mean()) == pytest.approx(float(expected), abs=0.03)


@pytest.mark.parametrize("kind", ["absolute", "range"])
def test_other_boxes(kind: str) -> None:
    model, x, y = linear()
    assert mismatch(model, x, y, 2.0, samples=5, box=Box(kind=kind)).mean[0] < 1
    assert mismatch(model, x, y, 2.0, samples=5, box=Box(kind=kind, scale={"*": 0.0001})).mean[0] > 0.95


def test_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = LSNN(3, 8, 2).train()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    calls: list[tuple[int, int]] = []
    result = mismatch(
        model,
        torch.randn(5, 7, 3).numpy(),
        [0, 1, 0, 1, 0],
        [0.1, 0.3],
        samples=3,
        progress=lambda a, b: calls.append((a, b)),
    )
    assert model.training
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert calls[-1] == (6, 6)
    assert result.to_json()["samples"] == 3


def test_neuron_parameters_are_drawn_when_named() -> None:
    torch.manual_seed(0)
    model, x = LSNN(3, 16, 3), torch.randn(30, 10, 3)
    with torch.no_grad():
        y = model(x).argmax(1)
    assert mismatch(model, x, y, 0.5, samples=4, box=Box(include="threshold,tau")).mean[0] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": -0.1}, "at least 0"),
        ({"batch": 0}, "at least 1"),
        ({"samples": 0}, "at least 1"),
        ({"box": Box(include="none")}, "no parameter"),
    ],
)
def test_bad_input_is_one_clear_line(change: dict[str, object], message: str) -> None:
    model, x, y = linear()
    with pytest.raises(InputError, match=message):
        mismatch(model, x, y, **change)


@pytest.mark.parametrize("box", [Box(), Box(include="W_out"), Box(include="threshold,W_rec")])
def test_batched_draws_are_those_of_the_loop(box: Box) -> None:
    torch.manual_seed(1)
    model, x = LSNN(3, 12, 3), torch.randn(20, 15, 3)
    with torch.no_grad():
        y = model(x).argmax(1)
    alone = mismatch(model, x, y, [0.1, 0.5], samples=13, box=box, batch=1).accuracy
    for batch in (2, 5, 13, None):
        assert torch.equal(mismatch(model, x, y, [0.1, 0.5], samples=13, box=box, batch=batch).accuracy, alone)
    assert alone[1].std() > 0


def test_draws_are_independent_of_the_library() -> None:
    """Accuracy of each draw, written out: a linear network and the documented streams."""
    model, x, y = linear()
    found = mismatch(model, x, y, [0.2, 0.9], samples=40, seed=3).accuracy
    for draw in (0, 1, 17, 39):
        stream = torch.Generator().manual_seed(3 * 1_000_003 + draw)
        noise = {n: torch.randn(p.shape, generator=stream) for n, p in model.named_parameters()}
        for row, sigma in enumerate((0.2, 0.9)):
            weight, bias = ((p + sigma * p.abs() * noise[n]).detach().double() for n, p in model.named_parameters())
            right = (x.double() @ weight.T + bias).argmax(1) == y
            assert float(found[row, draw]) == pytest.approx(float(right.double().mean()), abs=0.021)


def test_a_network_that_vmap_refuses_is_drawn_in_a_loop() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) if self.linear.weight.sum().item() > -1e9 else self.linear(-x)

    plain, x, y = linear()
    model = Branching()
    model.linear.load_state_dict(plain[0].state_dict())
    expected = mismatch(plain, x, y, 0.3, samples=30).accuracy
    assert torch.equal(mismatch(model, x, y, 0.3, samples=30).accuracy, expected)


def test_instances_are_joined() -> None:
    model, x, y = linear()
    one, two = (mismatch(model, x, y, [0.1, 0.3], samples=n, seed=n) for n in (3, 5))
    both = one.joined(two)
    assert torch.equal(both.accuracy, torch.cat([one.accuracy, two.accuracy], 1))
    assert both.clean_accuracy == pytest.approx(1)
    with pytest.raises(InputError, match="same levels"):
        one.joined(mismatch(model, x, y, 0.2, samples=3))


def test_mann_whitney_by_counting() -> None:
    """Few draws without ties: the share of all orders whose U lies at least as far from its mean."""
    a, b = [0.91, 0.94, 0.97, 0.99], [0.70, 0.85, 0.92]
    pooled = np.array(a + b)
    far = 0
    places = list(itertools.combinations(range(7), 4))

    def u(chosen: tuple[int, ...]) -> float:
        left, right = pooled[list(chosen)], np.delete(pooled, chosen)
        return float((left[:, None] > right).sum())

    for chosen in places:
        far += abs(u(chosen) - 6) >= abs(u((0, 1, 2, 3)) - 6)
    assert mann_whitney(a, torch.tensor(b, dtype=torch.float64)) == pytest.approx(far / len(places))
    assert mann_whitney(a, a) == pytest.approx(1)
    assert mann_whitney([0.5, 0.5], [0.5]) == 1
    assert mann_whitney(np.linspace(0, 0.5, 100), np.linspace(0.4, 0.9, 100)) < 1e-10
    for bad in ([], [float("nan")]):
        with pytest.raises(InputError, match="finite"):
            mann_whitney(bad, a)
