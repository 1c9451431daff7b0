"""A cell of a network followed through all that its counters can be, beside the cell of the description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import ONE, ZERO, AtomBlock
from thetabox.verify.histories.description.cells import Combination, DescribedCell, LayerAtoms
from thetabox.verify.histories.description.products import Mismatch, column_of, products

# A cell's state beside potential and adaptation: how many entries it may have, and how many combinations of values,
# beside those of the refractory counter.
MOST_ENTRIES, MOST_COMBINATIONS = 12, 64


class Following:
    """The cells of one network.

    Args:
        algebra: of its polynomials.
        states: its tensors of state.
        after: atom of a state → what it is after a step.
        start: atom of a state → what it begins with.
        zeros: first atom of a weight matrix → which of its entries are zero in all of the box.
    """

    def __init__(
        self,
        algebra: Algebra,
        states: Sequence[AtomBlock],
        after: Mapping[int, int],
        start: Mapping[int, int],
        zeros: Mapping[int, np.ndarray],
    ) -> None:
        self.algebra, self.states, self.next, self.start, self.zeros = algebra, states, after, start, zeros
        self.places: tuple[int, int | None] | None = None  # which tensors of the state v and b were last

    def cell(self, layer: LayerAtoms, j: int, spike: int) -> DescribedCell:
        """The cell whose new spike this polynomial is: every choice of v and b among what the spike hangs on."""
        if spike == ZERO:
            raise Mismatch(f"cell {j} behind {layer.weight_in.name!r} never spikes")
        entries = self._entries_of(spike)
        if len(entries) > MOST_ENTRIES:
            raise Mismatch(f"the spike of cell {j} behind {layer.weight_in.name!r} hangs on {len(entries)} states")
        failed: Mismatch | None = None
        for potential, adaptation in self._choices(layer, entries):
            rest = [a for a in entries if a not in (potential, adaptation)]
            cell = DescribedCell(potential, adaptation, rest)
            saved = layer.below.copy(), layer.before.copy()
            try:
                self._follow(layer, j, cell, spike)
            except Mismatch as error:
                layer.below, layer.before = saved
                failed = error if failed is None or error.progress > failed.progress else failed
                continue
            self.places = self._place(potential), None if adaptation is None else self._place(adaptation)
            return cell
        raise failed or Mismatch(
            f"the spike of cell {j} behind {layer.weight_in.name!r} is {self.algebra.show(spike)}, which no potential "
            "of the state decides"
        )

    def _entries_of(self, spike: int) -> list[int]:
        """State that a polynomial hangs on, now or later."""
        entries: set[int] = set()
        todo = [spike]
        while todo:
            for atom in self.algebra.support(todo.pop()):
                if atom in self.next and atom not in entries:
                    entries.add(atom)
                    todo.append(self.next[atom])
        return sorted(entries)

    def _place(self, atom: int) -> int:
        return next(n for n, b in enumerate(self.states) if b.first <= atom < b.first + b.count)

    def _choices(self, layer: LayerAtoms, entries: list[int]) -> Iterator[tuple[int, int | None]]:
        """Those of the cell before first."""
        dependent = [a for a in entries if a in self.algebra.support(self.next[a])]
        pairs: list[tuple[int, int | None]]
        pairs = (
            [(v, b) for v in dependent for b in dependent if v != b]
            if layer.beta is not None
            else [(v, None) for v in dependent]
        )

        def unlike(pair: tuple[int, int | None]) -> bool:
            return (self._place(pair[0]), None if pair[1] is None else self._place(pair[1])) != self.places

        yield from sorted(pairs, key=unlike)

    def _follow(self, layer: LayerAtoms, j: int, cell: DescribedCell, spike: int) -> None:
        """Through every combination that its counters reach."""
        progress = 0
        first = [self.start[a] for a in cell.counters]
        if any(self.algebra.value(p) is None for p in first):
            raise Mismatch("its initial_state is no number")
        derived = self._derived(layer, j, cell, spike)
        sides: list[int | None] = [None]
        if derived is not None:
            if layer.may_be_negative:
                raise Mismatch(
                    f"it does not keep its last spikes, but compares with {layer.says.threshold!r} anew, where a "
                    "silent cell could count as one that spiked: the threshold must not be negative, nor in the box",
                    1,
                )
            sides = [0, -1]
        todo = [Combination(tuple(first), side, 0, 0) for side in sides]
        while todo:
            now = todo.pop()
            if now in cell.reached:
                continue
            if len(cell.reached) > MOST_COMBINATIONS + 4 * layer.says.refractory:
                raise Mismatch(
                    f"the state of cell {j} behind {layer.weight_in.name!r} takes ever more values beside potential "
                    "and adaptation",
                    progress,
                )
            numbers = dict(zip(cell.counters, now.entries, strict=True))
            if derived is not None and now.side is not None:
                numbers.update(self._sides(derived, now.side))
            cell.reached[now] = numbers
            for after in self._step(layer, j, cell, spike, now, numbers, derived is not None, progress):
                todo.append(after)
            progress += 1
        for atom in (cell.potential, cell.adaptation):
            if atom is not None and self.start[atom] != ZERO:
                raise Mismatch("its initial_state is not zero, from which leaky_cells says it starts", 10 + progress)

    def _derived(self, layer: LayerAtoms, j: int, cell: DescribedCell, spike: int) -> int | None:
        """The last v − A, where the network takes its last spikes from that instead of keeping them."""
        b = ZERO if cell.adaptation is None else -1 - cell.adaptation
        gap = self.algebra.subtract(-1 - cell.potential, self._level(layer, j, b))
        atoms = set(self._sides(gap, 0))
        everything = [
            spike,
            *(self.next[a] for a in (cell.potential, cell.adaptation, *cell.counters) if a is not None),
        ]
        return gap if any(atoms & self.algebra.support(p) for p in everything) else None

    def _level(self, layer: LayerAtoms, j: int, b: int) -> int:
        beta = ZERO if layer.beta is None else layer.beta[j]
        return self.algebra.add(layer.threshold[j], self.algebra.multiply(beta, b))

    def _sides(self, gap: int, side: int) -> dict[int, int]:
        """Both comparisons of a polynomial with 0, by its sign."""
        numbers = {}
        for direction in (1, -1):
            compared = self.algebra.positive(self.algebra.scale(gap, direction))
            numbers[-1 - compared] = ONE if direction == side else ZERO
        return numbers

    def _step(
        self,
        layer: LayerAtoms,
        j: int,
        cell: DescribedCell,
        spike: int,
        now: Combination,
        numbers: dict[int, int],
        derived: bool,
        progress: int,
    ) -> Iterator[Combination]:
        algebra, says = self.algebra, layer.says
        what = f"cell {j} behind {says.weight_in!r}"
        last = algebra.literal(now.spike)
        b = ZERO
        if cell.adaptation is not None and layer.rho is not None:
            rho = layer.rho[j]
            b = algebra.add(
                algebra.multiply(rho, -1 - cell.adaptation), algebra.multiply(algebra.subtract(ONE, rho), last)
            )
            adaptation = algebra.substitute(self.next[cell.adaptation], numbers)
            if adaptation != b:
                raise Mismatch(f"the adaptation of {what} {self._differs(adaptation, b)}", 2 + progress)
        level = self._level(layer, j, b)
        alpha = layer.alpha[j]
        v = algebra.substitute(self.next[cell.potential], numbers)
        rest = self._drive(layer, j, v, algebra.subtract(ONE, alpha), 3 + progress)
        reset = algebra.scale(algebra.multiply(last, level), Fraction(float(says.dt)))
        expected = algebra.subtract(algebra.multiply(alpha, -1 - cell.potential), reset)
        if rest != expected:
            raise Mismatch(f"the potential of {what} {self._differs(rest, expected)}", 4 + progress)
        gap = algebra.subtract(v, level)
        decided = algebra.substitute(spike, numbers)
        then = [algebra.substitute(self.next[a], numbers) for a in cell.counters]
        for side in (1, 0, -1):
            sides = self._sides(gap, side)
            z = int(side > 0 and now.refractory == 0)
            emitted = algebra.substitute(decided, sides)
            if emitted != algebra.literal(z):
                where = {1: "above", 0: "equal to", -1: "below"}[side]
                silent = f", {now.refractory} in the refractory counter" if now.refractory else ""
                raise Mismatch(
                    f"the spike of {what} is {algebra.show(emitted)}, not {z}, where v is {where} A{silent}",
                    5 + progress,
                )
            entries = tuple(algebra.substitute(p, sides) for p in then)
            odd = next((n for n, p in enumerate(entries) if algebra.value(p) is None), None)
            if odd is not None:
                block = self.states[self._place(cell.counters[odd])]
                raise Mismatch(
                    f"the spike of {what} hangs on {block.name}, which becomes {algebra.show(entries[odd])}: neither "
                    "potential, adaptation nor a counter of silent steps",
                    progress,
                )
            n = int(says.refractory)
            refractory = min(max(now.refractory + n * z - 1, 0), n)
            yield Combination(entries, side if derived else None, z, refractory)

    def _differs(self, actual: int, expected: int) -> str:
        difference = self.algebra.subtract(actual, expected)
        return f"becomes {self.algebra.show(expected, 8)} plus {self.algebra.show(difference)}"

    def _drive(self, layer: LayerAtoms, j: int, v: int, scale: int, progress: int) -> int:
        """Take x W_in and z W_rec out of a potential; what they hold is noted, the rest returned."""
        left, rest = products(self.algebra, v, scale, progress)
        nothing = not left
        for block, known, what in ((layer.weight_in, layer.below, "in"), (layer.weight_rec, layer.before, "rec")):
            if block is None:
                continue
            column = column_of(self.algebra, block, self.zeros[block.first], left.pop(block.first, []), j, progress)
            needed = ~self.zeros[block.first][:, j]
            if what == "rec":
                needed[j] = False
                if column[j] != 0 and not self.zeros[block.first][j, j]:
                    raise Mismatch(f"the diagonal of {block.name!r} counts", progress)
            wrong = needed & ((column == 0) | ((known != 0) & (column != known)))
            if wrong.any() and nothing:
                what = f"the potential of cell {j} behind {layer.weight_in.name!r}"
                raise Mismatch(f"{what} becomes {self.algebra.show(v)}, which is not linear in weights", progress)
            if wrong.any():
                i = int(wrong.argmax())
                holds = "nothing" if column[i] == 0 else self.algebra.show(int(column[i]), 2)
                raise Mismatch(f"{block.name}[{i},{j}] is multiplied by {holds}", progress)
            known[:] = np.where((known == 0) & (column != 0), column, known)
        for first, parts in left.items():
            block = next(b for b in self.algebra.blocks if b.first == first)
            if not all(self.zeros[first].reshape(-1)[-1 - weights - first].all() for _, weights in parts):
                raise Mismatch(f"{block.name!r} enters cell {j} behind {layer.weight_in.name!r}", progress)
        return rest

    def check_old_spikes(self, layer: LayerAtoms, cells: list[DescribedCell]) -> None:
        """What recurrent weights are multiplied by are the spikes of the step before."""
        for i, cell in enumerate(cells):
            held = int(layer.before[i])
            if held == ZERO:
                continue
            for combination, numbers in cell.reached.items():
                factor = self.algebra.substitute(held, numbers)
                if factor != self.algebra.literal(combination.spike):
                    assert layer.weight_rec is not None
                    raise Mismatch(
                        f"row {i} of {layer.weight_rec.name!r} is multiplied by {self.algebra.show(factor)} behind a "
                        f"step with spike {combination.spike}"
                    )
