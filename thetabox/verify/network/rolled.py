"""The loop of a network over time steps, found in its unrolled trace.

A module with ``for t in range(x.shape[1]): …`` is traced as one long graph. :func:`rolled` guesses the step that
repeats in it and proves, operation by operation, that the graph is nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from thetabox.verify.network.graph import Graph
from thetabox.verify.network.rolling.bodies import Loop, OperationOrder, periods, runs, sequence_of
from thetabox.verify.network.rolling.candidate import Candidate
from thetabox.verify.network.rolling.first import first_body
from thetabox.verify.network.rolling.graphs import rolled_graphs
from thetabox.verify.network.rolling.orders import orders
from thetabox.verify.network.rolling.result import ReadoutInput, Rolled, StepRead
from thetabox.verify.network.rolling.values import NotRolled, SeveralLoops, values_of

__all__ = ["NotRolled", "ReadoutInput", "Rolled", "StepRead", "rolled"]

# How many stretches of like operations are looked at for a distance between them.
STRETCHES = 3


def rolled(graph: Graph) -> Rolled:
    """The loop of an unrolled graph.

    Raises:
        NotRolled: it is not seen to be one loop of at least three like steps; its ``reason`` is one sentence.
    """
    values = values_of(graph)
    # A loop that is next to nothing of the network says nothing about it.
    most, reason = len(values.operations) // 2, "no operations repeat in it as the steps of a loop do"
    for order in orders(values):
        for candidate in _candidates(sequence_of(values, order)):
            try:
                return rolled_graphs(candidate)
            except NotRolled as error:
                length = len(values.operations) if isinstance(error, SeveralLoops) else candidate.length
                if length > most and candidate.repeats:
                    most, reason = length, error.reason
    raise NotRolled(reason)


def _candidates(sequence: OperationOrder) -> Iterator[Candidate]:
    """Loops that the trace may be, the likeliest first.

    Where the second body starts does not matter for the proof, but for who reads the step. Loops come first whose
    states start as numbers of the code, then those whose first step is another, then those whose states start as
    something that is computed from the input.
    """
    for period in periods(sequence.signatures):
        for begin, _ in runs(sequence.signatures, period)[:STRETCHES]:
            starts = [s for s in range(begin + period, begin - 1, -1) if s + period < len(sequence.order)]
            loops = [loop for s in starts if (loop := _loop(sequence, s, period)) is not None]
            like = [Candidate(loop, first) for loop in loops if (first := first_body(loop)) is not None]
            costs = {c: c.start_cost() for c in like}
            like.sort(key=lambda c: (costs[c], -c.loop.start))
            others = [Candidate(loop, None) for loop in loops]
            if not any(loop.moving for loop in loops):
                # No read says where a step starts, so it is where few values go from one to the next.
                others.sort(key=lambda c: (c.crossing(), c.loop.start))
            yield from (c for c in like if not costs[c][0])
            yield from others
            yield from (c for c in like if costs[c][0])


def _loop(sequence: OperationOrder, start: int, period: int) -> Loop | None:
    try:
        return Loop(sequence, start, period)
    except NotRolled:
        return None
