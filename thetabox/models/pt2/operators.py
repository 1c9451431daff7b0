"""Operators that a ``.pt2`` graph may name: those of aten that compute with tensors and numbers."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

from thetabox.errors import InputError
from thetabox.models.program import Sized

# What a size is computed with.
NUMBERS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in (
        "add",
        "sub",
        "mul",
        "floordiv",
        "mod",
        "neg",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "truediv",
        "getitem",
    )
} | {"math.ceil": math.ceil, "math.floor": math.floor, "math.trunc": math.trunc}
NUMBERS |= {name.replace("_operator", "operator"): f for name, f in NUMBERS.items()}
# What an export checks of sizes and types, which is so, or is seen when the network runs.
CHECKS = re.compile(r"torch\.ops\.aten\.(_assert_\w+|sym_constrain_range\w*|_assert_async)\.\w+")
ATEN = re.compile(r"torch\.ops\.aten\.([A-Za-z_]\w*)\.(\w+)")
# Operators below the surface that a decomposition leaves.
INNER = frozenset({
    "_unsafe_view", "_softmax", "_log_softmax", "_native_batch_norm_legit_no_training", "_to_copy",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_scaled_dot_product_attention_math", "_safe_softmax",
    "_weight_norm", "_prelu_kernel", "_reshape_alias", "_native_batch_norm_legit", "_weight_norm_interface",
})  # words, several to a line  # fmt: skip
# Text that says how, not where.
TEXT = frozenset({"padding", "approximate", "mode", "reduce", "rounding_mode", "indexing", "equation", "reduction"})
KINDS = re.compile(
    r"(Tensor|int|float|bool|Scalar|SymInt|number|ScalarType|Device|Layout|MemoryFormat|List\[.*\]|Optional\[.*\]|str)"
)
# Operators that stand for several simple ones, in the order in which those are applied.
COMPOSED: dict[str, Callable[..., Any]] = {
    "torch.ops.aten.addcmul.default": lambda x, a, b, *, value=1: x + (a * b if value == 1 else value * (a * b)),
    "torch.ops.aten.addcdiv.default": lambda x, a, b, *, value=1: x + (a / b if value == 1 else value * (a / b)),
}
VIEWS = ("view.default", "reshape.default", "_unsafe_view.default")
CREATES = ("zeros.", "ones.", "full.", "empty.")
NEW = ("new_zeros.", "new_ones.", "new_full.", "new_empty.")


def operator_of(path: Any, target: str) -> Callable[..., Any]:
    """The operator of a name.

    Raises:
        InputError: it is none of aten's, unknown here, or does more than to compute.
    """
    if target in NUMBERS:
        return NUMBERS[target]
    match = ATEN.fullmatch(target)
    if match is None:
        raise InputError(
            f"{path}: refused, its graph calls {target[:80]!r}; only operators of aten are read, no code of one's own, "
            "no branches"
        )
    name, overload_name = match.groups()
    overload = getattr(getattr(torch.ops.aten, name, None), overload_name, None)
    if not isinstance(overload, torch._ops.OpOverload):
        raise InputError(f"{path}: its graph calls {target[:80]}, which torch {torch.__version__} does not have")
    _check(path, target, name, overload)
    return overload


def _check(path: Any, target: str, name: str, overload: Any) -> None:
    arguments = overload._schema.arguments
    text = [a.name for a in arguments if "str" in str(a.type) and a.name not in TEXT]
    kinds = all(KINDS.fullmatch(str(a.type)) for a in arguments)
    inner = name.startswith("_") and not (name in INNER or (name.startswith("__") and name.endswith("__")))
    if text or not kinds or inner or (torch.Tag.nondeterministic_seeded in overload.tags and not _train(arguments)):
        draws = "draws random numbers" if torch.Tag.nondeterministic_seeded in overload.tags else "is not read"
        raise InputError(f"{path}: refused, its graph calls {target}, which {draws}")


def _train(arguments: Any) -> bool:
    return any(a.name in ("train", "training", "dropout_p") for a in arguments)


def sized(target: str) -> tuple[Sized, int]:
    """What an operator does with a list of sizes, and which of its arguments that is."""
    name = target.removeprefix("torch.ops.aten.")
    if name in VIEWS:
        return "view", 1
    if name == "unflatten.int":
        return "unflatten", 2
    if name == "expand.default":
        return "expand", 1
    if name.startswith(CREATES):
        return "create", 0
    if name.startswith(NEW):
        return "create", 1
    return "", 1
