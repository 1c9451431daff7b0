"""Batch norm folded into the layer before it."""

from __future__ import annotations

import logging
from collections import Counter

from torch import nn
from torch.fx import Graph, Node, symbolic_trace
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm

from thetabox.deep_copy import deep_copy
from thetabox.errors import InputError
from thetabox.models.compiled import unwrapped
from thetabox.models.outputs import OutputToLogits
from thetabox.models.program import Program
from thetabox.models.program_fold import folded_program
from thetabox.models.several import Unpack


def folded(model: nn.Module) -> nn.Module:
    """A copy of the model in evaluation mode whose batch norms are part of the convolutions before them.

    The weights of the copy are ordinary stored numbers: what is certified of it holds for them.

    Raises:
        InputError: the model cannot be traced by ``torch.fx``, a batch norm follows no convolution, the two or their
            weights are used elsewhere too, or the model has hooks, which folding would drop.
    """
    copied = deep_copy(model).eval()
    if not isinstance(copied, Program) and not any(isinstance(m, _BatchNorm) for m in copied.modules()):
        return copied
    unpacks, hooks = _own_hooks(copied)
    fused = _folded(copied)
    for unpack in unpacks:
        fused.register_forward_pre_hook(unpack, with_kwargs=True)
    for hook in hooks:
        fused.register_forward_hook(hook)
    return fused


def _own_hooks(model: nn.Module) -> tuple[list[Unpack], list[OutputToLogits]]:
    """How this package reads inputs and logits of a model, which is taken off it."""
    before, after = model._forward_pre_hooks, model._forward_hooks
    unpacks = {key: hook for key, hook in before.items() if isinstance(hook, Unpack)}
    hooks = {key: hook for key, hook in after.items() if isinstance(hook, OutputToLogits)}
    for key in unpacks:
        del before[key]
    for key in hooks:
        del after[key]
    return list(unpacks.values()), list(hooks.values())


def _folded(copied: nn.Module) -> nn.Module:
    """A model of our own, in evaluation mode, folded."""
    hooked = next((m for m in copied.modules() if m._forward_hooks or m._forward_pre_hooks), None)
    if hooked is not None:
        raise InputError(
            f"cannot fold the batch norms of a network with hooks (on {type(hooked).__name__}); remove them"
        )
    copied = unwrapped(copied)
    if isinstance(copied, Program):
        return folded_program(copied)
    logger = logging.getLogger("torch.fx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        graph = symbolic_trace(copied).graph
        fused = fuse(copied)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot fold the batch norms of {type(copied).__name__}: {reason}") from error
    finally:
        logger.setLevel(level)
    _check_used_once(copied, graph)
    left = [name for name, m in fused.named_modules() if isinstance(m, _BatchNorm)]
    if left:
        raise InputError(f"cannot fold batch norm {left[0]}: {_why_left(copied, graph, left[0])}")
    return fused


def _why_left(model: nn.Module, graph: Graph, name: str) -> str:
    """Why a batch norm has no layer that takes it up."""
    modules = dict(model.named_modules())
    norm = modules[name]
    if isinstance(norm, _BatchNorm) and norm.running_mean is None:
        return "it keeps no running statistics, so it is another function for every batch"
    before = next((node.args[0] for node in graph.nodes if node.target == name and node.args), None)
    if isinstance(before, Node) and before.op == "call_module":
        kind = type(modules[str(before.target)]).__name__
        return f"a {kind} stands before it, where only a convolution or a linear layer takes it up"
    return "no convolution stands before it"


def _check_used_once(model: nn.Module, graph: Graph) -> None:
    """Refuse a batch norm or convolution of which anything else is made than the one pair: both are written over."""
    modules = dict(model.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    reads = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    owners = Counter(id(t) for m in model.modules() for t in m._parameters.values() if t is not None)
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], _BatchNorm):
            continue
        before = node.args[0] if node.args else None
        pair = [str(n.target) for n in (before, node) if isinstance(n, Node) and n.op == "call_module"]
        for name in pair:
            shared = any(owners[id(t)] > 1 for t in modules[name].parameters())
            if calls[name] > 1 or shared or any(read.startswith(f"{name}.") for read in reads):
                raise InputError(f"cannot fold batch norm {node.target}: {name} or its weights are used elsewhere too")
