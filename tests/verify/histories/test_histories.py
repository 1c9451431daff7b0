"""The domain of histories: never wrong against exact oracles, exact where nothing is uncertain, clear in refusals."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thetabox as tb
from tests.oracles import lsnn
from tests.oracles.rational import assert_contains, exact
from thetabox.errors import InputError
from thetabox.measure.many_lsnn import many_logits
from thetabox.models import LSNN, LeakyCells
from thetabox.verify import arguments
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.histories import Histories
from thetabox.verify.histories.leaky import decay
from thetabox.verify.histories.walk import Walked
from thetabox.verify.problem import Problem

pytestmark = pytest.mark.usefixtures("traced_once")

SWEEP = [0.0, 1e-9, 1e-3, 0.05, 0.9]


def domain(
    model: nn.Module,
    x: Tensor,
    *,
    box: tb.Box | None = None,
    precision: str = "float64",
    arithmetic: str = "real",
    **options: int,
) -> Histories:
    chosen = arguments.settings("interval", box, arithmetic, precision, "cpu")
    return Histories(Problem(model, chosen, x), options)


def sweep_of(epsilon: Sequence[float], samples: int) -> Tensor:
    return torch.tensor(epsilon, dtype=torch.float64)[:, None].expand(-1, samples)


def walked_at(domain: Histories, epsilon: float, samples: int) -> Walked:
    """Where the first samples end at one ε."""
    (rows,) = domain.engine.unlabelled(slice(0, samples), sweep_of([epsilon], samples))
    return domain.engine.run(domain.engine.circuit(rows.values), rows)


def tiny(seed: int, **more: Any) -> tuple[LSNN, dict[str, Any]]:
    """3 units, float32 parameters; ``more`` goes to LSNN."""
    values = lsnn.tiny(seed)
    model = LSNN(2, 3, 2, **more)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.from_numpy(values[name].astype(np.float32)))
    return model, lsnn.parameters(model)


def check(
    model: LSNN,
    values: dict[str, Any],
    seed: int,
    epsilon: float,
    *,
    perturbed: Sequence[str] = lsnn.WEIGHTS,
    box: tb.Box | None = None,
    precision: str = "float64",
    kind: str = "relative",
    steps: int = 5,
    **options: int,
) -> None:
    x = lsnn.random_inputs(seed, steps=steps)
    found = domain(model, torch.from_numpy(x.astype(np.float64))[None], box=box, precision=precision, **options)
    rows = sweep_of([epsilon], 1)
    truth = lsnn.extremes(
        values,
        x,
        epsilon,
        seed % 2,
        perturbed=perturbed,
        limit=12,
        inner=4,
        refractory=model.refractory,
        dt=model.dt,
        kind=kind,
    )
    bounds = found.logits(slice(0, 1), rows)
    assert_contains(bounds.lower[0], bounds.upper[0], truth.lower, truth.upper)
    margin = found.margins(slice(0, 1), rows, torch.tensor([seed % 2]))
    assert exact(margin[0, 0]) <= truth.margin


@pytest.mark.slow
@pytest.mark.thin(5)
@pytest.mark.parametrize("options", [{"histories": 1}, {"histories": 2}, {"histories": 4, "splits": 16}])
@pytest.mark.parametrize("epsilon", SWEEP)
@pytest.mark.parametrize("seed", [0, 1])
def test_vertices_inside(seed: int, epsilon: float, options: dict[str, int]) -> None:
    model, values = tiny(seed)
    check(model, values, seed, epsilon, precision="float64" if seed else "float32", **options)


@pytest.mark.slow
@pytest.mark.thin(3)
@pytest.mark.parametrize("options", [{"histories": 1}, {"histories": 3, "splits": 8}])
@pytest.mark.parametrize(
    "more",
    [
        {"refractory": 0},
        {"refractory": 1},
        {"refractory": 4},
        {"dt": 0.5},
        {"tau": [20.0, 5.0, 20.0]},
        {"tau": [20.0, 5.0, 9.0], "beta": [0.0, 2.0, 5.0], "threshold": [0.02, 0.01, 0.005]},
        {"beta": 0.0},
        {"tau_adapt": [98.0, 3.0, 10.0]},
    ],
)
def test_every_member_of_the_family(more: dict[str, Any], options: dict[str, int]) -> None:
    for seed, epsilon in ((4, 1e-3), (5, 0.05)):
        model, values = tiny(seed, **more)
        check(model, values, seed, epsilon, steps=7, **options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relative", "absolute", "range"])
@pytest.mark.parametrize("options", [{"histories": 2}, {"histories": 4, "splits": 8}])
def test_every_kind_of_box(kind: str, options: dict[str, int]) -> None:
    model, values = tiny(6)
    for epsilon in (1e-4, 1e-2):
        check(model, values, 6, epsilon, box=tb.Box(kind=kind), kind=kind, **options)
        only = tb.Box(kind=kind, include="W_rec,b_out")
        check(model, values, 6, epsilon, box=only, perturbed=("W_rec", "b_out"), kind=kind, **options)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 0.9])
def test_neuron_parameters_in_the_box(epsilon: float) -> None:
    names = ("threshold", "tau_adapt", "beta")
    model, values = tiny(7)
    for options in ({"histories": 1}, {"histories": 4, "splits": 8}):
        check(
            model,
            values,
            7,
            epsilon,
            box=tb.Box(include="*," + ",".join(names)),
            perturbed=(*lsnn.WEIGHTS, *names),
            **options,
        )


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("options", [{"histories": 1}, {"histories": 4}, {"histories": 2, "splits": 8}])
@pytest.mark.parametrize("name", ["threshold", "beta", "tau_adapt"])
def test_one_neuron_parameter_alone_in_the_box(name: str, options: dict[str, int]) -> None:
    """With exact weights every potential is exact: whether a cell may, must or cannot spike hangs on this alone."""
    torch.manual_seed(3)
    model, x = LSNN(4, 12, 3).double(), torch.randn(30, 25, 4, dtype=torch.float64)
    value = model.get_buffer(name) if name in dict(model.named_buffers()) else model.get_parameter(name)
    middle = value.detach().clone()
    differs = False
    for epsilon in (1e-3, 0.05):
        found = domain(model, x, box=tb.Box(include=name), **options)
        bounds = found.logits(slice(None), sweep_of([epsilon], len(x)))
        with torch.no_grad():
            clean = model(x)
            for place in range(40):
                inside = 1 - 2 * torch.rand_like(middle) if place % 2 else torch.randn_like(middle).sign()
                value.copy_(middle * (1 + epsilon * inside))
                answer = model(x)
                differs |= not torch.equal(answer, clean)
                assert (bounds.lower <= answer + 1e-12).all()
                assert (bounds.upper >= answer - 1e-12).all()
            value.copy_(middle)
    assert differs


@pytest.mark.slow
@pytest.mark.parametrize("refractory", [0, 1, 2, 3, 5])
def test_driven_as_fast_as_refractoriness_allows(refractory: int) -> None:
    """Cells that would spike at every step if they could: with certain spikes, and with open ones before them."""
    torch.manual_seed(4)
    model = LSNN(3, 8, 2, refractory=refractory, beta=0.0).double()
    x = torch.rand(10, 20, 3, dtype=torch.float64)
    with torch.no_grad():
        model.W_in.abs_().mul_(30.0)
        answer, spikes = torch.func.functional_call(model, {}, (x,), {"return_outputs": True})
    assert float(spikes.mean()) > 0.7 / max(refractory, 1)
    at_zero = domain(model, x, histories=2).logits(slice(None), sweep_of([0.0], len(x)))
    torch.testing.assert_close(at_zero.lower, answer, rtol=0, atol=1e-9)
    torch.testing.assert_close(at_zero.upper, answer, rtol=0, atol=1e-9)
    epsilon = 0.05
    for histories in (1, 2, 4):
        bounds = domain(model, x, histories=histories).logits(slice(None), sweep_of([epsilon], len(x)))
        for _ in range(30):
            moved = {n: p * (1 + epsilon * (1 - 2 * torch.rand_like(p))) for n, p in model.named_parameters()}
            with torch.no_grad():
                answer = torch.func.functional_call(model, moved, (x,))
            assert (bounds.lower <= answer + 1e-12).all()
            assert (bounds.upper >= answer - 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 8])
def test_reachable_trains_inside(seed: int) -> None:
    """All spike trains of the box, not its vertices alone."""
    model, values = tiny(seed)
    x = lsnn.random_inputs(seed)
    inputs = torch.from_numpy(x.astype(np.float64))[None]
    for epsilon in (1e-3, 0.05):
        trains = [np.array(t) for t in lsnn.reachable(values, x, epsilon)]
        truth = lsnn.readout_extremes(values, trains, epsilon, 0)
        for options in ({"histories": 1}, {"histories": 2}, {"histories": 4, "splits": 64}):
            found = domain(model, inputs, **options)
            bounds = found.logits(slice(0, 1), sweep_of([epsilon], 1))
            assert_contains(bounds.lower[0], bounds.upper[0], truth.lower, truth.upper)
            assert exact(found.margins(slice(0, 1), sweep_of([epsilon], 1), torch.tensor([0]))[0, 0]) <= truth.margin


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("steps", [1, 3])
def test_potentials_within_rounding_of_the_threshold(steps: int, precision: str) -> None:
    """The threshold is what floating point makes of the potential: which side the real one lies on, it cannot tell."""
    draw = torch.Generator().manual_seed(steps)
    model = LSNN(1, 40, 2, recurrent=False).double()
    x = torch.rand(1, steps, 1, generator=draw, dtype=torch.float64) * 0.1
    alpha = torch.exp(-model.dt / model.tau)
    v = torch.zeros(40, dtype=torch.float64)
    with torch.no_grad():
        model.W_in.copy_(torch.rand(1, 40, generator=draw, dtype=torch.float64))
        for x_t in x[0]:
            v = alpha * v + (1 - alpha) * (x_t @ model.W_in)
    model.threshold.copy_(v)
    counts = torch.from_numpy(lsnn.spikes(x[0].numpy(), lsnn.parameters(model)).sum(0).astype(np.float64))
    assert counts.sum() > 0
    found = domain(model, x, precision=precision)
    walked = walked_at(found, 0.0, 1)
    assert (walked.least[0] <= counts).all()
    assert (counts <= walked.most[0]).all()


@pytest.mark.parametrize(("precision", "tau", "off"), [("float32", 1e4, 2e-5), ("float64", 1e11, 1e-7)])
@pytest.mark.parametrize("side", [1, -1])
def test_slow_cells_close_to_their_threshold(precision: str, tau: float, off: float, side: int) -> None:
    """1 − α is hardly more than what α is rounded by, so its error is far above that of any sum."""
    taus = [tau * (1 + 0.1 * n) for n in range(8)]
    model = LSNN(1, 8, 2, recurrent=False, tau=taus).double()
    x = torch.full((1, 3, 1), 0.7, dtype=torch.float64)
    with torch.no_grad():
        model.W_in.fill_(1.0)
    exact_tau = [Fraction(t) for t in model.tau.tolist()]
    # v = 0.7 (1 − α³), and e⁻ʸ lies between 1 − y + y²/2 − y³/6 and that plus y⁴/24.
    powers = [3 / t for t in exact_tau]
    v = [Fraction(0.7) * (y - y**2 / 2 + y**3 / 6) for y in powers]
    model.threshold.copy_(torch.tensor([float(value) * (1 + side * off) for value in v], dtype=torch.float64))
    found = domain(model, x, precision=precision)
    walked = walked_at(found, 0.0, 1)
    spikes = 0.0 if side > 0 else 1.0
    assert (walked.least <= spikes).all()
    assert (walked.most >= spikes).all()


INTERIOR = 100_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 5])
def test_interior_points_inside(seed: int) -> None:
    """Parameters drawn evenly from the box, at its least ε first."""
    model, _ = tiny(seed)
    x = torch.from_numpy(lsnn.random_inputs(seed, steps=8).astype(np.float64))[None]
    theta = {name: p.detach().double() for name, p in model.named_parameters()}
    draw = torch.Generator().manual_seed(seed)
    for epsilon in (1e-3, 0.05, 0.9):
        sampled = {
            name: t * (1 + epsilon * (2 * torch.rand(INTERIOR, *t.shape, generator=draw, dtype=t.dtype) - 1))
            for name, t in theta.items()
        }
        answer = many_logits(model.double(), sampled, x)[:, 0]
        for options in ({"histories": 1}, {"histories": 4}, {"histories": 2, "splits": 30}):
            found = domain(model, x, **options)
            bounds = found.logits(slice(0, 1), sweep_of([epsilon], 1))
            assert (bounds.lower[0] <= answer.amin(0) + 1e-12).all()
            assert (bounds.upper[0] >= answer.amax(0) - 1e-12).all()
            margin = found.margins(slice(0, 1), sweep_of([epsilon], 1), torch.tensor([0]))[0, 0]
            assert margin <= (answer[:, 0] - answer[:, 1]).amin() + 1e-12


def larger(seed: int = 0, **more: Any) -> tuple[LSNN, Tensor, Tensor]:
    """A network of 24 units that spikes a lot, with its own answers for labels."""
    torch.manual_seed(seed)
    model = LSNN(5, 24, 4, **more)
    with torch.no_grad():
        model.W_in.mul_(0.3)
        if model.recurrent:
            model.W_rec.mul_(0.3)
    x = torch.randn(6, 40, 5)
    return model, x, model.double()(x.double()).argmax(1)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 1000),
    epsilon=st.sampled_from([1e-4, 1e-3, 1e-2, 0.2]),
    k=st.sampled_from([1, 2, 4]),
    splits=st.sampled_from([0, 12]),
    recurrent=st.booleans(),
)
def test_sampled_networks_inside(seed: int, epsilon: float, k: int, splits: int, recurrent: bool) -> None:
    """Counts, logits and margins of corners of the box."""
    model, x, y = larger(seed, recurrent=recurrent)
    found = domain(model, x, histories=k, splits=splits)
    rows = sweep_of([epsilon], len(x))
    bounds, margin = found.logits(slice(0, 6), rows), found.margins(slice(0, 6), rows, y)[0]
    walked = walked_at(found, epsilon, 6)
    theta = [p.detach().clone() for p in model.parameters()]
    for _ in range(5):
        with torch.no_grad():
            for p, t in zip(model.parameters(), theta, strict=True):
                p.copy_(t * (1 + 0.999999 * epsilon * torch.randn_like(t).sign()))
            counts, answer = model.outputs(x.double()).sum(1), model(x.double())
        assert (walked.least <= counts).all()
        assert (counts <= walked.most).all()
        assert (bounds.lower <= answer + 1e-12).all()
        assert (answer <= bounds.upper + 1e-12).all()
        own = answer.gather(1, y[:, None])
        others = answer.scatter(1, y[:, None], -torch.inf).amax(1)
        assert (margin <= own[:, 0] - others + 1e-12).all()


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("refractory", [0, 2, 3, 5])
def test_neurons_of_one_weight(refractory: int) -> None:
    """Counts of single neurons over their whole box, a line of weights, for many inputs and thresholds."""
    torch.manual_seed(refractory)
    model = LSNN(1, 6, 2, refractory=refractory, recurrent=False, beta=0.3).double()
    x = (torch.randn(300, 14, 1) + 0.7).double()
    with torch.no_grad():
        model.W_in.copy_(torch.linspace(0.2, 1.5, 6)[None])
    sweep = [0.02, 0.1, 0.4]
    found = {k: domain(model, x, histories=k) for k in (1, 2, 4, 8)}
    for epsilon in sweep:
        weights = (
            model.W_in.detach() * torch.linspace(1 - epsilon, 1 + epsilon, 500, dtype=torch.float64)[:, None, None]
        )
        counts = torch.stack(
            [torch.func.functional_call(model, {"W_in": w}, (x,), {"return_outputs": True})[1].sum(1) for w in weights]
        )
        for k, some in found.items():
            walked = walked_at(some, epsilon, 300)
            assert (walked.least <= counts.amin(0)).all(), k
            assert (counts.amax(0) <= walked.most).all(), k


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_nothing_is_lost_where_nothing_is_uncertain(precision: str) -> None:
    """At ε = 0 the margin is the network's own, but for rounding."""
    model, x, y = larger()
    found = domain(model, x, precision=precision)
    margin = found.margins(slice(0, 6), sweep_of([0.0], 6), y)[0]
    answer = model(x.double())
    truth = answer.gather(1, y[:, None])[:, 0] - answer.scatter(1, y[:, None], -torch.inf).amax(1)
    sure = found.uncertain(slice(0, 6), sweep_of([0.0], 6))
    assert precision == "float32" or not sure.any()
    if precision == "float64":
        torch.testing.assert_close(margin, truth.detach(), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_more_histories_and_splits_prove_more() -> None:
    model, x, y = larger(3)
    rows = sweep_of([1e-4, 5e-4, 2e-3, 5e-3], 6)
    margins = [
        domain(model, x, **options).margins(slice(0, 6), rows, y)
        for options in ({"histories": 1}, {"histories": 4}, {"histories": 4, "splits": 200})
    ]
    verified = [int((m > 0).sum()) for m in margins]
    assert verified[0] < verified[1] < verified[2]
    plain = tb.certify(model, x, y, rows[:, 0].tolist(), domain="interval").verified
    assert (margins[1] > 0).sum() > plain.sum()


def test_rows_do_not_depend_on_their_company() -> None:
    """Samples together and apart, and ε one a sample."""
    model, x, y = larger(2)
    found = domain(model, x, histories=4)
    together = found.margins(slice(0, 6), sweep_of([1e-4, 1e-3], 6), y)
    for n in range(6):
        apart = found.margins(torch.tensor([n]), sweep_of([1e-3], 1), y)
        torch.testing.assert_close(apart[0], together[1, n : n + 1], rtol=1e-9, atol=1e-9)
    mixed = torch.tensor([[1e-4, 1e-3] * 3], dtype=torch.float64)
    torch.testing.assert_close(
        found.margins(slice(0, 6), mixed, y)[0], torch.where(mixed[0] < 5e-4, together[0], together[1])
    )


def test_uncertainty_grows_through_time() -> None:
    model, x, _ = larger(3)
    share = domain(model, x).uncertain(slice(0, 6), sweep_of([0.0, 1e-2], 6))
    assert share.shape == (2, 40)
    assert not share[0].any()
    assert (share[1].diff() >= 0).all()
    assert share[1, -1] > 0
    profile = domain(model, x).profile(slice(0, 6), sweep_of([0.0, 1e-2], 6), torch.zeros(6, dtype=torch.long))
    assert profile is not None
    assert torch.equal(profile.share, share)
    assert profile.names[-1] == "39"


class Own(nn.Module):
    """Somebody's cells, without recurrence: integrate and fire with a fixed threshold."""

    def __init__(self, says: dict[str, Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.weight = nn.Parameter(0.2 * torch.randn(3, 8))
        self.readout_weight = nn.Parameter(torch.randn(8, 3))
        self.register_buffer("level", torch.full((8,), 0.02))
        self.register_buffer("time", torch.full((8,), 10.0))
        self.says = says or {}

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.weight.new_zeros(batch, 8), self.weight.new_zeros(batch, 8)

    def step(self, x_t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v, z = state
        alpha = torch.exp(-1.0 / self.time)
        v = alpha * v + (1 - alpha) * (x_t @ self.weight) - z * self.level
        z = (v > self.level).to(v.dtype)
        return z, (v, z)

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.mean(1) @ self.readout_weight

    def leaky_cells(self) -> LeakyCells:
        names = {
            "weight_in": "weight",
            "weight_rec": None,
            "weight_out": "readout_weight",
            "bias_out": None,
            "threshold": "level",
            "tau": "time",
            "tau_adapt": None,
            "beta": None,
            "dt": 1.0,
            "refractory": 0,
        }
        return LeakyCells(**{**names, **self.says})


def test_cells_of_ones_own() -> None:
    model, x = Own(), torch.randn(4, 30, 3)
    y = tb.models.logits(model, x).argmax(1)
    rows = sweep_of([0.0, 1e-3], 4)
    margin = domain(model, x).margins(slice(0, 4), rows, y)
    assert (margin[0] > 0).all()
    plain = tb.certify(model, x, y, [0.0, 1e-3], domain="interval").margin
    assert (margin >= plain - 1e-9).all()


@pytest.mark.parametrize(
    "says", [{"refractory": 3}, {"dt": 2.0}, {"tau": "level"}, {"threshold": "time"}, {"weight_in": "nonesuch"}]
)
def test_a_wrong_description_is_refused(says: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="leaky_cells"):
        domain(Own(says), torch.randn(4, 30, 3))


def test_a_state_that_does_not_begin_at_zero_is_refused() -> None:
    """A start too small to change a spike of the trial runs would still be another network."""

    class Charged(Own):
        def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
            v, z = super().initial_state(batch)
            return v + 1e-7, z

    with pytest.raises(InputError, match="initial_state is not zero"):
        domain(Charged(), torch.randn(4, 30, 3))


@pytest.mark.slow
def test_refusals() -> None:
    x = torch.randn(2, 6, 2)
    with pytest.raises(InputError, match="interval"):
        domain(nn.Sequential(nn.Linear(2, 3)), torch.randn(4, 2))
    with pytest.raises(InputError, match="time constants as they are"):
        domain(LSNN(2, 3, 2), x, box=tb.Box(include="*,tau"))
    with pytest.raises(InputError, match="at most 8 distinct"):
        domain(LSNN(2, 9, 2, tau=[float(n) for n in range(5, 14)]), x)
    with pytest.raises(InputError, match="real numbers alone"):
        domain(LSNN(2, 3, 2), x, arithmetic="float32")
    for options in ({"histories": 0}, {"splits": -1}, {"histories": 2.5}, {"depth": 1}):
        with pytest.raises(InputError, match=next(iter(options))):
            domain(LSNN(2, 3, 2), x, **options)


STRANGE: dict[str, dict[str, Sequence[float]]] = {
    "negative beta": {"beta": [-2.0, -0.5, 3.0, -8.0, 0.0, -1.0]},
    "negative thresholds": {"threshold": [-0.01, 0.02, -0.002, 0.0, 0.01, -0.05]},
    "both": {"threshold": [-0.01, 0.02, 0.0, 0.01, -0.05, 0.03], "beta": [-2.0, -0.5, 3.0, -8.0, 0.0, -1.0]},
    "instant and endless decay": {
        "tau": [1e-310, 1e-3, 20.0, 1e20, 1e-310, 1e300],
        "tau_adapt": [1e-310, 1e-4, 98.0, 1e19, 1e300, 3.0],
    },
}


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("options", [{"histories": 1}, {"histories": 3, "splits": 8}])
@pytest.mark.parametrize("name", list(STRANGE))
def test_values_of_neurons_that_nobody_would_choose(name: str, options: dict[str, int]) -> None:
    """Every sign of beta and threshold, in the box and beyond ε = 1; time constants far from dt on both sides."""
    torch.manual_seed(1)
    model, x = LSNN(3, 6, 2, refractory=1).double(), 2 * torch.randn(12, 15, 3, dtype=torch.float64)
    with torch.no_grad():
        model.W_rec.mul_(0.3)
    for buffer, values in STRANGE[name].items():
        getattr(model, buffer).copy_(torch.tensor(values, dtype=torch.float64))
    neuron = ("threshold", "beta")
    held = {n: t.detach().clone() for n, t in [*model.named_parameters(), *model.named_buffers()]}
    spread = False
    for epsilon, include in ((1e-4, "*"), (0.02, "*,threshold,beta"), (1.5, "threshold,beta"), (1.5, "*")):
        found = domain(model, x, box=tb.Box(include=include), **options)
        bounds = found.logits(slice(None), sweep_of([epsilon], len(x)))
        own = tb.models.logits(model, x).argmax(1)
        margin = found.margins(slice(None), sweep_of([epsilon], len(x)), own)[0]
        moved = [
            n for n in held if (n in neuron and n in include) or (include[0] == "*" and n[0] in "Wb" and n != "beta")
        ]
        for place in range(40):
            draw = {}
            for n in moved:
                noise = 1 - 2 * torch.rand_like(held[n]) if place % 2 else torch.randn_like(held[n]).sign()
                draw[n] = held[n] * (1 + epsilon * 0.999999 * noise)
            with torch.no_grad():
                answer = torch.func.functional_call(model, draw, (x,))
            truth = answer.gather(1, own[:, None])[:, 0] - answer.scatter(1, own[:, None], -torch.inf).amax(1)
            assert (bounds.lower <= answer + 1e-9).all()
            assert (bounds.upper >= answer - 1e-9).all()
            assert (margin <= truth + 1e-9).all()
            spread |= bool((answer - tb.models.logits(model, x)).abs().max() > 1e-3)
    assert spread


def test_a_time_constant_that_the_box_brings_to_zero() -> None:
    """Of adaptation from ε = 1 on; that of the membrane may not be in the box at all."""
    model, x = LSNN(2, 3, 2), torch.randn(2, 6, 2)
    found = domain(model, x, box=tb.Box(include="*,tau_adapt"))
    found.logits(slice(None), sweep_of([0.99], 2))
    with pytest.raises(InputError, match="box reaches zero"):
        found.logits(slice(None), sweep_of([1.0], 2))


def test_a_factor_above_1_cannot_come_about() -> None:
    for tau in (-2.0, 0.0, float("nan")):
        with pytest.raises(InputError, match="must be positive"):
            decay(1.0, tau, Rounding(torch.float64), 0.0)
    for tau in (5e-324, 1e-310, 1e-3, 1.0, 1e20, 1.7e308):
        value, error = decay(1.0, tau, Rounding(torch.float64), 1e-7)
        assert 0.0 <= value <= 1.0
        assert error < 1e-6
