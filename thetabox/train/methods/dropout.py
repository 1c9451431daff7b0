"""Dropout of hidden units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from thetabox.errors import InputError
from thetabox.models import LSNN
from thetabox.train.methods.method import Method, Step, Weights, check_range


@dataclass(frozen=True)
class Dropout(Method):
    r"""The task loss with hidden units switched off at random, anew for every batch.

    .. math:: \tilde W_{kj} = W_{kj}\, \frac{m_j}{1 - p}, \qquad m_j \sim \mathrm{Bernoulli}(1 - p)

    j a hidden unit that feeds W. Scaling a unit's outgoing weights is scaling its output, so nothing but weights
    changes and every network and method takes it. Hidden units are the inputs of each dense layer (``nn.Linear``)
    that is not the network's first layer, and the units of an LSNN: a dropped one feeds neither ``W_rec`` nor
    ``W_out`` at any time step. As in the code beside arXiv 2106.05009 a mask is shared by the samples of a batch, is
    fixed over time and spares convolutions; unlike there, what is left is scaled by 1/(1 − p) (Srivastava et al.,
    JMLR 2014, inverted), so that the network without dropout sees inputs of the same mean.
    """

    name: ClassVar[str] = "dropout"
    summary: ClassVar[str] = "hidden units switched off at random"
    source: ClassVar[str] = "Srivastava et al., JMLR 2014; as in Büchel, Faber, Muir, ICLR 2022"
    meanings: ClassVar[dict[str, str]] = {"p": "probability that a unit is switched off"}

    p: float = 0.3

    def __post_init__(self) -> None:
        check_range("p", self.p, 0, 0.99)

    def weights(self, step: Step, weights: Weights) -> Weights:
        kept = dict(weights)
        tensors = {**dict(step.model.named_parameters()), **weights}
        for fed in fed_by_units(step.model):
            some, dim = next(iter(fed.items()))
            units = tensors[some].shape[dim]
            keep = torch.rand(units, generator=step.generator, dtype=step.x.dtype, device=step.x.device) >= self.p
            for name, dim in fed.items():
                theta = tensors[name]
                shape = [units if axis == dim else 1 for axis in range(theta.ndim)]
                kept[name] = theta * (keep.to(theta.dtype) / (1 - self.p)).reshape(shape)
        return kept


def fed_by_units(model: nn.Module) -> list[dict[str, int]]:
    """Groups of hidden units: for each the parameters that they feed, with the dimension that counts the units.

    Raises:
        InputError: a network without dense layers behind others.
    """
    groups: list[dict[str, int]] = []
    first = True
    for prefix, module in model.named_modules():
        path = f"{prefix}." if prefix else ""
        if isinstance(module, LSNN):
            groups.append({f"{path}{name}": 0 for name in ("W_rec", "W_out") if hasattr(module, name)})
        elif isinstance(module, nn.Linear) and not first:
            groups.append({f"{path}weight": 1})
        first = first and not list(module.parameters(recurse=False))
    if not groups:
        raise InputError(
            f"{type(model).__name__} has no hidden units that dropout knows: dense layers (nn.Linear) behind the first"
        )
    return groups
