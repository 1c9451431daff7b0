"""Through which operators the noise of parameters is known to go, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thetabox.errors import NoProof
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop
from thetabox.verify.network.graph import Graph, Operation, Ref
from thetabox.verify.network.operators import CONVOLUTIONS, DENSE
from thetabox.verify.yields.variance import Variance, convolved, dense, with_values
from thetabox.verify.yields.variance_bilinear import BILINEAR, bilinear
from thetabox.verify.yields.variance_by_place import BATCH_NORMS, BY_PLACE, NORMS, by_place

KNOWN = (*DENSE, *CONVOLUTIONS, *BILINEAR, *BY_PLACE)
"""Operators whose parameters may be noisy."""
# Arguments that may be, where not all of them.
PLACES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys((*CONVOLUTIONS, *BATCH_NORMS, "aten.linear.default"), (1, 2)),
    **NORMS,
    "aten.addmm.default": (0, 2),
    "aten.mm.default": (1,),
    "aten.prelu.default": (1,),
}
# What puts a parameter, or parts of it, in another shape.
MOVED = tuple(
    f"aten.{name}"
    for name in (
        "t.default", "transpose.int", "permute.default", "view.default", "reshape.default", "flatten.using_ints",
        "unflatten.int", "unsqueeze.default", "squeeze.dim", "squeeze.dims", "select.int", "slice.Tensor",
        "split.Tensor", "split_with_sizes.default", "chunk.default", "unbind.int", "contiguous.default",
    )
)  # names, several to a line  # fmt: skip


def variance(samples: Samples, operation: Operation, sizes: Mapping[int, Tensor]) -> Variance:
    """Variance of an operation that reads noisy parameters; its operands are bounded, its result need not be.

    Args:
        samples: with the operands' intervals.
        operation: one of :data:`KNOWN`.
        sizes: square roots of the proxies of the parameters' entries by their positions in the graph.

    Raises:
        InputError: it reads them in a way that is not known.
    """
    sized, name = with_values(samples, sizes), operation.operator
    try:
        known = PLACES.get(name, range(len(operation.args)))
        there = {t.index for n, t in enumerate(_flat(operation.args)) if isinstance(t, Ref) and _known(n, known, name)}
        if (set(operation.inputs) & set(sizes)) - there:
            raise Stop
        if name in CONVOLUTIONS:
            return convolved(sized, operation)
        if name in BY_PLACE:
            return by_place(samples, sized, operation)
        if name in DENSE:
            try:
                return dense(sized, operation)
            except Stop:
                if name not in BILINEAR:
                    raise
        return bilinear(samples, sized, operation)
    except Stop:
        raise refusal(operation) from None


def _flat(args: tuple[Any, ...]) -> list[Any]:
    """Arguments, those of a list (of an einsum) one by one."""
    return [t for a in args for t in (a if isinstance(a, list | tuple) else (a,))]


def _known(place: int, known: Any, name: str) -> bool:
    return name == "aten.einsum.default" or place in known


def refusal(operation: Operation) -> NoProof:
    """What is said of an operation that is not known."""
    return NoProof(
        f"proven yield does not know how the noise of parameters goes through {operation.describe()}; "
        "use sampled_yield, or leave those parameters out of the box"
    )


def followed(graph: Graph, sizes: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Sizes (or gains) at all positions where parameters stand, as they are or moved.

    Raises:
        InputError: an operator reads them in a way that is not known, or what was moved is read more than once.
    """
    held: dict[int, Any] = dict(sizes)
    taken = set()
    for operation in graph.operations:
        noisy = [i for i in operation.inputs if i in held]
        if not noisy:
            continue
        if operation.operator == "getitem":
            part = (noisy[0], operation.args[1])
            held[operation.index] = held[noisy[0]][operation.args[1]]
            if part in taken:
                raise refusal(operation)
            taken.add(part)
        elif operation.operator in MOVED and len(operation.inputs) == 1:
            held[operation.index] = operation.target(held[noisy[0]], *operation.args[1:], **operation.kwargs)
        elif operation.operator not in KNOWN or not all(isinstance(held[i], Tensor) for i in noisy):
            raise refusal(operation)
        else:
            continue
        if isinstance(held[operation.index], Tensor) and graph.readers[operation.index] > 1:
            raise refusal(operation)
    return {i: size for i, size in held.items() if isinstance(size, Tensor)}


def reads(operation: Operation, sizes: Mapping[int, Tensor]) -> bool:
    """Whether an operation computes with noisy parameters, and does not only move them."""
    moves = operation.operator in MOVED or operation.operator == "getitem"
    return not moves and bool(set(operation.inputs) & set(sizes))
