"""What stands behind the logits: functions that keep the order of the classes, and need not be bounded for a proof.

A margin of probabilities is above 0 where that of the logits in front of them is: softmax, log-softmax, sigmoid and
logarithm are strictly increasing in what decides. Bounds of the logits are tighter, and their last layer is one row.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from torch.utils import _pytree as pytree

from thetabox.verify.network.graph import Graph, Layout, Operation, Ref, map_arg_refs

SOFTMAX = ("aten.softmax.int", "aten._softmax.default")
LOG_SOFTMAX = ("aten.log_softmax.int", "aten._log_softmax.default")
SIGMOID, LOGIT, LOG = "aten.sigmoid.default", "aten.logit.default", "aten.log.default"
# Several of them, of which float32 may round different ones to 1.
SIGMOIDS = "sigmoids"
CLAMPS = ("aten.clamp.default", "aten.clamp_min.default")
# They keep every number.
MOVES = tuple(
    f"aten.{name}"
    for name in (
        "view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "squeeze.default",
        "squeeze.dim", "squeeze.dims", "unsqueeze.default", "clone.default", "alias.default", "contiguous.default",
    )
)  # words, several to a line  # fmt: skip


def without_ending(graph: Graph) -> tuple[Graph, str]:
    """The graph of the logits alone, and the name of what was left out behind them: nothing in most networks.

    Args:
        graph: of a whole network.
    """
    chain = _chain(graph)
    left_out, name = _ending(graph, chain)
    left_out += _trailing_moves(graph, chain, left_out)
    if not left_out:
        return graph, ""
    instead = {o.index: o.args[0] for o in left_out}

    def rewired(tree: Any) -> Any:
        def follow(ref: Ref) -> Ref:
            while ref.index in instead:
                ref = instead[ref.index]
            return ref

        return map_arg_refs(tree, follow)

    kept = []
    for operation in graph.operations:
        if operation.index in instead:
            continue
        inputs = tuple(rewired(Ref(i)).index for i in operation.inputs)
        args, kwargs = rewired(operation.args), rewired(operation.kwargs)
        kept.append(replace(operation, inputs=inputs, args=args, kwargs=kwargs))
    output = rewired(graph.output)
    return replace(graph, operations=kept, output=output, last_use={}, readers=Counter(), checked=set()), name


def _chain(graph: Graph) -> list[Operation]:
    """Operations of one operand from the output backwards, each read by the next alone."""
    leaves = pytree.tree_leaves(graph.output)
    by_index = {o.index: o for o in graph.operations}
    at = leaves[0].index if len(leaves) == 1 and isinstance(leaves[0], Ref) else None
    chain = []
    while at is not None and at in by_index and graph.readers[at] == 1:
        operation = by_index[at]
        chain.append(operation)
        first = operation.args[0] if operation.args else None
        at = first.index if isinstance(first, Ref) else None
    return chain


def _ending(graph: Graph, chain: list[Operation]) -> tuple[list[Operation], str]:
    """Operations of the chain that are to be left out, and what they are."""
    rest = (o for o in chain if not _moves(graph, o))
    last = next(rest, None)
    if last is None:
        return [], ""
    if last.operator in SOFTMAX + LOG_SOFTMAX and _over_classes(graph, last):
        return [last], "softmax" if last.operator in SOFTMAX else "log-softmax"
    if last.operator == SIGMOID:
        return [last], SIGMOIDS
    if last.operator == LOG:
        clamp, softmax = next(rest, None), next(rest, None)
        if clamp is None or softmax is None or softmax.operator not in SOFTMAX or not _over_classes(graph, softmax):
            return [], ""
        return ([last, clamp, softmax], "softmax") if _is_low(graph, clamp) else ([], "")
    # One probability on either side: half of its logit, times -1 and 1.
    if last.operator == "aten.mul.Tensor" and _belongs_to_none(graph, last):
        logit, sigmoid = next(rest, None), next(rest, None)
        if logit is not None and sigmoid is not None and (logit.operator, sigmoid.operator) == (LOGIT, SIGMOID):
            return ([logit, sigmoid], "sigmoid") if _keeps_sign(logit) else ([], "")
    return [], ""


def _trailing_moves(graph: Graph, chain: list[Operation], left_out: list[Operation]) -> list[Operation]:
    """Moves to and from ``[samples, classes]`` at the very end, behind which no last layer would be known."""
    moves = []
    for place, operation in enumerate(chain[:-1]):
        if _moves(graph, operation):
            moves.append(operation)
        elif operation not in left_out:
            return []
        layout = chain[place + 1].layout
        if isinstance(layout, Layout) and (layout.batch, layout.merged, len(layout.shape)) == (0, 1, 2):
            following = chain[place + 1]
            if not _moves(graph, following) and following not in left_out:
                return moves
    return []


def _moves(graph: Graph, operation: Operation) -> bool:
    """Whether an operation keeps every number of its operand; a slice may be the whole."""
    if operation.operator == "aten.slice.Tensor":
        before = graph.layouts.get(operation.args[0].index)
        return before is not None and operation.layout == before
    return operation.operator in MOVES


def _over_classes(graph: Graph, softmax: Operation) -> bool:
    """Whether it is taken over the one dimension that is neither the samples' nor of size 1, in its operand's type."""
    layout, dim = softmax.layout, softmax.args[1]
    source = softmax.args[0].index
    if not isinstance(layout, Layout) or (layout.batch, layout.merged) != (0, 1) or not isinstance(dim, int):
        return False
    sizes = [d for d, size in enumerate(layout.shape) if d and size != 1]
    return sizes == [dim % len(layout.shape)] and graph.dtypes.get(source) is softmax.dtype


def _is_low(graph: Graph, clamp: Operation) -> bool:
    """Whether it is one from below alone, at less than the largest probability can be."""
    if clamp.operator not in CLAMPS or clamp.kwargs or len(clamp.args) != 2 or not isinstance(clamp.layout, Layout):
        return False
    classes = max(size or 1 for size in clamp.layout.shape)
    return isinstance(clamp.args[1], float) and clamp.args[1] * classes < 1.0


def _keeps_sign(logit: Operation) -> bool:
    """Whether it is of one number a sample, and cut on both sides of 0.

    Then the order of its multiples is that of its sign; of several numbers, each times a factor of its own, one that is
    cut would lose to another that is not.
    """
    cut = logit.args[1] if len(logit.args) > 1 else None
    alone = isinstance(logit.layout, Layout) and all(size in (None, 1) for size in logit.layout.shape)
    return alone and not logit.kwargs and (cut is None or (isinstance(cut, float) and 0.0 <= cut < 0.5))


def _belongs_to_none(graph: Graph, product: Operation) -> bool:
    """Whether the other factor is a constant."""
    other = product.args[1]
    constants = {o.index for o in graph.operations if not isinstance(o.layout, Layout) or o.layout.batch is None}
    return isinstance(other, Ref) and (other.index in graph.constants or other.index in constants)
