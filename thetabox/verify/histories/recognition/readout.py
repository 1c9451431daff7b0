"""What a network returns: sums over time of spikes or of a silent cell's potentials, times weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from thetabox.verify.histories.description.atoms import LARGEST, ONE, ZERO, Function
from thetabox.verify.histories.neurons import Readout
from thetabox.verify.histories.recognition.cells import CellReader
from thetabox.verify.histories.recognition.equations import Equations
from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.histories.recognition.matrices import Matrix, boxed
from thetabox.verify.histories.recognition.sums import NOW, READ, Entering, Source, SumReader

SUM, LAST, MOST = "sum", "last", "largest"
POTENTIAL = "potential"


@dataclass(frozen=True)
class Term:
    """Something of the network times a weight, in one logit.

    Attributes:
        source: a spike of this step, or the potential of a silent cell.
        over: all steps, the last, or whichever step it is largest in.
        weight: entry of a weight, or ``None``.
        factor: the polynomial of numbers that both are multiplied by.
    """

    source: Source
    over: str
    weight: int | None
    factor: int


@dataclass
class Logit:
    """One logit: terms, and what has no source."""

    terms: list[Term] = field(default_factory=list)
    rest: int = ZERO


class LogitReader:
    """Reads all logits of a network."""

    def __init__(self, equations: Equations, reader: CellReader, sums: SumReader) -> None:
        self.equations, self.reader, self.sums, self.algebra = equations, reader, sums, equations.algebra
        self._read = SumReader(reader, reader.spikes, self._as_read)
        self._outputs: dict[int, Logit] = {}

    def _as_read(self, atom: int) -> Source | None:
        return (READ, atom) if atom in self.equations.read else None

    def all(self) -> list[Logit]:
        """Every logit.

        Raises:
            NotRecognised: it is none of what is read here.
        """
        return [self._logit(p) for p in self.equations.logits]

    def _logit(self, p: int) -> Logit:
        node = self.algebra.node(-1 - p) if p < 0 else None
        if isinstance(node, Function) and node.name == LARGEST:
            return self._largest(node)
        entering = self._read.entering(p)
        out = Logit(rest=entering.rest)
        steps: dict[tuple[int, int | None], dict[int, int]] = {}
        for (kind, atom), weight, factor in _pairs(entering):
            if kind != READ:
                raise NotRecognised("its answer hangs on something else than what its steps answer")
            step, output = self.equations.read[atom]
            some = steps.setdefault((output, weight), {})
            some[step] = self.algebra.add(some.get(step, ZERO), factor)
        for (output, weight), by_step in steps.items():
            factors = set(by_step.values())
            if len(by_step) == self.equations.steps and len(factors) == 1:
                self._add(out, self._output(output), SUM, weight, factors.pop(), self.equations.steps)
            elif list(by_step) == [self.equations.steps - 1]:
                self._add_last(out, output, weight, factors.pop())
            else:
                raise NotRecognised(
                    "its answer reads neither the outputs of all steps alike nor those of the last alone"
                )
        return out

    def _largest(self, node: Function) -> Logit:
        """The largest potential of a silent cell over all steps.

        Raises:
            NotRecognised: it is the largest of something else.
        """
        read = [self.equations.read.get(-1 - q, (None, None)) for q in node.arguments]
        outputs = {output for _, output in read}
        one = next(iter(outputs)) if len(outputs) == 1 else None
        inner = Logit() if one is None else self._output(one)
        potential = len(inner.terms) == 1 and inner.terms[0].source[0] == POTENTIAL and inner.rest == ZERO
        if not potential or {step for step, _ in read} != set(range(self.equations.steps)):
            raise NotRecognised("its answer is the largest of something else than potentials of a leaky readout")
        return Logit([Term(inner.terms[0].source, MOST, None, ONE)])

    def _output(self, output: int) -> Logit:
        """An output of a step, as sources of that step."""
        if output not in self._outputs:
            self._outputs[output] = self._sources(self.equations.outputs[output])
        return self._outputs[output]

    def _sources(self, p: int) -> Logit:
        p = self.reader.spikes.rewritten(p)
        states = {a for m in self.algebra.terms(p) for a, _ in m if a in self.equations.next}
        if states:
            for state in sorted(states):
                if self.reader.spikes.rewritten(self.equations.next[state]) == p:
                    return Logit([Term((POTENTIAL, state), SUM, None, 1)])
            raise NotRecognised(f"a step returns {self.algebra.show(p)}, no potential as the step leaves it")
        entering = self.sums.entering(p)
        return Logit([Term(source, SUM, weight, factor) for source, weight, factor in _pairs(entering)], entering.rest)

    def _add(self, out: Logit, inner: Logit, over: str, weight: int | None, factor: int, steps: int) -> None:
        """Add an output of a step, over time, times a weight and a number."""
        for term in inner.terms:
            if term.weight is not None and weight is not None:
                raise NotRecognised("its answer multiplies weights by weights")
            held = weight if term.weight is None else term.weight
            out.terms.append(Term(term.source, over, held, self.algebra.multiply(factor, term.factor)))
        rest = self.algebra.scale(self.algebra.multiply(factor, inner.rest), steps)
        self._add_rest(out, rest, weight)

    def _add_rest(self, out: Logit, rest: int, weight: int | None) -> None:
        if rest != ZERO:
            out.rest = self.algebra.add(out.rest, rest if weight is None else self.algebra.multiply(rest, -1 - weight))

    def _add_last(self, out: Logit, output: int, weight: int | None, factor: int) -> None:
        """Add an output of the last step: a running sum, or the potential of a silent cell."""
        p = self.equations.outputs[output]
        state = next((s for s, after in self.equations.next.items() if after == p), None)
        if state is None:
            self._add(out, self._output(output), LAST, weight, factor, 1)
            return
        after = self.reader.spikes.rewritten(self.equations.next[state])
        summed = self._summed(self.algebra.subtract(after, -1 - state))
        if summed is not None:
            self._add(out, summed, SUM, weight, factor, self.equations.steps)
            self._add_rest(out, self.algebra.multiply(factor, self.equations.start[state]), weight)
        else:
            out.terms.append(Term((POTENTIAL, state), LAST, weight, factor))

    def _summed(self, increment: int) -> Logit | None:
        """What a running sum is increased by; ``None`` where a state does more than add it up."""
        try:
            return self._sources(increment)
        except NotRecognised:
            return None


def _pairs(entering: Entering) -> list[tuple[Source, int | None, int]]:
    pairs = list(entering.pairs)
    for sources, weights in entering.single:
        pairs += [(source, weight, 1) for source, weight in zip(sources, weights.tolist(), strict=True)]
    return pairs


def readout(
    logits: list[Logit], where: Callable[[Source], tuple[int, int]], reader: CellReader, units: Callable[[int], int]
) -> Readout:
    """The readout of a network.

    Args:
        logits: as they were read.
        where: layer and unit of a source.
        reader: of the network's cells.
        units: of a layer.

    Raises:
        NotRecognised: logits read several layers, or in several ways.
    """
    matrix, ways = Matrix(), set()
    for column, logit in enumerate(logits):
        for term in logit.terms:
            if term.source[0] not in (NOW, POTENTIAL) or (term.source[0] == NOW and term.over == LAST):
                raise NotRecognised("its answer reads something else than spikes of all steps or potentials")
            layer, unit = where(term.source)
            ways.add((layer, term.over))
            matrix.add(unit, column, term.weight, reader.constants.boxed(term.factor))
    if len(ways) != 1:
        raise NotRecognised("its answer reads several layers of cells, or none")
    ((layer, over),) = ways
    weights = matrix.weights_of(reader.constants, units(layer), len(logits))
    return Readout(layer, over, weights, boxed(reader.constants, [logit.rest for logit in logits]))


def silent_states(logits: list[Logit]) -> set[int]:
    """Potentials that are read."""
    return {term.source[1] for logit in logits for term in logit.terms if term.source[0] == POTENTIAL}
