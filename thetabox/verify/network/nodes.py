"""What the nodes of an export do: nothing, a cast, or something that there is a rule for as it stands."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx.node import Node

from thetabox.verify.network.in_part import is_written_in_part
from thetabox.verify.network.operators import COMPOSITE, DIRECT, RULED, TIGHTER


def forget_unread(program: Any) -> None:
    """Leave out what is computed and not read, as a decomposition does: by the last step of a loop for a next one, say.

    Only operators that are known to write to nothing: a block under ``no_grad`` or a custom operator may, unseen.
    """
    program.graph.eliminate_dead_code(lambda node: node.is_impure() or not _is_direct(node))


def functional(program: Any) -> bool:
    """Whether a program says what its decomposition would, which takes five times as long to make as the program.

    No operator writes to anything, for each there is a rule if for its decomposition, and each result is used.
    """
    nodes = [n for n in program.graph.nodes if n.op not in ("placeholder", "output") and not is_idle(n)]
    return all(n.op == "call_function" and n.users and _is_direct(n) for n in nodes)


def _is_direct(node: Node) -> bool:
    name = str(node.target)
    if name == "aten.batch_norm.default":
        return node.args[5] is False  # in training it writes to its statistics
    if is_written_in_part(node):
        return False
    known = name in DIRECT or name in COMPOSITE or name in TIGHTER
    return known or is_core(node.target) or node.target is operator.getitem or is_cast(node) or is_same(node)


def is_core(target: Any) -> bool:
    """Whether an operator of torch has a rule, stands for no others and writes to nothing: nothing decomposes it."""
    name = str(target)
    if not (isinstance(target, OpOverload) and name.startswith("aten.") and name in RULED):
        return False
    return not target._schema.is_mutable and not target.has_kernel_for_dispatch_key(
        torch._C.DispatchKey.CompositeImplicitAutograd
    )


def is_idle(node: Node) -> bool:
    """Whether a node has no result that is used: an export's own check of a size or dtype, one of several results."""
    is_check = node.op == "call_function" and "_assert" in str(node.target)
    return is_check or (node.target is operator.getitem and not node.users)


def is_cast(node: Node) -> bool:
    """Whether a node is ``x.to(dtype)``, which an export writes in another way than its decomposition."""
    return node.target is torch.ops.aten.to.dtype and len(node.args) == 2 and not node.kwargs


def is_same(node: Node) -> bool:
    """Whether a node returns its operand: a cast to the type that it has, dropout that is switched off."""
    if is_cast(node):
        return bool(node.args[0].meta["val"].dtype == node.args[1])  # type: ignore[union-attr]  # a tensor's node
    return node.target is torch.ops.aten.dropout.default and node.args[2] is False
