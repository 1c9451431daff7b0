"""Start values of a network in a time loop, of which an exporter writes down one row for each sample of its example.

``torch.zeros_like(v)`` of an example of four samples becomes a constant ``[4, units]``, though the file may say that
its batch is free. Where all its rows are the same, one row, which is broadcast, is the same function of that batch, and
one of any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from thetabox.models.program import Program, Reference, Step

# Operators whose operands are broadcast, entry by entry.
ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "Clip", "Div", "Equal", "Erf", "Exp", "Greater", "GreaterOrEqual", "Identity", "Less",
    "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sqrt",
    "Sub", "Sum", "Tanh", "Where",
})  # words, several to a line  # fmt: skip
# Of which every row of the result is one of the first operand.
PRODUCTS = ("MatMul", "Gemm")


def one_row(
    program: Program, shapes: Mapping[str, Sequence[int]], operators: Mapping[str, str], size: int
) -> dict[str, Tensor]:
    """Tensors that hold the same row for each sample of the example, as that row.

    Args:
        program: of the file.
        shapes: of its input and all its values, in a run of that example.
        operators: by the first result of a step.
        size: samples of the example.
    """
    held = {
        name: t[:1].clone()
        for name, t in program.tensors().items()
        if t.dim() > 1 and len(t) == size > 1 and bool((t == t[:1]).all())
    }
    known = {**{name: tuple(t.shape) for name, t in program.tensors().items()}, **shapes}
    while held:
        wrong = _not_broadcast(program, known, operators, size, held)
        if not wrong:
            break
        held = {name: t for name, t in held.items() if name not in wrong}
    return held


def sizes_of_rows(program: Program) -> list[int]:
    """Numbers of samples that an example may have had, by the tensors of which all rows are the same."""
    rows = {len(t) for t in program.tensors().values() if t.dim() > 1 and len(t) > 1 and bool((t == t[:1]).all())}
    return sorted(rows)


def _not_broadcast(
    program: Program,
    known: Mapping[str, Sequence[int]],
    operators: Mapping[str, str],
    size: int,
    held: Mapping[str, Tensor],
) -> set[str]:
    """Which of the tensors some step reads that would not return the same for one row of them."""
    # Values of one row now, with the tensors that they come from.
    rows: dict[str, set[str]] = {name: {name} for name in held}
    wrong: set[str] = set()
    for step in program.steps:
        reads = [name for name in step.reads if name in rows]
        if not reads:
            continue
        origins = set[str]().union(*(rows[name] for name in reads))
        first = step.results[0] or ""
        operator, result = operators.get(first, ""), known.get(first, ())
        others = [known.get(name, ()) for name in step.reads if name not in rows]
        beside = any(len(other) == len(result) and other[0] == size for other in others if other)
        # Dimensions are counted from the last: only of equal rank do rows lie where those of the result do.
        in_front = bool(result) and result[0] == size and all(len(known[name]) == len(result) for name in reads)
        if in_front and operator in ELEMENTWISE and len(step.results) == 1:
            if not beside:  # else the other operand has what a row is broadcast to
                rows[first] = origins
        elif in_front and _multiplies_rows(step, operator, reads, known):
            rows[first] = origins
        else:
            wrong |= origins
    return wrong | rows.get(program.output, set())


def _multiplies_rows(step: Step, operator: str, reads: Sequence[str], known: Mapping[str, Sequence[int]]) -> bool:
    """Whether a step multiplies rows by a matrix, and adds at most the same to each."""
    if operator not in PRODUCTS or not isinstance(step.args[0], Reference) or list(reads) != [step.args[0].name]:
        return False
    ranks = [len(known.get(name, ())) for name in step.reads[:2]]
    added = [known.get(name, ()) for name in step.reads[2:]]
    alike = all(len(shape) < 2 or shape[0] == 1 for shape in added)
    return ranks == [2, 2] and alike and step.reads.count(reads[0]) == 1 and not step.kwargs.get("transA")
