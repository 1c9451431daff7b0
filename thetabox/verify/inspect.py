"""What a network consists of, in the verifier's eyes: operators, and whether each has a rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.models.plain import plain
from thetabox.models.several import Several
from thetabox.models.twins import RUNNING
from thetabox.shown import Headed
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


class Operators(Headed, list[Operator]):
    """Operators in order of evaluation: a list, which shows itself by kind, those without a rule first.

    Example:
        >>> Operators([Operator("forward: out", "aten.linear.default", True, (-1, 2))])
        Operators: 1 operator of 1 kind, every one has a rule
          operator aten.linear.default; times 1; rule yes
    """

    def headline(self) -> str:
        kinds = {operator.operator for operator in self}
        missing = {operator.operator for operator in self if not operator.rule}
        ruled = f"{len(missing)} without a rule" if missing else "every one has a rule"
        return f"{_count(self, 'operator')} of {_count(kinds, 'kind')}, {ruled}"

    def summary(self) -> tuple[list[str], list[list[str]]]:
        times = Counter((operator.operator, operator.rule) for operator in self)
        # Of what is equal, the first to be evaluated.
        kinds = sorted(times.items(), key=lambda kind: (kind[0][1], -kind[1]))
        rows = [[name, str(count), "yes" if rule else "NO"] for (name, rule), count in kinds]
        return ["operator", "times", "rule"], rows


def inspect(model: nn.Module, x: Float[Tensor, "batch ..."] | Several) -> Operators:
    """Operators of a network in order of evaluation; in a notebook or at the prompt a line a kind.

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
    return Operators(
        Operator(
            name=": ".join([role, ".".join(part for part in (operation.where, operation.name) if part)]),
            operator=operation.operator,
            rule=operation.operator in TABLE,
            shape=_shape(operation.layout),
        )
        for role, graph in graphs.items()
        for operation in graph.operations
    )


def _count(things: Collection[Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _shape(layout: Layout | tuple[Layout | None, ...] | None) -> tuple[int, ...] | None:
    if not isinstance(layout, Layout):
        return None
    return tuple(-1 if size is None else size for size in layout.shape)
