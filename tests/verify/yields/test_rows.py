"""Rows with their noise in squares: how often draws fall below them, and that ends hold as the ledger says."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor
from torch.func import functional_call, vmap

from tests.verify.yields.networks import NETWORKS, Draw, gaussian, network, truncated, two_points, uniform
from tests.verify.yields.test_variance import bounded, proof
from thetabox.noise import Noise
from thetabox.verify.linear.domain import margin_rows
from thetabox.verify.linear.region import Frame
from thetabox.verify.linear.rules import pooling
from thetabox.verify.network.graph import BatchSize, map_arg_refs
from thetabox.verify.network.operators import MAX_POOLS_2D
from thetabox.verify.yields.noisy_walk import NoisyWalk

DRAWS = 4000
# Networks with operators whose results are bounded by intervals alone: the noise in front of them is in those.
STOPPED = ("norms of a sample", "attention")
# Probability with which draws of a true claim would contradict it.
CHANCE = 1e-8


def margins_of_draws(model: torch.nn.Module, x: Tensor, rows: Tensor, sigma: float, noise: Draw) -> Tensor:
    """``[draws, samples, rows]``."""
    stream, weights = torch.Generator().manual_seed(3), {k: p.detach() for k, p in model.named_parameters()}
    drawn = {k: p + sigma * p.abs() * noise(torch.Size((DRAWS, *p.shape)), stream) for k, p in weights.items()}
    with torch.no_grad():
        logits = vmap(lambda w: functional_call(model, w, (x,)), chunk_size=500)(drawn)
    return torch.einsum("nrk,dnk->dnr", rows, logits)


@pytest.mark.thin(2, quick=7)
@pytest.mark.parametrize("name", NETWORKS)
def test_margins_of_draws_fall_below_a_row_no_more_often_than_its_tail(name: str) -> None:
    # So little noise that hardly a sign is open: the variance is then about that of the draws.
    model, x = network(name)
    x, sigma = x[:4], 0.002
    made = proof(model, x)
    samples = bounded(made, x, sigma)
    rows = margin_rows(model(x).argmax(1), made.classes)
    walk = NoisyWalk(samples, Frame(slice(None)), made.classes - 1)
    walk.give(made.output, rows)
    constant, deviation = walk.run(), walk.deviation()
    drawn = margins_of_draws(model, x, rows, sigma, gaussian)
    spread = drawn.std(0)
    if name not in STOPPED:
        assert bool((deviation >= 0.95 * spread).all())
        assert bool((deviation <= 1.6 * spread).any(1).all()), "no test of anything: the variance is far too large"
    sides = 1.0 if made.output in made.plan.single else 2.0
    for z in (0.5, 1.0, 2.0, 3.0):
        below = (drawn < constant - z * deviation).sum(0)
        assert bool((torch.as_tensor(binom.sf(below - 1, DRAWS, min(1.0, sides * norm.sf(z)))) > CHANCE).all()), z


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("noise", [uniform, two_points, truncated])
@pytest.mark.parametrize("name", ["one layer", "four layers", "max-pools", "residual"])
def test_sub_gaussian_noise_keeps_the_tail_that_holds_for_all_of_it(name: str, noise: Draw) -> None:
    model, x = network(name)
    x, sigma = x[:4], 0.002
    made = proof(model, x, Noise("subgaussian"))
    samples = bounded(made, x, sigma)
    rows = margin_rows(model(x).argmax(1), made.classes)
    walk = NoisyWalk(samples, Frame(slice(None)), made.classes - 1)
    walk.give(made.output, rows)
    constant, deviation = walk.run(), walk.deviation()
    drawn = margins_of_draws(model, x, rows, sigma, noise)
    for z in (0.5, 1.0, 2.0, 3.0):
        below = (drawn < constant - z * deviation).sum(0)
        tail = float(torch.exp(torch.tensor(-z * z / 2.0)))
        assert bool((torch.as_tensor(binom.sf(below - 1, DRAWS, tail)) > CHANCE).all()), z


@pytest.mark.thin(2, quick=7)
@pytest.mark.parametrize("name", NETWORKS)
def test_all_ends_hold_together_as_often_as_the_ledger_says(name: str) -> None:
    model, x = network(name)
    x, sigma, count = x[:2], 0.05, 400
    made = proof(model, x)
    samples = bounded(made, x, sigma)
    spent = sum(share for _, _, share in samples.ledger.entries())
    assert bool((torch.as_tensor(spent) <= 0.1).all())
    stream = torch.Generator().manual_seed(4)
    ends = {
        o.index: samples.interval(o.index)
        for o in samples.graph.operations
        if samples.plain(o.index) and o.index not in made.plan.unread
    }
    pools = {o.index: (o, pooling.window(o)) for o in samples.graph.operations if o.operator in MAX_POOLS_2D}
    relaxed = {index: pooling.relaxed(samples, operation) for index, (operation, _) in pools.items()}
    wrong = torch.zeros(len(x))
    names = samples.graph.tensors
    parameters = {name: i for i, name in names.items()}
    for _ in range(count):
        drawn = {}
        for name, i in parameters.items():
            theta = samples.values[i].theta
            drawn[name] = theta + sigma * samples.sizes.get(i, torch.zeros_like(theta)) * gaussian(theta.shape, stream)
        held = {i: drawn[name] for i, name in names.items()}
        values = _run(samples, held, x)
        outside = torch.zeros(len(x), dtype=torch.bool)
        for index, value in ends.items():
            outside |= ((values[index] < value.lower) | (values[index] > value.upper)).flatten(1).any(1)
        for index, (operation, window) in pools.items():
            z = pooling.by_window(values[pooling.source(samples, operation)[0]], window)
            above = (relaxed[index].above * z).sum(-3) + relaxed[index].offset
            outside |= (z.amax(-3) > above).flatten(1).any(1)
        wrong += outside
    assert bool((torch.as_tensor(binom.sf(wrong - 1, count, 0.1)) > CHANCE).all()), wrong / count


def _run(samples: object, held: dict[int, Tensor], x: Tensor) -> dict[int, Tensor]:
    """Values of a graph for drawn parameters."""
    graph = samples.graph  # type: ignore[attr-defined]  # samples of the proof
    values: dict[int, Tensor] = {**held, graph.inputs[0]: x}
    for i, p in samples.values.items():  # type: ignore[attr-defined]  # samples of the proof
        if i in graph.constants:
            values[i] = p.theta
    for operation in graph.operations:
        args = map_arg_refs(list(operation.args), lambda ref: values[ref.index])
        args = [len(x) if isinstance(a, BatchSize) else a for a in args]
        args = [[len(x) if isinstance(v, BatchSize) else v for v in a] if isinstance(a, list) else a for a in args]
        out = operation.target(*args, **operation.kwargs)
        values[operation.index] = out[0] if isinstance(out, tuple) else out
    return values
