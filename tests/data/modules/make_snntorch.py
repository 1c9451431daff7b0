"""Modules of snnTorch 1.0.0 in a loop as its tutorials write it, exported by torch 2.13.0: ``python make_snntorch.py``.

Install: ``pip install torch==2.13.0 numpy``, ``pip install --no-deps snntorch==1.0.0``. Of each network there is
``NAME.pt2`` and ``NAME.npz`` with inputs ``x`` [samples, steps, inputs] and snnTorch's own spikes ``z`` of the last
layer; the tests need no snnTorch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import snntorch as snn
import torch
from torch import nn

HERE = Path(__file__).parent
INPUTS, HIDDEN, CLASSES, STEPS, SAMPLES = 6, 12, 3, 5, 20


class Loop(nn.Module):
    """Two layers; the answer is the number of spikes of the last."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(INPUTS, HIDDEN), first
        self.fc2, self.lif2 = nn.Linear(HIDDEN, CLASSES), second

    def spikes(self, x: torch.Tensor) -> torch.Tensor:
        mem1, mem2, out = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in range(x.size(1)):
            spk1, mem1 = self.lif1(self.fc1(x[:, step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return torch.stack(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spikes(x).sum(0)


class Synaptic(Loop):
    """With synaptic currents."""

    def spikes(self, x: torch.Tensor) -> torch.Tensor:
        (syn1, mem1), (syn2, mem2), out = self.lif1.init_synaptic(), self.lif2.init_synaptic(), []
        for step in range(x.size(1)):
            spk1, syn1, mem1 = self.lif1(self.fc1(x[:, step]), syn1, mem1)
            spk2, syn2, mem2 = self.lif2(self.fc2(spk1), syn2, mem2)
            out.append(spk2)
        return torch.stack(out)


class Recurrent(Loop):
    """With a recurrent first layer."""

    def spikes(self, x: torch.Tensor) -> torch.Tensor:
        (spk1, mem1), mem2, out = self.lif1.init_rleaky(), self.lif2.init_leaky(), []
        for step in range(x.size(1)):
            spk1, mem1 = self.lif1(self.fc1(x[:, step]), spk1, mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return torch.stack(out)


def numbered(cell: snn.SpikingNeuron) -> snn.SpikingNeuron:
    """With a number in place of the buffer that an undelayed reset branches on, which torch.export does not follow."""
    how = int(cell._buffers.pop("reset_mechanism_val"))
    cell.reset_mechanism_val = how
    return cell


def main() -> None:
    torch.manual_seed(0)
    leaky, zero = ([snn.Leaky(beta=b, reset_mechanism=how) for b in (0.9, 0.8)] for how in ("subtract", "zero"))
    networks = {
        "snntorch_leaky": Loop(*leaky),
        "snntorch_leaky_zero": Loop(*zero),
        "snntorch_synaptic": Synaptic(snn.Synaptic(alpha=0.8, beta=0.9), snn.Synaptic(alpha=0.7, beta=0.8)),
        "snntorch_rleaky": Recurrent(snn.RLeaky(beta=0.9, linear_features=HIDDEN), snn.Leaky(beta=0.8)),
    }
    x = 4 * torch.randn(SAMPLES, STEPS, INPUTS)
    networks |= {
        "snntorch_leaky_undelayed": Loop(*(numbered(snn.Leaky(beta=b, reset_delay=False)) for b in (0.9, 0.8))),
        "snntorch_synaptic_zero": Synaptic(
            snn.Synaptic(alpha=0.8, beta=0.9, reset_mechanism="zero"),
            snn.Synaptic(alpha=0.7, beta=0.8, reset_mechanism="zero"),
        ),
        "snntorch_rleaky_zero": Recurrent(
            snn.RLeaky(beta=0.9, linear_features=HIDDEN, reset_mechanism="zero"),
            snn.Leaky(beta=0.8, reset_mechanism="zero"),
        ),
    }
    for name, network in networks.items():
        network.eval()
        with torch.no_grad():
            dynamic = ({0: torch.export.Dim("samples", min=1)},)
            program = torch.export.export(network, (x,), dynamic_shapes=dynamic, strict=False)
            z = network.spikes(x).transpose(0, 1)  # after the export: a run leaves its batch size in the buffers
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # where this file lay
        torch.export.save(program, HERE / f"{name}.pt2")
        np.savez_compressed(HERE / f"{name}.npz", x=x.numpy(), z=z.numpy().astype(np.uint8))


if __name__ == "__main__":
    main()
