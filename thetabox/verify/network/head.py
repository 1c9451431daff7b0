"""The last dense layer of a network, whose two products a margin takes as one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from torch.utils import _pytree as pytree

from thetabox.errors import InputError
from thetabox.verify.network.graph import Graph, Operation, Ref


@dataclass(frozen=True)
class Head:
    """The operations that make the last dense layer."""

    operations: list[Operation]
    hidden: int
    weight: int
    bias: int | None
    transposed: bool


def find_head(graph: Graph) -> Head | None:
    """The last layer, where it is ``linear``, ``addmm`` or ``x @ W (+ b)``."""
    by_index = {o.index: o for o in graph.operations}
    last = by_index.get(only_output(graph))
    if last is None:
        return None
    refs = [a.index if isinstance(a, Ref) else None for a in last.args]
    if last.operator == "aten.linear.default" and refs[0] is not None and refs[1] is not None:
        return Head([last], refs[0], refs[1], refs[2] if len(refs) > 2 else None, False)
    if last.operator == "aten.addmm.default" and refs[1] is not None and refs[2] is not None and not last.kwargs:
        return Head([last], refs[1], refs[2], refs[0], True)
    if last.operator in ("aten.mm.default", "aten.matmul.default") and refs[0] is not None and refs[1] is not None:
        return Head([last], refs[0], refs[1], None, True)
    if last.operator == "aten.add.Tensor" and not last.kwargs and None not in refs:
        for first, second in ((refs[0], refs[1]), (refs[1], refs[0])):
            before = by_index.get(first) if first is not None else None
            bias = graph.layouts.get(second) if second is not None else None
            used_once = sum(first in o.inputs for o in graph.operations) == 1
            if before is None or bias is None or bias.batch is not None or len(bias.shape) != 1 or not used_once:
                continue
            product = find_head(replace(graph, output=(Ref(before.index),), last_use={}, readers=Counter()))
            if product is not None and product.bias is None:
                return replace(product, operations=[*product.operations, last], bias=second)
    return None


def only_output(graph: Graph) -> int:
    """Where the one result of a graph stands.

    Raises:
        InputError: it has none, or several.
    """
    leaves = [leaf for leaf in pytree.tree_leaves(graph.output) if isinstance(leaf, Ref)]
    if len(leaves) != 1:
        raise InputError(f"the network must return one tensor of logits, not {len(leaves)}")
    return leaves[0].index
