"""Spiking networks of every cell: against every vertex of tiny boxes in exact arithmetic, ties and all."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.verify.histories.spiking_networks import (
    boxed,
    engine,
    fractions,
    moved,
    neurons,
    number,
    run_exactly,
    weights,
)
from thetabox.verify.effort import FREE
from thetabox.verify.histories import engine as engine_module
from thetabox.verify.histories.equations import few_spikes, second_look
from thetabox.verify.histories.errors import Errors
from thetabox.verify.histories.neurons import Neurons, Readout, Spiking

# What each framework's cell is of these equations, by the name of its preset.
CELLS: dict[str, dict[str, Any]] = {
    "snntorch Leaky": {"decay": 0.5, "next_drop": 1.0},
    "snntorch Leaky, no delay": {"decay": 0.75, "next_drop": 0.75},
    "snntorch Leaky, zero": {"decay": 0.5, "reset": 0.0},
    "snntorch Synaptic": {"synapse": 0.75, "decay": 0.5, "next_drop": 1.0},
    "snntorch Leaky, no delay, looked at twice": {"decay": 0.75, "next_drop": 0.1875, "threshold": 0.25, "twice": True},
    "snntorch Synaptic, looked at twice": {
        "synapse": 0.5,
        "decay": 0.5,
        "next_drop": 0.25,
        "threshold": 0.5,
        "twice": True,
    },
    "snntorch RLeaky, zero": {"decay": 0.5, "reset": 0.0, "late": True},
    "snntorch Synaptic, zero": {"synapse": 0.75, "decay": 0.75, "reset": 0.0, "late": True},
    "late, above the threshold": {"decay": 0.5, "reset": 1.25, "late": True},
    "late, at the threshold": {"decay": 0.5, "reset": 1.0, "start": 0.5, "late": True},
    "looked at twice, threshold below the rest": {"decay": 0.5, "next_drop": -0.125, "threshold": -0.25, "twice": True},
    "norse LIFBox": {"decay": 0.75, "leak": 0.125, "start": 0.5, "reset": 0.25},
    "norse LIFBox, subtraction": {"decay": 0.75, "leak": 0.125, "start": 0.5, "next_drop": 0.75},
    "norse LIF": {"synapse": 0.5, "decay": 0.75, "leak": -0.125, "start": -0.5, "reset": -0.5, "current": 0.25},
    "norse IAF": {"decay": 1.0, "reset": 0.0},
    "spikingjelly IF, soft": {"decay": 1.0, "next_drop": 1.0},
    "no reset": {"decay": 0.5},
    "no memory": {"decay": 0.0, "next_drop": 0.5},
    "no memory, zero": {"decay": 0.0, "reset": 0.25},
    "a synapse that keeps all": {"synapse": 1.0, "decay": 1.0, "next_drop": 1.0},
    "a synapse as slow as the membrane": {"synapse": 0.5, "decay": 0.5, "reset": -0.25},
    "sinabs LIF": {"decay": 0.75, "next_drop": 0.75, "most": 1 << 20},
    "rockpool LIFTorch": {"synapse": 0.5, "decay": 0.75, "next_drop": 0.75, "most": 3, "bias": 0.25},
    "several spikes, zero": {"decay": 0.75, "reset": 0.25, "most": 3},
    "a deep reset": {"decay": 0.75, "next_drop": 3.0, "threshold": 0.25},
    "a deep reset to a value": {"decay": 0.75, "reset": -3.0, "threshold": 0.25},
    "threshold below the rest": {"decay": 0.5, "next_drop": 0.5, "threshold": -0.25},
}

Draw = Callable[..., Any]


def cell(
    kind: str, units: int, entering: dict[str, Any], share: float = 0.0, error: float = 0.0, **more: Any
) -> Neurons:
    """A layer of one kind; ``share`` of ε on thresholds, drops, values and biases, ``error`` on all other constants."""
    says = {**CELLS[kind], **more}
    given: dict[str, Any] = {}
    for name in ("decay", "synapse", "current", "start"):
        if name in says:
            given[name] = number([says[name]] * units, error)
    for name in ("bias", "leak", "threshold", "next_drop", "reset"):
        if name in says:
            given[name] = boxed([says[name]] * units, share, error)
    given |= {name: says[name] for name in ("late", "twice") if name in says}
    return neurons(units, **given, **entering, most=says.get("most", 1))


def quarters(rng: random.Random, *shape: int, size: int = 6) -> Tensor:
    """Multiples of 1/4, so that potentials often meet thresholds exactly."""
    count = int(np.prod(shape))
    return torch.tensor([rng.randint(-size // 2, size) / 4 for _ in range(count)], dtype=torch.float64).reshape(shape)


def coordinates(part: Any) -> int:
    """How many numbers the box moves."""
    found = [0]

    def move(centre: Tensor, spread: Tensor, error: Tensor) -> Tensor:
        found[0] += int((spread > 0).sum())
        return centre

    moved(part, move)
    return found[0]


def corners(count: int, rng: random.Random, limit: int) -> Iterator[tuple[Fraction, ...]]:
    """All of −1 and 1, or some; then points inside."""
    one = Fraction(1)
    if 2**count <= limit:
        yield from itertools.product((-one, one), repeat=count)
    else:
        for _ in range(limit):
            yield tuple(rng.choice((-one, one)) for _ in range(count))
    for _ in range(12):
        yield tuple(Fraction(rng.randint(-8, 8), 8) for _ in range(count))


class _Corner:
    """A corner of the box, or a point inside; errors go to one side or the other."""

    def __init__(self, corner: tuple[Fraction, ...], epsilon: Fraction, rng: random.Random) -> None:
        self.taken, self.epsilon, self.rng = iter(corner), epsilon, rng

    def __call__(self, centre: Tensor, spread: Tensor, error: Tensor) -> Any:
        point, reach, off = (fractions(t) for t in (centre, spread, error))
        for index in np.ndindex(point.shape):
            if reach[index] and self.epsilon:
                point[index] += next(self.taken) * self.epsilon * reach[index]
            point[index] += off[index] * self.rng.choice((-1, 1))
        return point


def assert_holds(spiking: Spiking, x: Tensor, epsilon: float, seed: int, limit: int = 150, **options: Any) -> None:
    """Counts and logits of the network anywhere in its box lie within the bounds, in exact arithmetic."""
    found = engine(spiking, x[None], **options)
    rows = torch.full((1, 1), epsilon, dtype=torch.float64)
    ends = found.logits(slice(None), rows)
    (walked,) = (found.run(found.circuit(r.values), r) for r in found.unlabelled(slice(None), rows))
    low, high = fractions(ends.lower[0]), fractions(ends.upper[0])
    least, most = fractions(walked.least[0]), fractions(walked.most[0])
    classes = len(low)
    margins = [fractions(found.margins(slice(None), rows, torch.tensor([y]), FREE)[0])[0] for y in range(classes)]
    rng = random.Random(seed)
    scale = Fraction(epsilon)
    for corner in corners(coordinates(spiking) if epsilon else 0, rng, limit):
        for strict in (False, True):
            ran = run_exactly(spiking, x, _Corner(corner, scale, rng), strict=strict)
            counts = np.concatenate(ran.counts)
            assert (least <= counts).all(), (least, counts)
            assert (counts <= most).all(), (counts, most)
            assert (low <= ran.logits).all()
            assert (ran.logits <= high).all()
            for y, margin in enumerate(margins):
                assert margin <= min(ran.logits[y] - ran.logits[k] for k in range(classes) if k != y)


OPTIONS: list[dict[str, Any]] = [{"histories": 1}, {"histories": 2}, {"histories": 4, "splits": 12}]


@pytest.mark.slow
@pytest.mark.thin(11)
@pytest.mark.parametrize("kind", list(CELLS))
def test_every_cell_alone(kind: str) -> None:
    """One or two cells without company, over a sweep."""
    for seed in range(7):
        rng = random.Random(seed)
        units = 1 + seed % 2
        inputs = weights(quarters(rng, 2, units))
        layer = cell(kind, units, {"inputs": inputs}, share=seed % 3 / 4, error=0.0 if seed < 4 else 0.05)
        readout = Readout(0, "sum", weights(quarters(rng, units, 2), 0.5), boxed(quarters(rng, 2), 1.0))
        x = quarters(rng, 6, 2) if seed % 2 else quarters(rng, 6, 2).abs()
        for epsilon in (0.0, 1e-3, 0.25):
            assert_holds(Spiking((layer,), readout), x, epsilon, seed, limit=64, **OPTIONS[seed % 3])


@pytest.mark.thin(quick=13)
@pytest.mark.parametrize("kind", list(CELLS))
def test_when_a_cell_spikes(kind: str) -> None:
    """Counts hardly tell which of a neuron's spikes was late; what its last spikes leave in a leaky readout does."""
    for seed in range(4):
        layer = cell(kind, 1, {"inputs": weights([[0.5]])})
        leaky = neurons(1, decay=number([0.25 + 0.5 * (seed % 2)]), below={0: weights([[1.0]], 0.0)}, most=0)
        readout = Readout(1, "last", weights([[1.0, -1.0]], 0.0), boxed([0.0, 0.0]))
        x = quarters(random.Random(seed), 6, 1, size=12).abs() + 0.25
        for epsilon in (1 / 64, 0.25):
            assert_holds(Spiking((layer, leaky), readout), x, epsilon, seed)


@pytest.mark.slow
@pytest.mark.thin(11)
@pytest.mark.parametrize("kind", list(CELLS))
def test_every_cell_in_company(kind: str) -> None:
    """Two layers, recurrence and feedback."""
    for seed in range(4):
        rng = random.Random(100 + seed)
        upper = rng.choice(list(CELLS)) if seed % 2 else kind
        first = cell(
            kind,
            2,
            {
                "inputs": weights(quarters(rng, 1, 2)),
                "before": {0: weights(quarters(rng, 2, 2))} | ({1: weights(quarters(rng, 1, 2))} if seed > 1 else {}),
            },
        )
        entering: dict[str, Any] = {"below": {0: weights(quarters(rng, 2, 1, size=8), absolute=seed == 1)}}
        if seed == 3:
            entering["before"] = {0: weights(quarters(rng, 2, 1), 0.0), 1: weights(quarters(rng, 1, 1))}
        second = cell(upper, 1, entering, share=0.5)
        readout = Readout(1, "sum", weights(quarters(rng, 1, 2), 0.0), boxed(quarters(rng, 2)))
        x = quarters(rng, 5, 1).abs()
        for epsilon in (0.0, 0.1):
            assert_holds(Spiking((first, second), readout), x, epsilon, seed, limit=48, **OPTIONS[seed % 3])


@st.composite
def mixtures(draw: Draw) -> tuple[Spiking, Tensor, float, dict[str, Any], int]:
    """Any network of up to three layers."""
    seed = draw(st.integers(0, 10**6))
    rng = random.Random(seed)
    sizes = [rng.randint(1, 2) for _ in range(rng.randint(1, 3))]
    leaky = rng.random() < 0.4
    over = rng.choice(("sum", "last", "largest")) if leaky else "sum"
    layers = []
    for n, units in enumerate(sizes):
        entering: dict[str, Any] = {"below": {}, "before": {}}
        if n == 0 or rng.random() < 0.3:
            entering["inputs"] = weights(quarters(rng, 2, units))
        for source in range(n):
            if source == n - 1 or rng.random() < 0.3:
                entering["below"][source] = _any_weights(rng, sizes[source], units)
        for source in range(len(sizes)):
            if rng.random() < 0.25:
                entering["before"][source] = _any_weights(rng, sizes[source], units)
        error = rng.choice((0.0, 2.0**-10, 0.05))
        layers.append(cell(rng.choice(list(CELLS)), units, entering, rng.choice((0.0, 1.0)), error))
    if leaky:
        entering = {
            "below": {len(sizes) - 1: _any_weights(rng, sizes[-1], 2)},
            "before": {0: _any_weights(rng, sizes[0], 2)} if rng.random() < 0.4 else {},
        }
        if rng.random() < 0.4:
            entering["inputs"] = weights(quarters(rng, 2, 2))
        layers.append(
            neurons(
                2,
                **entering,
                most=0,
                decay=number([rng.choice((0.5, 1.0)), 0.75], rng.choice((0.0, 0.05))),
                synapse=number([0.5, 0.5], 0.05) if rng.random() < 0.5 else None,
                bias=boxed(quarters(rng, 2), 1.0),
                leak=boxed(quarters(rng, 2), 1.0),
                start=number([0.5, -0.25], 0.0625),
            )
        )
    read = layers[-1].units
    same = leaky and rng.random() < 0.5
    matrix = weights(torch.eye(2, dtype=torch.float64), 0.0) if same else _any_weights(rng, read, 2)
    readout = Readout(len(layers) - 1, over, matrix, boxed(quarters(rng, 2), 1.0))
    x = quarters(rng, draw(st.integers(2, 5)), 2)
    x = x.abs() if draw(st.booleans()) else x
    options = draw(st.sampled_from(OPTIONS))
    return Spiking(tuple(layers), readout), x, draw(st.sampled_from([0.0, 1e-6, 0.05, 0.3, 1.2])), options, seed


def _any_weights(rng: random.Random, sources: int, units: int) -> Any:
    values = quarters(rng, sources, units)
    return weights(values, rng.choice((1.0, 0.5, 0.0)), absolute=rng.random() < 0.3, error=rng.choice((0.0, 0.0, 0.01)))


@pytest.mark.slow
@settings(max_examples=48, deadline=None)
@given(mixtures())
def test_mixtures(case: tuple[Spiking, Tensor, float, dict[str, Any], int]) -> None:
    spiking, x, epsilon, options, seed = case
    assert_holds(spiking, x, epsilon, seed, limit=40, **options)


def scaled(kind: str, rng: random.Random, size: int, gain: int) -> tuple[Spiking, Tensor]:
    """A network whose potentials are multiples of a power of 2 and whose inputs are multiples of another."""
    unit = 2.0**size
    says = {"threshold": 1.0, **CELLS[kind]}
    given: dict[str, Any] = {
        name: boxed([says[name] * unit] * 2)
        for name in ("bias", "leak", "threshold", "next_drop", "reset")
        if name in says
    }
    given |= {name: number([says[name] * unit] * 2) for name in ("current", "start") if name in says}
    given |= {name: number([says[name]] * 2) for name in ("decay", "synapse") if name in says}
    inputs = weights(quarters(rng, 2, 2) * 2.0 ** (size - gain))
    recurrent = {0: weights(quarters(rng, 2, 2) * unit)}
    given |= {name: says[name] for name in ("late", "twice") if name in says}
    layer = neurons(2, inputs=inputs, before=recurrent, most=says.get("most", 1), **given)
    readout = Readout(0, "sum", weights(quarters(rng, 2, 2)), boxed(quarters(rng, 2)))
    return Spiking((layer,), readout), quarters(rng, 5, 2).abs() * 2.0**gain


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize(("size", "gain"), [(-1066, -20), (-1000, 10), (-60, 900), (10, 10), (900, -60), (500, 500)])
def test_any_size(size: int, gain: int) -> None:
    """Subnormal potentials, tiny and huge inputs, large gains: exact oracles hold, and nothing is lost at ε = 0."""
    for seed, kind in enumerate(CELLS):
        rng = random.Random(seed)
        spiking, x = scaled(kind, rng, size, gain)
        for epsilon in (0.0, 0.05):
            assert_holds(spiking, x, epsilon, seed, limit=12, **OPTIONS[seed % 2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["norse IAF", "spikingjelly IF, soft", "a synapse that keeps all"])
def test_long_runs_of_cells_that_forget_nothing(kind: str) -> None:
    rng = random.Random(5)
    layer = cell(
        kind, 2, {"inputs": weights(quarters(rng, 2, 2), error=2.0**-40), "before": {0: weights(quarters(rng, 2, 2))}}
    )
    spiking = Spiking((layer,), Readout(0, "sum", weights(quarters(rng, 2, 2)), boxed(quarters(rng, 2))))
    x = quarters(rng, 150, 2).abs() * 100
    for epsilon in (0.0, 1e-6):
        assert_holds(spiking, x, epsilon, 0, limit=6)


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", list(CELLS))
@pytest.mark.parametrize("size", [1e308, 1e200])
def test_what_overflows_proves_nothing(kind: str, size: float) -> None:
    """Margins are numbers or minus infinity, logits contain everything, and no infinity is a proof."""
    rng = random.Random(1)
    layer = cell(
        kind, 2, {"inputs": weights(quarters(rng, 3, 2) * size), "before": {0: weights(quarters(rng, 2, 2) * size)}}
    )
    top = neurons(2, below={0: weights(quarters(rng, 2, 2) * size)}, most=0, decay=number([1.0, 1.0]))
    x = quarters(rng, 1, 6, 3) * 1e10
    for readout in (
        Readout(0, "sum", weights(quarters(rng, 2, 2) * size), boxed([1.0, 0.0])),
        Readout(1, "sum", weights(quarters(rng, 2, 2) * size), boxed([1.0, 0.0])),
    ):
        for options in OPTIONS:
            found = engine(Spiking((layer, top), readout), x, **options)
            margin = found.margins(slice(None), torch.full((1, 1), 0.1, dtype=torch.float64), torch.tensor([0]), FREE)
            assert not margin.isnan().any()
            assert (margin < torch.inf).all()


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.0, 0.05])
@pytest.mark.parametrize("kind", ["snntorch Leaky", "norse LIF", "sinabs LIF"])
def test_errors_of_the_weights_between_cells_are_in_the_bounds(kind: str, epsilon: float) -> None:
    """Large ones, of recurrent weights and of those from layer to layer."""
    for seed in range(4):
        rng = random.Random(seed)
        off = {"error": 0.3}
        first = cell(
            kind, 2, {"inputs": weights(quarters(rng, 2, 2)), "before": {0: weights(quarters(rng, 2, 2), **off)}}
        )
        second = cell(kind, 2, {"below": {0: weights(quarters(rng, 2, 2), **off)}})
        spiking = Spiking((first, second), Readout(1, "sum", weights(quarters(rng, 2, 2)), boxed(quarters(rng, 2))))
        assert_holds(spiking, quarters(rng, 5, 2).abs(), epsilon, seed, limit=60)


def test_a_spike_that_is_uncertain_while_another_threshold_is_pending() -> None:
    """A first step far above two thresholds, and a second that ends at both of them."""
    layer = neurons(
        1,
        inputs=weights([[2.5], [0.5]]),
        decay=number([1.0]),
        threshold=boxed([1.0]),
        next_drop=boxed([1.0]),
        twice=True,
    )
    spiking = Spiking((layer,), Readout(0, "sum", weights([[1.0, -1.0]], 0.0), boxed([0.0, 1.0])))
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    for options in OPTIONS:
        assert_holds(spiking, x, 1e-3, 0, **options)


@pytest.mark.parametrize("strict", [True, False])
def test_what_a_second_look_leaves_is_what_its_comparisons_say(strict: bool) -> None:
    """Of potentials around thresholds above and below 0, in quarters; ties fall to either side."""

    def fires(gap: float) -> int:
        return int(gap > 0 or (gap == 0 and not strict))

    for level, p, pending in itertools.product((-0.5, 0.5, 1.0), np.arange(-2.0, 3.25, 0.25), (0, 1)):
        spike = fires(p - level - pending * level)
        left = fires(p - spike * level - level)
        counts = {fires(p - level) + fires(p - 2 * level)} if level > 0 else {0, 1, 2}
        found = set()
        for m, rho in itertools.product(counts, (pending,)):
            spikes, then = second_look(*((torch.tensor([float(n)]),) * 2 for n in (m, rho)))
            assert spikes[0] == spikes[1]
            assert then[0] == then[1]
            found.add((int(spikes[0]), int(then[0])))
        assert (spike, left) in found


def test_a_second_look_is_monotone() -> None:
    """Ends of intervals of what a potential is above, and of what is pending, are reached at their ends."""
    pairs = [(low, high) for low in range(3) for high in range(low, 3)]
    for above, pending in itertools.product(pairs, [(0, 0), (0, 1), (1, 1)]):
        ends = second_look(*(tuple(torch.tensor([float(n)]) for n in pair) for pair in (above, pending)))
        inner = [
            [int(t) for t in (pair[0] for pair in second_look(*((torch.tensor([float(n)]),) * 2 for n in (m, rho))))]
            for m in range(above[0], above[1] + 1)
            for rho in range(pending[0], pending[1] + 1)
        ]
        for index, (low, high) in enumerate(ends):
            assert int(low) == min(values[index] for values in inner)
            assert int(high) == max(values[index] for values in inner)


@pytest.mark.parametrize("splits", [0, 1, 8, 64])
def test_no_number_of_spikes_is_lost_where_a_proof_is_split(splits: int) -> None:
    """One cell spikes 0, 1 or 2 times; two others tell these apart, and the answer is another at 1 alone."""
    zero = torch.zeros(1, 2, dtype=torch.float64)
    first = neurons(1, inputs=weights([[1.5]], share=2.0 / 3.0), most=5)
    second = neurons(2, below={0: weights(zero + 1.0, 0.0)}, threshold=boxed([0.5, 1.5]))
    readout = Readout(1, "sum", weights([[-2.0, 0.0], [2.0, 0.0]], 0.0), boxed([1.0, 0.0]))
    found = engine(Spiking((first, second), readout), torch.ones(1, 1, 1, dtype=torch.float64), splits=splits)
    rows, label = torch.full((1, 1), 0.99, dtype=torch.float64), torch.tensor([0])
    assert found.margins(slice(None), torch.zeros_like(rows), label, FREE)[0, 0] < 0, "1.5 is one spike"
    assert found.margins(slice(None), rows, label, FREE)[0, 0] <= -1


def test_alternatives_hold_every_number_of_spikes() -> None:
    pairs = [(low, high) for low in range(5) for high in range(low, 8)]
    fewest, most = torch.tensor(pairs, dtype=torch.float64).T
    for single in (False, True):
        found = few_spikes(fewest, most, single=single)
        for place, (low, high) in enumerate([(0, 1)] * len(pairs) if single else pairs):
            held = {n for a, b in found for n in range(int(a[place]), int(b[place]) + 1)}
            assert held == set(range(low, high + 1))


def test_what_rounding_may_add_makes_spikes_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any box nothing is uncertain; with errors of rounding made large, everything is."""
    rng = random.Random(0)
    layer = cell("snntorch Leaky", 3, {"inputs": weights(quarters(rng, 2, 3))})
    spiking = Spiking((layer,), Readout(0, "sum", weights(quarters(rng, 3, 2)), boxed(quarters(rng, 2))))
    x, nothing = quarters(rng, 1, 6, 2) + 0.0137, torch.zeros(1, 1, dtype=torch.float64)  # no ties
    assert engine(spiking, x).uncertain(slice(None), nothing).sum() == 0
    real = engine_module.errors

    def larger(*given: Any) -> list[list[Errors]]:
        return [[replace(e, potential=e.potential + 10.0) for e in step] for step in real(*given)]

    monkeypatch.setattr(engine_module, "errors", larger)
    assert engine(spiking, x).uncertain(slice(None), nothing)[0, -1] == 1.0
