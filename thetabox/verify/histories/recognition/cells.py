"""A cell read off its equations: decay, current, threshold, and what a spike does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from thetabox.verify.histories.description.atoms import ONE, ZERO, Function, Sign
from thetabox.verify.histories.recognition.equations import Equations
from thetabox.verify.histories.recognition.failure import NotRecognised
from thetabox.verify.histories.recognition.linear import coefficients
from thetabox.verify.histories.recognition.spikes import Count, SpikeComparisons


@dataclass(frozen=True)
class RecognisedCell:
    """Polynomials of one cell, in the names of :class:`thetabox.verify.histories.neurons.Neurons`.

    Attributes:
        state: atom of v.
        spike: atom of the comparison that says whether it spikes, ``None`` for a cell that never does.
        above: whether it spikes where the comparison holds, or where it does not.
        decay, synapse: α, and σ or ``None``.
        drive: what enters its current, sums of products of sources and weights; b with it.
        leak: c.
        threshold: A.
        next_drop, reset: αD or V, ``None`` where a spike does something else.
        current, start: j and v in front of the first step.
        most: spikes a step, 0 for a cell that never spikes, ``None`` without end.
        union: whether it is no cell, but 1 where any of the spikes that it reads is, as max pools are.
        late, twice: how a spike resets.
    """

    state: int
    spike: int | None
    above: bool
    decay: int
    synapse: int | None
    drive: int
    leak: int
    threshold: int
    next_drop: int | None
    reset: int | None
    current: int
    start: int
    most: int | None
    union: bool = False
    late: bool = False
    twice: bool = False


class CellReader:
    """Reads cells off the equations of one step."""

    def __init__(self, equations: Equations, spikes: SpikeComparisons) -> None:
        self.equations, self.spikes = equations, spikes
        self.algebra, self.constants = equations.algebra, equations.constants
        self._known: dict[int, RecognisedCell] = {}

    def spiking(self, spike: int) -> RecognisedCell:
        """The cell whose spike a comparison of this step is.

        Raises:
            NotRecognised: its equations are not those of a leaky cell.
        """
        if spike not in self._known:
            self._known[spike] = self._union(spike) if spike in self.spikes.unions else self._spiking(spike)
        return self._known[spike]

    def _union(self, atom: int) -> RecognisedCell:
        """The largest of several spikes: a cell that keeps nothing and spikes where their sum is above 1/2."""
        node, half = self.algebra.node(atom), self.algebra.literal(Fraction(1, 2))
        assert isinstance(node, Function)
        spikes = self.algebra.sum(node.arguments)
        return RecognisedCell(
            atom, atom, True, ZERO, None, spikes, ZERO, half, None, None, ZERO, ZERO, most=1, union=True
        )

    def silent(self, state: int) -> RecognisedCell:
        """The cell that never spikes whose potential a state is."""
        potential = self.spikes.rewritten(self.equations.next[state])
        return self._cell(state, None, True, potential, ZERO, None, None, 0)

    def _spiking(self, spike: int) -> RecognisedCell:
        count = self.spikes.count(spike)
        second = self.spikes.second.get(spike)
        if second is not None:
            crossing = self._potential(spike, self._both(self.spikes.gap(spike), *second)[0])
        elif count is None:
            crossing = self._potential(spike, self.spikes.gap(spike))
        else:
            crossing = self._rounded(spike, count)
        if crossing is None:
            raise NotRecognised(self._undecided(spike))
        state, above, threshold = crossing
        after = self.spikes.rewritten(self.equations.next[state])
        quiet, fired = self._both(after, spike, above)
        old = self.spikes.old[spike]
        was_quiet, had_fired = self._both(quiet, old, above)
        self._check_begins(spike, above)
        if count is not None:
            self._check_linear(after, spike)
        next_drop = reset = None
        late = False
        # Where a spike resets in its own step, what it does in the next is a weight from the cell to itself.
        potential = quiet if quiet != fired else was_quiet
        decay = self._coefficient(potential, state)
        if quiet != fired:
            drop = self.algebra.subtract(quiet, fired)
            if self.constants.is_constant(drop):
                next_drop = self.algebra.multiply(decay, drop)
            elif self.constants.is_constant(fired):
                reset = fired
            else:
                raise NotRecognised(f"a spike takes the potential to {self.algebra.show(fired)}")
        elif was_quiet != had_fired:
            drop = self.algebra.subtract(was_quiet, had_fired)
            if self.constants.is_constant(drop):
                next_drop = drop
            else:
                reset, late = self._late_reset(was_quiet, had_fired, state, decay)
        if second is not None:
            self._check_second(spike, crossing, quiet, fired)
        if count is not None and reset is not None:
            raise NotRecognised("a cell that may spike several times a step is reset to a value")
        most = 1 if count is None else count.most
        cell = self._cell(state, spike, above, potential, threshold, next_drop, reset, most)
        return replace(cell, late=late, twice=second is not None)

    def _check_second(self, spike: int, crossing: tuple[int, bool, int], quiet: int, fired: int) -> None:
        """Both looks are at the potential, which each subtracts a threshold from: A = D in the names of Neurons."""
        algebra, (atom, above), (state, up, threshold) = self.algebra, self.spikes.second[spike], crossing
        side = 1 if above else -1
        look = algebra.node(atom)
        assert isinstance(look, Sign)
        here, behind = (algebra.subtract(p, threshold) for p in (quiet, -1 - state))
        again = algebra.subtract(here, threshold)
        if above != up or not (
            algebra.subtract(quiet, fired) == threshold
            and algebra.positive(algebra.scale(behind, side)) == algebra.positive(algebra.scale(look.of, look.side))
            and algebra.positive(algebra.scale(again, side))
            == algebra.positive(self._both(self.spikes.gap(spike), atom, above)[1])
        ):
            raise NotRecognised(
                f"a potential is compared behind its reset once more, in {algebra.show(-1 - atom)}, and does not lose "
                "a threshold for each of both"
            )

    def _undecided(self, spike: int) -> str:
        """Why a comparison that decides a spike is not one of a potential with a threshold."""
        shown, count = self.algebra.show(-1 - spike), self.spikes.count(spike)
        several = list(self._states(self.spikes.gap(spike) if count is None else count.of))
        if len(several) > 1:
            return (
                f"{shown} decides a spike by several states, as an adaptive threshold does, which a network has to "
                "describe itself (leaky_cells)"
            )
        return f"{shown} decides a spike, and no state of the network is its potential"

    def _check_linear(self, after: int, spike: int) -> None:
        """Each of several spikes takes as much from the potential."""
        for comparison in (spike, self.spikes.old[spike]):
            values = [self.algebra.substitute(after, {comparison: self.algebra.literal(n)}) for n in range(4)]
            steps = {self.algebra.subtract(b, a) for a, b in itertools.pairwise(values)}
            if len(steps) > 1:
                raise NotRecognised("several spikes in a step do not each take as much from the potential")

    def _rounded(self, spike: int, count: Count) -> tuple[int, bool, int] | None:
        """The state that p is written to, where p/A is rounded down, and A."""
        for state in self._states(count.of):
            quiet = self._both(self.spikes.rewritten(self.equations.next[state]), spike, True)[0]
            ratio = self._ratio(quiet, count.of, state)
            if ratio is not None and ratio > 0 and quiet == self.algebra.scale(count.of, ratio):
                return state, True, self.algebra.literal(ratio)
        return None

    def _check_begins(self, spike: int, above: bool) -> None:
        if self.spikes.first.get(spike, int(not above)) != int(not above):
            raise NotRecognised("a cell begins as if it had spiked in the step before the first")

    def _late_reset(self, was_quiet: int, had_fired: int, state: int, decay: int) -> tuple[int, bool]:
        """V, where a spike sets the potential in the step behind it, and whether behind all that enters then.

        Else it is set in front of the decay, as in the spike's own step.
        """
        if self.constants.is_constant(had_fired):
            return had_fired, True
        rest = self.algebra.subtract(was_quiet, self.algebra.multiply(decay, -1 - state))
        decayed = self.algebra.subtract(had_fired, rest)
        if not self.constants.is_constant(decayed):
            raise NotRecognised(f"a spike takes the next potential to {self.algebra.show(had_fired)}")
        return self._divided(decayed, decay), False

    def _divided(self, p: int, q: int) -> int:
        if p == ZERO:
            return ZERO
        inverse = self.algebra.reciprocal(q)
        if inverse in self.algebra.undefined:
            raise NotRecognised(f"{self.algebra.show(q)} divides a constant of a cell, and may be zero")
        return self.algebra.multiply(p, inverse)

    def _both(self, p: int, comparison: int, above: bool) -> tuple[int, int]:
        """A polynomial without and with a spike."""
        without, with_it = (self.algebra.substitute(p, {comparison: bit}) for bit in (ZERO, ONE))
        return (without, with_it) if above else (with_it, without)

    def _potential(self, spike: int, gap: int) -> tuple[int, bool, int] | None:
        """The state that the compared potential is written to, whether a spike is above, and the threshold."""
        for state in self._states(gap):
            after = self.spikes.rewritten(self.equations.next[state])
            for above in (True, False):
                quiet = self._both(after, spike, above)[0]
                ratio = self._ratio(quiet, gap, state)
                if ratio is None or (ratio > 0) != above:
                    continue
                threshold = self.algebra.subtract(quiet, self.algebra.scale(gap, ratio))
                if self.constants.is_constant(threshold):
                    return state, above, threshold
        return None

    def _states(self, p: int) -> Iterator[int]:
        """States that stand in a polynomial, but for those that keep spikes."""
        seen = set()
        for monomial in self.algebra.terms(p):
            for atom, _ in monomial:
                if atom in self.equations.next and atom not in self.spikes.instead and atom not in seen:
                    seen.add(atom)
                    yield atom

    def _ratio(self, p: int, q: int, state: int) -> Fraction | None:
        left, right = self.algebra.terms(p), self.algebra.terms(q)
        for monomial, coefficient in right.items():
            if any(a == state for a, _ in monomial) and monomial in left:
                return Fraction(left[monomial]) / Fraction(coefficient)
        return None

    def _coefficient(self, p: int, state: int) -> int:
        """What a state is multiplied by."""
        cofactors = coefficients(self.algebra, p, lambda atom: atom == state)
        if cofactors is None:
            raise NotRecognised(f"the potential of a cell becomes {self.algebra.show(p)}, not linear in itself")
        factor = cofactors.get(state, ZERO)
        if not self.constants.is_constant(factor):
            raise NotRecognised(f"the decay of a cell is {self.algebra.show(factor)}, which is no constant")
        return factor

    def _cell(
        self,
        state: int,
        spike: int | None,
        above: bool,
        potential: int,
        threshold: int,
        next_drop: int | None,
        reset: int | None,
        most: int | None,
    ) -> RecognisedCell:
        algebra = self.algebra
        decay = self._coefficient(potential, state)
        rest = algebra.subtract(potential, algebra.multiply(decay, -1 - state))
        others = list(self._states(rest))
        start = self.equations.start[state]
        if not others:
            return RecognisedCell(
                state, spike, above, decay, None, rest, ZERO, threshold, next_drop, reset, ZERO, start, most
            )
        if len(others) > 1 or others[0] == state:
            raise NotRecognised("the potential of a cell hangs on several states beside itself")
        (current,) = others
        after = self.spikes.rewritten(self.equations.next[current])
        synapse = self._coefficient(after, current)
        gain = self._divided(self._coefficient(rest, current), synapse)
        leak = algebra.subtract(rest, algebra.multiply(gain, after))
        if not self.constants.is_constant(leak):
            raise NotRecognised(
                f"a cell's potential becomes {algebra.show(potential)}, which does not read its current as this step "
                "leaves it"
            )
        entering = algebra.subtract(after, algebra.multiply(synapse, -1 - current))
        if any(True for _ in self._states(entering)):
            raise NotRecognised(f"a cell's current becomes {algebra.show(after)}")
        drive = algebra.multiply(gain, entering)
        begins = algebra.multiply(gain, self.equations.start[current])
        return RecognisedCell(
            state, spike, above, decay, synapse, drive, leak, threshold, next_drop, reset, begins, start, most
        )
