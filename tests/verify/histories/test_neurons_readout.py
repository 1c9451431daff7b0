"""Readouts of silent cells whose decays are known up to an error: each cell has a decay of its own."""

from __future__ import annotations

import pytest
import torch

from tests.verify.histories.spiking_networks import boxed, engine, neurons, number, weights
from thetabox.verify.effort import FREE
from thetabox.verify.histories.neurons import ENDLESS, Boxed, Readout, Spiking

FIRST = neurons(1, inputs=weights([[1.0]], 0.0), threshold=boxed([0.5]), decay=number([0.0]))
X = torch.tensor([[[1.0], [0.0], [0.0]]], dtype=torch.float64)


def two(error: float, onward: list[float]) -> tuple:
    """A cell that spikes once, and two silent ones that read it."""
    return FIRST, neurons(2, below={0: weights([onward], 0.0)}, decay=number([0.5, 0.5], error), most=0)


@pytest.mark.parametrize(("over", "true"), [("last", 0.01 + 0.4**2 - 0.6**2), ("sum", 0.01 + 0.56 - 0.96)])
def test_the_errors_of_two_cells_do_not_cancel_in_a_margin(over: str, true: float) -> None:
    readout = Readout(1, over, weights([[1.0, 0.0], [0.0, 1.0]], 0.0), boxed([0.01, 0.0]))
    walks = engine(Spiking(two(0.1, [1.0, 1.0]), readout), X)
    margins = walks.margins(slice(None), torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0]), FREE)
    assert float(margins) <= true


@pytest.mark.parametrize(("over", "ends"), [("last", (-0.19, 0.21)), ("sum", (-0.39, 0.41))])
def test_nor_in_weights_behind_them(over: str, ends: tuple[float, float]) -> None:
    readout = Readout(1, over, weights([[1.0, 0.0], [-1.0, 0.0]], 0.0), boxed([0.01, 0.0]))
    walks = engine(Spiking(two(0.1, [1.0, 1.0]), readout), X)
    logits = walks.logits(slice(None), torch.zeros(1, 1, dtype=torch.float64))
    assert float(logits.lower[0, 0]) <= ends[0] + 1e-12
    assert float(logits.upper[0, 0]) >= ends[1] - 1e-12


def test_decays_that_may_be_negative_leave_potentials_that_are() -> None:
    layers = FIRST, neurons(2, below={0: weights([[1.0, -1.0]], 0.0)}, decay=number([0.0, 0.0], 0.3), most=0)
    net = Spiking(layers, Readout(1, "last", weights([[1.0, 0.0], [0.0, 1.0]], 0.0), boxed([0.0, 0.0])))
    logits = engine(net, X[:, :2]).logits(slice(None), torch.zeros(1, 1, dtype=torch.float64))
    assert float(logits.lower[0, 0]) <= -0.3
    assert float(logits.upper[0, 1]) >= 0.3


@pytest.mark.parametrize("splits", [0, 8])
def test_beyond_all_counting_nothing_is_proven_by_splits_either(splits: int) -> None:
    one = torch.ones(1, dtype=torch.float64)
    cell = neurons(
        1, inputs=weights([[1.0]], 0.0), threshold=Boxed(one, one, 0 * one), decay=number([0.5]), most=ENDLESS
    )
    net = Spiking((cell,), Readout(0, "sum", weights([[0.0, 1.0]], 0.0), boxed([1e19, 0.0])))
    walks = engine(net, torch.tensor([[[1e20]]], dtype=torch.float64), splits=splits)
    margins = walks.margins(slice(None), torch.full((1, 1), 0.01, dtype=torch.float64), torch.tensor([0]), FREE)
    assert float(margins) == -torch.inf


def test_cells_without_end_are_bounded_as_those_with_one_by_many_histories() -> None:
    ends = []
    for most in (ENDLESS, 50):
        cell = neurons(
            1, inputs=weights([[1.0]]), threshold=boxed([0.5]), decay=number([0.5]), next_drop=boxed([0.25]), most=most
        )
        net = Spiking((cell,), Readout(0, "sum", weights([[1.0, 0.0]], 0.0), boxed([0.0, 0.0])))
        walks = engine(net, torch.tensor([[[1.0], [0.0], [1.0]]], dtype=torch.float64), histories=4)
        ends.append(walks.logits(slice(None), torch.full((1, 1), 0.05, dtype=torch.float64)))
    assert torch.allclose(ends[0].lower, ends[1].lower, atol=1e-6)
    assert torch.allclose(ends[0].upper, ends[1].upper, atol=1e-6)
