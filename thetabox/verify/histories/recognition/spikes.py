r"""The comparisons of one step: which are spikes of this step, and what stands for those of the step before.

A spike of the step before is kept in the state, or found anew: a comparison of states alone, which is a spike of the
step before if it becomes a spike of this step once every state in it is replaced by what it becomes. Of a cell that may
spike several times a step the whole number :math:`\min(\max(\lfloor q \rfloor, 0), n)` takes the comparison's place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from thetabox.verify.histories.description.algebra import Algebra
from thetabox.verify.histories.description.atoms import (
    FLOOR,
    LARGEST,
    ONE,
    ZERO,
    AtomBlock,
    Dot,
    Exp,
    Function,
    Monomial,
    Sign,
    plain,
)
from thetabox.verify.histories.recognition.equations import Equations
from thetabox.verify.histories.recognition.failure import NotRecognised


@dataclass(frozen=True)
class Count:
    """A whole number of spikes: what is rounded down, and the most that it may be (``None`` without end)."""

    of: int
    most: int | None


def count_of(algebra: Algebra, atom: int) -> Count | None:
    """An atom as a number of spikes, none below 0."""
    node = algebra.node(atom)
    if isinstance(node, Function) and node.name == "minimum":
        most, inner = _number_and_atom(algebra, node)
        count = None if inner is None else count_of(algebra, inner)
        return None if count is None or most is None or most < 1 or count.most is not None else Count(count.of, most)
    if isinstance(node, Function) and node.name == "maximum":
        least, inner = _number_and_atom(algebra, node)
        rounded = None if inner is None else algebra.node(inner)
        if least == 0 and isinstance(rounded, Function) and rounded.name == FLOOR:
            return Count(rounded.arguments[0], None)
        if least == 0 and isinstance(rounded, Function) and rounded.name == "minimum" and inner is not None:
            most, inside = _number_and_atom(algebra, rounded)
            floor = None if inside is None else algebra.node(inside)
            if isinstance(floor, Function) and floor.name == FLOOR and most is not None and most >= 1:
                return Count(floor.arguments[0], most)
    return None


def _number_and_atom(algebra: Algebra, node: Function) -> tuple[int | None, int | None]:
    """The whole number and the atom that are the two arguments of a function."""
    number = atom = None
    for p in node.arguments:
        value = algebra.value(p)
        if value is not None and value == int(value):
            number = int(value)
        elif p < 0:
            atom = -1 - p
    return number, atom


def _is_largest(algebra: Algebra, atom: int) -> bool:
    node = algebra.node(atom)
    return isinstance(node, Function) and node.name == LARGEST


class SpikeComparisons:
    """Comparisons of this step, and of the step before.

    Attributes:
        now: atoms of comparisons that hang on what enters in this step, in the order in which they are found; of whole
            numbers of spikes too.
        old: of each of them → the atom that stands for its value in the step before.
        first: what that is in front of the first step, 0 or 1, where anything hangs on it.
        largest: ε up to which ``first`` is so.
        second: of comparisons of this step whose potential is compared behind its reset once more: the atom of that
            comparison of a state, and whether both hold where they are met (and not where they are missed).
        unions: atoms that are the largest of several spikes, as max pools make them, by what :meth:`rewritten` makes.
        instead: atoms of the equations → what they are by these: states that keep old comparisons, and comparisons of
            states alone; comparisons of this step as they are.
    """

    def __init__(self, equations: Equations) -> None:
        self.equations, self.algebra = equations, equations.algebra
        self._moves: dict[int, bool] = {}
        atoms = list(self._atoms([*equations.next.values(), *equations.outputs]))
        compared = [a for a in atoms if isinstance(self.algebra.node(a), Sign) or count_of(self.algebra, a) is not None]
        self.now = [a for a in compared if self._enters(-1 - a)]
        self.now += self._alone([a for a in compared if a not in self.now])
        self.old = {a: -1 - self._fresh(n, a) for n, a in enumerate(self.now)}
        self.first: dict[int, int] = {}
        self.largest = math.inf
        self.second: dict[int, tuple[int, bool]] = {}
        self.instead: dict[int, int] = {a: -1 - a for a in self.now}
        for atom in compared:
            if atom not in self.old:
                self._compared_anew(atom)
        for state in equations.next:
            self._kept(state)
        largest = (self.rewritten(-1 - a) for a in atoms if _is_largest(self.algebra, a))
        self.unions = {-1 - p: None for p in largest if self._is_union(p)}

    def rewritten(self, p: int) -> int:
        """A polynomial by old comparisons instead of what stands for them."""
        return self.algebra.substitute(p, self.instead)

    def count(self, atom: int) -> Count | None:
        """What is rounded down to a number of spikes, and the most; ``None`` for a comparison."""
        count = count_of(self.algebra, atom)
        return None if count is None else Count(self.rewritten(count.of), count.most)

    def gap(self, atom: int) -> int:
        """The polynomial that is above 0 where a comparison holds."""
        node = self.algebra.node(atom)
        assert isinstance(node, Sign)
        return self.algebra.scale(self.rewritten(node.of), node.side)

    def _fresh(self, number: int, atom: int) -> int:
        entry = -1 - self.algebra.block(f"spike {number} of the step before", (), "input").first
        return self.algebra.positive(entry) if isinstance(self.algebra.node(atom), Sign) else entry

    def _is_union(self, p: int) -> bool:
        """Whether it is the largest of several truth values, all of them spikes of this step or of the one before."""
        if p >= 0 or not _is_largest(self.algebra, -1 - p):
            return False
        node = self.algebra.node(-1 - p)
        assert isinstance(node, Function)
        return all(self._is_spike(q) for q in node.arguments)

    def _is_spike(self, p: int) -> bool:
        terms = self.algebra.terms(p)
        (atom, *others) = {a for m in terms for a, _ in m} or (None,)
        if atom is None or others or (atom not in self.old and atom not in self.old.values()):
            return False
        single = isinstance(self.algebra.node(atom), Sign)
        return single and terms in ({((atom, 1),): 1}, {(): 1, ((atom, 1),): -1})

    def _atoms(self, polynomials: Iterable[int]) -> Iterator[int]:
        """Every atom in them, in their sums of products too, each once; what numbers of spikes are made of is not."""
        todo, seen = list(polynomials)[::-1], set()
        while todo:
            p = todo.pop()
            for monomial in self.algebra.terms(p):
                for atom, _ in monomial:
                    if atom in seen:
                        continue
                    seen.add(atom)
                    yield atom
                    count = count_of(self.algebra, atom)
                    todo.extend(self._inside(atom) if count is None else [count.of])

    def _inside(self, atom: int) -> list[int]:
        match self.algebra.node(atom):
            case Sign(of, _) | Exp(of):
                return [of]
            case Function(_, arguments, _):
                return list(arguments)
            case Dot() as dot:
                return sorted({*dot.factors()[0].tolist()})
        return []

    def _enters(self, p: int) -> bool:
        """Whether a polynomial holds what enters in this step: inputs, or sums of products with weights."""
        enters = self._moves.get(p)
        if enters is None:
            atoms = {a for m in self.algebra.terms(p) for a, _ in m}
            enters = self._moves[p] = any(self._atom_enters(a) for a in atoms)
        return enters

    def _atom_enters(self, atom: int) -> bool:
        match self.algebra.node(atom):
            case AtomBlock(_, _, _, kind):
                return kind in ("input", "undefined")
            case Dot():
                return True
        return any(self._enters(p) for p in self._inside(atom))

    def _alone(self, compared: list[int]) -> list[int]:
        """Comparisons of states alone that are spikes of this step: of cells that nothing enters, as by padding.

        Such a one compares what its potential becomes, and is not what becomes of another comparison.
        """
        signs = {a: node for a in compared if isinstance(node := self.algebra.node(a), Sign)}
        return [
            a
            for a, node in signs.items()
            if self._shifted(node)[1] not in signs and any(self._decides(a, node, s) for s in self._states(node.of))
        ]

    def _states(self, p: int) -> list[int]:
        return [m[0][0] for m in self.algebra.terms(p) if self._is_state(m)]

    def _decides(self, atom: int, node: Sign, state: int) -> bool:
        """Whether a comparison is one of what a state becomes without its spike with a constant."""
        gap = self.algebra.scale(node.of, node.side)
        share = self.algebra.terms(gap)[((state, 1),)]
        for quiet, above in ((ZERO, True), (ONE, False)):
            after = self.algebra.substitute(self.equations.next[state], {atom: quiet})
            ratio = Fraction(self.algebra.terms(after).get(((state, 1),), 0)) / Fraction(share)
            left = self.algebra.subtract(after, self.algebra.scale(gap, plain(ratio)))
            if ratio and (ratio > 0) == above and self.equations.constants.is_constant(left):
                return True
        return False

    def _shifted(self, node: Sign) -> tuple[int, int | None]:
        """What is compared, as a step leaves it; and the comparison that this makes."""
        after = self.algebra.substitute(node.of, self.equations.next)
        shifted = self.algebra.positive(self.algebra.scale(after, node.side))
        return after, -1 - shifted if shifted < 0 else None

    def _compared_anew(self, atom: int) -> None:
        node = self.algebra.node(atom)
        if not isinstance(node, Sign):
            raise NotRecognised(f"{self.algebra.show(-1 - atom)} is no spike of the step before")
        after, held = self._shifted(node)
        start = self.algebra.scale(self.algebra.substitute(node.of, self.equations.start), node.side)
        if held in self.old:
            self.instead[atom] = -1 - self.old[held]
            self._begins(held, self._holds(start, atom))
            return
        value = self._constant(atom, node)
        if value is not None:
            self.instead[atom] = self.algebra.literal(value)
            return
        second = self._second_look(atom, node, after)
        if second is None:
            raise NotRecognised(
                f"{self.algebra.show(-1 - atom)} compares states and is no spike of the step before, as a second look "
                "at a potential may be, or a refractory counter, which a network has to describe itself (leaky_cells)"
            )
        spike, above = second
        if self._holds(start, atom) == int(above):
            raise NotRecognised("a cell begins with a potential above its threshold, which its first step resets")
        self.second[spike] = atom, above

    def _second_look(self, atom: int, look: Sign, after: int) -> tuple[int, bool] | None:
        """The spike of this step whose potential a comparison of states looks at behind its reset; as in ``second``.

        Without that spike, and without the reset that is left of the step before, both compare the same.
        """
        rising = {c * look.side > 0 for m, c in self.algebra.terms(look.of).items() if self._is_state(m)}
        if len(rising) != 1:
            return None
        (above,) = rising
        quiet = ZERO if above else ONE
        for spike in self.now:
            node = self.algebra.node(spike)
            if not isinstance(node, Sign) or spike in self.second:
                continue
            here = self.algebra.scale(self.algebra.substitute(node.of, {atom: quiet}), node.side)
            behind = self.algebra.scale(self.algebra.substitute(after, {spike: quiet}), look.side)
            if here == self.algebra.scale(node.of, node.side) or {here, behind} & self.algebra.undefined:
                continue  # the look at the step before resets nothing
            if self.algebra.positive(here) == self.algebra.positive(behind):
                return spike, above
        return None

    def _is_state(self, monomial: Monomial) -> bool:
        return len(monomial) == 1 and monomial[0][0] in self.equations.next

    def _constant(self, atom: int, node: Sign) -> int | None:
        """What a comparison of states is in front of every step, if it is always the same: by induction over steps.

        A potential that spikes set to a value below the threshold is at most at the threshold behind every step.
        snnTorch looks at it there once more (``reset_delay=False``, reset to zero).
        """
        numbers = self.equations.constants
        start = self.algebra.scale(self.algebra.substitute(node.of, self.equations.start), node.side)
        if not numbers.is_constant(start):
            return None
        value = self._holds(start, atom)
        after = self.algebra.scale(self.algebra.substitute(node.of, self.equations.next), node.side)
        assumed = {**self.instead, atom: self.algebra.literal(value)}
        after = self.algebra.substitute(after, assumed)
        spikes = {a for m in self.algebra.terms(after) for a, _ in m if a in self.old}
        if len(spikes) != 1:
            return None
        (spike,) = spikes
        decides = self.algebra.node(spike)
        if not isinstance(decides, Sign):
            return None
        gap = self.algebra.scale(self.algebra.substitute(decides.of, assumed), decides.side)
        for bit in (ZERO, ONE):
            left = self.algebra.substitute(after, {spike: bit})
            if numbers.is_constant(left):
                if self._holds(left, atom) != value:
                    return None
            elif not self._follows(left, gap, bit, value):
                return None
        return value

    def _follows(self, p: int, gap: int, bit: int, value: int) -> bool:
        """Whether [gap > 0] = ``bit`` makes [p > 0] = ``value``, for p is a multiple of the gap."""
        if p in self.algebra.undefined or gap in self.algebra.undefined:
            return False
        multiple = self.algebra.positive(p) == self.algebra.positive(gap)
        opposite = self.algebra.positive(p) == self.algebra.positive(self.algebra.scale(gap, -1))
        return (multiple and bit == value) or (opposite and bit == 1 and value == 0)

    def _holds(self, gap: int, atom: int) -> int:
        """Whether a comparison in front of the first step holds; where the box moves it, up to which ε that is so."""
        value = self.algebra.value(self.algebra.positive(gap))
        if value is not None:
            return int(value)
        boxed_gap = self.equations.constants.boxed(gap)
        distance = abs(boxed_gap.centre) - boxed_gap.error
        if distance <= 0:
            raise NotRecognised(f"whether {self.algebra.show(-1 - atom)} in front of the first step is not known")
        if boxed_gap.spread:
            self.largest = min(self.largest, math.nextafter(math.nextafter(distance, 0.0) / boxed_gap.spread, 0.0))
        return int(boxed_gap.centre > 0)

    def _kept(self, state: int) -> None:
        """A state that becomes a number and another one by a comparison."""
        p = self.equations.next[state]
        held = {a for m in self.algebra.terms(p) for a, _ in m if a in self.old}
        if len(held) != 1:
            return
        (atom,) = held
        without, with_it = (self.algebra.substitute(p, {atom: bit}) for bit in (ZERO, ONE))
        constants = self.equations.constants
        if not (constants.is_constant(without) and constants.is_constant(with_it)):
            return
        start = self.equations.start[state]
        if start not in (without, with_it):
            raise NotRecognised("a state that keeps a spike begins with something else")
        self._begins(atom, int(start == with_it))
        step = self.algebra.subtract(with_it, without)
        if p != self.algebra.add(without, self.algebra.multiply(step, -1 - atom)):
            return
        self.instead[state] = self.algebra.add(without, self.algebra.multiply(step, -1 - self.old[atom]))

    def _begins(self, atom: int, value: int) -> None:
        if self.first.setdefault(atom, value) != value:
            raise NotRecognised("its state in front of the first step says that a cell spiked, and that it did not")
