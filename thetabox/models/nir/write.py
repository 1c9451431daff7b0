"""A network of leaky cells as a NIR file, where the format can express it."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.leaky import Leaky, LeakyCells
from thetabox.models.nir.frameworks.decays import DT

DYNAMICS = "snntorch"
"""By which a file of ours is read: reset by subtraction in the next step, H(0) = 0, from zero."""
SILENT = (0, 1)
"""Refractory counts that keep no cell silent."""


def nir_bytes(model: nn.Module) -> bytes:
    r"""The NIR file of a network that describes its leaky cells (:class:`~thetabox.models.LeakyCells`).

    The cells' gain 1 − α goes into the weights, so that they are snnTorch's Leaky with :math:`\beta = \alpha`:

    .. math::
        W = ((1-\alpha) W_{in})^T, \quad W_{rec} \text{ alike, its diagonal zero}, \quad
        \tau = dt/(1-\alpha), \quad r = \tau/dt, \quad dt = 10^{-4}

    These are other numbers than the network's own: a box around them is another box. The readout is a layer of weights
    behind the spikes, whose mean over time are the logits.

    Raises:
        InputError: the package ``nir`` is missing; no such network; thresholds that adapt, refractory steps, or a time
            step other than 1, which NIR does not express.
    """
    try:
        import nir
    except ImportError:
        raise InputError("writing NIR needs the package nir; pip install 'thetabox[nir]'") from None
    if not isinstance(model, Leaky):
        raise InputError(
            f"{type(model).__name__} does not describe leaky cells (leaky_cells), which a NIR file is made of"
        )
    described = model.leaky_cells()
    layers: Sequence[LeakyCells] = [described] if isinstance(described, LeakyCells) else list(described)
    held = {name: t.detach().cpu() for name, t in [*model.named_parameters(), *model.named_buffers()]}
    for cells in layers:
        _check(cells, held)
    units = held[layers[0].weight_in].shape[0]
    nodes: dict[str, Any] = {"input": nir.Input(_sizes(units))}
    circles: list[tuple[str, str]] = []
    for k, cells in enumerate(layers, 1):
        alpha = torch.exp(-cells.dt / held[cells.tau])
        nodes[f"fc{k}"] = nir.Linear(_weights(held[cells.weight_in], alpha))
        nodes[f"lif{k}"] = _cells(alpha, held[cells.threshold])
        if cells.weight_rec is not None:
            weight = held[cells.weight_rec]
            nodes[f"rec{k}"] = nir.Linear(_weights(weight - torch.diag(weight.diagonal()), alpha))
            circles += [(f"lif{k}", f"rec{k}"), (f"rec{k}", f"lif{k}")]
    last = layers[-1]
    assert last.weight_out is not None
    weight = held[last.weight_out]
    bias = weight.new_zeros(weight.shape[1]) if last.bias_out is None else held[last.bias_out]
    nodes["out"] = nir.Affine(weight.t().contiguous().numpy(), bias.numpy())
    nodes["output"] = nir.Output(_sizes(weight.shape[1]))
    chain = [name for name in nodes if not name.startswith("rec")]
    graph = nir.NIRGraph(nodes, [*itertools.pairwise(chain), *circles], type_check=False)
    file = io.BytesIO()
    nir.write(file, graph)
    return file.getvalue()


def _check(cells: LeakyCells, held: dict[str, Tensor]) -> None:
    adapting = cells.beta is not None and bool((held[cells.beta] != 0).any())
    if adapting:
        raise InputError(f"NIR has no cells whose thresholds adapt: {cells.beta} is not 0")
    if cells.refractory not in SILENT:
        raise InputError(f"NIR has no refractory cells: they are silent for {cells.refractory} steps here")
    if cells.dt != 1:
        raise InputError(
            f"a spike takes the threshold times dt = {cells.dt:g} from its cell here, in NIR the threshold"
        )


def _cells(alpha: Tensor, threshold: Tensor) -> Any:
    """Leaky cells as snnTorch writes them."""
    import nir

    tau = (DT / (1 - alpha)).numpy()
    zero = torch.zeros_like(alpha).numpy()
    return nir.LIF(tau=tau, r=tau / DT, v_leak=zero, v_threshold=threshold.contiguous().numpy(), v_reset=zero)


def _weights(weight: Tensor, alpha: Tensor) -> Any:
    """Weights [inputs, units] with the cells' gain, as [units, inputs]."""
    return (weight * (1 - alpha)).t().contiguous().numpy()


def _sizes(*sizes: int) -> Any:
    return torch.tensor(sizes).numpy()
