"""The graph of a NIR file: its nodes by name, subgraphs opened, and which edges wait for the next time step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thetabox.errors import InputError
from thetabox.models.contents import first_line, one_line, shown
from thetabox.models.nir.file import Tree

CELLS = frozenset({"I", "IF", "LI", "LIF", "CubaLI", "CubaLIF"})
LAYERS = frozenset(
    {"Affine", "Linear", "Scale", "Conv1d", "Conv2d", "Flatten", "SumPool2d", "AvgPool2d", "Threshold", "Delay"}
)
ENDS = frozenset({"Input", "Output"})
GRAPH = "NIRGraph"
MOST_NODES = 2000
# What a graph may hold besides nodes and edges: derived from its nodes, or notes of whoever wrote it.
BESIDE = {"type", "nodes", "edges", "metadata", "input_type", "output_type"}


@dataclass(frozen=True)
class NirNode:
    """One node.

    Attributes:
        name: in the file; of a node in a subgraph ``subgraph.node``.
        kind: primitive of NIR, by its name there; ``Pass`` for the ends of a subgraph.
        values: its constants, as attributes of the node of the package ``nir``.
    """

    name: str
    kind: str
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        """For messages: the node and what it is."""
        return f"node {one_line(self.name)!r} ({self.kind})"


@dataclass
class NirGraph:
    """Nodes and edges of a network.

    Attributes:
        nodes: by name.
        edges: from node to node, in the order of the file.
        source, sink: the nodes that are its input and its output.
        recurrent: edges along which a value arrives one time step later.
        feeds_back: nodes of neurons to which those edges lead from each node.
        order: of the nodes, in which each reads what is known before it, or since the step before.
    """

    nodes: dict[str, NirNode] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    source: str = ""
    sink: str = ""
    recurrent: set[tuple[str, str]] = field(default_factory=set)
    feeds_back: dict[str, set[str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def before(self, name: str) -> list[str]:
        """Nodes that a node reads, those of this time step first."""
        incoming = [edge for edge in self.edges if edge[1] == name]
        return [edge[0] for edge in sorted(incoming, key=lambda edge: edge in self.recurrent)]


def graph_of(path: Path, tree: Tree) -> NirGraph:
    """The graph of a file's root node.

    Raises:
        InputError: a node that is not known or damaged, edges to nowhere, no input or output or several, a circle
            without a neuron, or one whose delayed edge is not known.
    """
    graph = NirGraph()
    inputs, outputs = _open(path, tree, "", graph, 0)
    for ends, word in ((inputs, "input"), (outputs, "output")):
        if len(ends) != 1:
            raise InputError(f"{path}: its graph has {len(ends)} {word}s ({shown(ends)}); one is read")
    graph.source, graph.sink = inputs[0], outputs[0]
    for name, node in graph.nodes.items():
        if name != graph.source and not graph.before(name):
            raise InputError(f"{path}: {node.where} has no input")
    _find_recurrent(path, graph)
    return graph


def _open(path: Path, tree: Tree, prefix: str, graph: NirGraph, depth: int) -> tuple[list[str], list[str]]:
    """Put the nodes and edges of a graph, and of the graphs in it, into one; returns its inputs and outputs."""
    where = one_line(prefix.rstrip(".")) or "graph"
    nodes, edges, foreign = tree.get("nodes"), tree.get("edges"), sorted(set(tree) - BESIDE)
    if foreign:
        raise InputError(f"{path}: damaged, the {where} holds {one_line(shown(foreign))}, which no graph does")
    if not isinstance(nodes, Mapping) or not isinstance(edges, list):
        raise InputError(f"{path}: damaged, the {where} has no nodes or no edges")
    entry: dict[str, str] = {}
    leave: dict[str, str] = {}
    ends: dict[str, list[str]] = {"Input": [], "Output": []}
    for short, held in nodes.items():
        name = prefix + short
        kind = held.get("type") if isinstance(held, Mapping) else ""
        kind = kind if isinstance(kind, str) else ""
        entry[short] = leave[short] = name
        if kind == GRAPH:
            inputs, outputs = _open(path, held, name + ".", graph, depth + 1)
            if len(inputs) != 1 or len(outputs) != 1:
                raise InputError(f"{path}: the subgraph {one_line(name)!r} has not one input and one output")
            entry[short], leave[short] = inputs[0], outputs[0]
            continue
        if kind in ENDS:
            ends[kind].append(name)
        if name in graph.nodes:
            raise InputError(f"{path}: two of its nodes are named {one_line(name)!r}")
        if len(graph.nodes) >= MOST_NODES:
            raise InputError(f"{path}: its graph has more than {MOST_NODES} nodes")
        graph.nodes[name] = _node(path, name, kind, held, inside=depth > 0)
    for edge in edges:
        if not isinstance(edge, list | tuple) or len(edge) != 2 or edge[0] not in leave or edge[1] not in entry:
            raise InputError(f"{path}: damaged, an edge of the {where} joins {one_line(str(edge))[:80]}")
        if (joined := (leave[edge[0]], entry[edge[1]])) not in graph.edges:
            graph.edges.append(joined)
    return ends["Input"], ends["Output"]


def _node(path: Path, name: str, kind: str, held: Any, *, inside: bool) -> NirNode:
    import nir

    if kind not in CELLS | LAYERS | ENDS:
        known = ", ".join(sorted(CELLS | LAYERS))
        raise InputError(f"{path}: node {one_line(name)!r} is of type {one_line(kind)[:40]!r}; known are {known}")
    try:
        made = nir.dict2NIRNode(dict(held))
    except Exception as error:  # an assertion or whatever a wrong shape makes it raise
        raise InputError(
            f"{path}: node {one_line(name)!r} ({kind}) is damaged: {one_line(first_line(error))}"
        ) from None
    return NirNode(name, "Pass" if inside and kind in ENDS else kind, vars(made))


def _find_recurrent(path: Path, graph: NirGraph) -> None:
    """Which edges close a circle, and so carry the value of the step before; and the order of the nodes.

    In a circle what a neuron sent out waits, not what a weight made of it: the input of the weight before the first
    step is the silent neuron's, and its bias counts from then on. Of several neurons in a circle, back leads what comes
    to neurons no farther from the input than the one that it leaves.
    """
    after: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for one, other in graph.edges:
        after[one].append(other)
    far = _distances(graph, after)
    descendants = {name: _reachable(name, after) for name in graph.nodes}
    for edge in graph.edges:
        one, other = edge
        if graph.nodes[one].kind not in CELLS or one not in descendants[other] | {other}:
            continue
        first = {name for name in _first_cells(other, after, graph) if one in descendants[name] | {name}}
        back = {name for name in first if far[name] <= far[one]}
        if back and back != first:
            raise InputError(
                f"{path}: the edge from {one_line(one)!r} to {one_line(other)!r} leads forward and back at once; which "
                "of them waits for the next time step is not known"
            )
        if back:
            graph.recurrent.add(edge)
            graph.feeds_back.setdefault(one, set()).update(back)
    graph.order = _ordered(path, graph)


def _distances(graph: NirGraph, after: Mapping[str, list[str]]) -> dict[str, int]:
    """Edges from the input to each node, on the shortest way."""
    far, edge = {graph.source: 0}, [graph.source]
    while edge:
        name = edge.pop(0)
        for other in after[name]:
            if other not in far:
                far[other] = far[name] + 1
                edge.append(other)
    return {name: far.get(name, len(graph.nodes)) for name in graph.nodes}


def _reachable(start: str, after: Mapping[str, list[str]]) -> set[str]:
    reachable: set[str] = set()
    todo = list(after[start])
    while todo:
        if (name := todo.pop()) not in reachable:
            reachable.add(name)
            todo.extend(after[name])
    return reachable


def _first_cells(start: str, after: Mapping[str, list[str]], graph: NirGraph) -> set[str]:
    """Neurons that a value comes to first, from a node on."""
    cells, seen, todo = set(), set(), [start]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if graph.nodes[name].kind in CELLS:
            cells.add(name)
        else:
            todo.extend(after[name])
    return cells


def _ordered(path: Path, graph: NirGraph) -> list[str]:
    waiting = dict.fromkeys(graph.nodes, 0)
    for edge in graph.edges:
        waiting[edge[1]] += edge not in graph.recurrent
    ready, order = [name for name, count in waiting.items() if not count], list[str]()
    while ready:
        name = ready.pop(0)
        order.append(name)
        for edge in graph.edges:
            if edge[0] == name and edge not in graph.recurrent:
                waiting[edge[1]] -= 1
                if not waiting[edge[1]]:
                    ready.append(edge[1])
    if len(order) < len(graph.nodes):
        left = next(name for name in graph.nodes if name not in order)
        raise InputError(f"{path}: {graph.nodes[left].where} is in a circle that no neuron closes")
    return order
