"""A network as one step, repeated."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from thetabox.verify.network.graph import Graph


@dataclass(frozen=True)
class StepRead:
    """How a step reads a sequence.

    Attributes:
        source: which result of :attr:`Rolled.drive`.
        dim: its time axis, counted from 0.
        length: ``None`` where step t reads ``source.select(dim, t)``; else it reads the entries from ``t * length`` to
            ``(t + 1) * length``, and the axis stays. The axis holds just what all steps read.
    """

    source: int
    dim: int
    length: int | None

    def at(self, sequence: Tensor, t: int) -> Tensor:
        """What step t reads."""
        if self.length is None:
            return sequence.select(self.dim, t)
        return sequence.narrow(self.dim, t * self.length, self.length)


@dataclass(frozen=True)
class ReadoutInput:
    """How the readout reads a result of the steps.

    Attributes:
        join: ``"stack"`` or ``"cat"`` of the results of all steps along ``dim``, or ``"last"``, the last step's result.
        dim: of the joined value, counted from 0; 0 for ``"last"``.
    """

    join: str
    dim: int = 0


@dataclass(frozen=True)
class Rolled:
    """A network as one step, repeated.

    With ``x_t`` the values that ``reads`` takes from ``drive(x)`` at t, ``c = constant(x)`` and s the list of states::

        s = initial(x)                            o_t, s = step(*x_t, *c, *s)  for t = 0, …, steps - 1
        or, where there is a first,
        o_0, s = first(x, *x_0, *c)               o_t, s = step(*x_t, *c, *s)  for t = 1, …, steps - 1

        output = readout(*joined outputs, *c)

    The operators that this calls, and their arguments, are those of the unrolled graph. In more words: views of the
    input that are the same are read once; ``x[:]`` and the like are left out, and a tensor that is written entry by
    entry along an axis is the stack of what was written; what depends on parameters alone may be computed anew in
    every step; the last steps also compute what nobody reads.

    Every graph returns a flat list. ``step`` returns one value for each of ``outputs``, then the states; ``first``
    returns one for each of ``outputs`` that is joined (those come first), then the states. An input of a graph may be
    one that it does not use.

    Attributes:
        steps: T, the first included.
        drive: x → the sequences that a step reads at its index.
        reads: one for each ``x_t``, in the order of the inputs of ``step``.
        constant: x → what depends on x and is the same in all steps, or is read behind the loop; maybe x itself.
        initial: x → the states in front of the first step; ``None`` where there is a ``first``.
        first: the first step, where it is not of the others' form (states start as Python's numbers or as ``None``);
            else ``None``.
        step: one step.
        outputs: how the readout reads the steps' results; those that are joined come first.
        readout: returns what the network does.
    """

    steps: int
    drive: Graph
    reads: tuple[StepRead, ...]
    constant: Graph
    initial: Graph | None
    first: Graph | None
    step: Graph
    outputs: tuple[ReadoutInput, ...]
    readout: Graph

    @property
    def states(self) -> int:
        """How many states there are."""
        return len(self.step.output) - len(self.outputs)
