"""Fixtures of sinabs 3.1.3 (torch 2.13.0, nir 1.0.8, nirtorch 2.6): ``python make_sinabs.py`` beside fixture.py.

Install: ``pip install torch==2.13.0 nir==1.0.8 nirtorch==2.6 scikit-learn pbr matplotlib``,
``pip install --no-deps sinabs==3.1.3`` (samna, which it asks for, serves its hardware alone).
"""

from __future__ import annotations

from importlib.metadata import version

import sinabs.layers as sl
import torch
from fixture import digits, scaled, store, train
from sinabs.activation import SingleSpike
from sinabs.nir import to_nir
from torch import nn

FRAMEWORK = f"sinabs {version('sinabs')}"
STEPS = 16


def run_of(net: nn.Sequential, shape: tuple[int, ...]):
    """All steps of a layer before the next layer: batch and time are one dimension for weights."""

    def run(x: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        value = x.unflatten(2, shape)
        for name, layer in net.named_children():
            if isinstance(layer, sl.StatefulLayer):
                layer.reset_states()
                value = found[name] = layer(value)
            else:
                value = layer(value.flatten(0, 1)).unflatten(0, (len(x), -1))
        return found

    return run


def squeezed(net: nn.Sequential, shape: tuple[int, ...]) -> nn.Sequential:
    """The same network with layers that take batch and time in one dimension, as sinabs exports."""
    return nn.Sequential(
        *(
            {sl.LIF: sl.LIFSqueeze, sl.IAF: sl.IAFSqueeze, sl.ExpLeak: sl.ExpLeakSqueeze}[type(m)](
                batch_size=1, **m.arguments
            )
            if isinstance(m, sl.StatefulLayer)
            else m
            for m in net
        )
    )


def neurons(kind: type, **arguments) -> nn.Module:
    made = kind(**arguments)
    made.arguments = arguments
    return made


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = digits()

    def make(
        name: str,
        dynamics: str,
        *layers: nn.Module,
        shape: tuple[int, ...] = (64,),
        epochs: int = 0,
        scale: float = 10.0,
    ) -> None:
        print(name)
        net = nn.Sequential(*layers)
        run = run_of(net, shape)
        if epochs:
            weights = [p for m in net if isinstance(m, nn.Linear | nn.Conv2d) for p in m.parameters()]
            train(run, weights, x, y, STEPS, epochs, scale)
        with torch.no_grad():
            graph = to_nir(squeezed(net, shape), torch.rand(1, *shape))
            graph.infer_types()  # sinabs leaves the sizes of what a convolution takes open, which HDF5 cannot hold
        store(name, dynamics, FRAMEWORK, graph, run, x, y, STEPS)

    def lif(units: int, **how) -> nn.Module:
        constants = {"tau_mem": torch.linspace(5.0, 15.0, units), "spike_threshold": torch.full((units,), 0.25)}
        return neurons(sl.LIF, **constants, **how)

    make("sinabs_leaky", "sinabs", nn.Linear(64, 24), lif(24), nn.Linear(24, 10), lif(10), epochs=10, scale=4.0)
    make("sinabs_many", "sinabs", scaled(nn.Linear(64, 24), 20), lif(24), scaled(nn.Linear(24, 10), 4), lif(10))
    plain = {"norm_input": False}
    make("sinabs_unscaled", "sinabs-unscaled", nn.Linear(64, 24), lif(24, **plain), nn.Linear(24, 10), lif(10, **plain))
    single = {"spike_fn": SingleSpike}
    make(
        "sinabs_single",
        "sinabs-single",
        scaled(nn.Linear(64, 24), 8),
        lif(24, **single),
        scaled(nn.Linear(24, 10), 8),
        lif(10, **single),
    )
    iaf = neurons(sl.IAF, spike_threshold=torch.tensor(1.0))
    readout = neurons(sl.ExpLeak, tau_mem=torch.linspace(5.0, 9.0, 10))
    make(
        "sinabs_iaf",
        "sinabs",
        nn.Conv2d(1, 4, 3, bias=False),
        iaf,
        sl.SumPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 10),
        readout,
        shape=(1, 8, 8),
        epochs=6,
        scale=0.3,
    )


if __name__ == "__main__":
    main()
