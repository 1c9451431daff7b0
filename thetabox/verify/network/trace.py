"""From a module to a graph, by torch.export, with a batch of any size."""

from __future__ import annotations

import operator
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
from torch.export.graph_signature import OutputKind
from torch.fx.node import Node, map_arg

from thetabox.errors import InputError
from thetabox.models.quiet import quiet
from thetabox.models.twins import ModeChangesWeights, untouched
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.network.branches import sizes_of_calls, sizes_of_trace
from thetabox.verify.network.composites import as_layers_call, decompositions
from thetabox.verify.network.graph import Graph, Layout, Operation, Ref
from thetabox.verify.network.operators import COMPOSITE, DIRECT, RESHAPING, TIGHTER
from thetabox.verify.network.origins import Origins
from thetabox.verify.network.unfold import unfolded
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
            raise _untraceable(model, examples, error) from error
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
            if not _functional(program):
                program = program.run_decompositions(decompositions(program))
        with untouched(model, numbers=True), _quiet(), sound_kernels():
            sizes = copy_context().run(sizes_of_calls, module, inputs)
    except ModeChangesWeights:
        raise
    except Exception as error:
        raise _untraceable(model, examples, error) from error
    # A part of a recurrent network is traced inside a wrapper, whose only child is the model.
    graph = _read(program, "" if module is model else "cell.")
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
            if view.places is not None:
                graph.views[index] = view


def _functional(program: Any) -> bool:
    """Whether a program says what its decomposition would, which takes five times as long to make as the program.

    No operator writes to anything, for each there is a rule if for its decomposition, and each result is used.
    """
    nodes = [n for n in program.graph.nodes if n.op not in ("placeholder", "output") and not _is_idle(n)]
    return all(n.op == "call_function" and n.users and _is_direct(n) for n in nodes)


def _is_direct(node: Node) -> bool:
    name = str(node.target)
    if name == "aten.batch_norm.default":
        return node.args[5] is False  # in training it writes to its statistics
    known = name in DIRECT or name in COMPOSITE or name in TIGHTER
    return known or node.target is operator.getitem or _is_cast(node) or _is_same(node)


def _is_idle(node: Node) -> bool:
    """Whether a node has no result that is used: an export's own check of a size or dtype, one of several results."""
    is_check = node.op == "call_function" and "_assert" in str(node.target)
    return is_check or (node.target is operator.getitem and not node.users)


def _is_cast(node: Node) -> bool:
    """Whether a node is ``x.to(dtype)``, which an export writes in another way than its decomposition."""
    return node.target is torch.ops.aten.to.dtype and len(node.args) == 2 and not node.kwargs


def _is_same(node: Node) -> bool:
    """Whether a node returns its operand: a cast to the type that it has, dropout that is switched off."""
    if _is_cast(node):
        return bool(node.args[0].meta["val"].dtype == node.args[1])  # type: ignore[union-attr]  # a tensor's node
    return node.target is torch.ops.aten.dropout.default and node.args[2] is False


def _takes_any_number(module: nn.Module) -> bool:
    """Whether ``forward`` has a parameter ``*args``."""
    try:
        parameters = signature(module.forward).parameters.values()
    except ValueError:  # compiled code has no signature
        return False
    return any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _untraceable(model: nn.Module, examples: Sequence[Tensor], error: Exception) -> InputError:
    if "KeyboardInterrupt" in str(error):  # inside torch it may become an error of torch's
        raise KeyboardInterrupt from error
    if isinstance(model, torch.jit.ScriptModule):
        return InputError("scripted modules (torch.jit.script) have no trace; give the Python module it was made from")
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    for sign, meaning in MEANINGS.items():
        if sign in str(error):
            reason = meaning
    if reason == MEANINGS["Constraints violated"] and _steps_first(model):
        reason += ". A recurrent layer that is given [samples, steps, features] needs batch_first=True"
    return InputError(
        f"torch.export cannot trace {type(model).__name__} on inputs of shape "
        f"{[tuple(e.shape[1:]) for e in examples]} with a free batch size: {reason.strip()[:300]}"
    )


def _steps_first(model: nn.Module) -> bool:
    """Whether a recurrent layer takes its first dimension for that of time."""
    return any(isinstance(m, nn.RNNBase) and not m.batch_first for m in model.modules())


def _read(program: Any, prefix: str) -> Graph:
    roles = program.graph_signature
    names = {k: v.removeprefix(prefix) for k, v in {**roles.inputs_to_parameters, **roles.inputs_to_buffers}.items()}
    lifted = roles.inputs_to_lifted_tensor_constants
    position: dict[Node, int] = {}
    graph_inputs: list[int] = []
    tensors: dict[int, str] = {}
    constants: dict[int, Tensor] = {}
    operations: list[Operation] = []
    layouts: dict[int, Layout] = {}
    dtypes: dict[int, torch.dtype] = {}
    output: Any = None

    def reference(tree: Any) -> Any:
        def refer(node: Node) -> Any:
            return Ref(position[node])

        return map_arg(tree, refer)

    for index, node in enumerate(program.graph.nodes):
        position[node] = index
        if isinstance(node.meta.get("val"), Tensor):
            dtypes[index] = node.meta["val"].dtype
        if node.op == "placeholder":
            if node.name in names:
                tensors[index] = names[node.name]
            elif node.name in lifted:
                constants[index] = program.constants[lifted[node.name]]
            else:
                graph_inputs.append(index)
            if isinstance(node.meta.get("val"), Tensor):
                layouts[index] = _layout(node.meta["val"], node.name)
        elif node.op == "output":
            results = list(zip(reference(node.args[0]), roles.output_specs, strict=True))
            output = tuple(r for r, spec in results if spec.kind is OutputKind.USER_OUTPUT)
            written = {r.index: spec.target for r, spec in results if spec.kind in WRITES and isinstance(r, Ref)}
        elif _is_idle(node):
            continue
        elif _is_same(node):
            position[node] = position[node.args[0]]
        elif node.op == "call_function":
            operation = _operation(index, node, reference, prefix)
            operations.append(operation)
            if isinstance(operation.layout, Layout):
                layouts[index] = operation.layout
        else:
            raise InputError(f"the exported graph holds a {node.op} node ({node.name}), which has no rule")
    operations = unfolded(operations, layouts)
    graph = Graph(graph_inputs, tensors, constants, operations, output, layouts, dtypes)
    _check_writes(graph, written)
    for operation in operations:
        _check_samples_apart(graph, operation)
    return graph


# What torch.export reports of code that it cannot follow, and what that means for who wrote it.
MEANINGS = {
    "Constraints violated": "its code ties the batch to one size, as len(x), int(x.shape[0]) and x.shape[0] == 3 do; "
    "write x.shape[0] where it needs the size",
    "Could not guard on data-dependent": "its code branches on numbers that it computes, in an if, an assert or by "
    ".item(); a certificate speaks of one function of all inputs and weights",
    "zeros(): argument 'size' failed to unpack": "its sizes are numbers that it computes, as those of a "
    "PackedSequence; give sequences of one length as a plain tensor [samples, steps, features]",
    "found a fake tensor in the exported program": "its code keeps tensors, or writes to .data of its weights",
}
# Results of a trace that a module writes to its own tensors.
WRITES = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)


def _check_writes(graph: Graph, written: dict[int, str]) -> None:
    """Refuse a module whose answer depends on what an earlier call of it wrote."""
    changed = {i for i, name in graph.tensors.items() if name in written.values()}
    for operation in graph.operations:
        if any(i in changed for i in operation.inputs):
            changed.add(operation.index)
    if written and changed & set(graph.outputs):
        raise InputError(
            f"the network's forward writes to {next(iter(written.values()))!r} and reads it, so its answer depends on "
            "how often it was called; a certificate speaks of one function"
        )


def _operation(index: int, node: Node, reference: Any, prefix: str) -> Operation:
    target, args, kwargs = node.target, node.args, dict(node.kwargs)
    if _is_cast(node):
        target, args, kwargs = torch.ops.aten._to_copy.default, args[:1], {"dtype": args[1]}
    elif (call := as_layers_call(node)) is not None:
        target, args = call
    name = "getitem" if target is operator.getitem else str(target)
    stack = node.meta.get("nn_module_stack") or {}
    where = list(stack.values())[-1][0] if stack else ""
    value = node.meta.get("val")
    layout: Layout | tuple[Layout | None, ...] | None = None
    # A wrapper is no part of the network.
    where = f"{where}.".removeprefix(prefix)[:-1] if isinstance(where, str) and not where.startswith("_empty") else ""
    if isinstance(value, Tensor):
        layout = _layout(value, f"{name} at {where}")
    elif isinstance(value, (tuple, list)):
        layout = tuple(_layout(v, name) if isinstance(v, Tensor) else None for v in value)
    return Operation(
        index=index,
        name=node.name,
        operator=name,
        target=target,
        args=reference(args),
        kwargs=reference(kwargs),
        layout=layout,
        inputs=tuple(reference(list(node.all_input_nodes))[i].index for i in range(len(node.all_input_nodes))),
        where=where,
        dtype=value.dtype if isinstance(value, Tensor) else None,
    )


def _layout(value: Tensor, what: str) -> Layout:
    batch, merged = None, 1
    shape: list[int | None] = []
    for dim, size in enumerate(value.shape):
        if isinstance(size, int):
            shape.append(size)
            continue
        expression = size.node.expr
        symbols = list(expression.free_symbols)
        factor = expression.subs(dict.fromkeys(symbols, 1))
        if batch is not None or len(symbols) != 1 or expression != factor * symbols[0]:
            raise InputError(f"{what} mixes samples: its shape is {tuple(str(s) for s in value.shape)}")
        batch, merged = dim, int(factor)
        shape.append(None)
    return Layout(tuple(shape), batch, merged)


def _check_samples_apart(graph: Graph, operation: Operation) -> None:
    """Refuse whatever lets one sample's values reach another's."""
    outputs = operation.layout if isinstance(operation.layout, tuple) else (operation.layout,)
    batched = [graph.layouts[i] for i in operation.inputs if i in graph.layouts and graph.layouts[i].batch is not None]
    if not batched or operation.operator.startswith("aten.new_"):  # a new tensor takes only the type of its operand
        return
    for layout in outputs:
        if layout is None:
            continue
        if layout.batch is None:
            if 0 in layout.shape:
                continue
            raise InputError(f"{operation.describe()} mixes samples: a whole batch becomes one value")
        reshaping = operation.operator.startswith(RESHAPING)
        if reshaping:
            apart = layout.before_batch == batched[0].before_batch
        else:
            apart = all(b.merged == layout.merged for b in batched)
        if not apart:
            raise InputError(f"{operation.describe()} mixes samples: it moves the batch into another dimension")
