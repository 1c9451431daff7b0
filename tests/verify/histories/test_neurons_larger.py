"""Spiking networks of a size at which bounds matter: sampled, beside plain intervals, and beside the former path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import thetabox as tb
from tests.verify.histories.spiking_networks import (
    boxed,
    engine,
    neurons,
    number,
    run_many,
    weights,
)
from tests.verify.histories.test_neurons import CELLS
from thetabox.models import LSNN
from thetabox.verify import arguments
from thetabox.verify.effort import FREE
from thetabox.verify.histories import Histories
from thetabox.verify.histories.neurons import Boxed, Neurons, Readout, Spiking, Weights
from thetabox.verify.problem import Problem

READOUTS = ["counts", "last", "sum", "largest"]
# But for a second look at a threshold below 0, which lies below the first, where both are taken to be open.
TIGHT = [kind for kind, says in CELLS.items() if not (says.get("twice") and says["threshold"] < 0)]


def layer(kind: str, units: int, draw: torch.Generator, share: float, **entering: Any) -> Neurons:
    """Cells of one kind, each with constants a little its own."""
    says = {"threshold": 1.0, **CELLS[kind]}
    given: dict[str, Any] = {}
    factor = 1 + 0.1 * torch.rand(units, generator=draw, dtype=torch.float64)
    for name in ("decay", "synapse", "current", "start"):
        if name in says:
            given[name] = number([says[name]] * units)
    for name in ("bias", "leak", "threshold", "next_drop", "reset"):
        if name in says:
            if not says.get("twice"):  # which keeps what a spike takes and the threshold in proportion
                factor = 1 + 0.1 * torch.rand(units, generator=draw, dtype=torch.float64)
            own = says[name] * factor
            given[name] = boxed(own, share)
    given |= {name: says[name] for name in ("late", "twice") if name in says}
    return neurons(units, **given, **entering, most=says.get("most", 1))


def matrix(draw: torch.Generator, sources: int, units: int, size: float, shift: float = 0.0) -> Tensor:
    return size * (torch.randn(sources, units, generator=draw, dtype=torch.float64) + shift) / sources**0.5


def network(
    kind: str, seed: int, readout: str = "counts", *, recurrent: bool = True, share: float = 0.0, units: int = 16
) -> tuple[Spiking, Tensor]:
    """Two layers of a kind, and inputs."""
    draw = torch.Generator().manual_seed(seed)
    before = {0: weights(matrix(draw, units, units, 0.4))} if recurrent else {}
    first = layer(kind, units, draw, share, inputs=weights(matrix(draw, 6, units, 1.2, 0.2)), before=before)
    back = {1: weights(matrix(draw, units, units, 0.3))} if recurrent else {}
    second = layer(kind, units, draw, share, below={0: weights(matrix(draw, units, units, 1.5, 0.2))}, before=back)
    layers = [first, second]
    bias = boxed(0.1 * torch.randn(4, generator=draw, dtype=torch.float64), 1.0)
    if readout == "counts":
        says = Readout(1, "sum", weights(matrix(draw, units, 4, 1.0)), bias)
    else:
        reads = weights(matrix(draw, units, 4, 1.0))
        layers.append(neurons(4, below={1: reads}, most=0, decay=number([0.75] * 4), bias=bias))
        says = Readout(2, readout, weights(torch.eye(4, dtype=torch.float64), 0.0), boxed([0.0] * 4))
    x = torch.randn(4, 20, 6, generator=draw, dtype=torch.float64)
    return Spiking(tuple(layers), says), x.abs() if seed % 2 else x


def at(epsilon: float, samples: int = 4) -> Tensor:
    return torch.full((1, samples), epsilon, dtype=torch.float64)


@pytest.mark.slow
@settings(max_examples=36, deadline=None)
@given(
    kind=st.sampled_from(list(CELLS)),
    seed=st.integers(0, 10**6),
    readout=st.sampled_from(READOUTS),
    recurrent=st.booleans(),
    epsilon=st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 0.2]),
    options=st.sampled_from(
        [{"histories": 1}, {"histories": 4}, {"histories": 3, "splits": 12}, {"histories": 2, "precision": "float32"}]
    ),
)
def test_sampled_networks_inside(
    kind: str, seed: int, readout: str, recurrent: bool, epsilon: float, options: dict[str, Any]
) -> None:
    """Counts, logits and margins at random points and corners."""
    if "precision" in options and CELLS[kind].get("most", 1) > 3:
        options = {"histories": 2}  # float32 does not count that far
    spiking, x = network(kind, seed, readout, recurrent=recurrent, share=0.5 * (seed % 2))
    ran = run_many(spiking, x, epsilon, 16, seed)
    found = engine(spiking, x, **options)
    ends = found.logits(slice(None), at(epsilon))
    (walked,) = (found.run(found.circuit(r.values), r) for r in found.unlabelled(slice(None), at(epsilon)))
    counts = torch.cat(ran.counts, 2)
    assert (walked.least <= counts).all()
    assert (counts <= walked.most).all()
    close = 1e-9 * (1.0 + ran.logits.abs())
    assert (ends.lower <= ran.logits + close).all()
    assert (ran.logits <= ends.upper + close).all()
    y = ran.logits[0].argmax(1)
    margin = found.margins(slice(None), at(epsilon), y, FREE)[0]
    truth = ran.logits - ran.logits.gather(2, y[None, :, None].expand(len(ran.logits), -1, 1))
    truth = (-truth).scatter(2, y[None, :, None].expand(len(truth), -1, 1), torch.inf).amin(2)
    assert (margin <= truth + close.amax()).all()


@pytest.mark.thin(3)
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("kind", TIGHT)
def test_nothing_is_lost_where_nothing_is_uncertain(kind: str, readout: str) -> None:
    """At ε = 0 the margin is the network's own, and it falls with ε."""
    spiking, x = network(kind, 3, readout)
    logits = run_many(spiking, x, 0.0, 1, 0).logits[0]
    y = logits.argmax(1)
    truth = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    found = engine(spiking, x)
    sweep = torch.tensor([0.0, 1e-5, 1e-4, 1e-3, 1e-2], dtype=torch.float64)[:, None].expand(-1, 4)
    margins = found.margins(slice(None), sweep, y, FREE)
    # Of cells that may spike a million times a step, rounding is taken for as many spikes.
    close = 1e-9 if spiking.layers[0].most < 10 else 1e-6
    torch.testing.assert_close(margins[0], truth, rtol=close, atol=close)
    assert (margins[0] > 0).all()
    assert not found.uncertain(slice(None), at(0.0)).any()
    # Merging is a choice of what to hull, so a wider box need not lose more everywhere.
    assert (margins.mean(1).diff() <= 1e-9).all()


def products(low: Tensor, high: Tensor, w: Weights, epsilon: float) -> tuple[Tensor, Tensor]:
    """Trains times weights in their box, for trains of at least 0."""
    reach = w.spread * epsilon + w.error
    return interval_product(low, high, w.centre - reach, w.centre + reach)


def interval_product(low: Tensor, high: Tensor, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    ends = torch.stack([a[..., None] * b for a in (low, high) for b in (below, above)])
    return ends.amin(0).sum(-2), ends.amax(0).sum(-2)


def plain(spiking: Spiking, x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Logits by intervals step by step, the way of a network that is unrolled; nothing rounded outward."""

    def ends(b: Boxed) -> tuple[Tensor, Tensor]:
        reach = b.spread * epsilon + b.error
        return b.centre - reach, b.centre + reach

    layers, says = spiking.layers, spiking.readout
    zero = [torch.zeros(len(x), n.units, dtype=torch.float64) for n in layers]
    v = [(z + n.start.value, z + n.start.value) for z, n in zip(zero, layers, strict=True)]
    j = [(z + n.current.value, z + n.current.value) for z, n in zip(zero, layers, strict=True)]
    last = [(z, z) for z in zero]
    counts, total = [(z, z) for z in zero], (zero[says.layer], zero[says.layer])
    largest: list[tuple[Tensor, Tensor]] = []
    above = [(z, z) for z in zero]

    def times(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        ends = torch.stack(torch.broadcast_tensors(*(a * b for a in one for b in other)))
        return ends.amin(0), ends.amax(0)

    def add(*pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return sum(p[0] for p in pairs), sum(p[1] for p in pairs)  # type: ignore[return-value]  # arrays, whose sum may be 0

    for x_t in x.unbind(1):
        now: list[tuple[Tensor, Tensor]] = []
        for n, own in enumerate(layers):
            entering = [ends(own.bias)]
            if own.inputs is not None:
                entering.append(products(x_t, x_t, own.inputs, epsilon))
            entering += [products(*now[s], w, epsilon) for s, w in own.below.items()]
            entering += [products(*last[s], w, epsilon) for s, w in own.before.items()]
            slow = 0.0 if own.synapse is None else own.synapse.value
            j[n] = add((slow * j[n][0], slow * j[n][1]), *entering)
            alpha = own.decay.value
            p = add((alpha * v[n][0], alpha * v[n][1]), j[n], ends(own.leak))
            level = ends(own.threshold)
            if own.twice:
                level = add(level, times(above[n], level))
            if own.most == 0:
                z, v[n] = (zero[n], zero[n]), p
            else:
                if own.most > 1:
                    z = (
                        torch.floor(p[0] / level[1]).clamp(0, own.most),
                        torch.floor(p[1] / level[0]).clamp(0, own.most),
                    )
                else:
                    z = ((p[0] > level[1]).double(), (p[1] > level[0]).double())
                if own.twice:
                    once = ends(own.threshold)
                    taken = times(z, once)
                    above[n] = (p[0] - taken[1] > once[1]).double(), (p[1] - taken[0] > once[0]).double()
                v[n] = p
                if own.next_drop is not None:
                    drop = tuple(e / alpha for e in ends(own.next_drop))
                    v[n] = p[0] - z[1] * drop[1], p[1] - z[0] * drop[0]
                elif own.reset is not None:
                    value = ends(own.reset)
                    quiet = p[0], torch.minimum(p[1], level[1])
                    v[n] = (
                        torch.where(z[0] > 0, value[0], torch.where(z[1] > 0, torch.minimum(quiet[0], value[0]), p[0])),
                        torch.where(z[0] > 0, value[1], torch.where(z[1] > 0, torch.maximum(quiet[1], value[1]), p[1])),
                    )
            now.append(z)
            counts[n] = add(counts[n], z)
        last, total = now, add(total, v[says.layer])
        largest.append(v[says.layer])
    read = counts[says.layer] if layers[says.layer].most else total if says.over == "sum" else v[says.layer]
    if says.over == "largest":
        return torch.stack([low for low, _ in largest]).amax(0), torch.stack([high for _, high in largest]).amax(0)
    if layers[says.layer].most == 0:
        return read
    return add(products(*read, says.weights, epsilon), ends(says.bias))


REMEMBERING = [kind for kind in TIGHT if not kind.startswith("no memory")]


@pytest.mark.slow
@pytest.mark.thin(25)
@pytest.mark.parametrize("kind", REMEMBERING)
def test_tighter_than_plain_intervals(kind: str) -> None:
    """In total over seeds, and more histories are no looser."""
    width = dict.fromkeys(("plain", 1, 4, 8), 0.0)
    for seed in range(4):
        for readout in READOUTS:
            spiking, x = network(kind, seed, readout, recurrent=bool(seed % 2))
            for epsilon in (1e-4, 1e-3, 5e-3):
                low, high = plain(spiking, x, epsilon)
                width["plain"] += float((high - low).sum())
                for k in (1, 4, 8):
                    ends = engine(spiking, x, histories=k).logits(slice(None), at(epsilon))
                    width[k] += float((ends.upper - ends.lower).sum())
    assert width[4] < width["plain"]
    assert width[1] < 1.05 * width["plain"]
    assert width[8] <= width[4] <= width[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "epsilon"),
    [("snntorch Leaky", 0.01), ("norse LIF", 0.01), ("rockpool LIFTorch", 1e-3), ("norse IAF", 1e-3)],
)
def test_splits_prove_more(kind: str, epsilon: float) -> None:
    proven = {0: 0, 60: 0}
    for seed in range(4):
        spiking, x = network(kind, seed)
        y = run_many(spiking, x, 0.0, 1, 0).logits[0].argmax(1)
        found = {n: engine(spiking, x, splits=n).margins(slice(None), at(epsilon), y, FREE)[0] for n in proven}
        assert not ((found[0] > 0) & (found[60] <= 0)).any()
        for n, margin in found.items():
            proven[n] += int((margin > 0).sum())
    assert proven[0] < proven[60]


def test_as_the_cells_that_networks_describe() -> None:
    """An LSNN without adaptation and silent steps, described here and by itself."""
    torch.manual_seed(2)
    model = LSNN(5, 24, 4, beta=0.0, refractory=0).double()
    with torch.no_grad():
        model.W_in.mul_(0.3)
        model.W_rec.mul_(0.3)
    x = torch.randn(6, 40, 5, dtype=torch.float64)
    y = model(x).argmax(1)
    how = arguments.settings("interval", tb.Box(exclude="tau"), "real", "float64", "cpu")
    old = Histories(Problem(model, how, x), {"histories": 4})
    alpha = torch.exp(-1.0 / model.tau)
    gain = 1.0 - alpha
    off = 1e-15
    first = neurons(
        24,
        inputs=weights(model.W_in.detach() * gain, error=off),
        before={0: weights(model.W_rec.detach() * gain * (1.0 - torch.eye(24)), error=off)},
        decay=number(alpha, 1e-16),
        threshold=boxed(model.threshold),
        next_drop=boxed(model.threshold),
    )
    spiking = Spiking(
        (first,), Readout(0, "sum", weights(model.W_out.detach() / 40.0, error=off), boxed(model.b_out.detach(), 1.0))
    )
    rows = torch.tensor([0.0, 1e-5, 1e-4, 1e-3], dtype=torch.float64)[:, None].expand(-1, 6)
    a, b = old.margins(slice(None), rows, y), engine(spiking, x).margins(slice(None), rows, y, FREE)
    assert ((a > 0) == (b > 0)).all()
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
