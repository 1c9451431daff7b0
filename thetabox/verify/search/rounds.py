"""Lines of work that go in rounds: each waits for all parts of a round before it knows its next; lines do not wait."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from thetabox.verify.effort import Deadline
from thetabox.verify.search.parts import Part, Parts, Request, bound_part
from thetabox.workers import Pool

Line = Generator[list[Request], list[Part], None]
"""Says what it wants, is given that in order, and says what it wants next."""

# Lines that go at the same time where there are workers: enough to fill the end of one's round with parts of another.
AT_ONCE = 4


@dataclass
class _Round:
    parts: Parts
    line: Line
    index: int
    wanted: list[Request]
    done: list[Part | None]

    def complete(self) -> list[Part] | None:
        """The round's parts, once all are there."""
        finished = [part for part in self.done if part is not None]
        return finished if len(finished) == len(self.done) else None


def run(
    pool: Pool, lines: Iterator[tuple[Parts, Line]], deadline: Deadline, note: Callable[[int, int, Part], None]
) -> None:
    """Every line to its end: one after the other in this process, several at a time where there are workers.

    Args:
        pool: does the parts.
        lines: each with the parts that it speaks of.
        deadline: when to stop.
        note: called with the line's place, the number of the request in its round, and the part, as it comes.

    Raises:
        OutOfTime: the deadline has passed; parts that were not finished are lost.
    """
    waiting = enumerate(lines)
    away: dict[int, tuple[_Round, int]] = {}
    rounds = 0

    def ask(parts: Parts, line: Line, index: int, before: list[Part] | None) -> bool:
        """Begin the line's next round; false at its end."""
        while True:
            try:
                wanted = next(line) if before is None else line.send(before)
            except StopIteration:
                return False
            round_ = _Round(parts, line, index, wanted, [])
            for number, request in enumerate(wanted):
                part = parts.held(request)
                round_.done.append(part)
                if part is None:
                    away[pool.add(bound_part, parts.job(request))] = round_, number
                else:
                    note(index, number, part)
            before = round_.complete()
            if before is None:
                return True

    def begin() -> None:
        nonlocal rounds
        while rounds < (AT_ONCE if pool.several else 1):
            index, pair = next(waiting, (0, None))
            if pair is None:
                return
            rounds += ask(*pair, index, None)

    begin()
    while away:
        for tag, result in pool.answers(deadline.check):
            of, number = away.pop(tag)
            part = of.done[number] = of.parts.finished(of.wanted[number], result)
            if of.wanted[number].name:
                note(of.index, number, part)
            complete = of.complete()
            if complete is not None and not ask(of.parts, of.line, of.index, complete):
                rounds -= 1
                begin()
