r"""Products by Einstein's summation convention, as the products of stacked matrices that they are.

Of two operands each index is one of four kinds: shared by both and the result (a *stack* of products), shared by both
and summed (*inner*), or of one operand and the result (*rows* of the first, *columns* of the second). What one operand
alone sums over is summed before. Then :math:`[stack, rows, inner] [stack, inner, columns]` is the product of a layer,
or of two values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError, OneEpsilonAtATime
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import SAFETY
from thetabox.verify.interpreter.context import Context, Value
from thetabox.verify.interpreter.rules.affine import affine, product_of_values, times
from thetabox.verify.interpreter.rules.table import rule


@rule("aten.einsum.default", parameters=True, slack=True, honours=("path",))
def einsum(context: Context, equation: str, operands: list[Value], *args: Any, **kwargs: Any) -> Interval:
    """A sum of products over named indices, of one or two operands."""
    if any(isinstance(v, Interval) and v.by_row for v in operands):
        raise OneEpsilonAtATime(f"{context.where} multiplies values computed from perturbed parameters")
    ranks = [len(_shape(v)) for v in operands]
    terms, result = read(equation, ranks, context.where)
    if len(operands) == 1:
        return _alone(context, operands[0], terms[0], result)
    if len(operands) != 2:
        raise InputError(
            f"{context.where} has a rule for one or two operands, not {len(operands)}; write a product of two"
        )
    weight_first = isinstance(operands[0], Parameter) and isinstance(operands[1], Interval)
    (x, x_terms), (w, w_terms) = list(zip(operands, terms, strict=True))[:: -1 if weight_first else 1]
    x, x_terms = _reduced(context, x, x_terms, w_terms + result)
    w, w_terms = _reduced(context, w, w_terms, x_terms + result)
    return _product(context, x, x_terms, w, w_terms, result)


def read(equation: str, ranks: list[int], where: str) -> tuple[list[str], str]:
    """Indices of each operand and of the result, a letter each; dots are replaced by letters, a missing result found.

    Raises:
        InputError: not written as torch takes it.
    """
    sides = equation.replace(" ", "").split("->")
    terms = sides[0].split(",")
    if len(terms) != len(ranks):
        raise InputError(f"{where}: {equation!r} names {len(terms)} operands, not {len(ranks)}")
    free = [c for c in map(chr, range(0x100, 0x200)) if c not in equation]
    hidden = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    dots = free[: max([n for term, n in zip(terms, hidden, strict=True) if "..." in term], default=0)]
    terms = [t.replace("...", "".join(dots[len(dots) - n :])) for t, n in zip(terms, hidden, strict=True)]
    if len(sides) == 2:
        result = sides[1].replace("...", "".join(dots))
    else:
        letters = [c for term in terms for c in term if c not in dots]
        result = "".join(dots) + "".join(sorted(c for c in letters if letters.count(c) == 1))
    return terms, result


def _shape(v: Value) -> torch.Size:
    return v.theta.shape if isinstance(v, Parameter) else v.shape


def _alone(context: Context, x: Value, term: str, result: str) -> Interval:
    """Rearranged, the diagonal of it, or summed."""
    out, _ = _reduced(context, context.interval(x) if isinstance(x, Parameter) else x, term, result)
    assert isinstance(out, Interval)
    kept = "".join(dict.fromkeys(c for c in term if c in result))
    return replace(out.moved(lambda t: torch.einsum(f"{names(kept)}->{names(result, kept)}", t)), batch=None)


def names(term: str, order: str | None = None) -> str:
    """Indices as letters that torch takes, in the order of their first use in ``order``."""
    letters = dict(
        zip(dict.fromkeys(order or term), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", strict=False)
    )
    return "".join(letters[c] for c in term)


def _reduced(context: Context, x: Value, term: str, wanted: str) -> tuple[Value, str]:
    """Diagonals of indices that stand twice, summed over those that nothing else wants."""
    kept = "".join(dict.fromkeys(term))
    left = "".join(c for c in kept if c in wanted)
    if left == term:
        return x, term
    if isinstance(x, Interval) and x.batch is not None and (term.count(term[x.batch]) > 1 or term[x.batch] not in left):
        raise InputError(f"{context.where} mixes samples")
    sizes = dict(zip(term, _shape(x), strict=True))
    count = prod(sizes[c] for c in kept if c not in left)
    equation = f"{names(term)}->{names(left, term)}"

    def function(t: Tensor) -> Tensor:
        return torch.einsum(equation, t)

    if left == kept:
        return (x.moved(function) if isinstance(x, Parameter) else _placed(x, term, left, function)), left
    x = context.interval(x) if isinstance(x, Parameter) else x
    if x.by_row:
        raise OneEpsilonAtATime(f"{context.where} sums a parameter")
    out = replace(_placed(x, term, left, function), bound=None)
    out.slack = (x.slack + context.rounding.of_sum(count) * x.magnitude) * count * SAFETY
    out.slack += context.rounding.beyond(count * x.magnitude)
    return out, left


def _placed(x: Interval, term: str, left: str, function: Callable[[Tensor], Tensor]) -> Interval:
    batch = None if x.batch is None else left.index(term[x.batch])
    return replace(x.moved(function), batch=batch)


@dataclass(frozen=True)
class Kinds:
    """Indices of a product of two, by kind."""

    stack: str
    rows: str
    inner: str
    columns: str

    @classmethod
    def of(cls, first: str, second: str, result: str) -> Kinds:
        """Of operands with the indices ``first`` and ``second``, none of which belongs to one of them alone."""
        both = [c for c in first if c in second]
        return cls(
            "".join(c for c in both if c in result),
            "".join(c for c in first if c not in second),
            "".join(c for c in both if c not in result),
            "".join(c for c in second if c not in first),
        )


def _product(context: Context, x: Value, x_terms: str, w: Value, w_terms: str, result: str) -> Interval:
    kinds = Kinds.of(x_terms, w_terms, result)
    sizes = dict(zip(x_terms, _shape(x), strict=True)) | dict(zip(w_terms, _shape(w), strict=True))
    batched = isinstance(x, Interval) and x.batch is not None
    batch = x_terms[x.batch] if isinstance(x, Interval) and x.batch is not None else ""
    mixed = isinstance(w, Interval) and w.batch is not None
    if batch and batch in kinds.inner:
        raise InputError(f"{context.where} mixes samples")
    if batch and batch not in kinds.rows and not mixed:
        raise InputError(f"{context.where} multiplies samples by parts of one parameter")
    # The rows stay apart, for one of them are the samples; the last alone is a dimension of the matrices.
    rows = kinds.rows or "?"
    left = [sizes.get(c, 1) for c in kinds.stack + rows] + [prod(sizes[c] for c in kinds.inner)]
    right = [sizes[c] for c in kinds.stack] + [1] * (len(rows) - 1)
    right += [prod(sizes[c] for c in kinds.inner), prod(sizes[c] for c in kinds.columns)]

    def left_of(t: Tensor) -> Tensor:
        return t.permute([x_terms.index(c) for c in kinds.stack + kinds.rows + kinds.inner]).reshape(left)

    def right_of(t: Tensor) -> Tensor:
        return t.permute([w_terms.index(c) for c in kinds.stack + kinds.inner + kinds.columns]).reshape(right)

    a, b = x.moved(left_of), w.moved(right_of)
    if isinstance(a, Interval) and batched:
        a = replace(a, batch=(kinds.stack + rows).index(batch))
    if batched and not mixed:
        assert isinstance(a, Interval)
        out = affine(context, a, _flat(b) if not kinds.stack else b, None, times, left[-1])
    else:
        a, b = (context.interval(v) if isinstance(v, Parameter) else v for v in (a, b))
        out = product_of_values(context, a, b)
    there = kinds.stack + rows
    shape = [*out.shape[: len(there)], *(sizes[c] for c in kinds.columns)]
    order = [c for c in there + kinds.columns if c != "?"]

    def ended(t: Tensor) -> Tensor:
        t = t.reshape(shape)
        t = t if kinds.rows else t.squeeze(len(kinds.stack))
        return t.permute([order.index(c) for c in result])

    return replace(out.moved(ended), batch=None)


def _flat(w: Value) -> Value:
    """One matrix, without the dimensions in front."""
    return w.moved(lambda t: t.reshape(t.shape[-2:]))
