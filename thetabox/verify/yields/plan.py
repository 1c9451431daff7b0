"""Which values of a graph are bounded how, so that a proof of yield has the ends that it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from thetabox.verify.linear.samples import first_layout
from thetabox.verify.network.graph import Graph, Operation
from thetabox.verify.network.operators import CONVOLUTIONS, MAX_POOLS_2D

COARSE = "ends of layers"
"""The group of the events that values of noisy operations lie in ends that know the operation's own noise alone."""
# Their share of what may be spent: hardly anything hangs on these ends but what rounding loses.
COARSE_SHARE = 0.02
# What mixes values, and whose backward rule asks for no ends of them.
MIXING = (
    "aten.add.Tensor", "aten.sub.Tensor", "aten.mean.dim", "aten.sum.dim_IntList", "aten.avg_pool1d.default",
    "aten.avg_pool2d.default", "aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default",
)  # names, several to a line  # fmt: skip


@dataclass(frozen=True)
class NoisePlan:
    """Positions of a graph by what is done for their values.

    Attributes:
        noisy: operations that read noisy parameters.
        depends: values that depend on noise.
        first: noisy operations whose operands know no noise, so that their own is all there is.
        rows: values that get bounds by backward rows.
        unread: noisy operations whose result is what the network returns and nothing reads: no ends are needed.
        single: values that know no noise but that of ``first`` operations.
        groups: position → name of the group of its events.
        differences: position of a convolution → group of the differences that a max-pool behind it compares.
        coarse_events: of all noisy operations but the first, in number.
    """

    noisy: frozenset[int]
    depends: frozenset[int]
    first: frozenset[int]
    rows: frozenset[int]
    unread: frozenset[int]
    single: frozenset[int]
    groups: dict[int, str]
    differences: dict[int, str]
    coarse_events: int

    def group(self, operation: Operation) -> str:
        """Name of the group of a value's events."""
        return self.groups[operation.index]

    def shares(self) -> dict[str, float]:
        """Group → its share of what may be spent."""
        names = [*self.groups.values(), *self.differences.values()]
        left = 1.0 - (COARSE_SHARE if self.coarse_events and names else 0.0)
        shares = {name: left / len(names) for name in names}
        return shares | ({COARSE: 1.0 - sum(shares.values())} if self.coarse_events else {})


def plan(graph: Graph, noisy: Iterable[int]) -> NoisePlan:
    """What to do for a graph whose operations ``noisy`` read noisy parameters."""
    noisy = frozenset(noisy)
    read = {i for o in graph.operations for i in o.inputs}
    unread = noisy - read
    behind: dict[int, frozenset[int]] = {}
    first: set[int] = set()
    rows: set[int] = set()
    groups: dict[int, str] = {}
    differences: dict[int, str] = {}
    coarse = 0
    for operation in graph.operations:
        before: frozenset[int] = frozenset().union(*(behind.get(i, frozenset()) for i in operation.inputs))
        if operation.index in noisy:
            if not before:
                first.add(operation.index)
            if operation.index not in unread and not before:
                groups[operation.index] = _name("ends", operation)
            elif operation.index not in unread:
                coarse += 2 * _numbers(operation)
            before = before | {operation.index}
        behind[operation.index] = before
    for operation in graph.operations:
        mixes = operation.index in noisy or (operation.operator in MIXING and behind[operation.index])
        if not mixes:
            continue
        readers = [o for o in graph.operations if operation.index in o.inputs]
        looked_at = any(o.index in noisy or o.operator not in MIXING for o in readers)
        if looked_at and operation.index not in first:
            rows.add(operation.index)
            groups[operation.index] = _name("rows", operation)
    for operation in graph.operations:
        maker = pooled_convolution(graph, operation)
        if maker is not None and behind[maker.index] and maker.index not in differences:
            differences[maker.index] = _name("differences", operation)
    return NoisePlan(
        noisy=noisy,
        depends=frozenset(i for i, b in behind.items() if b),
        first=frozenset(first),
        rows=frozenset(rows),
        unread=unread,
        single=frozenset(i for i, b in behind.items() if b and b <= first),
        groups=groups,
        differences=differences,
        coarse_events=coarse,
    )


def pooled_convolution(graph: Graph, operation: Operation) -> Operation | None:
    """The convolution whose results a max-pool compares, a ReLU between them or not."""
    if operation.operator not in MAX_POOLS_2D:
        return None
    makers = {o.index: o for o in graph.operations}
    maker = makers.get(operation.inputs[0])
    if maker is not None and "relu" in maker.operator:
        maker = makers.get(maker.inputs[0])
    return maker if maker is not None and maker.operator in CONVOLUTIONS else None


def _numbers(operation: Operation) -> int:
    layout = first_layout(operation)
    return prod(s or 1 for s in layout.shape) * layout.merged if layout is not None else 1


def _name(what: str, operation: Operation) -> str:
    return f"{what} of {operation.where or operation.name} ({operation.name})"
