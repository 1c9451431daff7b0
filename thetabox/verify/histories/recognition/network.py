"""A whole network out of its equations."""

from __future__ import annotations

from collections.abc import Sequence

from thetabox.verify.histories.description.atoms import ONE, ZERO
from thetabox.verify.histories.neurons import ENDLESS, Boxed, Largest, Neurons, Spiking, Weights
from thetabox.verify.histories.recognition.cells import CellReader, RecognisedCell
from thetabox.verify.histories.recognition.constants import MOST_EPSILON
from thetabox.verify.histories.recognition.equations import Equations
from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.histories.recognition.largest import LargestReader, keeping_nothing, windows_of
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
        cells = [self.reader.spiking(a) for a in (*spikes.now, *spikes.unions)]
        cells += [self.reader.silent(s) for s in sorted(silent_states(self.logits))]
        if len({c.state for c in cells if c.spike is not None}) < len(spikes.now) + len(spikes.unions):
            raise NotRecognised("two spikes are decided by one potential")
        if len({c.state for c in cells}) < len(cells):
            raise NotRecognised("its answer reads the potential of a cell that spikes")
        self.largest: dict[int, list[int]] = {}
        self.entering: dict[int, Entering] = {}
        self.currents: dict[int, Entering] = {}
        for cell in cells:
            self._enter(cell)
        self._check_unions(cells)
        self.groups = self._groups(cells)
        for group in self.groups:
            self._align(group)
        self._order()
        self.where = {
            key: (layer, unit)
            for layer, group in enumerate(self.groups)
            for unit, cell in enumerate(group)
            for key in ((NOW, cell.spike), (OLD, cell.spike), (POTENTIAL, cell.state))
        }

    def _groups(self, cells: Sequence[RecognisedCell]) -> list[list[RecognisedCell]]:
        """Cells whose potentials are one tensor, and that all spike or never do; largest of spikes of such cells."""
        groups: dict[tuple[int, bool, bool], list[RecognisedCell]] = {}
        for cell in sorted(cells, key=lambda c: c.state):
            state = cell.state
            if cell.union:
                (_, spike), _, _ = self.entering[state].pairs[0]
                state = self.reader.spiking(spike).state
            groups.setdefault((self.equations.place(state), cell.spike is None, cell.union), []).append(cell)
        return list(groups.values())

    def _enter(self, cell: RecognisedCell) -> None:
        """Take apart what enters a cell."""
        currents, rest = ([], cell.drive) if cell.union else LargestReader(self.reader).parted(cell.drive)
        self.entering[cell.state] = self.sums.entering(rest)
        if currents:
            if cell.spike is None:
                raise NotRecognised("its answer reads a potential that the largest of several currents enters")
            self.largest[cell.state] = currents
            for p in currents:
                if p not in self.currents:
                    self.currents[p] = self.sums.entering(p)

    def _align(self, group: Sequence[RecognisedCell]) -> None:
        """Where some cells of a layer take the largest of several currents, the others take that of a single one.

        A max pool's windows at the edge may hold but one current.
        """
        if any(cell.state in self.largest for cell in group):
            for cell in group:
                if cell.state not in self.largest:
                    self.largest[cell.state] = [cell.drive]
                    self.currents[cell.drive] = self.entering[cell.state]
                    self.entering[cell.state] = Entering()

    def _check_unions(self, cells: Sequence[RecognisedCell]) -> None:
        """Each is the sum of some spikes above 1/2, and of no others of them less."""
        for cell in cells:
            entering = self.entering[cell.state]
            if cell.union and (entering.rest != ZERO or any((w, f) != (None, ONE) for _, w, f in entering.pairs)):
                raise NotRecognised(f"{self.equations.algebra.show(-1 - cell.state)} is not the largest of spikes")

    def _order(self) -> None:
        """Put layers into the order of one step."""
        index = {cell.spike: n for n, group in enumerate(self.groups) for cell in group if cell.spike is not None}
        needs = [
            {index[atom] for cell in group for entering in self._all_entering(cell) for atom in _now(entering)}
            for group in self.groups
        ]
        ordered: list[int] = []
        while len(ordered) < len(self.groups):
            ready = [n for n in range(len(self.groups)) if n not in ordered and needs[n] <= set(ordered)]
            if not ready:
                raise NotRecognised("cells of one layer wait for each other in one step")
            ordered.append(ready[0])
        self.groups = [self.groups[n] for n in ordered]

    def _all_entering(self, cell: RecognisedCell) -> list[Entering]:
        return [self.entering[cell.state], *(self.currents[p] for p in self.largest.get(cell.state, ()))]

    def spiking(self) -> Spiking:
        layers = tuple(self._layer(n, group) for n, group in enumerate(self.groups))
        output = readout(self.logits, lambda s: self.where[s], self.reader, lambda n: len(self.groups[n]))
        largest = self.reader.spikes.largest
        if self.reader.constants.multiplied:
            largest = min(largest, MOST_EPSILON)
        return Spiking(layers, output, largest)

    def _layer(self, number: int, cells: list[RecognisedCell]) -> Neurons:
        constants, first = self.reader.constants, cells[0]
        kinds = {
            (
                c.synapse is None,
                c.next_drop is None,
                c.reset is None,
                c.most,
                c.late,
                c.twice,
                c.state in self.largest,
            )
            for c in cells
        }
        if len(kinds) > 1:
            raise NotRecognised("cells of one layer differ in what a spike does or in whether they have a current")

        inputs, below, before, bias = self._read([self.entering[c.state] for c in cells])
        return Neurons(
            units=len(cells),
            inputs=inputs,
            below=below,
            before=before,
            bias=bias,
            leak=boxed(constants, [c.leak for c in cells]),
            synapse=None if first.synapse is None else numbers(constants, [c.synapse or 0 for c in cells]),
            decay=numbers(constants, [c.decay for c in cells]),
            threshold=boxed(constants, [c.threshold for c in cells]),
            next_drop=None if first.next_drop is None else boxed(constants, [c.next_drop or 0 for c in cells]),
            reset=None if first.reset is None else boxed(constants, [c.reset or 0 for c in cells]),
            current=numbers(constants, [c.current for c in cells]),
            start=numbers(constants, [c.start for c in cells]),
            most=ENDLESS if first.most is None else first.most,
            union=first.union,
            largest=self._largest(cells),
            late=first.late,
            twice=first.twice,
        )

    def _largest(self, cells: list[RecognisedCell]) -> Largest | None:
        """Currents of which the largest enter some cells."""
        if cells[0].state not in self.largest:
            return None
        currents = [self.largest[c.state] for c in cells]
        place = {p: n for n, p in enumerate(dict.fromkeys(p for some in currents for p in some))}
        inputs, below, before, bias = self._read([self.currents[p] for p in place])
        layer = keeping_nothing(len(place), bias, inputs=inputs, below=below, before=before)
        return Largest(layer, windows_of(currents, place))

    def _read(self, entering: list[Entering]) -> tuple[Weights | None, dict[int, Weights], dict[int, Weights], Boxed]:
        """Weights of the inputs, of spikes of the step and of the step before, and a bias, of several sums."""
        constants = self.reader.constants
        matrices: dict[tuple[str, int], Matrix] = {}
        for unit, some in enumerate(entering):
            for source, weight, factor in some.pairs:
                kind, index = self._matrix(source)
                matrices.setdefault(kind, Matrix()).add(index, unit, weight, constants.boxed(factor))
            for sources, weights in some.single:
                self._extend(matrices, sources, unit, weights.tolist())

        def of(kind: str) -> dict[int, Weights]:
            return {
                layer: matrix.weights_of(constants, len(self.groups[layer]), len(entering))
                for (k, layer), matrix in sorted(matrices.items())
                if k == kind
            }

        inputs = matrices.get((INPUT, 0))
        return (
            None if inputs is None else inputs.weights_of(constants, len(self.equations.inputs), len(entering)),
            of(NOW),
            of(OLD),
            boxed(constants, [some.rest for some in entering]),
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


def _now(entering: Entering) -> set[int]:
    """Spikes of this step that are read."""
    sources = {source for source, _, _ in entering.pairs} | {s for some, _ in entering.single for s in some}
    return {atom for kind, atom in sources if kind == NOW}
