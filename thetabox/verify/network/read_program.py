"""From a program of torch.export to a graph."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import OutputKind
from torch.fx.node import Node, map_arg

from thetabox.errors import InputError
from thetabox.verify.network.composites import as_layers_call
from thetabox.verify.network.graph import Graph, Layout, Operation, Ref
from thetabox.verify.network.nodes import is_cast, is_idle, is_same
from thetabox.verify.network.samples_apart import check_samples_apart
from thetabox.verify.network.unfold import unfolded

# Results of a trace that a module writes to its own tensors.
WRITES = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)


def read_program(program: Any, prefix: str) -> Graph:
    """The graph of a program, whose parameters' names begin with ``prefix``, which is taken off.

    Raises:
        InputError: it holds what has no rule, mixes samples, or writes to what it reads.
    """
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
        elif is_idle(node):
            continue
        elif is_same(node):
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
        check_samples_apart(graph, operation)
    return graph


def _check_writes(graph: Graph, written: dict[int, str]) -> None:
    """Refuse a module whose output depends on what an earlier call of it wrote."""
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
    if is_cast(node):
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
        call=_call_of(node),
    )


def _call_of(node: Node) -> str:
    """The call of the code that a node is written out of, where it goes by another name; else nothing."""
    sources = node.meta.get("from_node") or []
    call = str(sources[0].name) if sources else ""
    plain = [name.rstrip("_0123456789") for name in (call, node.name)]
    return call if call and plain[0] != plain[1] else ""


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
