"""A whole network out of its equations."""

from __future__ import annotations

from collections.abc import Sequence

from thetabox.verify.histories.neurons import ENDLESS, Neurons, Spiking, Weights
from thetabox.verify.histories.recognition.cells import CellReader, RecognisedCell
from thetabox.verify.histories.recognition.equations import Equations
from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.histories.recognition.matrices import Matrix, boxed, numbers
from thetabox.verify.histories.recognition.readout import POTENTIAL, LogitReader, readout, silent_states
from thetabox.verify.histories.recognition.spikes import SpikeComparisons
from thetabox.verify.histories.recognition.sums import INPUT, NOW, OLD, Entering, Source, SumReader


def spiking(equations: Equations) -> Spiking:
    """The cells that equations are of.

    Raises:
        NotRecognised: they are none, or something in them is not one.
    """
    return _Network(equations).spiking()


class _Network:
    def __init__(self, equations: Equations) -> None:
        self.equations = equations
        spikes = SpikeComparisons(equations)
        if not spikes.now:
            unknown = next(iter(equations.algebra.undefined), None)
            raise NotRecognised(
                "nothing in it compares a state with a threshold"
                if unknown is None
                else f"nothing is known here of {equations.algebra.show(unknown)}"
            )
        self.reader = CellReader(equations, spikes)
        self.sums = SumReader(self.reader, spikes)
        self.logits = LogitReader(equations, self.reader, self.sums).all()
        cells = [self.reader.spiking(a) for a in spikes.now]
        cells += [self.reader.silent(s) for s in sorted(silent_states(self.logits))]
        if len({c.state for c in cells if c.spike is not None}) < len(spikes.now):
            raise NotRecognised("two spikes are decided by one potential")
        if len({c.state for c in cells}) < len(cells):
            raise NotRecognised("its answer reads the potential of a cell that spikes")
        self.groups = self._groups(cells)
        self.entering = {c.state: self.sums.entering(c.drive) for c in cells}
        self._order()
        self.where = {
            key: (layer, unit)
            for layer, group in enumerate(self.groups)
            for unit, cell in enumerate(group)
            for key in ((NOW, cell.spike), (OLD, cell.spike), (POTENTIAL, cell.state))
        }

    def _groups(self, cells: Sequence[RecognisedCell]) -> list[list[RecognisedCell]]:
        """Cells whose potentials are one tensor, and that all spike or never do."""
        groups: dict[tuple[int, bool], list[RecognisedCell]] = {}
        for cell in sorted(cells, key=lambda c: c.state):
            groups.setdefault((self.equations.place(cell.state), cell.spike is None), []).append(cell)
        return list(groups.values())

    def _order(self) -> None:
        """Put layers into the order of one step."""
        index = {cell.spike: n for n, group in enumerate(self.groups) for cell in group if cell.spike is not None}
        needs = [
            {index[atom] for cell in group for kind, atom in _sources(self.entering[cell.state]) if kind == NOW}
            for group in self.groups
        ]
        ordered: list[int] = []
        while len(ordered) < len(self.groups):
            ready = [n for n in range(len(self.groups)) if n not in ordered and needs[n] <= set(ordered)]
            if not ready:
                raise NotRecognised("cells of one layer wait for each other in one step")
            ordered.append(ready[0])
        self.groups = [self.groups[n] for n in ordered]

    def spiking(self) -> Spiking:
        layers = tuple(self._layer(n, group) for n, group in enumerate(self.groups))
        output = readout(self.logits, lambda s: self.where[s], self.reader, lambda n: len(self.groups[n]))
        return Spiking(layers, output, self.reader.spikes.largest)

    def _layer(self, number: int, cells: list[RecognisedCell]) -> Neurons:
        constants = self.reader.constants
        matrices: dict[tuple[str, int], Matrix] = {}
        for unit, cell in enumerate(cells):
            entering = self.entering[cell.state]
            for source, weight, factor in entering.pairs:
                kind, index = self._matrix(source)
                matrices.setdefault(kind, Matrix()).add(index, unit, weight, *constants.number(factor))
            for sources, weights in entering.single:
                self._extend(matrices, sources, unit, weights.tolist())
        first = cells[0]
        if len({(c.synapse is None, c.next_drop is None, c.reset is None, c.most) for c in cells}) > 1:
            raise NotRecognised("cells of one layer differ in what a spike does or in whether they have a current")

        def of(kind: str) -> dict[int, Weights]:
            return {
                layer: matrix.weights_of(constants, len(self.groups[layer]), len(cells))
                for (k, layer), matrix in sorted(matrices.items())
                if k == kind
            }

        inputs = matrices.get((INPUT, 0))
        return Neurons(
            units=len(cells),
            inputs=None if inputs is None else inputs.weights_of(constants, len(self.equations.inputs), len(cells)),
            below=of(NOW),
            before=of(OLD),
            bias=boxed(constants, [self.entering[c.state].rest for c in cells]),
            leak=boxed(constants, [c.leak for c in cells]),
            synapse=None if first.synapse is None else numbers(constants, [c.synapse or 0 for c in cells]),
            decay=numbers(constants, [c.decay for c in cells]),
            threshold=boxed(constants, [c.threshold for c in cells]),
            next_drop=None if first.next_drop is None else boxed(constants, [c.next_drop or 0 for c in cells]),
            reset=None if first.reset is None else boxed(constants, [c.reset or 0 for c in cells]),
            current=numbers(constants, [c.current for c in cells]),
            start=numbers(constants, [c.start for c in cells]),
            most=ENDLESS if first.most is None else first.most,
        )

    def _extend(
        self, matrices: dict[tuple[str, int], Matrix], sources: list[Source], unit: int, weights: list[int]
    ) -> None:
        by_matrix: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
        for source, weight in zip(sources, weights, strict=True):
            kind, index = self._matrix(source)
            rows, entries = by_matrix.setdefault(kind, ([], []))
            rows.append(index)
            entries.append(weight)
        for kind, (rows, entries) in by_matrix.items():
            matrices.setdefault(kind, Matrix()).extend(rows, unit, entries)

    def _matrix(self, source: Source) -> tuple[tuple[str, int], int]:
        """Which matrix a source is a row of, and which row."""
        kind, index = source
        if kind == INPUT:
            return (INPUT, 0), index
        layer, unit = self.where[source]
        return (kind, layer), unit


def _sources(entering: Entering) -> set[Source]:
    return {source for source, _, _ in entering.pairs} | {s for sources, _ in entering.single for s in sources}
