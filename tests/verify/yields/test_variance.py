"""The variance that noise adds to a row is that of the exact gradient, or above it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.verify.yields.networks import NETWORKS, network
from thetabox.box import Box
from thetabox.noise import Noise
from thetabox.verify import agreement, arguments
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.linear.domain import margin_rows
from thetabox.verify.linear.own_rows import POINT
from thetabox.verify.linear.region import Frame
from thetabox.verify.linear.walk import Walk
from thetabox.verify.network.graph import Operation, map_arg_refs
from thetabox.verify.yields.ledger import Ledger
from thetabox.verify.yields.martingale import Common, Martingale
from thetabox.verify.yields.noisy_walk import NoisyWalk
from thetabox.verify.yields.rows import NoisySamples
from thetabox.verify.yields.sizes import sizes
from thetabox.verify.yields.tied import derivative, mean_of_ends

TIED = ("tied", "tied images", "unrolled", "subtracted")
# Of which a factor of each tensor is not covered: what is read more than once, and parts of one tensor.
APART = (*TIED, "moved")


def proof(model: torch.nn.Module, x: Tensor, noise: Noise | None = None, box: Box | None = None) -> Martingale:
    chosen = arguments.settings("interval", box, "real", "float64", "cpu", None)
    given = arguments.network(model, x, chosen)
    problem, _ = agreement.checked_problem(
        given.model, chosen, given.x, torch.tensor([1e-3]).double(), given.x_as_given
    )
    noise = noise or Noise()
    return Martingale(problem, sizes(problem.model, chosen.box, noise), noise)


def bounded(made: Martingale, x: Tensor, sigma: float) -> NoisySamples:
    """Samples with all their ends."""
    count = len(x)
    rows = torch.full((count,), sigma, dtype=torch.float64)
    ledger = Ledger(torch.full((count,), 0.1, dtype=torch.float64), made.plan.shares(), "gaussian")
    context = Context(RowEpsilons(torch.ones(1, count, dtype=torch.float64)), made.rounding)
    point = Interval.point(x)
    point.batch = 0
    return NoisySamples(
        made.graph, made._tensors(Common()), point, context, rows, made.sizes, made.shared, made.tied, made.plan, ledger
    )


def exact(samples: NoisySamples, operation: Operation, a: Tensor, at: dict[int, Tensor]) -> Tensor:
    """``Σ τ² (∂⟨A, z⟩/∂θ)²`` by automatic differentiation, row by row."""
    held = {
        i: (at[i] if i in at else samples.values[i].theta.clone().requires_grad_(i in samples.sizes))
        for i in operation.inputs
    }
    args = map_arg_refs(operation.args, lambda ref: held[ref.index])
    z = operation.target(*args, **operation.kwargs)
    z = z[0] if isinstance(z, tuple) else z
    noisy = [i for i in operation.inputs if i in samples.sizes]
    found = torch.zeros(a.shape[:2], dtype=torch.float64)
    for n in range(a.shape[0]):
        for r in range(a.shape[1]):
            grads = torch.autograd.grad((z[n] * a[n, r]).sum(), [held[i] for i in noisy], retain_graph=True)
            for i, g in zip(noisy, grads, strict=True):
                found[n, r] += (samples.sizes[i].square() * g.square()).sum()
                if i in samples.gains:
                    found[n, r] += (samples.gains[i] * g).sum().square()
    return found


@pytest.mark.thin(3, quick=7)
@pytest.mark.parametrize("correlated", [{}, {"layer": 0.7}], ids=["independent", "with a factor of each tensor"])
@pytest.mark.parametrize("name", NETWORKS)
def test_variance_of_rows_covers_every_operand_and_is_exact_for_a_known_one(
    name: str, correlated: dict[str, float]
) -> None:
    if correlated and name in APART:
        pytest.skip("a factor of each tensor is for parameters that are read once, as a whole")
    model, x = network(name)
    x = x[:3]
    samples = bounded(proof(model, x, Noise(correlated=correlated)), x, 0.05)
    stream = torch.Generator().manual_seed(0)
    for operation in samples.graph.operations:
        noise = samples.noise.get(operation.index)
        if noise is None:
            continue
        walk = NoisyWalk(samples, Frame(slice(None)), 4)
        shape = noise.outputs.shape
        a = torch.randn(shape[0], 4, *shape[1:], generator=stream, dtype=torch.float64)
        a[:, 3] = 0.0
        a[:, 3].view(shape[0], -1)[:, 0] = -2.0
        found = noise.rows(walk, a, None)
        values = [i for i in operation.inputs if samples.plain(i)]
        known = all(samples.interval(i).is_point for i in values)
        for _ in range(3):
            at = {}
            for i in values:
                ends = samples.interval(i)
                at[i] = ends.lower + (ends.upper - ends.lower) * torch.rand(
                    ends.lower.shape, generator=stream, dtype=torch.float64
                )
            truth = exact(samples, operation, a, at)
            assert bool((found >= truth).all()), operation.describe()
            if known:
                torch.testing.assert_close(found, truth, rtol=1e-9, atol=0.0)
            one = torch.nn.functional.one_hot(torch.randint(0, shape[1:].numel(), (3,)), shape[1:].numel()).double()
            single = exact(samples, operation, one.view(3, *shape[1:]).expand(shape[0], *[-1] * len(shape)), at)
            assert bool((noise.outputs.flatten(1) @ one.T >= single * (1.0 - 1e-12)).all()), operation.describe()
        # One result by itself.
        if name != "summed":  # there by an inequality
            torch.testing.assert_close(4.0 * noise.outputs.flatten(1)[:, 0], found[:, 3], rtol=1e-9, atol=1e-200)


@pytest.mark.parametrize("name", TIED)
def test_derivatives_by_what_is_read_more_than_once_cover_every_operand(name: str) -> None:
    model, x = network(name)
    x = x[:3]
    samples = bounded(proof(model, x), x, 0.05)
    assert samples.reads_tied
    stream = torch.Generator().manual_seed(0)
    for operation in samples.graph.operations:
        for index in samples.reads_tied.get(operation.index, ()):
            walk = NoisyWalk(samples, Frame(slice(None)), 4)
            shape = samples.interval(operation.index).shape
            a = torch.randn(shape[0], 4, *shape[1:], generator=stream, dtype=torch.float64)
            found = derivative(walk, operation, index, a, None)
            for _ in range(3):
                at = {
                    i: value.lower + (value.upper - value.lower) * torch.rand(value.shape, generator=stream).double()
                    for i in operation.inputs
                    if samples.plain(i)
                    for value in [samples.interval(i)]
                }
                held = {
                    i: at[i] if i in at else samples.values[i].theta.clone().requires_grad_(i == index)
                    for i in operation.inputs
                }
                args = map_arg_refs(operation.args, lambda ref, held=held: held[ref.index])
                z = operation.target(*args, **operation.kwargs)
                for n in range(len(x)):
                    for r in range(4):
                        (exact,) = torch.autograd.grad((z[n] * a[n, r]).sum(), held[index], retain_graph=True)
                        off = (exact - found.centre[n, r]).abs()
                        assert bool((off <= found.radius[n, r] * (1 + 1e-9) + 1e-12).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", TIED)
def test_noise_that_meets_itself_lowers_the_mean_of_rows(name: str) -> None:
    model, x = network(name)
    made, sigma = proof(model, x[:3]), 0.05
    samples = bounded(made, x[:3], sigma)
    walks = [NoisyWalk(samples, Frame(slice(None)), made.classes - 1) for _ in range(2)]
    for walk in walks:
        walk.give(made.output, margin_rows(torch.zeros(3, dtype=torch.long), made.classes))
    low, constant = walks[0].run(), Walk.run(walks[1])
    lost = torch.zeros_like(low)
    for tied, found in walks[1].tied.items():
        lost += (found.radius * samples.size_of[tied]).flatten(2).sum(2) * sigma * (2.0 / torch.pi) ** 0.5
    assert bool((lost > 0).all())
    torch.testing.assert_close(low, constant - lost, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TIED)
def test_ends_of_what_is_read_more_than_once_allow_for_the_lower_mean(name: str) -> None:
    model, x = network(name)
    made, sigma = proof(model, x[:2]), 0.05
    samples = bounded(made, x[:2], sigma)
    for operation in samples.graph.operations:
        if operation.operator != "aten.linear.default" or operation.index not in samples.reads_tied:
            continue
        lower, upper = (samples.interval(operation.inputs[0]).lower, samples.interval(operation.inputs[0]).upper)
        size = samples.sizes[operation.inputs[1]]
        lost = mean_of_ends(samples, operation, {i: samples.sizes[i] for i in samples.tied})
        exact = (upper - lower) / 2 @ size.T * (2.0 / torch.pi) ** 0.5
        torch.testing.assert_close(lost, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["convolutions", "batch norm", "groups", "average pools"])
def test_rows_around_a_position_have_the_variance_of_whole_images(name: str) -> None:
    model, x = network(name)
    x = x[:2]
    samples = bounded(proof(model, x), x, 0.05)
    for operation in samples.graph.operations:
        noise = samples.noise.get(operation.index)
        if noise is None or noise.outputs.dim() != 4:
            continue
        channels, height, width = noise.outputs.shape[1:]
        for h, w in ((0, 0), (height - 1, width // 2)):
            one = torch.eye(channels, dtype=torch.float64).expand(2, -1, -1)
            around = Frame(torch.arange(2), torch.tensor([h, h]), torch.tensor([w, w]))
            walk = NoisyWalk(samples, around, channels)
            walk.give(operation.index, one[..., None, None], POINT)
            low = walk.run()
            whole = NoisyWalk(samples, Frame(slice(None)), channels)
            image = torch.zeros(2, channels, channels, height, width, dtype=torch.float64)
            image[..., h, w] = one
            whole.give(operation.index, image)
            torch.testing.assert_close(low, whole.run(), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(walk.deviation(), whole.deviation(), rtol=1e-9, atol=1e-12)
