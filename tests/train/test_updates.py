"""One update of every method equals its definition written out in numpy (float64), with the same random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from thetabox.models import LSNN, MLP
from thetabox.train import METHODS, method
from thetabox.train.methods import Step, run_step

Arrays = dict[str, np.ndarray]
Loss = Callable[[Arrays], tuple[float, Arrays]]
RATE, SEED = 0.3, 11
TOLERANCE = {"rtol": 0, "atol": 1e-6}
NAMES = ("dense1.weight", "dense1.bias", "dense2.weight", "dense2.bias")


class Network:
    """A perceptron with one hidden layer and softmax, with its gradients by hand."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y, self.n = x, y, len(x)

    def forward(self, w: Arrays) -> np.ndarray:
        self.before = self.x @ w["dense1.weight"].T + w["dense1.bias"]
        self.hidden = np.maximum(self.before, 0)
        return self.hidden @ w["dense2.weight"].T + w["dense2.bias"]

    def back(self, w: Arrays, by_logits: np.ndarray) -> Arrays:
        """Gradients by the weights, and by x, after ``forward`` with the same weights."""
        by_before = (by_logits @ w["dense2.weight"]) * (self.before > 0)
        return {
            "dense1.weight": by_before.T @ self.x,
            "dense1.bias": by_before.sum(0),
            "dense2.weight": by_logits.T @ self.hidden,
            "dense2.bias": by_logits.sum(0),
            "x": by_before @ w["dense1.weight"],
        }

    def task(self, w: Arrays) -> tuple[float, Arrays]:
        p = softmax(self.forward(w))
        truth = np.eye(p.shape[1])[self.y]
        return float(-np.log((p * truth).sum(1)).mean()), self.back(w, (p - truth) / self.n)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl_by_second(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """∂ mean KL(p‖q)/∂ logits of q."""
    return (q - p) / len(p)


def kl_by_first(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """∂ mean KL(p‖q)/∂ logits of p."""
    ratio = np.log(p / q)
    return p * (ratio - (p * ratio).sum(1, keepdims=True)) / len(p)


class Problem:
    """The network in torch and in numpy, and a stream of the numbers that the method draws."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.model = MLP((3, 5, 4)).double()
        with torch.no_grad():
            self.model.dense1.bias += 0.1  # all weights away from 0
        self.x = torch.randn(8, 3, dtype=torch.float64)
        self.y = torch.arange(8) % 4
        self.theta = {name: p.detach().numpy().copy() for name, p in self.model.named_parameters()}
        self.stream = torch.Generator().manual_seed(SEED)
        self.network = Network(self.x.numpy(), self.y.numpy())

    def normal(self, name: str) -> np.ndarray:
        return torch.randn(self.theta[name].shape, generator=self.stream, dtype=torch.float64).numpy()

    def uniform(self, *shape: int) -> np.ndarray:
        return torch.rand(shape, generator=self.stream, dtype=torch.float64).numpy()

    def check(self, name: str, settings: dict, expected: Arrays, loss: float | None = None, **step: object) -> None:
        """Take one step of plain gradient descent by the method and compare the weights."""
        optimiser = torch.optim.SGD(self.model.parameters(), RATE)
        seen = Step(
            self.model,
            self.x,
            self.y,
            dict(self.model.named_parameters()),
            torch.Generator().manual_seed(SEED),
            0.5,
            descend=optimiser.step,
            **step,
        )
        found = run_step(method(name, settings), seen)
        optimiser.step()
        for key, value in self.model.named_parameters():
            np.testing.assert_allclose(value.detach().numpy(), expected[key], err_msg=key, **TOLERANCE)
        assert any(np.abs(expected[key] - self.theta[key]).max() > 1e-3 for key in NAMES)
        if loss is not None:
            assert float(found) == pytest.approx(loss, abs=1e-9)

    def descended(self, gradient: Arrays) -> Arrays:
        return {name: self.theta[name] - RATE * gradient[name] for name in NAMES}


def test_standard() -> None:
    p = Problem()
    loss, g = p.network.task(p.theta)
    p.check("standard", {}, p.descended(g), loss)


def test_forward_noise() -> None:
    p = Problem()
    noisy = {n: w + 0.3 * np.abs(w) * p.normal(n) for n, w in p.theta.items()}
    loss, g = p.network.task(noisy)
    p.check("forward-noise", {}, p.descended(g), loss)


def test_dropout() -> None:
    p = Problem()
    keep = (p.uniform(5) >= 0.3) / 0.7
    assert 0 < (keep > 0).sum() < 5
    dropped = p.theta | {"dense2.weight": p.theta["dense2.weight"] * keep}
    loss, g = p.network.task(dropped)
    g["dense2.weight"] = g["dense2.weight"] * keep
    p.check("dropout", {}, p.descended(g), loss)


def quantise(w: np.ndarray, bits: int) -> np.ndarray:
    scale = np.abs(w).max() / (2 ** (bits - 1) - 1)
    return np.round(w / scale) * scale


@pytest.mark.parametrize("bits", [2, 4])
def test_quantised(bits: int) -> None:
    p = Problem()
    loss, g = p.network.task({n: quantise(w, bits) if w.ndim == 2 else w for n, w in p.theta.items()})
    p.check("quantised", {"bits": bits}, p.descended(g), loss)


def damage_gradients(kind: str, clean: np.ndarray, other: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """(boundary loss, ∂/∂ clean logits, ∂/∂ other logits)."""
    p, q = softmax(clean), softmax(other)
    if kind == "kl":
        return (p * np.log(p / q)).sum(1).mean(), kl_by_first(p, q), kl_by_second(p, q)
    if kind == "reverse-kl":
        return (q * np.log(q / p)).sum(1).mean(), kl_by_second(q, p), kl_by_first(q, p)
    if kind == "l2":
        distance = np.linalg.norm(clean - other, axis=1, keepdims=True)
        by_clean = (clean - other) / distance / len(clean)
        return distance.mean(), by_clean, -by_clean
    m = (p + q) / 2
    value = ((p * np.log(p / m)).sum(1) + (q * np.log(q / m)).sum(1)).mean() / 2
    # d JS = ½ Σ ln(p/m) dp + ½ Σ ln(q/m) dq; through the softmax dp/dz = p∘(δ − p).
    halves = []
    for part in (p, q):
        ratio = np.log(part / m) / 2
        halves.append(part * (ratio - (part * ratio).sum(1, keepdims=True)) / len(p))
    return value, halves[0], halves[1]


def attacked_step(
    p: Problem, centre: Arrays, kind: str, zeta: float, steps: int, sigma: float, attacked: tuple[str, ...] = NAMES
) -> tuple[float, Arrays]:
    """β·boundary loss and its gradient by ``centre``, β = 0.25, δ constant: Algorithm 1 with the projection."""
    clean = p.network.forward(centre)
    delta = {n: np.zeros_like(centre[n]) for n in NAMES}
    delta |= {n: np.clip(sigma * p.normal(n), -zeta, zeta) for n in attacked}
    for _ in range(steps):
        star = {n: centre[n] + np.abs(centre[n]) * delta[n] for n in NAMES}
        other = p.network.forward(star)
        g = p.network.back(star, damage_gradients(kind, clean, other)[2])
        delta |= {n: np.clip(delta[n] + zeta / steps * np.sign(g[n]), -zeta, zeta) for n in attacked}
    star = {n: centre[n] + np.abs(centre[n]) * delta[n] for n in NAMES}
    other = p.network.forward(star)
    value, by_clean, by_other = damage_gradients(kind, clean, other)
    at_star = p.network.back(star, by_other)
    p.network.forward(centre)
    at_centre = p.network.back(centre, by_clean)
    jacobian = {n: 1 + np.sign(centre[n]) * delta[n] for n in NAMES}
    return 0.25 * value, {n: 0.25 * (at_centre[n] + jacobian[n] * at_star[n]) for n in NAMES}


@pytest.mark.parametrize("kind", ["kl", "reverse-kl", "js", "l2"])
@pytest.mark.parametrize("steps", [1, 3])
def test_weight_attack(kind: str, steps: int) -> None:
    p = Problem()
    extra, by_extra = attacked_step(p, p.theta, kind, 0.1, steps, 0.05)
    loss, g = p.network.task(p.theta)
    total = {n: g[n] + by_extra[n] for n in NAMES}
    settings = {"zeta": 0.1, "steps": steps, "sigma": 0.05, "loss": kind}
    p.check("weight-attack", settings, p.descended(total), loss + extra)


def test_weight_attack_waits_for_its_warmup() -> None:
    p = Problem()
    loss, g = p.network.task(p.theta)
    p.check("weight-attack", {"warmup": 0.6}, p.descended(g), loss)  # the step is at half of the training
    p = Problem()
    extra, by_extra = attacked_step(p, p.theta, "kl", 0.1, 10, 1e-3)
    loss, g = p.network.task(p.theta)
    total = {n: g[n] + by_extra[n] for n in NAMES}
    p.check("weight-attack", {"warmup": 0.5}, p.descended(total), loss + extra)


@pytest.mark.parametrize("include", ["*", "dense1.*"])
def test_quantised_under_attack(include: str) -> None:
    """The attack starts from, and is relative to, the rounded weights; the gradient goes straight through them.

    Where only some tensors are attacked, the others are rounded too while it searches.
    """
    p = Problem()
    rounded = {n: quantise(w, 2) if w.ndim == 2 else w for n, w in p.theta.items()}
    attacked = NAMES if include == "*" else NAMES[:2]
    extra, by_extra = attacked_step(p, rounded, "kl", 0.3, 3, 0.05, attacked)
    loss, g = p.network.task(rounded)
    total = {n: g[n] + by_extra[n] for n in NAMES}
    settings = {"bits": 2, "zeta": 0.3, "steps": 3, "sigma": 0.05, "include": include}
    p.check("quantised+weight-attack", settings, p.descended(total), loss + extra)


@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_awp(eps: float) -> None:
    p = Problem()
    clean_x, steps, sigma, gamma, zeta = p.network.x, 4, 0.05, 0.3, 0.2
    if eps > 0:
        offset = eps * (2 * p.uniform(8, 3) - 1)
        for _ in range(3):
            p.network.x = clean_x + offset
            offset = np.clip(offset + eps / 3 * np.sign(p.network.task(p.theta)[1]["x"]), -eps, eps)
        p.network.x = clean_x + offset
    delta = {n: np.clip(sigma * p.normal(n), -zeta, zeta) for n in NAMES}
    for _ in range(steps):
        g = p.network.task({n: p.theta[n] + np.abs(p.theta[n]) * delta[n] for n in NAMES})[1]
        delta = {n: np.clip(delta[n] + zeta / steps * np.sign(g[n]), -zeta, zeta) for n in NAMES}
    loss, g = p.network.task({n: p.theta[n] + gamma * np.abs(p.theta[n]) * delta[n] for n in NAMES})
    settings = {"eps_pga": eps, "steps": steps, "sigma": sigma, "gamma": gamma, "zeta": zeta}
    p.check("awp", settings, p.descended(g), loss)


def length(tensors: Arrays) -> float:
    return math.sqrt(sum(float((tensors[n] ** 2).sum()) for n in NAMES))


@pytest.mark.parametrize(("epsilon", "steps"), [(10.0, 1), (0.05, 1), (0.4, 3)])
def test_amp(epsilon: float, steps: int) -> None:
    p = Problem()
    loss, g = p.network.task(p.theta)
    delta = {n: np.zeros_like(w) for n, w in p.theta.items()}
    for _ in range(steps):
        delta = {n: delta[n] + 0.7 * g[n] for n in NAMES}
        factor = min(1.0, epsilon / length(delta))
        delta = {n: factor * delta[n] for n in NAMES}
        g = p.network.task({n: p.theta[n] + delta[n] for n in NAMES})[1]
    p.check("amp", {"epsilon": epsilon, "rate": 0.7, "steps": steps}, p.descended(g), loss)


def flat(name: str, w: np.ndarray, scaled: np.ndarray) -> np.ndarray:
    """T of a bias that is left at 1."""
    return np.ones_like(w) if name.endswith("bias") else scaled


SCALES = {
    "sam": ({"rho": 0.4}, lambda n, w: np.ones_like(w)),
    "asam": ({"rho": 0.8, "eta": 0.02}, lambda n, w: flat(n, w, np.abs(w) + 0.02)),
    "asam-biases": ({"rho": 0.8, "eta": 0.02, "unscaled": ""}, lambda n, w: np.abs(w) + 0.02),
    "samson-2": ({"rho": 3.0, "p": 2.0}, lambda n, w: np.abs(w) / np.sqrt((w**2).sum())),
    "samson-inf": ({"rho": 0.6}, lambda n, w: np.abs(w) / np.abs(w).max()),
    "samson-flat": ({"rho": 0.6, "unscaled": "*.bias, b_*"}, lambda n, w: flat(n, w, np.abs(w) / np.abs(w).max())),
}


@pytest.mark.parametrize("case", SCALES)
def test_sharpness_aware(case: str) -> None:
    p = Problem()
    settings, scale = SCALES[case]
    loss, g = p.network.task(p.theta)
    t = {n: scale(n, w) for n, w in p.theta.items()}
    norm = length({n: t[n] * g[n] for n in NAMES})
    uphill = {n: p.theta[n] + settings["rho"] * t[n] ** 2 * g[n] / norm for n in NAMES}
    p.check(case.split("-")[0], settings, p.descended(p.network.task(uphill)[1]), loss)


@pytest.mark.parametrize("name", ["sam", "amp"])
def test_both_gradients_see_the_same_noise(name: str) -> None:
    p = Problem()
    noise = {n: 0.3 * p.normal(n) for n in NAMES}

    def noisy(w: Arrays) -> tuple[float, Arrays]:
        return p.network.task({n: w[n] + np.abs(w[n]) * noise[n] for n in NAMES})

    loss, g = noisy(p.theta)
    factor = 0.4 / length(g) if name == "sam" else 1.0
    uphill = {n: p.theta[n] + factor * g[n] for n in NAMES}
    settings = {"rho": 0.4} if name == "sam" else {"epsilon": 100.0}
    p.check(f"forward-noise+{name}", settings, p.descended(noisy(uphill)[1]), loss)


@pytest.mark.parametrize("zeta", [0.002, 0.5])
def test_abcd(zeta: float) -> None:
    p = Problem()
    theta, first = p.theta, p.network.task(p.theta)[0]
    for _ in range(2):
        g = p.network.task(theta)[1]
        up = {n: p.uniform(*theta[n].shape) >= 0.5 for n in NAMES}
        reach = {n: zeta * np.abs(theta[n]) for n in NAMES}
        theta = {n: theta[n] + np.clip(0.1 * up[n] * g[n], -reach[n], reach[n]) for n in NAMES}
        g = p.network.task(theta)[1]
        theta = {n: theta[n] - RATE * ~up[n] * g[n] for n in NAMES}
    p.check("abcd", {"zeta": zeta, "eta_a": 0.1}, theta, first)


@pytest.mark.parametrize("index", [0, 700])
def test_entropy_sgd(index: int) -> None:
    p = Problem()
    walk, mean = dict(p.theta), dict(p.theta)
    speed = {n: np.zeros_like(w) for n, w in p.theta.items()}
    gamma, first = 0.01 * 1.001**index, p.network.task(p.theta)[0]
    for _ in range(10):
        g = p.network.task(walk)[1]
        for n in NAMES:
            speed[n] = 0.9 * speed[n] + g[n]
            drift = g[n] + 0.9 * speed[n] - gamma * (p.theta[n] - walk[n]) + 0.01 / math.sqrt(0.05) * p.normal(n)
            walk[n] = walk[n] - 0.1 * drift
            mean[n] = 0.75 * mean[n] + 0.25 * walk[n]
    expected = p.descended({n: p.theta[n] - mean[n] for n in NAMES})
    p.check("entropy-sgd", {"noise": 0.01}, expected, first, index=index)


def test_l1() -> None:
    p = Problem()
    loss, g = p.network.task(p.theta)
    chosen = p.theta["dense2.weight"]
    g["dense2.weight"] += 0.3 * np.sign(chosen) / 5  # 5 columns
    p.check("l1", {"strength": 0.3, "include": "dense2*"}, p.descended(g), loss + 0.3 * float(np.abs(chosen).sum()) / 5)


def worst_loss(x: np.ndarray, y: np.ndarray, w: Arrays, epsilon: float) -> float:
    """Cross entropy of the worst margins, interval by interval, for a network whose inputs are known."""
    w1, b1, w2, b2 = (w[n] for n in NAMES)
    centre = x @ w1.T + b1
    radius = epsilon * (np.abs(x) @ np.abs(w1).T + np.abs(b1))
    low, high = np.maximum(centre - radius, 0), np.maximum(centre + radius, 0)
    losses = []
    for n, label in enumerate(y):
        margins = []
        for k in range(len(b2)):
            d, s = w2[label] - w2[k], epsilon * (np.abs(w2[label]) + np.abs(w2[k]))
            least = np.minimum((d - s) * low[n], (d - s) * high[n]).sum()
            margins.append(least + b2[label] - b2[k] - epsilon * (abs(b2[label]) + abs(b2[k])))
        margins[label] = 0.0
        losses.append(np.log(np.exp(-np.array(margins)).sum()))
    return float(np.mean(losses))


def differences(function: Callable[[Arrays], float], at: Arrays, step: float = 1e-6) -> Arrays:
    """Gradient by central differences."""
    found = {n: np.zeros_like(w) for n, w in at.items()}
    for n, w in at.items():
        for place in np.ndindex(w.shape):
            ends = []
            for sign in (1, -1):
                moved = {**at, n: w.copy()}
                moved[n][place] += sign * step
                ends.append(function(moved))
            found[n][place] = (ends[0] - ends[1]) / (2 * step)
    return found


def grown(growth: str, risen: float) -> float:
    """Size of a box that grows from 1e-3 to 0.3."""
    return 1e-3 * 300**risen if growth == "geometric" else 1e-3 + (0.3 - 1e-3) * risen


@pytest.mark.parametrize("growth", ["geometric", "linear"])
@pytest.mark.parametrize("ramp", [0.8, 0.2])
def test_ibp(ramp: float, growth: str) -> None:
    """The step is at half of the training: on the ramp, or behind it."""
    p = Problem()
    risen = min((0.5 - 0.1) / ramp, 1.0)
    epsilon, share = grown(growth, risen), 0.7 * risen
    loss, g = p.network.task(p.theta)

    def worst(w: Arrays) -> float:
        return worst_loss(p.network.x, p.network.y, w, epsilon)

    by_worst = differences(worst, p.theta)
    total = {n: (1 - share) * g[n] + share * by_worst[n] for n in NAMES}
    settings = {"epsilon": 0.3, "start": 1e-3, "kappa": 0.7, "warmup": 0.1, "ramp": ramp, "growth": growth}
    p.check("ibp", settings, p.descended(total), (1 - share) * loss + share * worst(p.theta))


@pytest.mark.parametrize("name", ["ibp", "small-boxes"])
def test_ibp_waits_for_its_warmup(name: str) -> None:
    p = Problem()
    loss, g = p.network.task(p.theta)
    p.check(name, {"warmup": 0.6, "ramp": 0.2}, p.descended(g), loss)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("share", [0.4, 0.0])
def test_small_boxes(share: float, steps: int) -> None:
    """Around attacked weights, as far out as their box still lies in the whole one; δ constant in the gradient."""
    p = Problem()
    epsilon, part = grown("linear", 0.5), 0.7 * 0.5
    size = epsilon * (1 - share) / (1 + share * epsilon)
    assert size + share * epsilon * (1 + size) == pytest.approx(epsilon)
    loss, g = p.network.task(p.theta)
    delta = {n: np.zeros_like(w) for n, w in p.theta.items()}

    def attacked(w: Arrays) -> Arrays:
        return {n: w[n] + np.abs(w[n]) * delta[n] for n in NAMES}

    for _ in range(steps):
        uphill = p.network.task(attacked(p.theta))[1]
        delta = {n: np.clip(delta[n] + size / steps * np.sign(uphill[n]), -size, size) for n in NAMES}

    def worst(w: Arrays) -> float:
        return worst_loss(p.network.x, p.network.y, attacked(w), share * epsilon)

    by_worst = differences(worst, p.theta)
    total = {n: (1 - part) * g[n] + part * by_worst[n] for n in NAMES}
    settings = {"epsilon": 0.3, "start": 1e-3, "kappa": 0.7, "warmup": 0.1, "ramp": 0.8, "share": share, "steps": steps}
    p.check("small-boxes", settings, p.descended(total), (1 - part) * loss + part * worst(p.theta))


@pytest.mark.parametrize("name", ["ibp", "small-boxes"])
def test_with_noise_the_box_adds_the_gap_that_it_opens(name: str) -> None:
    """CE at noisy weights + κ (worst case − clean loss): the two clean losses do not cancel then."""
    p = Problem()
    noisy = {n: w + 0.3 * np.abs(w) * p.normal(n) for n, w in p.theta.items()}
    outer, by_noisy = p.network.task(noisy)
    clean, by_clean = p.network.task(p.theta)
    size = 0.3 * 0.6 / (1 + 0.3 * 0.4) if name == "small-boxes" else 0.0
    sign = {n: np.sign(by_clean[n]) for n in NAMES}

    def worst(w: Arrays) -> float:
        at = {n: w[n] + np.abs(w[n]) * size * sign[n] for n in NAMES}
        return worst_loss(p.network.x, p.network.y, at, 0.3 * 0.4 if name == "small-boxes" else 0.3)

    by_worst = differences(worst, p.theta)
    total = {n: by_noisy[n] + 0.7 * (by_worst[n] - by_clean[n]) for n in NAMES}
    settings = {"epsilon": 0.3, "kappa": 0.7, "warmup": 0.1, "ramp": 0.2, "noise": 0.3}
    settings |= {"share": 0.4} if name == "small-boxes" else {}
    loss = outer + 0.7 * (worst(p.theta) - clean)
    p.check(f"forward-noise+{name}", settings, p.descended(total), loss)


def test_a_small_box_that_is_the_whole_one_is_ibp() -> None:
    stepped = []
    for name, more in (("ibp", {"growth": "linear"}), ("small-boxes", {"share": 1.0})):
        p = Problem()
        settings = {"epsilon": 0.3, "start": 1e-3, "kappa": 0.7, "warmup": 0.1, "ramp": 0.5, **more}
        leaves = dict(p.model.named_parameters())
        run_step(method(name, settings), Step(p.model, p.x, p.y, leaves, torch.Generator(), 0.5))
        stepped.append([leaves[n].grad for n in NAMES])
    assert all(torch.equal(a, b) for a, b in zip(*stepped, strict=True))


@pytest.mark.parametrize("progress", [0.3, 0.9])
def test_counts(progress: float) -> None:
    """By the readout's weights; those behind the spikes have no derivative to compare with, only a surrogate."""
    torch.manual_seed(3)
    model = LSNN(3, 6, 4).double()
    x, y = 2 * torch.randn(5, 12, 3, dtype=torch.float64), np.arange(5) % 4
    counts, steps = model.outputs(x).sum(1).detach().numpy(), 12
    theta = {n: getattr(model, n).detach().numpy().copy() for n in ("W_out", "b_out")}
    risen = min(progress / 0.6, 1)
    width, epsilon, share = 1.5 * risen, 0.2 * risen, 0.7 * risen

    def total(w: Arrays) -> float:
        losses = []
        for n, label in enumerate(y):
            logits, margins = counts[n] @ w["W_out"] / steps + w["b_out"], np.zeros(4)
            for k in set(range(4)) - {int(label)}:
                margins[k] = w["b_out"][label] - w["b_out"][k]
                margins[k] -= epsilon * (abs(w["b_out"][label]) + abs(w["b_out"][k]))
                for c, a, b in zip(counts[n], w["W_out"][:, label] / steps, w["W_out"][:, k] / steps, strict=True):
                    ends = (max(c - width, 0), c + width)
                    margins[k] += min((a - b - epsilon * (abs(a) + abs(b))) * end for end in ends)
            own = np.log(np.exp(logits).sum()) - logits[label]
            losses.append((1 - share) * own + share * np.log(np.exp(-margins).sum()))
        return float(np.mean(losses))

    gradient = differences(total, theta)
    chosen = method("counts", {"width": 1.5, "epsilon": 0.2, "kappa": 0.7, "ramp": 0.6})
    leaves = dict(model.named_parameters())
    loss = run_step(chosen, Step(model, x, torch.as_tensor(y), leaves, torch.Generator(), progress))
    assert float(loss) == pytest.approx(total(theta), abs=1e-9)
    for name, expected in gradient.items():
        np.testing.assert_allclose(leaves[name].grad.numpy(), expected, err_msg=name, **TOLERANCE)
    assert model.W_in.grad.abs().max() > 0


def test_no_method_is_without_a_reference() -> None:
    known = {"l1", "ibp", "small-boxes", "counts", "yield"}  # the last one's: test_yield_loss.py
    known |= {"standard", "forward-noise", "dropout", "quantised", "weight-attack", "awp", "amp", "abcd", "entropy-sgd"}
    assert set(METHODS) == known | {"sam", "asam", "samson"}


@pytest.mark.parametrize("sigma", [1e-3, 0.2])
def test_weight_attack_gradient_is_autograd_through_the_unrolled_attack(sigma: float) -> None:
    """Every θ*_i kept as a function of θ, signs constant, the box a pair of functions of θ: the diagonal Jacobian."""
    p = Problem()
    zeta, steps, beta = 0.1, 6, 0.7
    theta = {n: torch.tensor(w, requires_grad=True) for n, w in p.theta.items()}

    def logits(w: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(p.model, w, (p.x,))

    def divergence(a: Tensor, b: Tensor) -> Tensor:
        p, q = torch.softmax(a, 1), torch.softmax(b, 1)
        return (p * (p / q).log()).sum(1).mean()

    def boxed(n: str, star: Tensor) -> Tensor:
        reach = zeta * theta[n].abs()
        return torch.minimum(torch.maximum(star, theta[n] - reach), theta[n] + reach)

    clean = logits(theta)
    star = {n: boxed(n, t + t.abs() * sigma * torch.from_numpy(p.normal(n))) for n, t in theta.items()}
    for _ in range(steps):
        at = {n: t.detach().requires_grad_() for n, t in star.items()}
        signs = torch.autograd.grad(divergence(clean.detach(), logits(at)), list(at.values()))
        star = {
            n: boxed(n, star[n] + zeta / steps * t.abs() * sign.sign())
            for (n, t), sign in zip(theta.items(), signs, strict=True)
        }
    total = torch.nn.functional.cross_entropy(clean, p.y) + beta * divergence(clean, logits(star))
    expected = torch.autograd.grad(total, list(theta.values()))
    step = Step(p.model, p.x, p.y, dict(p.model.named_parameters()), torch.Generator().manual_seed(SEED), progress=0.0)
    run_step(method("weight-attack", {"beta_rob": beta, "zeta": zeta, "steps": steps, "sigma": sigma}), step)
    for parameter, gradient in zip(p.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-5)
