"""Each method against its definition, the registry, and how methods combine."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax

from thetabox.errors import InputError
from thetabox.models import MLP
from thetabox.train import METHODS, hyper_parameters, method
from thetabox.train.methods import Combined, Method, Step, run_step
from thetabox.train.methods.forward_noise import ForwardNoise
from thetabox.train.methods.standard import Standard
from thetabox.train.methods.weight_attack import WeightAttack


def step_for(model: nn.Module, x: Tensor, y: Tensor, seed: int = 0) -> Step:
    return Step(model, x, y, dict(model.named_parameters()), torch.Generator().manual_seed(seed), 0.0)


def problem(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = MLP((3, 6, 4)).double()
    return model, torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 4


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    p = softmax(p_logits, 1)
    return (p * (log_softmax(p_logits, 1) - log_softmax(q_logits, 1))).sum(1).mean()


def forward(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    hidden = torch.relu(x @ weights["dense1.weight"].T + weights["dense1.bias"])
    return hidden @ weights["dense2.weight"].T + weights["dense2.bias"]


def test_standard_is_cross_entropy() -> None:
    model, x, y = problem()
    loss = run_step(Standard(), step_for(model, x, y))
    expected = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    torch.testing.assert_close(loss, cross_entropy(model(x), y).detach())
    for a, b in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_forward_noise_is_the_loss_at_disturbed_weights_with_a_straight_gradient() -> None:
    model, x, y = problem()
    loss = run_step(ForwardNoise(noise=0.2), step_for(model, x, y, seed=7))
    generator = torch.Generator().manual_seed(7)
    noisy = {
        name: (p + 0.2 * p.abs() * torch.randn(p.shape, generator=generator, dtype=p.dtype)).detach().requires_grad_()
        for name, p in model.named_parameters()
    }
    expected = cross_entropy(forward(noisy, x), y)
    torch.testing.assert_close(loss, expected.detach())
    for a, b in zip(gradients(model), torch.autograd.grad(expected, list(noisy.values())), strict=True):
        torch.testing.assert_close(a, b)


def test_weight_attack_is_algorithm_1() -> None:
    """Loss and gradient against the algorithm written out, the Jacobian as the diagonal that the paper gives."""
    model, x, y = problem()
    sigma, zeta, steps, beta = 1e-2, 0.1, 4, 0.7
    loss = run_step(WeightAttack(beta, zeta, steps, sigma), step_for(model, x, y, seed=7))
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(7)
    delta = {n: sigma * torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in theta.items()}
    clean = forward(theta, x)
    for _ in range(steps):
        star = {n: (p + p.abs() * delta[n]).detach().requires_grad_() for n, p in theta.items()}
        g = torch.autograd.grad(divergence(clean.detach(), forward(star, x)), list(star.values()))
        delta = {n: (delta[n] + zeta / steps * g_n.sign()).clamp(-zeta, zeta) for n, g_n in zip(theta, g, strict=True)}
    star = {n: (p + p.abs() * delta[n]).detach().requires_grad_() for n, p in theta.items()}
    total = cross_entropy(clean, y) + beta * divergence(clean, forward(star, x))
    torch.testing.assert_close(loss, total.detach())
    own = torch.autograd.grad(total, [*theta.values(), *star.values()])
    for i, (n, p) in enumerate(theta.items()):
        jacobian = 1 + p.detach().sign() * delta[n]
        torch.testing.assert_close(gradients(model)[i], own[i] + jacobian * own[i + len(theta)], msg=n)


@given(seed=st.integers(0, 100), zeta=st.floats(0, 0.5), sigma=st.floats(0, 1), steps=st.integers(1, 5))
def test_the_attack_never_leaves_its_box(seed: int, zeta: float, sigma: float, steps: int) -> None:
    model, x, y = problem(seed)
    step = step_for(model, x, y, seed)
    delta = WeightAttack(zeta=zeta, sigma=sigma, steps=steps).attack(step, log_softmax(model(x), 1).detach())
    assert all((d.abs() <= zeta).all() for d in delta.values())


def test_the_attack_does_damage() -> None:
    model, x, y = problem()
    step = step_for(model, x, y)
    clean = model(x).detach()

    def damage(delta: dict[str, Tensor]) -> float:
        attacked = {n: p.detach() + p.detach().abs() * delta[n] for n, p in step.theta.items()}
        return float(divergence(clean, forward(attacked, x)))

    attacked = damage(WeightAttack(zeta=0.1).attack(step, log_softmax(clean, 1)))
    signs = [{n: 0.1 * torch.randn_like(p).sign() for n, p in step.theta.items()} for _ in range(50)]
    assert attacked > max(damage(delta) for delta in signs)


def test_together_noise_goes_to_the_task_and_the_attack_starts_from_the_weights() -> None:
    model, x, y = problem()
    loss = run_step(method("weight-attack+forward-noise", {"noise": 0.2, "steps": 2}), step_for(model, x, y, seed=3))
    step = step_for(model, x, y, seed=3)
    noisy = ForwardNoise(noise=0.2).weights(step, step.theta)
    expected = cross_entropy(forward(noisy, x), y) + WeightAttack(steps=2).extra(step, None)
    torch.testing.assert_close(loss, expected.detach())


def test_nothing_leaks_into_the_model() -> None:
    model, x, y = problem()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run_step(method("weight-attack+forward-noise"), step_for(model, x, y))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_registry_documents_every_method() -> None:
    for name, kind in METHODS.items():
        assert kind.name == name
        assert kind.summary
        assert set(kind.meanings) == set(hyper_parameters(kind)), name
        assert all(default is not dataclasses.MISSING for default in hyper_parameters(kind).values())


def test_settings_are_parsed_into_their_types() -> None:
    chosen = method("weight-attack", {"steps": "3", "zeta": "1e-2", "beta_rob": 1})
    assert chosen == WeightAttack(beta_rob=1.0, zeta=0.01, steps=3)
    both = method("weight-attack + forward-noise", {"forward-noise.noise": "0.5", "weight-attack.steps": 2})
    assert isinstance(both, Combined)
    assert both.parts == (WeightAttack(steps=2), ForwardNoise(noise=0.5))


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("nope", {}, "unknown training method 'nope'"),
        ("", {}, "unknown training method"),
        ("standard+standard", {}, "twice"),
        ("standard", {"zeta": 1}, "has none"),
        ("weight-attack", {"noise": 1}, "it has beta_rob, zeta, steps, sigma"),
        ("weight-attack", {"steps": "2.5"}, "steps='2.5' is not a int"),
        ("weight-attack", {"steps": 0}, "steps=0 is out of range"),
        ("weight-attack", {"zeta": "nan"}, "zeta=nan is out of range"),
        ("weight-attack", {"zeta": [1]}, "not of type float"),
        ("forward-noise", {"noise": "inf"}, "out of range"),
        ("forward-noise", {"noise": -0.1}, "out of range"),
    ],
)
def test_bad_names_and_values(name: str, settings: dict, word: str) -> None:
    with pytest.raises(InputError, match=word):
        method(name, settings)


def test_two_backwards_cannot_be_combined(monkeypatch: pytest.MonkeyPatch) -> None:
    class One(Method):
        name = "one"

        def backward(self, step: Step, objective: object) -> Tensor:
            raise NotImplementedError

    class Two(One):
        name = "two"

    monkeypatch.setitem(METHODS, "one", One)
    monkeypatch.setitem(METHODS, "two", Two)
    with pytest.raises(InputError, match="one and two cannot be combined"):
        method("one+two")
    with pytest.raises(NotImplementedError):
        run_step(method("one+standard"), step_for(*problem()))
