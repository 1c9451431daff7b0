"""Types, places and sizes of tensors: what moves numbers and computes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.histories.description.operands import FLOATING, WHOLES, check_unrounded, plain_sizes
from thetabox.verify.histories.description.symbolic import SampleCount, Symbolic, Unknown
from thetabox.verify.interpreter.rules.rearrangement import OFTEN, ONCE
from thetabox.verify.network.graph import Operation, arguments


def cast(s: Symbolic, o: Operation, a: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Between types of real numbers, and from truth values and back; not to fewer digits than the network's own."""
    source = s.graph.dtypes.get(o.inputs[0])
    if source != torch.bool:
        check_unrounded(s, o)
    known = (*FLOATING, *WHOLES, torch.bool)
    if source == o.dtype or (source in known and o.dtype in (*FLOATING, *WHOLES)):
        return a
    if source in known and o.dtype == torch.bool:
        return s.each(s.algebra.nonzero, a)
    raise Unknown


def dropout(s: Symbolic, o: Operation, a: Tensor, probability: Any, train: bool) -> Tensor:
    """Nothing in evaluation mode."""
    if train:
        raise Unknown
    return a


def same(s: Symbolic, o: Operation, a: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A copy."""
    return a


def moved(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> Any:
    """The operator itself on the numbers of the polynomials, which have no bits to be read in another type."""
    if any(isinstance(v, torch.dtype) for v in (*args, *kwargs.values())):
        raise Unknown
    return o.target(*plain_sizes(args), **plain_sizes(kwargs))


def rearranged(s: Symbolic, o: Operation, a: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """As ``moved``, along other dimensions than that of the samples; zeros in between are the polynomial 0."""
    layout = s.graph.layouts.get(o.inputs[0])
    along = {**ONCE, **OFTEN}[o.operator](a.dim(), arguments(o))
    if layout is not None and layout.batch is not None and layout.batch in {d % a.dim() for d in along}:
        raise Unknown
    out: Tensor = moved(s, o, a, *args, **kwargs)
    return out


def indexed(s: Symbolic, o: Operation, a: Tensor, *args: Any) -> Any:
    """As ``moved``; tensors among the arguments are places, but for truth values, which choose."""
    if any(s.graph.dtypes.get(i) in (torch.bool, torch.uint8) for i in o.inputs[1:]):
        raise Unknown

    def places(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            values = [s.algebra.value(p) for p in tree.reshape(-1).tolist()]
            if any(v is None or v != int(v) for v in values):
                raise Unknown
            return torch.tensor([int(v) for v in values if v is not None]).reshape(tree.shape)
        if isinstance(tree, (list, tuple)):
            return type(tree)(places(t) for t in tree)
        return tree

    return o.target(a, *plain_sizes(places(args)))


def padded(s: Symbolic, o: Operation, a: Tensor, sizes: Any, value: Any = 0.0) -> Tensor:
    """One number around, which a tensor of whole numbers would round."""
    number = s.constant(value)
    if o.dtype not in FLOATING and value not in ((0, 1) if o.dtype == torch.bool else (int(value),)):
        raise Unknown
    return torch.nn.functional.pad(a, plain_sizes(sizes), value=number)


def filled(value: float | None) -> Callable[..., Tensor]:
    """A new tensor of one number, read off the layout."""

    def rule(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> Tensor:
        if o.dtype not in (*FLOATING, torch.bool, torch.int64, torch.int32):
            raise Unknown
        fill = args[0] if "scalar_tensor" in o.operator else (args[1:2] or (kwargs.get("fill_value"),))[0]
        if "new_full" in o.operator:
            fill = args[2] if len(args) > 2 else kwargs.get("fill_value")
        number = s.constant(fill if value is None else value)
        whole = s.algebra.value(number)
        if (o.dtype == torch.bool and whole not in (0, 1)) or (o.dtype not in FLOATING and whole != int(whole or 0)):
            raise Unknown
        return torch.full(o.layout.sizes(s.rows), number, dtype=torch.int64)  # type: ignore[union-attr]  # of one tensor

    return rule


def arange(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> Tensor:
    """Whole numbers in order."""
    if any(not isinstance(a, int) or isinstance(a, SampleCount) for a in args):
        raise Unknown
    return s.literals(torch.arange(*args))


def eye(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> Tensor:
    """Ones on a diagonal."""
    if o.dtype not in (*FLOATING, *WHOLES, torch.bool) or any(isinstance(a, SampleCount) for a in args):
        raise Unknown
    return s.literals(torch.eye(*args))


def split(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """Parts of a tensor."""
    return tuple(moved(s, o, *args, **kwargs))


def item(s: Symbolic, o: Operation, values: Any, place: int) -> Any:
    """One of several results."""
    return values[place]


def size(s: Symbolic, o: Operation, a: Tensor, dim: int) -> int:
    """A size; that of the samples is marked."""
    layout = s.graph.layouts[o.inputs[0]]
    return SampleCount(a.shape[dim]) if layout.batch == dim % a.dim() else a.shape[dim]


def size_arithmetic(function: Callable[[int, int], int]) -> Callable[..., int]:
    """Arithmetic on sizes."""

    def rule(s: Symbolic, o: Operation, a: int, b: int) -> int:
        if not (isinstance(a, int) and isinstance(b, int)):
            raise Unknown
        return (
            SampleCount(function(int(a), int(b)))
            if isinstance(a, SampleCount) or isinstance(b, SampleCount)
            else function(a, b)
        )

    return rule
