"""The attack against plain projected gradient with as many steps and against 1000 uniform draws: trained networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from thetabox import data
from thetabox.box import Box
from thetabox.measure import attack, random_attack
from thetabox.models import LSNN, MLP, ConvNet

CASES = {"mlp": (0.01, 0.05), "cnn": (0.005, 0.03), "lsnn": (0.005, 0.06)}
SAMPLES = 20


def trained(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    task = "vowels" if name == "lsnn" else "digits"
    train, test = data.load(task, "train"), data.load(task, "test").subset(SAMPLES)
    x, held_out = train.x, test.x
    if name == "mlp":
        model: nn.Module = MLP((64, 16, 10))
        x, held_out = x.flatten(1), held_out.flatten(1)
    elif name == "cnn":
        model = ConvNet(input=(1, 8, 8), channels=(4, 8), kernel=3, hidden=(16,))
    else:
        model = LSNN(x.shape[2], 16, 9)
        x, held_out = x[:, ::4], held_out[:, ::4]
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(12):
        for rows in torch.randperm(len(x)).split(128):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), train.y[rows]).backward()
            optimiser.step()
    return model.eval().requires_grad_(False), held_out, test.y


def plain_gradient(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, steps: int, loss: str) -> Tensor:
    """Right under every weight on the way: sign steps of ε/steps from near the centre, in float64."""
    model = model.double()
    theta = {n: p.detach() for n, p in model.named_parameters()}

    def harm(delta: dict[str, Tensor], one: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        moved = {n: theta[n] + epsilon * theta[n].abs() * delta[n] for n in theta}
        logits = functional_call(model, moved, (one[None],))[0]
        if loss == "cross-entropy":
            return nn.functional.cross_entropy(logits[None], label[None]), logits
        right = torch.arange(len(logits)) == label
        return torch.where(right, -torch.inf, logits).amax() - torch.where(right, logits, 0).sum(), logits

    generator = torch.Generator().manual_seed(0)
    delta = {n: 1e-3 * torch.randn(len(x), *t.shape, generator=generator, dtype=t.dtype) for n, t in theta.items()}
    correct = torch.ones(len(x), dtype=torch.bool)
    for step in range(steps + 1):
        slope, logits = vmap(grad(harm, has_aux=True))(delta, x.double(), y)
        correct &= logits.argmax(1) == y
        if step < steps:
            delta = {n: (delta[n] + slope[n].sign() / steps).clamp(-1, 1) for n in delta}
    model.float()
    return correct


@pytest.mark.thin(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_no_weaker_than_plain_gradient_or_chance(name: str) -> None:
    model, x, y = trained(name)
    found = attack(model, x, y, CASES[name], steps=15, restarts=2)
    assert found.clean_accuracy > 0.5
    chance = random_attack(model, x, y, CASES[name], draws=1000)
    assert (found.accuracy <= chance.accuracy).all()
    for e, epsilon in enumerate(CASES[name]):
        for loss in ("cross-entropy", "margin"):
            plain = plain_gradient(model, x, y, epsilon, 30, loss)
            assert int(found.correct[e].sum()) <= int(plain.sum()), (epsilon, loss)
    assert found.accuracy[-1] < found.clean_accuracy - 0.15


def test_a_run_for_another_class_finds_what_the_closest_one_hides() -> None:
    """Classes 0 and 1 are fixed, 0.1 apart, and hide class 2, which overtakes both only far along its own gradient."""
    model = nn.Sequential(nn.Linear(2, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 4.0]]))
        model[0].bias.copy_(torch.tensor([2.0, 1.9, 0.0]))
    x, y = torch.tensor([[1.0, 0.4]]).expand(12, 2), torch.zeros(12, dtype=torch.long)
    found = attack(model, x, y, 0.3, give_up=False, restarts=2, box=Box(include="0.weight"))
    # At the vertex class 2 has 4 · 1.3 · 0.4 = 2.08.
    assert (found.margin < 0).all()
    assert float(found.margin.min()) >= -0.08 - 1e-6
