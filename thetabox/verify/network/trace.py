"""From a module to a graph, by torch.export, with a batch of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from thetabox.models.quiet import quiet
from thetabox.models.twins import ModeChangesWeights, untouched
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.network.branches import sizes_of_calls, sizes_of_trace
from thetabox.verify.network.composites import decompositions
from thetabox.verify.network.graph import Graph
from thetabox.verify.network.nodes import forget_unread, functional
from thetabox.verify.network.origins import Origins
from thetabox.verify.network.read_program import read_program
from thetabox.verify.network.untraceable import untraceable
from thetabox.verify.network.witness import Witness, witness

# Batch size of the example that is traced: anything above 1, which torch.export would take for a constant.
EXAMPLE_BATCH = 3


@dataclass(frozen=True)
class _Kept:
    """A trace with what the code did when it was made."""

    seen: Witness
    graph: Graph


_cache: WeakKeyDictionary[nn.Module, dict[Any, _Kept]] = WeakKeyDictionary()


def trace(
    model: nn.Module, module: nn.Module, role: str, examples: Sequence[Tensor], *, training: bool = False
) -> Graph:
    """Trace ``module`` (the model itself, or one part of a recurrent one) on one-sample examples.

    Args:
        model: what parameter names refer to.
        module: traced; parameters are named as in ``model``.
        role: distinguishes the parts of one model.
        examples: tensors ``[1 or more, ...]``; only shape, dtype and device count.
        training: for the steps of one training: a trace serves again as long as the code does the same, operator by
            operator, on a small batch. Elsewhere it is made anew, for what the code would do with a large one no run
            of a small one tells.

    Raises:
        InputError: ``torch.export`` cannot trace it with a batch of any size, or it uses weights that are not its own.
    """
    inputs = tuple(torch.zeros((EXAMPLE_BATCH, *e.shape[1:]), dtype=e.dtype, device=e.device) for e in examples)
    if not training:
        return _trace(model, module, examples, inputs)
    key = (role, tuple((tuple(e.shape[1:]), e.dtype, e.device) for e in examples))
    with untouched(model):
        try:
            seen = witness(model, module, inputs)
        except Exception as error:
            raise untraceable(model, examples, error) from error
    graphs = _cache.setdefault(model, {})
    if key not in graphs or not graphs[key].seen.agrees(seen):
        graphs[key] = _Kept(seen, _trace(model, module, examples, inputs))
    return graphs[key].graph


def _trace(model: nn.Module, module: nn.Module, examples: Sequence[Tensor], inputs: tuple[Tensor, ...]) -> Graph:
    dynamic: tuple[Any, ...] = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    if _takes_any_number(module):
        dynamic = (dynamic,)
    try:
        with untouched(model, numbers=True), _quiet(), torch.enable_grad(), sound_kernels():
            # In a context of its own, with which context variables go that the code may set.
            export = partial(torch.export.export, module, inputs, dynamic_shapes=dynamic, strict=False)
            program = copy_context().run(export)
            forget_unread(program)
            if not functional(program):
                program = program.run_decompositions(decompositions(program))
        with untouched(model, numbers=True), _quiet(), sound_kernels():
            sizes = copy_context().run(sizes_of_calls, module, inputs)
    except ModeChangesWeights:
        raise
    except Exception as error:
        raise untraceable(model, examples, error) from error
    # A part of a recurrent network is traced inside a wrapper, whose only child is the model.
    graph = read_program(program, "" if module is model else "cell.")
    graph.batch_sizes = sorted(sizes | sizes_of_trace(program))
    _know_again(graph, model)
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing shown, and nothing kept: torch's cache of operators would hold a part of every trace for ever."""
    from torch._dynamo import config  # here, for it takes a second that not every command needs

    with quiet(), config.patch(fake_tensor_cache_enabled=False):
        yield


def _know_again(graph: Graph, model: nn.Module) -> None:
    """Give parameters and buffers that were lifted as constants their names back."""
    origins = Origins(model)
    for index, constant in list(graph.constants.items()):
        view = origins.view_of(constant)
        if view is not None:
            del graph.constants[index]
            graph.tensors[index] = view.name
            if view.entries is not None:
                graph.views[index] = view


def _takes_any_number(module: nn.Module) -> bool:
    """Whether ``forward`` has a parameter ``*args``."""
    try:
        parameters = signature(module.forward).parameters.values()
    except ValueError:  # compiled code has no signature
        return False
    return any(p.kind is p.VAR_POSITIONAL for p in parameters)
