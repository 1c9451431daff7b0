"""Operators on polynomials, as :mod:`.evaluation` evaluates them; those that are not here are unknown.

A result of another type than those of real numbers and truth values is unknown too, so whole numbers that wrap and
halves that round never pass for real ones.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from thetabox.verify.histories.description.choices import (
    absolute,
    clamp,
    clamp_max,
    compared,
    floor,
    hardtanh,
    largest,
    largest_along,
    logical_and,
    logical_not,
    logical_or,
    masked_fill,
    relu,
    sign,
    smallest,
    threshold,
    unary,
    where,
)
from thetabox.verify.histories.description.operands import check_unrounded
from thetabox.verify.histories.description.places import (
    arange,
    cast,
    dropout,
    eye,
    filled,
    indexed,
    item,
    moved,
    rearranged,
    same,
    size,
    size_arithmetic,
    split,
)
from thetabox.verify.histories.description.spatial import SPATIAL
from thetabox.verify.histories.description.sums import (
    add,
    addcmul,
    addmm,
    div,
    exp,
    lerp,
    linear,
    matmul,
    mean,
    mul,
    neg,
    power,
    reciprocal,
    rsub,
    sub,
    total,
)
from thetabox.verify.histories.description.symbolic import Symbolic
from thetabox.verify.network.graph import Operation


def computing(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule of an operator that may round."""

    def checked(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> Any:
        check_unrounded(s, o)
        return rule(s, o, *args, **kwargs)

    return checked


_COMPUTING: dict[str, Callable[..., Any]] = {
    "add": add,
    "sub": sub,
    "rsub": rsub,
    "neg": neg,
    "mul": mul,
    "div": div,
    "reciprocal": reciprocal,
    "pow": power,
    "exp": exp,
    "addcmul": addcmul,
    "lerp": lerp,
    "gt": compared(1, strict=True),
    "ge": compared(1, strict=False),
    "lt": compared(-1, strict=True),
    "le": compared(-1, strict=False),
    "sign": sign,
    "logical_and": logical_and,
    "bitwise_and": logical_and,
    "__and__": logical_and,
    "logical_or": logical_or,
    "bitwise_or": logical_or,
    "__or__": logical_or,
    "logical_not": logical_not,
    "bitwise_not": logical_not,
    "where": where,
    "masked_fill": masked_fill,
    "threshold": threshold,
    "maximum": largest,
    "max": largest_along,
    "amax": largest_along,
    "minimum": smallest,
    "clamp": clamp,
    "clamp_min": clamp,
    "clamp_max": clamp_max,
    "hardtanh": hardtanh,
    "relu": relu,
    "relu_": relu,
    "abs": absolute,
    "floor": floor,
    "sum": total,
    "mean": mean,
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "linear": linear,
    "addmm": addmm,
    "full": filled(None),
    "full_like": filled(None),
    "new_full": filled(None),
    "scalar_tensor": filled(None),
    **dict.fromkeys(
        ("sigmoid", "tanh", "softplus", "elu", "selu", "gelu", "silu", "hardsigmoid", "leaky_relu", "relu6"),
        unary,
    ),
    **SPATIAL,
}  # a table, several to a line  # fmt: skip


RULES: dict[str, Callable[..., Any]] = {
    **{name: computing(rule) for name, rule in _COMPUTING.items()},
    "_to_copy": cast,
    "to": cast,
    "zeros": filled(0.0),
    "zeros_like": filled(0.0),
    "new_zeros": filled(0.0),
    "ones": filled(1.0),
    "ones_like": filled(1.0),
    "new_ones": filled(1.0),
    "arange": arange,
    "eye": eye,
    "split": split,
    "split_with_sizes": split,
    "chunk": split,
    "unbind": split,
    "getitem": item,
    "sym_size": size,
    "index": indexed,
    "index_select": indexed,
    "<built-in function mul>": size_arithmetic(operator.mul),
    "<built-in function add>": size_arithmetic(operator.add),
    "<built-in function sub>": size_arithmetic(operator.sub),
    "<built-in function floordiv>": size_arithmetic(operator.floordiv),
    **dict.fromkeys(
        ("clone", "alias", "detach", "contiguous", "lift_fresh_copy"),
        same,
    ),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout"), dropout),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "expand", "permute", "transpose", "t", "unsqueeze",
         "squeeze", "select", "movedim", "slice", "cat", "stack"),
        moved,
    ),
    **dict.fromkeys(
        ("flip", "roll", "tril", "triu", "diagonal", "diagonal_copy", "diag_embed", "repeat", "repeat_interleave",
         "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
        rearranged,
    ),
}  # a table, several to a line  # fmt: skip
