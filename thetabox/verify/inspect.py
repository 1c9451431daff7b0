"""What a network consists of, in the verifier's eyes: operators, and whether each has a rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.models.plain import plain
from thetabox.models.several import Several
from thetabox.models.twins import RUNNING
from thetabox.verify.interpreter.rules.table import TABLE
from thetabox.verify.network import network
from thetabox.verify.network.graph import Layout


@dataclass(frozen=True)
class Operator:
    """One operator of a traced network.

    Attributes:
        name: where it stands: the graph (forward, or initial_state, step and readout of a recurrent network), the
            module's path, and its own name.
        operator: as torch.export calls it, ``aten.conv2d.default``.
        rule: whether it has a rule.
        shape: of its result, the batch as -1; None where it returns several tensors or none.
    """

    name: str
    operator: str
    rule: bool
    shape: tuple[int, ...] | None


def inspect(model: nn.Module, x: Float[Tensor, "batch ..."] | Several) -> list[Operator]:
    """Operators of a network in order of evaluation.

    Args:
        model: any network that torch.export can trace, or a recurrent one that implements the protocol.
        x: an input, of which only shape and dtype matter, or several, as for :func:`thetabox.certify`.

    Raises:
        InputError: the network cannot be traced, or does not take such an input.

    Example:
        >>> import torch, thetabox as tb
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> [(operator.operator, operator.rule) for operator in tb.inspect(model, x)]
        [('aten.linear.default', True)]
    """
    with torch.no_grad(), RUNNING:
        asked = plain(model, x)
        graphs = network(asked.model, asked.x).with_ending.graphs
    return [
        Operator(
            name=": ".join([role, ".".join(part for part in (operation.where, operation.name) if part)]),
            operator=operation.operator,
            rule=operation.operator in TABLE,
            shape=_shape(operation.layout),
        )
        for role, graph in graphs.items()
        for operation in graph.operations
    ]


def _shape(layout: Layout | tuple[Layout | None, ...] | None) -> tuple[int, ...] | None:
    if not isinstance(layout, Layout):
        return None
    return tuple(-1 if size is None else size for size in layout.shape)
