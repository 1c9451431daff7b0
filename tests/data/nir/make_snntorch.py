"""Fixtures of snnTorch 1.0.0 (torch 2.13.0, nir 1.0.8, nirtorch 2.6): ``python make_snntorch.py`` beside fixture.py.

Install: ``pip install torch==2.13.0 nir==1.0.8 nirtorch==2.6 scikit-learn``, ``pip install --no-deps snntorch==1.0.0``.
"""

from __future__ import annotations

import nir
import snntorch as snn
import torch
from fixture import digits, store, train
from snntorch.export_nir import export_to_nir
from torch import nn

FRAMEWORK = f"snnTorch {snn.__version__}"
STEPS = 16
NEURONS = (snn.Leaky, snn.Synaptic, snn.RLeaky, snn.RSynaptic)


def run_of(net: nn.Sequential, shape: tuple[int, ...]):
    """Every layer's spikes, step by step, each state handed on as the tutorials do with ``init_hidden=True``."""

    def run(x: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in net:
            if isinstance(layer, NEURONS):
                layer.reset_mem()
        found: dict[str, list[torch.Tensor]] = {}
        for x_t in x.unbind(1):
            value = x_t.unflatten(1, shape)
            for name, layer in net.named_children():
                value = layer(value)
                if isinstance(layer, NEURONS):
                    node = f"{name}.lif" if isinstance(layer, snn.RLeaky | snn.RSynaptic) else name
                    found.setdefault(node, []).append(value)
        return {name: torch.stack(taken, 1) for name, taken in found.items()}

    return run


def export(net: nn.Sequential, shape: tuple[int, ...]) -> nir.NIRGraph:
    for layer in net:
        if isinstance(layer, NEURONS):
            layer.reset_mem()
    if len(shape) > 1:  # Flatten needs a batch
        return export_to_nir(net, torch.rand(1, *shape), ignore_dims=[0])
    return export_to_nir(net, torch.rand(shape))


def leaky(*shape: int, beta: float = 0.9, **how) -> snn.Leaky:
    return snn.Leaky(torch.full(shape, beta), threshold=torch.ones(shape), init_hidden=True, **how)


def synaptic(n: int, **how) -> snn.Synaptic:
    decays = torch.full((n,), 0.7), torch.full((n,), 0.85)
    return snn.Synaptic(*decays, threshold=torch.ones(n), init_hidden=True, **how)


def dense(one: nn.Module, other: nn.Module, units: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, units), one, nn.Linear(units, 10), other)


def louder(net: nn.Sequential, factor: float) -> nn.Sequential:
    """Random weights, large enough for spikes to be many."""
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(factor)
    return net


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = digits()

    def make(name: str, dynamics: str, net: nn.Sequential, shape: tuple[int, ...] = (64,), epochs: int = 0) -> None:
        print(name)
        run = run_of(net, shape)
        if epochs:
            train(run, net.parameters(), x, y, STEPS, epochs)
        store(name, dynamics, FRAMEWORK, export(net, shape), run, x, y, STEPS)

    learnt = {"learn_beta": True, "learn_threshold": True}
    make("snntorch_leaky", "snntorch", dense(leaky(32, **learnt), leaky(10, beta=0.8), 32), epochs=15)
    zero = {"reset_mechanism": "zero"}
    make("snntorch_leaky_zero", "snntorch-zero", dense(leaky(24, **zero), leaky(10, **zero), 24), epochs=10)
    at_once = {"reset_delay": False}
    make(
        "snntorch_leaky_undelayed",
        "snntorch-undelayed",
        louder(dense(leaky(24, **at_once), leaky(10, **at_once), 24), 4),
    )
    both = {**zero, **at_once}
    make("snntorch_leaky_zero_at_once", "snntorch-zero", louder(dense(leaky(24, **both), leaky(10, **both), 24), 4))
    make("snntorch_synaptic", "snntorch", dense(synaptic(24), synaptic(10), 24), epochs=10)
    make("snntorch_synaptic_zero", "snntorch-zero", louder(dense(synaptic(16, **zero), synaptic(10, **zero), 16), 2))
    make(
        "snntorch_synaptic_undelayed",
        "snntorch-undelayed",
        louder(dense(synaptic(16, **at_once), synaptic(10, **at_once), 16), 2),
    )
    recurrent = {"linear_features": 24, "init_hidden": True}
    make("snntorch_rleaky", "snntorch", dense(snn.RLeaky(0.9, **recurrent), leaky(10), 24), epochs=10)
    make(
        "snntorch_rleaky_zero",
        "snntorch-zero",
        louder(dense(snn.RLeaky(0.3, **recurrent, **zero), leaky(10, **zero), 24), 4),
    )
    make(
        "snntorch_rleaky_undelayed",
        "snntorch-undelayed",
        louder(dense(snn.RLeaky(0.45, **recurrent, **at_once), leaky(10, **at_once), 24), 4),
    )
    one_to_one = {"all_to_all": False, "V": torch.linspace(-1, 1, 24), "init_hidden": True}
    make("snntorch_rsynaptic", "snntorch", louder(dense(snn.RSynaptic(0.6, 0.8, **one_to_one), leaky(10), 24), 2))
    conv = nn.Sequential(
        nn.Conv2d(1, 4, 3), leaky(4, 6, 6), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 10), leaky(10)
    )
    make("snntorch_conv", "snntorch", conv, (1, 8, 8), epochs=8)


if __name__ == "__main__":
    main()
