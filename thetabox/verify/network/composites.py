"""Operators that an export keeps and that stand for others: written out as torch itself computes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx.node import Node

from thetabox.verify.network.in_part import IN_PART, MEETS
from thetabox.verify.network.operators import COMPOSITE, DIRECT, REFUSED, RULED, TIGHTER

# Each either has one kernel that calls the operators it is written out as, or computes what they do in their order (and
# may leave out a rounding on the way, which intervals hold as well), or moves numbers and computes none.
WRITTEN_OUT = frozenset(
    f"aten.{name}"
    for name in (
        "addcdiv.default", "addcmul.default", "atleast_1d.Sequence", "atleast_2d.Sequence", "atleast_3d.Sequence",
        "block_diag.default", "chain_matmul.default", "clamp_max.Tensor", "clamp_min.Tensor", "column_stack.default",
        "concat.default", "concatenate.default", "cosine_similarity.default", "diff.default", "divide.Tensor",
        "dstack.default", "fliplr.default", "flipud.default", "ger.default", "glu.default", "hstack.default",
        "inner.default", "kron.default", "linalg_matmul.default", "linalg_multi_dot.default", "linalg_norm.default",
        "linalg_norm.ord_str", "linalg_vecdot.default", "meshgrid.default", "meshgrid.indexing", "msort.default",
        "multiply.Tensor", "negative.default", "norm.ScalarOpt_dim", "outer.default", "pairwise_distance.default",
        "rot90.default", "row_stack.default", "std.dim", "std_mean.dim", "subtract.Tensor", "take_along_dim.default",
        "tensordot.default", "tile.default", "true_divide.Tensor", "var.dim", "var_mean.dim", "vstack.default",
    )
)  # words, several to a line  # fmt: skip

# Where an operator may have a kernel of its own, beside one that calls others.
KERNELS = tuple(
    getattr(torch._C.DispatchKey, name)
    for name in ("CPU", "CUDA", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional", "AutogradCPU")
)


@cache
def _known() -> dict[str, tuple[Any, Any]]:
    """By name, the operator and how it is written out."""
    return {str(op): (op, written) for op, written in torch.export.default_decompositions().items()}


@cache
def _composites() -> dict[str, tuple[OpOverload, Any]]:
    """Of these, torch's operators whose only kernel calls others, written out by that kernel: it is what they do."""
    return {name: (op, written) for name, (op, written) in _known().items() if _only_calls_others(op, written)}


def _only_calls_others(op: OpOverload, written: Any) -> bool:
    by_kernel = isinstance(written, partial) and written.keywords.get("kernel") is op
    return by_kernel and not any(op.has_kernel_for_dispatch_key(key) for key in KERNELS)


def _without_rule(name: str) -> bool:
    kind = name.split(".")[1]
    return not (name in RULED or name in DIRECT or name in COMPOSITE or name in TIGHTER or kind in REFUSED)


def decompositions(program: Any) -> dict[Any, Callable[..., Any]]:
    """How to write out what a program holds of the two tables, and whatever has no rule and only calls others."""
    met = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    # One may be written as another of them.
    table: dict[Any, Callable[..., Any]] = {} if met.isdisjoint(MEETS) else dict(IN_PART)
    if not met.isdisjoint(WRITTEN_OUT):
        table |= dict(_known()[name] for name in WRITTEN_OUT if name in _known())
    if any(name in _composites() and _without_rule(name) for name in met - WRITTEN_OUT):
        table |= dict(pair for name, pair in _composites().items() if _without_rule(name))
    return table


def as_layers_call(node: Node) -> tuple[Any, tuple[Any, ...]] | None:
    """A decomposed convolution as the operator that a layer calls, with its arguments; ``None`` of anything else."""
    if node.target is not torch.ops.aten.convolution.default:
        return None
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    aten, rank = torch.ops.aten, weight.meta["val"].dim() - 2  # type: ignore[union-attr]  # a tensor's node
    if not transposed:
        plain = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}[rank]
        return plain, (x, weight, bias, stride, padding, dilation, groups)
    turned = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: aten.conv_transpose3d.input}[rank]
    return turned, (x, weight, bias, stride, padding, output_padding, groups, dilation)
