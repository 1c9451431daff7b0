"""Fixtures of SpikingJelly 2.0.0 (torch 2.13.0, nir 1.0.8, nirtorch 2.6): ``python make_spikingjelly.py``.

Install: ``pip install torch==2.13.0 nir==1.0.8 nirtorch==2.6 scikit-learn tqdm matplotlib loguru requests``,
``pip install --no-deps spikingjelly==2.0.0``.
"""

from __future__ import annotations

from importlib.metadata import version

import torch
from fixture import digits, rate_coded, scaled, store, train
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.nir_exchange import export_to_nir
from torch import nn

FRAMEWORK = f"SpikingJelly {version('spikingjelly')}"
STEPS = 16


def run_of(net: nn.Sequential, shape: tuple[int, ...]):
    def run(x: torch.Tensor) -> dict[str, torch.Tensor]:
        functional.reset_net(net)
        found: dict[str, list[torch.Tensor]] = {}
        for x_t in x.unbind(1):
            value = x_t.unflatten(1, shape)
            for name, module in net.named_children():
                value = module(value)
                if isinstance(module, neuron.BaseNode):
                    found.setdefault(f"_{name}", []).append(value)  # as nirtorch names it in the file
        return {name: torch.stack(taken, 1) for name, taken in found.items()}

    return run


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = digits()

    def make(
        name: str, *layers: nn.Module, shape: tuple[int, ...] = (64,), epochs: int = 0, rate: bool = False
    ) -> None:
        print(name)
        net = nn.Sequential(*layers)
        run, given = run_of(net, shape), rate_coded(x, STEPS) if rate else x
        if epochs:
            train(run, net.parameters(), given, y, STEPS, epochs)
        functional.reset_net(net)
        graph = export_to_nir(net, torch.rand(1, *shape))
        functional.reset_net(net)
        store(name, "spikingjelly", FRAMEWORK, graph, run, given, y, STEPS)

    def lif(**how) -> neuron.LIFNode:
        return neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True, **how)

    make("spikingjelly_leaky", layer.Linear(64, 24), lif(), layer.Linear(24, 10), lif(), epochs=10, rate=True)
    undecayed = {"decay_input": False, "tau": 3.3, "v_reset": -0.1, "v_threshold": 1.1}
    make(
        "spikingjelly_undecayed",
        scaled(layer.Linear(64, 24), 3),
        lif(**undecayed),
        scaled(layer.Linear(24, 10), 3),
        lif(**undecayed),
    )
    decayed = {"tau": 1.7, "v_reset": 0.2, "v_threshold": 0.9}
    make(
        "spikingjelly_decayed",
        scaled(layer.Linear(64, 24), 6),
        lif(**decayed),
        scaled(layer.Linear(24, 10), 6),
        neuron.ParametricLIFNode(init_tau=2.6, v_reset=0.0),
    )
    # Weights that are whole eighths: potentials reach the threshold exactly, and then fire.
    whole = scaled(layer.Linear(64, 24, bias=False), 8)
    with torch.no_grad():
        whole.weight.copy_((whole.weight * 4).round() / 4)
    make(
        "spikingjelly_if",
        whole,
        neuron.IFNode(),
        scaled(layer.Linear(24, 10), 4),
        neuron.IFNode(v_reset=-0.25),
        rate=True,
    )
    make(
        "spikingjelly_cuba",
        scaled(layer.Linear(64, 24), 2),
        neuron.CUBALIFNode(c_decay=0.6, v_decay=0.75),
        scaled(layer.Linear(24, 10), 2),
        neuron.CUBALIFNode(c_decay=0.3, v_decay=0.9, v_reset=-0.1),
    )
    make(
        "spikingjelly_conv",
        layer.Conv2d(1, 4, 3, padding=1, stride=1),
        lif(),
        layer.AvgPool2d(2, 2),
        layer.Flatten(),
        layer.Linear(64, 10),
        lif(),
        shape=(1, 8, 8),
        epochs=6,
    )


if __name__ == "__main__":
    main()
