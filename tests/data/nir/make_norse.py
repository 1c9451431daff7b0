"""Fixtures of Norse 1.1.0 (torch 2.13.0, nir 1.0.8, nirtorch 2.6): ``python make_norse.py`` beside fixture.py.

Install: ``pip install torch==2.13.0 nir==1.0.8 nirtorch==2.6 scikit-learn``, ``pip install --no-deps norse==1.1.0``.

Norse 1.1.0 writes no file of its recurrent cell (``LIFRecurrentCell``): that graph is put together here, its neurons as
Norse writes those of ``LIFCell``.
"""

from __future__ import annotations

import itertools
from importlib.metadata import version

import nir
import norse.torch as norse
import torch
from fixture import digits, scaled, store, train
from norse.torch.functional.iaf import IAFParameters
from norse.torch.functional.leaky_integrator_box import LIBoxParameters
from norse.torch.functional.lif import LIFParameters
from norse.torch.functional.lif_box import LIFBoxParameters
from norse.torch.functional.reset import reset_subtract
from norse.torch.module.iaf import IAFCell
from norse.torch.module.leaky_integrator_box import LIBoxCell
from norse.torch.utils.export_nir import _extract_norse_module, to_nir
from torch import nn

FRAMEWORK = f"Norse {version('norse')}"
STEPS = 24


def run_of(net: norse.SequentialState):
    def run(x: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, list[torch.Tensor]] = {}
        states: dict[str, object] = {}
        for value in x.unbind(1):
            for name, layer in net.named_children():
                if isinstance(layer, nn.Linear):
                    value = layer(value)
                else:
                    value, states[name] = layer(value, states.get(name))
                    found.setdefault(name, []).append(value)
        return {name: torch.stack(taken, 1) for name, taken in found.items()}

    return run


def box(units: int, inverse: float = 100.0, leak: float = 0.0, **how) -> norse.LIFBoxCell:
    """Cells whose time constants and thresholds differ from neuron to neuron."""
    return norse.LIFBoxCell(
        LIFBoxParameters(
            tau_mem_inv=torch.linspace(0.7, 1.3, units) * inverse,
            v_leak=torch.full((units,), leak),
            v_th=torch.linspace(0.3, 0.5, units),
            v_reset=torch.zeros(units),
            **how,
        )
    )


def of_current(units: int) -> LIFParameters:
    return LIFParameters(
        tau_syn_inv=torch.full((units,), 200.0),
        tau_mem_inv=torch.linspace(100.0, 180.0, units),
        v_leak=torch.full((units,), 0.05),
        v_th=torch.full((units,), 0.4),
        v_reset=torch.zeros(units),
    )


def of_one_value() -> LIFParameters:
    """One number for all neurons, as the recurrent cell wants them."""
    values = {"tau_syn_inv": 250.0, "tau_mem_inv": 140.0, "v_leak": 0.05, "v_th": 0.4, "v_reset": 0.0}
    return LIFParameters(**{name: torch.tensor(value) for name, value in values.items()})


def recurrent_graph(net: norse.SequentialState) -> nir.NIRGraph:
    """Input, recurrent cells as a subgraph with their weights, and what Norse writes of the rest."""
    cell, last, out = net
    of_cell = _extract_norse_module(norse.LIFCell(cell.p))
    units = cell.hidden_size
    inner = nir.NIRGraph(
        nodes={
            "input": nir.Input([units]),
            "lif": of_cell,
            "w_rec": nir.Linear(cell.recurrent_weights.detach().numpy()),
            "output": nir.Output([units]),
        },
        edges=[("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
        type_check=False,
    )
    nodes = {
        "input": nir.Input([64]),
        "fc": nir.Linear(cell.input_weights.detach().numpy()),
        "rnn": inner,
        "last": _extract_norse_module(last),
        "out": _extract_norse_module(out),
        "output": nir.Output([10]),
    }
    chain = ["input", "fc", "rnn", "last", "out", "output"]
    return nir.NIRGraph(nodes, list(itertools.pairwise(chain)), type_check=False)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = digits()

    def make(name: str, dynamics: str, *layers: nn.Module, epochs: int = 0, scale: float = 10.0) -> None:
        print(name)
        net = norse.SequentialState(*layers)
        run = run_of(net)
        if epochs:
            weights = [p for m in net if isinstance(m, nn.Linear) for p in m.parameters()]
            train(run, weights, x, y, STEPS, epochs, scale)
        store(name, dynamics, FRAMEWORK, to_nir(net, torch.rand(64)), run, x, y, STEPS)

    def last(factor: float = 1.0) -> nn.Linear:
        return scaled(nn.Linear(24, 10), factor)

    readout = LIBoxCell(LIBoxParameters(tau_mem_inv=torch.full((10,), 90.0), v_leak=torch.full((10,), 0.1)))
    make("norse_box_leaky", "norse", nn.Linear(64, 24), box(24), last(), readout, epochs=10)
    make("norse_box_leak", "norse", scaled(nn.Linear(64, 24), 6), box(24, leak=0.1), last(8), box(10, 400.0))
    make(
        "norse_box_subtract",
        "norse-subtract",
        scaled(nn.Linear(64, 24), 6),
        box(24, reset_method=reset_subtract),
        last(8),
        box(10, 400.0, reset_method=reset_subtract),
    )
    make(
        "norse_lif",
        "norse",
        nn.Linear(64, 24),
        norse.LIFCell(of_current(24)),
        last(),
        norse.LIFCell(of_current(10)),
        epochs=10,
    )
    make(
        "norse_iaf",
        "norse",
        scaled(nn.Linear(64, 24), 3),
        IAFCell(IAFParameters(v_th=torch.ones(24), v_reset=torch.zeros(24))),
        last(3),
        IAFCell(IAFParameters(v_th=torch.ones(10), v_reset=torch.zeros(10))),
    )

    print("norse_recurrent")
    cell = norse.LIFRecurrentCell(64, 24, of_one_value(), autapses=True)
    net = norse.SequentialState(cell, last(3), norse.LIFCell(of_current(10)))
    run = run_of(net)

    def named(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(("rnn.lif", "out"), run(x).values(), strict=True))

    with torch.no_grad():
        cell.input_weights.normal_(0, 0.3)
        cell.recurrent_weights.normal_(0, 0.15)
    store("norse_recurrent", "norse", FRAMEWORK, recurrent_graph(net), named, x, y, STEPS)


if __name__ == "__main__":
    main()
