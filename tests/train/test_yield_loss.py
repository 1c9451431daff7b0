"""Training for proven yield: what its losses bound, their gradients, and the method around them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import thetabox as tb
from thetabox.box import Box
from thetabox.cli.commands import methods
from thetabox.errors import InputError
from thetabox.models import LSNN, MLP, ConvNet, ResNet32
from thetabox.train import fit, method
from thetabox.train.methods import Step, run_step
from thetabox.train.methods.yield_loss import Yield
from thetabox.train.yields import BOUNDS, yield_margins
from thetabox.train.yields.neuron import PreActivations, lines, log_ndtr, mean_relu

CHAINS = ("l2", "means", "rows", "entropic")
CONVOLUTIONS = ("l2", "means", "rows")


def averaged() -> nn.Module:
    """A small convolutional network that averages before its ReLUs."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.AvgPool2d(2),
        nn.ReLU(),
        nn.Conv2d(3, 4, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()


class Residual(nn.Module):
    """Two paths that meet, and the samples' number in a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x.view(x.shape[0], 6)))
        return self.last(h + torch.relu(self.second(h)))


def problem(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    model, shape = {
        "dense": (MLP((6, 8, 7, 3)), (6,)),
        "shallow": (MLP((6, 8, 3)), (6,)),
        "averaged": (averaged(), (1, 6, 6)),
        "convnet": (ConvNet((1, 8, 8), (3, 4), 3, (5,), 3), (1, 8, 8)),
        "residual": (Residual(), (6,)),
    }[name]
    x = torch.rand(5, *shape, dtype=torch.float64)
    model = model.double()
    return model, x, model(x).argmax(1)


def drawn(model: nn.Module, x: Tensor, y: Tensor, sigma: float, draws: int) -> Tensor:
    """Margins of chips, ``[draws, samples, classes]``."""
    generator = torch.Generator().manual_seed(1)
    chips = {
        name: p.detach() * (1 + sigma * torch.randn((draws, *p.shape), generator=generator, dtype=p.dtype))
        for name, p in model.named_parameters()
    }
    with torch.no_grad():
        logits = torch.func.vmap(lambda p: torch.func.functional_call(model, p, (x,)))(chips)
    return logits.gather(2, y.expand(draws, -1)[..., None]) - logits


def others(y: Tensor, classes: int) -> Tensor:
    return ~nn.functional.one_hot(y, classes).bool()


# --- what is bounded ---


@pytest.mark.parametrize("bound", CHAINS)
def test_one_dense_layer_has_a_quantile_in_closed_form(bound: str) -> None:
    """Margins are normal; the union over classes and the two-sided tail are all that is lost."""
    model = nn.Sequential(nn.Linear(4, 3)).double()
    x, delta, sigma = torch.rand(6, 4, dtype=torch.float64), 0.02, 0.3
    logits, weight, bias = model(x).detach(), model[0].weight.detach(), model[0].bias.detach()
    y = logits.argmax(1)
    variance = sigma**2 * (x.square() @ weight.square().T + bias.square())
    mean = logits.gather(1, y[:, None]) - logits
    spread = (variance.gather(1, y[:, None]) + variance).sqrt()
    margins = yield_margins(model, x, y, sigma, delta=delta, bound=bound).detach()
    z = ((mean - margins) / spread)[others(y, 3)]
    exact = -NormalDist().inv_cdf(delta / 2)
    least, most = {
        "l2": (-NormalDist().inv_cdf(delta / 4),) * 2,
        "means": (-NormalDist().inv_cdf(delta / 4),) * 2,
        "rows": (math.sqrt(2 * math.log(2 / delta)),) * 2,
        # The best rate is that of the row's own spread, floored for rows that are hardly noisy.
        "entropic": (math.sqrt(2 * math.log(2 / (0.9 * delta))) - 1e-6, 4.0),
    }[bound]
    assert least > exact
    assert (z >= least - 1e-6).all()
    assert (z <= most + 1e-6).all()


@pytest.mark.parametrize("name", ["dense", "shallow", "averaged", "convnet", "residual"])
@pytest.mark.parametrize("bound", CHAINS)
def test_chips_keep_the_margins(name: str, bound: str) -> None:
    """All margins of a sample at once, on a share 1 - delta of drawn chips, and for sums of intervals far more."""
    if bound == "entropic" and name not in ("dense", "shallow"):
        pytest.skip("for dense chains")
    model, x, y = problem(name)
    sigma, delta = 0.15, 0.1
    margins = yield_margins(model, x, y, sigma, delta=delta, bound=bound).detach()
    # Of rows only the classes that come closest are bounded: with three, all of them are.
    chips = drawn(model, x, y, sigma, 2000)
    kept = ((chips >= margins) | ~others(y, 3)).all(2).double().mean(0)
    assert (kept >= 1 - delta).all()
    clean = (chips.mean(0) - margins)[others(y, 3)]
    assert (clean > 0).all()


@pytest.mark.parametrize("name", ["dense", "averaged", "convnet", "residual"])
def test_without_noise_margins_are_those_of_the_network(name: str) -> None:
    model, x, y = problem(name)
    logits = model(x).detach()
    clean = logits.gather(1, y[:, None]) - logits
    for bound in CHAINS if name == "dense" else CONVOLUTIONS:
        margins = yield_margins(model, x, y, 0.0, bound=bound).detach()
        torch.testing.assert_close(margins[others(y, 3)], clean[others(y, 3)], rtol=0, atol=1e-3)
        lower = [yield_margins(model, x, y, s, bound=bound).detach() for s in (0.01, 0.05, 0.2)]
        assert all((a > b)[others(y, 3)].all() for a, b in itertools.pairwise(lower)), bound


def test_which_bounds_are_tighter() -> None:
    """Means beat plain intervals, rows beat means, and auto takes the best that there is."""
    for name in ("dense", "convnet"):
        model, x, y = problem(name)
        own = others(y, 3)
        found = {b: yield_margins(model, x, y, 0.1, bound=b).detach()[own].mean() for b in CONVOLUTIONS}
        assert found["l2"] < found["means"] < found["rows"], name
        best = "entropic" if name == "dense" else "rows"
        auto = yield_margins(model, x, y, 0.1).detach()
        assert torch.equal(auto, yield_margins(model, x, y, 0.1, bound=best).detach())


def test_intervals_by_hand() -> None:
    """One weight a layer: h in 2 ± z·0.1·2 behind the first, then (|w| r and z·0.1·|w| u)."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[2].weight.copy_(torch.tensor([[3.0], [-1.0]]))
    found = yield_margins(model, torch.ones(1, 1, dtype=torch.float64), torch.tensor([0]), 0.1, delta=0.1, bound="l2")
    margin = -NormalDist().inv_cdf(0.05 / 2)  # half of delta, one margin
    end = -NormalDist().inv_cdf(0.05 / 2 / 2)  # the other half, two ends
    h = 2.0 + end * 0.2
    expected = 4 * 2.0 - 4 * end * 0.2 - margin * 0.1 * h * math.sqrt(3.0**2 + 1.0**2)
    assert float(found.detach()[0, 1]) == pytest.approx(expected, abs=1e-5)


def test_only_what_is_in_the_box_is_noisy() -> None:
    for name in ("shallow", "averaged"):
        model, x, y = problem(name)
        logits = model(x).detach()
        clean = (logits.gather(1, y[:, None]) - logits)[others(y, 3)]
        for bound in CONVOLUTIONS:
            last = [n for n, _ in model.named_parameters()][-1]
            few = yield_margins(model, x, y, 0.2, bound=bound, box=Box(include=last)).detach()[others(y, 3)]
            all_ = yield_margins(model, x, y, 0.2, bound=bound).detach()[others(y, 3)]
            assert (all_ < few).all()
            assert (few < clean).all()


@given(
    a=st.floats(-3, 3),
    v=st.floats(0, 0.3),
    rate=st.floats(0.1, 5),
    lower=st.floats(-2, 2),
    width=st.floats(0, 2),
    least=st.floats(0.05, 1),
    more=st.floats(0, 0.5),
)
def test_lines_lie_below_the_entropic_bound(
    a: float, v: float, rate: float, lower: float, width: float, least: float, more: float
) -> None:
    r"""Against quadrature of :math:`-\ln E e^{-\lambda f}/\lambda` at every corner, h at most the largest."""
    upper, most = lower + width, least + more
    largest = max(upper + 3 * most, 0.1)

    def tensor(t: float) -> Tensor:
        return torch.full((1, 1, 1), t, dtype=torch.float64)

    neurons = PreActivations(*(tensor(t) for t in (lower, upper, least, most, largest, (lower + upper) / 2)))
    slope, constant = (float(t) for t in lines(tensor(a), tensor(v), tensor(rate), neurons))
    n = np.linspace(-12, 12, 20001)
    density = np.exp(-(n**2) / 2) / np.sqrt(2 * np.pi) * (n[1] - n[0])
    for mu in (lower, (lower + upper) / 2, upper):
        for s in (least, most):
            h = np.maximum(mu + s * n, 0)
            square = np.minimum(h**2, largest * h) if a > 0 or rate**2 * v * most**2 >= 0.99 else h**2
            g = -np.log(np.sum(density * np.exp(-rate * (a * h - rate / 2 * v * square)))) / rate
            assert slope * mu + constant <= g + 1e-6


def test_mean_of_a_smoothed_relu() -> None:
    torch.manual_seed(0)
    mu, s = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64), torch.tensor([0.5, 1.0, 0.3], dtype=torch.float64)
    n = torch.randn(400000, 1, dtype=torch.float64)
    torch.testing.assert_close(mean_relu(mu, s), (mu + s * n).relu().mean(0), rtol=0, atol=5e-3)
    assert float(mean_relu(mu, s)[1]) == pytest.approx(1 / math.sqrt(2 * math.pi))


# --- gradients ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithm_of_the_normal_distribution_has_its_gradient_far_out(dtype: torch.dtype) -> None:
    x = torch.tensor([-1e7, -1e5, -1e3, -60.0, -40.0, -3.0, 0.0, 3.0, 50.0], dtype=dtype, requires_grad=True)
    log_ndtr(x).sum().backward()
    exact = torch.tensor([1e7, 1e5, 1e3, 60.0166, 40.025, 3.28310, 0.797885, 0.00443784, 0.0], dtype=dtype)
    torch.testing.assert_close(x.grad, exact, rtol=2e-3, atol=1e-8)


@pytest.mark.parametrize("name", ["dense", "averaged", "convnet", "residual"])
def test_gradients_are_those_of_differences(name: str) -> None:
    model, x, y = problem(name)
    theta = {n: p.detach() for n, p in model.named_parameters()}
    torch.manual_seed(5)
    way = {n: torch.randn_like(p) for n, p in theta.items()}
    for bound in CHAINS if name == "dense" else CONVOLUTIONS:

        def loss(t: float, bound: str = bound) -> Tensor:
            moved = {n: p + t * way[n] for n, p in theta.items()}
            return yield_margins(model, x, y, 0.1, bound=bound, weights=moved)[others(y, 3)].sum()

        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(t), t)
        difference = (loss(1e-6) - loss(-1e-6)) / 2e-6
        assert float(slope) == pytest.approx(difference.item(), rel=1e-4, abs=1e-4), bound


@pytest.mark.thin(3)
@pytest.mark.parametrize("sigma", [0.0, 1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("name", ["dense", "averaged", "convnet"])
def test_gradients_are_finite_where_neurons_are_dead(name: str, sigma: float) -> None:
    """All of a layer dead by its bias, then by weights of 0; in single precision, as networks are trained."""
    model, x, y = problem(name)
    model, x = model.float(), x.float()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for weight, bias in ((None, -50.0), (0.0, 0.0), (0.0, -1.0)):
        with torch.no_grad():
            layers[1].bias.fill_(bias)
            if weight is not None:
                layers[1].weight.fill_(weight)
        for bound in BOUNDS:
            if bound == "entropic" and name != "dense":
                continue
            model.zero_grad()
            margins = yield_margins(model, x, y, sigma, bound=bound)
            margins[others(y, 3)].sum().backward()
            assert torch.isfinite(margins).all(), bound
            assert all(torch.isfinite(p.grad).all() for p in model.parameters()), bound


@pytest.mark.long
def test_residual_network_with_batch_norm() -> None:
    torch.manual_seed(0)
    model = ResNet32(width=2)
    x, y = torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    margins = yield_margins(model, x, y, 0.01, bound="rows")
    margins.sum().backward()
    assert torch.isfinite(margins).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


# --- what is refused ---


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


@pytest.mark.parametrize(
    ("model", "shape", "bound", "words"),
    [
        (Twice(), (3,), "auto", "reads? each parameter once"),
        (LSNN(3, 4, 3), (5, 3), "auto", "not for recurrent"),
        (nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3)), (3,), "auto", "no operator aten.gelu"),
        (nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)), (3,), "rows", "choose l2"),
        (nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)), (3,), "entropic", "dense layers with ReLU"),
        (MLP((3, 3)), (3,), "t2", "choose one of auto, l2, means, rows, entropic"),
    ],
)
def test_one_clear_line(model: nn.Module, shape: tuple, bound: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        yield_margins(model, torch.rand(2, *shape), torch.tensor([0, 1]), 0.1, bound=bound)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sigma": -1}, "sigma=-1.0 is out of range"),
        ({"sigma": "nan"}, "sigma=nan is out of range"),
        ({"delta": 0}, "delta=0.0 is out of range"),
        ({"delta": 1}, "delta=1.0 is out of range"),
        ({"kappa": 1.5}, "kappa=1.5 is out of range"),
        ({"warmup": 0.5, "ramp": 0.6}, "ramp=0.6 is out of range"),
        ({"bound": "box"}, "bound='box' is unknown; choose one of"),
    ],
)
def test_settings_out_of_range(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        method("yield", settings)


# --- the method ---


def step(model: nn.Module, x: Tensor, y: Tensor, progress: float) -> Step:
    return Step(model, x, y, dict(model.named_parameters()), torch.Generator().manual_seed(0), progress)


@pytest.mark.parametrize(("progress", "risen"), [(0.1, None), (0.2, 0.0), (0.4, 0.5), (0.9, 1.0)])
def test_loss_is_its_definition(progress: float, risen: float | None) -> None:
    model, x, y = problem("dense")
    chosen = Yield(sigma=0.2, delta=0.05, kappa=0.6, bound="l2", warmup=0.2, ramp=0.4)
    loss = float(run_step(chosen, step(model, x, y, progress)))
    clean = nn.functional.cross_entropy(model(x), y)
    if risen is None:
        assert loss == float(clean)
        return
    margins = yield_margins(model, x, y, 0.2 * risen, delta=0.05, bound="l2")
    worst = torch.log1p(torch.exp(-margins).masked_fill(~others(y, 3), 0.0).sum(1)).mean()
    assert loss == pytest.approx(float((1 - 0.6 * risen) * clean + 0.6 * risen * worst), rel=1e-9)
    assert chosen.settled_at == pytest.approx(0.9)  # the last quarter of what is behind 0.6


def test_patterns_choose_what_has_errors() -> None:
    model, x, y = problem("dense")
    none = Yield(sigma=0.2, kappa=1.0, bound="l2", warmup=0.0, ramp=0.0, include="dense3.bias")
    bare = run_step(Yield(sigma=0.0, kappa=1.0, bound="l2", warmup=0.0, ramp=0.0), step(model, x, y, 0.5))
    some = run_step(none, step(model, x, y, 0.5))
    full = run_step(Yield(sigma=0.2, kappa=1.0, bound="l2", warmup=0.0, ramp=0.0), step(model, x, y, 0.5))
    assert bare < some < full


def blobs(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(samples) % 3
    centres = torch.tensor([[1.0, 0.2, 0.1], [0.1, 1.0, 0.2], [0.2, 0.1, 1.0]])
    return centres[y] + 0.15 * torch.randn(samples, 3, generator=generator), y


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yield", "forward-noise+yield", "weight-attack+yield", "l1+yield", "quantised+yield"])
def test_training_raises_the_margins_that_chips_keep(name: str) -> None:
    """Beside standard training of as many epochs, and from its weights; alone and with other methods."""
    x, y = blobs(60, 1)
    few = {"steps": 1} if "attack" in name else {}

    def trained(model: nn.Module, name: str, more: dict) -> nn.Module:
        chosen = {"epochs": 8, "batch_size": 16, "lr": 1e-2, "seed": 3, "progress": False, "set": more}
        return fit(model, blobs(90, 0), blobs(60, 1), name, **chosen).model

    def kept(model: nn.Module) -> float:
        margins = yield_margins(model, x, y, 0.3).detach().masked_fill(~others(y, 3), torch.inf)
        return float((margins.amin(1) > 0).double().mean())

    torch.manual_seed(0)
    standard = trained(MLP((3, 12, 3)), "standard", {})
    before = kept(standard)
    after = kept(trained(standard, name, {"sigma": 0.3, "kappa": 0.8, "warmup": 0.0, "ramp": 0.3} | few))
    assert after > before + 0.1


JOINED = "weight-attack+forward-noise+yield"


def joined(**settings: Any) -> Any:
    given = {"sigma": 0.2, "kappa": 0.6, "bound": "l2", "warmup": 0.2, "ramp": 0.4} | settings
    return method(JOINED, {"steps": 2, "noise": 0.2} | {f"yield.{name}": value for name, value in given.items()})


@pytest.mark.parametrize(("progress", "like"), [(0.1, "weight-attack+forward-noise"), (0.2, "yield"), (0.9, "yield")])
def test_after_other_methods_it_trains_alone(progress: float, like: str) -> None:
    """The others until its ramp begins, to the last bit, and then none of them."""
    model, x, y = problem("dense")
    parts = {part.name: part for part in joined(after=True).parts}
    alone = parts["yield"] if like == "yield" else method(like, {"steps": 2, "noise": 0.2})
    losses, gradients = [], []
    for chosen in (joined(after=True), alone, joined()):
        model.zero_grad()
        losses.append(run_step(chosen, step(model, x, y, progress)))
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert torch.equal(losses[0], losses[1])
    assert all(torch.equal(one, other) for one, other in zip(gradients[0], gradients[1], strict=True))
    assert torch.equal(losses[0], losses[2]) == (progress < 0.2)


def test_cost_of_what_trains_one_after_the_other() -> None:
    first, second = method("weight-attack+forward-noise", {"steps": 2}), joined().parts[2]
    expected = 0.2 * (first.gradients_per_step - 1) + second.gradients_per_step
    assert joined(after=True).gradients_per_step == pytest.approx(expected)
    assert joined(after=True).gradients_per_step < joined().gradients_per_step
    assert joined(after=True).settled_at == second.settled_at
    assert method("yield", {"after": "yes"}).gradients_per_step == method("yield").gradients_per_step
    rounded = method("quantised+yield", {"yield.after": True, "yield.warmup": 0.0})
    model, x, y = problem("dense")
    plain = run_step(method("yield", {"warmup": 0.0}), step(model, x, y, 0.5))
    assert run_step(rounded, step(model, x, y, 0.5)) != plain  # how weights are stored stays


def test_training_after_other_methods_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    chosen = {"epochs": 4, "batch_size": 30, "seed": 3, "progress": False}
    chosen["set"] = {"steps": 2, "yield.warmup": 0.5, "yield.ramp": 0.2, "yield.after": True}

    def trained(**more: Any) -> nn.Module:
        torch.manual_seed(0)
        return fit(MLP((3, 4, 3)), blobs(30, 0), blobs(30, 1), JOINED, **chosen, **more).model

    def interrupt(record: Any) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    out = tmp_path / "model.safetensors"
    whole = trained()
    trained(out=out, on_epoch=interrupt)
    parts = trained(out=out, resume=True)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)


def test_best_weights_are_those_behind_the_ramp() -> None:
    chosen = {"epochs": 5, "batch_size": 30, "seed": 3, "progress": False, "set": {"warmup": 0.0, "ramp": 0.2}}
    assert fit(MLP((3, 4, 3)), blobs(30, 0), blobs(30, 1), "yield", **chosen).best_epoch == 5


def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    methods.command.main([], standalone_mode=False)
    assert "yield" in capsys.readouterr().out
    assert tb.train.METHODS["yield"] is Yield
