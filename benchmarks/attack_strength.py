"""How low the attack gets beside plain projected gradient and random draws: the table of docs/results.md.

    python benchmarks/attack_strength.py

Three small networks trained here, 40 fixed test samples, samples still right at every ε: ``tb.attack`` (20 steps, 2
restarts), plain projected gradient on cross entropy with as many gradient steps (constant size, from the centre), and
the worst of 1000 uniform draws from the box for each sample. One seed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import thetabox as tb
from thetabox.train.recipes import recipe

SAMPLES = 40
STEPS, RESTARTS = 20, 2
NETWORKS: dict[str, tuple[str, int, list[float]]] = {
    "CNN, digits": ("digits", 6, [0.005, 0.01, 0.02, 0.04, 0.08, 0.15]),
    "LSNN, vowels": ("vowels", 6, [0.001, 0.005, 0.01, 0.02, 0.04, 0.08]),
}


def plain_gradient(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """Samples right after ``STEPS · RESTARTS`` sign steps of a quarter of the box, each with weights of its own."""
    theta = {name: p.detach().double() for name, p in model.named_parameters()}
    exact = model.double()
    x = x.double()

    def weights(delta: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: theta[name] + epsilon * theta[name].abs() * delta[name] for name in theta}

    def loss(delta: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        answer = functional_call(exact, weights(delta), (one[None],))
        return nn.functional.cross_entropy(answer, label[None])

    def right(delta: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        return functional_call(exact, weights(delta), (one[None],))[0].argmax() == label

    delta = {name: torch.zeros(len(x), *value.shape, dtype=torch.float64) for name, value in theta.items()}
    alive = torch.ones(len(x), dtype=torch.bool)
    for _ in range(STEPS * RESTARTS + 1):
        with torch.no_grad():
            alive &= vmap(right)(delta, x, y)
        slope = vmap(grad(loss))(delta, x, y)
        delta = {name: (d + 0.25 * slope[name].sign()).clamp(-1, 1) for name, d in delta.items()}
    return alive


def main() -> None:
    torch.set_num_threads(1)
    print("| network | ε | " + " | ".join(["attack", "plain gradient", "1000 uniform draws"]) + " |")
    print("| --- | --- | --- | --- | --- |")
    for name, (task, epochs, sweep) in NETWORKS.items():
        train, validation, test = (tb.data.load(task, split) for split in ("train", "validation", "test"))
        how = recipe(task)
        model = how.model(0)
        options = how.options() | {"epochs": epochs}
        tb.train.fit(model, train, validation, threads=1, progress=False, **options)
        fixed = test.subset(SAMPLES)
        ours = tb.attack(model, fixed.x, fixed.y, sweep, steps=STEPS, restarts=RESTARTS).correct.sum(1)
        chance = tb.measure.random_attack(model, fixed.x, fixed.y, sweep, draws=1000).correct.sum(1)
        for place, epsilon in enumerate(sweep):
            plain = plain_gradient(model.eval(), fixed.x, fixed.y, epsilon).sum()
            model.float()
            print(f"| {name} | {epsilon:g} | {ours[place]} | {plain} | {chance[place]} |", flush=True)


if __name__ == "__main__":
    main()
