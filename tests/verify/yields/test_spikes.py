"""Spiking networks: exact potentials, closed forms, draws of chips, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flint import arb, ctx
from scipy.stats import binom, norm
from torch import Tensor, nn
from torch.func import functional_call, vmap

import thetabox as tb
from tests.oracles import lsnn as oracle
from tests.verify.histories.test_layers import Deep
from tests.verify.yields import networks
from thetabox.errors import InputError
from thetabox.models import LSNN
from thetabox.models.leaky import LeakyCells
from thetabox.noise import Noise
from thetabox.verify import arguments
from thetabox.verify.problem import Problem
from thetabox.verify.yields.sizes import sizes
from thetabox.verify.yields.spikes import Spikes
from thetabox.verify.yields.spikes_histories import SpikeHistories
from thetabox.verify.yields.spikes_history import history

pytestmark = pytest.mark.usefixtures("traced_once")

DRAWS = 8_000
PROOFS = {"spikes": Spikes, "histories": SpikeHistories}
Proof = Spikes | SpikeHistories


def proof(kind: str, model: nn.Module, x: Tensor, noise: Noise | None = None, box: tb.Box | None = None) -> Proof:
    noise = noise or Noise()
    problem = Problem(model, arguments.settings("interval", box, "real", "float64", "cpu"), x)
    return PROOFS[kind](problem, sizes(model, problem.settings.box, noise), noise)


def bound(found: Proof, x: Tensor, y: Tensor, sigma: float, spent: float = 0.01) -> Tensor:
    each = torch.full((len(x),), sigma, dtype=torch.float64)
    return found.failure(x, y, each, torch.full_like(each, spent)).probability


def lsnn(seed: int = 0, samples: int = 12, steps: int = 12, **settings: Any) -> tuple[LSNN, Tensor, Tensor]:
    """A small network, whose weights spike now and then, with the labels that it answers."""
    torch.manual_seed(seed)
    model = LSNN(3, 5, 3, **settings).double()
    x = torch.randn(samples, steps, 3, dtype=torch.float64)
    with torch.no_grad():
        model.W_in.mul_(0.5)
        model.b_out.normal_(0.0, 0.1)
    return model, x, model(x).argmax(1).detach()


Chips = dict[str, Tensor]


def chips(model: nn.Module, sigma: float, draws: int, draw: networks.Draw = networks.gaussian) -> Chips:
    stream = torch.Generator().manual_seed(5)
    weights = {k: p.detach() for k, p in model.named_parameters()}
    return {k: p + sigma * p.abs() * draw(torch.Size((draws, *p.shape)), stream) for k, p in weights.items()}


def answers(model: nn.Module, x: Tensor, drawn: Chips) -> tuple[Tensor, Tensor]:
    """Logits and spikes of all chips."""
    with torch.no_grad():
        return vmap(lambda w: functional_call(model, w, (x, True)))(drawn)


def wrong(logits: Tensor, y: Tensor) -> Tensor:
    """How many chips misclassify each sample."""
    label = y.expand(len(logits), -1)[..., None]
    others = logits.scatter(2, label, -torch.inf).amax(2)
    return (logits.gather(2, label)[..., 0] <= others).double().sum(0)


def contradicted(failures: Tensor, most: Tensor, draws: int = DRAWS) -> bool:
    """Whether the draws of a true claim would fail as often with a probability of less than 1e-9."""
    return bool((torch.as_tensor(binom.sf(failures.numpy() - 1, draws, most.numpy())) < 1e-9).any())


# What a proof rests on


@pytest.mark.parametrize("recurrent", [True, False])
def test_errors_hold_the_exact_potentials(recurrent: bool) -> None:
    """Against Arb balls of 200 bits: traces, and v − A, with margins that are far below what decides a spike."""
    model, x, _ = lsnn(
        samples=2, steps=20, recurrent=recurrent, tau=[5.0, 20.0, 5.0, 7.0, 20.0], tau_adapt=[9.0, 98, 98, 3, 40]
    )
    x = (x * 100.0).round() / 7.0
    network = proof("spikes", model, x).network  # type: ignore[union-attr]  # of spikes, which have one
    run = history(network.cells, network.potentials, x)
    values = oracle.parameters(model)
    for n in range(len(x)):
        exact_traces, exact, spikes = potentials(x[n], values, recurrent)
        assert torch.equal(run.spike[n], spikes)
        for t in range(x.shape[1]):
            for i in range(5):
                off = abs(exact[t][i] - arb(float(run.difference[n, t, i])))
                assert off <= arb(float(run.error[n, t, i]))
                assert float(run.error[n, t, i]) < 1e-11
        for decay, sums in run.potentials:
            for t in range(x.shape[1]):
                true = exact_traces[t][int(decay.units[0])]
                for k, ball in enumerate(true):
                    assert abs(ball - arb(float(sums.a[n, t, k]))) <= arb(float(sums.a_error[t, k]))
                size = network.potentials.size[:, decay.units]
                length = torch.as_tensor(np.array([float(b) for b in true])).square() @ size.square()
                found = sums.length()[n, t]
                assert bool((found >= length.sqrt() * (1 - 1e-15)).all())
                torch.testing.assert_close(found, length.sqrt(), rtol=1e-10, atol=1e-13)


def potentials(x: Tensor, values: dict[str, Any], recurrent: bool) -> tuple[list[Any], list[Any], Tensor]:
    """Traces of one sample for every unit, v − A, and spikes (no refractory steps but one after a spike)."""
    ctx.prec = 200
    ball = {name: np.vectorize(lambda f: arb(f.numerator) / arb(f.denominator))(v) for name, v in values.items()}
    inputs = [[arb(float(v)) for v in row] for row in x]
    units = len(ball["tau"])
    alpha = [(-1 / t).exp() for t in ball["tau"]]
    rho = [(-1 / t).exp() for t in ball["tau_adapt"]]
    terms = len(inputs[0]) + (units if recurrent else 0)
    trace = [[arb(0)] * terms for _ in range(units)]
    v, b, z, last = [arb(0)] * units, [arb(0)] * units, [0] * units, [False] * units
    traces, differences, spikes = [], [], []
    for row in inputs:
        read = [*row, *(map(arb, z) if recurrent else [])]
        now = []
        for i in range(units):
            b[i] = rho[i] * b[i] + (1 - rho[i]) * z[i]
            level = ball["threshold"][i] + ball["beta"][i] * b[i]
            drive = sum((row[q] * ball["W_in"][q, i] for q in range(len(row))), arb(0))
            if recurrent:
                drive += sum((ball["W_rec"][j, i] * z[j] for j in range(units) if j != i), arb(0))
            v[i] = alpha[i] * v[i] + (1 - alpha[i]) * drive - z[i] * level
            trace[i] = [alpha[i] * g + (1 - alpha[i]) * r for g, r in zip(trace[i], read, strict=True)]
            now.append(v[i] - level)
        z = [int(bool(d > 0) and not silent) for d, silent in zip(now, last, strict=True)]
        last = [bool(s) for s in z]
        traces.append([list(row) for row in trace])
        differences.append(now)
        spikes.append(z)
    return traces, differences, torch.tensor(spikes).bool()


@pytest.mark.parametrize("kind", ["gaussian", "subgaussian"])
def test_one_neuron_and_one_step_is_a_closed_form(kind: str) -> None:
    torch.manual_seed(0)
    model = LSNN(4, 1, 2, recurrent=False).double()
    x = torch.randn(20, 1, 4, dtype=torch.float64)
    y = model(x).argmax(1)
    found = bound(proof("spikes", model, x, Noise(kind)), x, y, 0.1)
    kept = 1 - math.exp(-1 / 20)
    terms = kept * x[:, 0] * model.W_in[:, 0].detach()
    z = (terms.sum(1) - 0.01).abs() / (0.1 * terms.square().sum(1).sqrt())
    # The logits of the centre: with or without its one spike.
    spike = (terms.sum(1) > 0.01).double()[:, None]
    logits = (spike * model.W_out + model.b_out).detach()
    margin = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0]
    spread = 0.1 * (spike[:, 0] * model.W_out.detach().square().sum() + model.b_out.detach().square().sum()).sqrt()
    assert 0.0 < float(spike.mean()) < 1.0
    parts = [z, torch.where(spread > 0, margin / spread, torch.where(margin > 0, torch.inf, -torch.inf))]
    law = norm.sf if kind == "gaussian" else lambda z: np.where(z > 0, np.exp(-z * z / 2), 1.0)
    truth = sum(torch.as_tensor(law(part.numpy())) for part in parts).clamp(max=1.0)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-200)


def test_shared_errors_and_drift_are_closed_forms() -> None:
    torch.manual_seed(1)
    model = LSNN(4, 1, 2, recurrent=False).double()
    with torch.no_grad():
        model.b_out.copy_(torch.tensor([0.5, -0.5]))
    x, sigma = torch.randn(20, 1, 4, dtype=torch.float64), 0.05
    box = tb.Box(include="W_in")
    noise = Noise(correlated={"chip": 0.7, "layer": 0.4}, drift={"W_in": -0.1}, drift_bound={"W_in": 0.01})
    found = proof("spikes", model, x, noise, box)
    terms = (1 - math.exp(-1 / 20)) * x[:, 0] * model.W_in[:, 0].detach()
    y = (((terms.sum(1) * 0.9 > 0.01).double()[:, None] * model.W_out) + model.b_out).argmax(1)
    distance = (0.9 * terms.sum(1) - 0.01).abs() - 0.01 * terms.abs().sum(1)
    spread = (terms.square().sum(1) + (0.7**2 + 0.4**2) * terms.sum(1).square()).sqrt() * sigma
    truth = torch.where(distance > 0, torch.as_tensor(norm.sf((distance / spread).numpy())), 1.0)
    assert int((truth < 1).sum()) > 10
    torch.testing.assert_close(bound(found, x, y, sigma), truth, rtol=1e-4, atol=1e-200)


# Chips that are drawn


@pytest.mark.slow
@pytest.mark.parametrize("recurrent", [True, False])
def test_no_spike_differs_more_often_than_proven_and_hardly_less_often(recurrent: bool) -> None:
    """Up to the union of neighbouring steps, the bound is what draws show."""
    model, x, y = lsnn(2, recurrent=recurrent, refractory=3)
    found = proof("spikes", model, x)
    shown = tight = 0
    for sigma in (1e-3, 3e-3, 8e-3, 2e-2):
        each = torch.full((len(x),), sigma, dtype=torch.float64)
        _, most = found.failure(x, y, each, each).events["spikes"]
        _, spikes = answers(model, x, chips(model, sigma, DRAWS))
        differ = (spikes != model(x, True)[1]).flatten(2).any(2).double().sum(0)
        assert not contradicted(differ, most)
        enough = (differ > 100) & (most < 0.4)
        shown += int(enough.sum())
        tight += int((most[enough] < 1.5 * differ[enough] / DRAWS).sum())
    assert shown >= 8
    assert tight >= 0.8 * shown


def deep() -> tuple[nn.Module, Tensor, Tensor]:
    model = Deep([8, 6], seed=3).double()
    x = torch.randn(12, 12, 4, generator=torch.Generator().manual_seed(4)).double()
    return model, x, model(x).argmax(1).detach()


NETWORKS = {
    "recurrent": lambda: lsnn(4),
    "feed-forward": lambda: lsnn(5, recurrent=False),
    "several time constants": lambda: lsnn(6, tau=[3.0, 20.0, 3.0, 50.0, 20.0], refractory=0, beta=0.3),
    "two layers": deep,
}
KINDS: dict[str, networks.Draw] = {"gaussian": networks.gaussian, "subgaussian": networks.two_points}


@pytest.mark.slow
@pytest.mark.thin(2)
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", list(NETWORKS))
def test_draws_do_not_contradict_a_proof(name: str, kind: str) -> None:
    """At failure probabilities up to one half, where an event that is forgotten would show."""
    model, x, y = NETWORKS[name]()
    found = {which: proof(which, model, x, Noise(kind)) for which in PROOFS}
    claims = {"spikes": 0, "histories": 0}
    for sigma in (1e-3, 1e-2, 5e-2):
        failures = wrong(answers(model, x, chips(model, sigma, DRAWS, KINDS[kind]))[0], y)
        for which in PROOFS:
            for spent in (0.01, 0.4):
                most = bound(found[which], x, y, sigma, spent)
                assert not contradicted(failures, most)
                claims[which] += int((most < 1.0).sum())
    assert claims["spikes"] >= 20
    assert claims["histories"] >= 20


@pytest.mark.slow
@pytest.mark.parametrize("which", list(PROOFS))
def test_draws_do_not_contradict_a_proof_with_shared_errors_and_drift(which: str) -> None:
    model, x, y = lsnn(7)
    noise = Noise(
        correlated={"chip": 2.0, "layer": 1.0}, drift={"W_*": -0.003}, drift_bound={"*": 0.003}, scale={"W_out": 0.5}
    )
    found, stream = proof(which, model, x, noise), torch.Generator().manual_seed(8)
    claims = 0
    for sigma in (1e-3, 1e-2):
        common = torch.randn(DRAWS, generator=stream, dtype=torch.float64)
        drawn = {}
        for name, p in model.named_parameters():
            theta = p.detach()
            shape = [DRAWS, *[1] * p.dim()]
            scale = 0.5 if name == "W_out" else 1.0
            own = torch.randn(DRAWS, *p.shape, generator=stream, dtype=torch.float64)
            layer = torch.randn(shape, generator=stream, dtype=torch.float64)
            unknown = 0.003 * (2 * torch.randint(0, 2, p.shape, generator=stream).double() - 1)
            shift = unknown + (-0.003 if name.startswith("W_") else 0.0)
            drawn[name] = theta * (1 + shift + sigma * scale * (own + 2.0 * common.view(shape) + layer))
        most = bound(found, x, y, sigma, 0.2)
        assert not contradicted(wrong(answers(model, x, drawn)[0], y), most)
        claims += int((most < 1.0).sum())
    assert claims >= 5


@pytest.mark.parametrize("decides", [0, 1])
def test_a_spike_of_some_chips_counts_where_it_decides(decides: int) -> None:
    """The first neuron spikes on Φ(-½) of all chips, the second where the first did.

    Ends of potentials or hulls of counts or traces that are too narrow would take the answer for certain.
    """
    model = LSNN(1, 2, 2, threshold=[0.01, 0.9]).double()
    kept, sigma = 1 - math.exp(-1 / 20), 1e-3
    with torch.no_grad():
        model.W_in.copy_(torch.tensor([[0.01 / kept * (1 - 0.5 * sigma), 0.0]]))
        model.W_rec.copy_(torch.tensor([[0.0, 1.0 / kept], [0.0, 0.0]]))
        model.W_out.zero_()
        model.W_out[decides, 1] = 6.0
        model.b_out.copy_(torch.tensor([2.0, -0.7]))
    x, y = torch.tensor([[[1.0], [0.0]]]).double(), torch.tensor([0])
    failures = wrong(answers(model, x, chips(model, sigma, DRAWS))[0], y)
    assert 0.28 * DRAWS < float(failures) < 0.34 * DRAWS
    assert not contradicted(failures, bound(proof("histories", model, x), x, y, sigma))
    with torch.no_grad():
        model.W_out[decides, 1] = 5.0  # no longer: 2.5 < 2.7
    assert float(bound(proof("histories", model, x), x, y, sigma)) < 0.02


@pytest.mark.parametrize("name", ["recurrent", "two layers"])
def test_histories_prove_more_where_spikes_differ(name: str) -> None:
    """There is no sense in a walk that is never better: chips whose spikes differ are proven too."""
    model, x, y = NETWORKS[name]()
    found = [proof(which, model, x) for which in PROOFS]
    gained = 0
    for sigma in (1e-3, 3e-3, 1e-2, 3e-2):
        one, many = (bound(each, x, y, sigma, 0.005) for each in found)
        gained += int(((one > 0.01) & (many <= 0.01)).sum())
    assert gained >= 5


# What must hold of every answer


@pytest.mark.parametrize("which", list(PROOFS))
def test_failures_grow_with_sigma_from_nothing(which: str) -> None:
    model, x, y = lsnn(9)
    found = proof(which, model, x)
    sigmas = [10.0**e for e in range(-9, 0)]
    most = torch.stack([bound(found, x, y, sigma, 1e-3) for sigma in sigmas])
    assert bool((most[1:] >= most[:-1]).all()) or which == "histories"
    assert bool((most[0] <= (1.1e-3 if which == "histories" else 1e-100)).all())
    assert bool((most[-1] == 1.0).any())
    if which == "spikes":
        assert bool((bound(found, x, y, 0.0) < 1e-100).all())
        assert torch.equal(bound(found, x, y, 1e-3, 0.5), bound(found, x, y, 1e-3, 0.0))


@pytest.mark.parametrize("which", list(PROOFS))
def test_a_sample_does_not_depend_on_the_others_beside_it(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = lsnn(10)
    found = proof(which, model, x)
    sigma = torch.logspace(-4, -2, len(x), dtype=torch.float64)
    spent = torch.full_like(sigma, 0.01)
    whole = found.failure(x, y, sigma, spent)
    monkeypatch.setattr("thetabox.verify.yields.spikes.NUMBERS", 1)
    monkeypatch.setattr("thetabox.verify.yields.spikes_histories.SLOT_BYTES", 1)
    parts = found.failure(x, y, sigma, spent)
    torch.testing.assert_close(whole.probability, parts.probability, rtol=1e-6, atol=1e-200)
    total = sum(share for _, share in whole.events.values())
    torch.testing.assert_close(whole.probability, total.clamp(max=1.0), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("which", list(PROOFS))
def test_a_wrong_label_is_never_proven(which: str) -> None:
    model, x, y = lsnn(11)
    assert bool((bound(proof(which, model, x), x, (y + 1) % 3, 1e-6) == 1.0).all())


@pytest.mark.parametrize("which", list(PROOFS))
def test_a_potential_on_its_threshold_proves_nothing(which: str) -> None:
    """No input, no threshold: no chip ever spikes, but the numbers do not tell."""
    model, x, _ = lsnn(12)
    with torch.no_grad():
        model.threshold.zero_()
        model.b_out.copy_(torch.tensor([0.0, 0.0, 1.0]))
        model.W_out.mul_(100.0)
    y = torch.full((len(x),), 2)
    assert bool((bound(proof(which, model, x), torch.zeros_like(x), y, 1e-6) == 1.0).all())


# Refusals


class Leaks(nn.Module):
    """In time, without spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.W_in, self.W_out = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 2))

    def initial_state(self, batch: int) -> Tensor:
        return self.W_in.new_zeros(batch, 4)

    def step(self, x_t: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = 0.5 * v + x_t @ self.W_in
        return v, v

    def readout(self, outputs: Tensor) -> Tensor:
        return outputs.mean(1) @ self.W_out

    def forward(self, x: Tensor) -> Tensor:
        v, found = self.initial_state(len(x)), []
        for x_t in x.unbind(1):
            v = 0.5 * v + x_t @ self.W_in
            found.append(v)
        return self.readout(torch.stack(found, 1))


class Liar(LSNN):
    """Says that it has no refractory steps."""

    def leaky_cells(self) -> LeakyCells:
        return replace(super().leaky_cells(), refractory=0)


def liar() -> nn.Module:
    torch.manual_seed(0)
    return Liar(3, 5, 2)


def tied() -> nn.Module:
    """Two layers of the same recurrent weights."""
    model = Deep([5, 5])
    model.layers[1].W_rec = model.layers[0].W_rec
    return model


REFUSED = {
    "leaks": (Leaks, None, "leaky_cells"),
    "liar": (liar, None, "something else than leaky_cells says"),
    "thresholds": (lambda: LSNN(3, 5, 2), tb.Box(include="*,threshold"), "threshold is in the box"),
    "time constants": (lambda: LSNN(3, 5, 2), tb.Box(include="*,tau"), "tau is in the box"),
    "many time constants": (lambda: LSNN(3, 9, 2, tau=[float(n) for n in range(2, 11)]), None, "at most 8"),
    "tied": (tied, None, "read more than once a step"),
}


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("name", list(REFUSED))
@pytest.mark.parametrize("which", list(PROOFS))
def test_other_networks_are_refused(name: str, which: str) -> None:
    make, box, says = REFUSED[name]
    model, x = make().double(), torch.randn(2, 6, 4 if name == "tied" else 3, dtype=torch.float64)
    with pytest.raises(InputError, match=says) as caught:
        proof(which, model, x, box=box)
    assert "use sampled_yield" in str(caught.value)
    assert "interval" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whether_it_fits() -> None:
    model, x, _ = lsnn()
    for box, fits in ((None, True), (tb.Box(include="*,beta"), False)):
        problem = Problem(model, arguments.settings("interval", box, "real", "float64", "cpu"), x)
        assert Spikes.fits(problem, sizes(model, problem.settings.box, Noise()), Noise()) is fits
    plain = Problem(nn.Linear(3, 2), arguments.settings("interval", None, "real", "float64", "cpu"), x[:, 0].float())
    assert not Spikes.fits(plain, sizes(plain.model, tb.Box(), Noise()), Noise())
