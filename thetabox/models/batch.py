"""A batch of any size for networks that were exported with a batch of one size.

Such a file holds the size as a number: ``x.view(x.size(0), -1)`` has become ``view(x, [16, -1])``. Here every list of
sizes whose first entry is that number, or a multiple of it, is led by the number of samples of the call instead. With
the file's own batch this is the same function, whatever such an entry once meant; with others it must run, and return
a row for each sample, or the file is refused. That no sample's value then reaches another's is for the tracer to show,
as of every network: what it lets through is one function of a sample, that of the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from thetabox.errors import InputError
from thetabox.models.contents import first_line
from thetabox.models.program import Batch, Program, Reference, Step, changed

# Numbers of samples at which a network is tried.
TRIED = (3, 5)
# Numbers of one value of a few samples.
LARGEST = 1 << 34


def free_batch(path: Any, program: Program, shape: Sequence[int], dtype: torch.dtype, advice: str) -> Program:
    """The network with a batch of any size.

    Args:
        path: for messages.
        program: changed in place.
        shape: of the input in the file, the size of its batch first.
        dtype: of the input.
        advice: how to export a free batch, for messages.

    Raises:
        InputError: the size stands somewhere else than at the front of a list of sizes.
    """
    wrong = (
        f"the batch of {shape[0]} with which it was exported is written into the graph, where it cannot be told from "
        "other sizes"
    )
    sizes: dict[int, list[int]] = {}
    shapes = shapes_of(path, program, shape, dtype, sizes)
    steps = list(program.steps)
    program.with_steps(_all_freed(program.source, steps, shape[0], shapes))
    try:
        check_batch(path, program, shape[1:], dtype, wrong, advice)
    except InputError:
        if not sizes:
            raise
        # Sizes that the graph computes, of which a part is a number: those of this batch, written out.
        written = [changed(s, s.sizes, sizes[i]) if i in sizes else s for i, s in enumerate(steps)]
        program.with_steps(_all_freed(program.source, written, shape[0], shapes))
        check_batch(path, program, shape[1:], dtype, wrong, advice)
    return program


def _all_freed(source: str, steps: Sequence[Step], size: int, shapes: dict[str, tuple[int, ...]]) -> list[Step]:
    from_input = {source}
    freed = []
    for step in steps:
        of_input = bool(from_input.intersection(step.reads))
        if of_input:
            from_input.update(r for r in step.results if r is not None)
        freed.append(_freed(step, size, shapes, of_input=of_input))
    return freed


def check_batch(path: Any, program: Program, shape: Sequence[int], dtype: torch.dtype, wrong: str, advice: str) -> None:
    """Run the network without numbers on batches of several sizes.

    Args:
        path: for messages.
        program: of the file.
        shape: of one sample.
        dtype: of the input.
        wrong: what it means that it does not run.
        advice: what to do then.

    Raises:
        InputError: it does not run, does not return a row for each sample, or holds values larger than any memory.
    """
    for samples in TRIED:
        try:
            shapes = _on_meta(program, (samples, *shape), dtype)
        except Exception as error:  # torch raises whatever it likes where sizes do not fit
            raise InputError(f"{path}: {wrong} ({first_line(error)}); {advice}") from None
        returned = shapes.get(program.output, (samples, *shape) if program.output == program.source else ())
        if not returned or returned[0] != samples:
            raise InputError(
                f"{path}: with a batch of {samples} it returns {list(returned)}, not a row for each sample; {advice}"
            )
        largest = max(shapes.values(), key=math.prod, default=())
        if math.prod(largest) > LARGEST:
            raise InputError(f"{path}: a value of its graph has sizes {list(largest)}, which no memory holds")


def _freed(step: Step, size: int, shapes: dict[str, tuple[int, ...]], *, of_input: bool) -> Step:
    if not step.sized or step.sizes >= len(step.args) or not isinstance(step.args[step.sizes], list | tuple):
        return step
    if step.sized in ("view", "unflatten") and not of_input:
        return step
    sizes = list(step.args[step.sizes])
    result = shapes.get(step.results[0] or "", ())
    if step.sized == "unflatten":
        front = step.args[1] % (len(result) - len(sizes) + 1) if result else 0
        result = result[front : front + len(sizes)]
    axis = _batch_axis(sizes, result, size)
    if axis is None:
        return step
    operand = shapes.get(step.args[0].name, ()) if step.args and isinstance(step.args[0], Reference) else ()
    if step.sized == "expand" and (of_input or size > 1) and not _leads(operand, result, axis, size):
        sizes[axis] = -1
        return changed(step, step.sizes, sizes)
    if step.sized != "expand":
        # What was to be found out is a number beside a batch of any size.
        sizes = [n if s == -1 else s for s, n in zip(sizes, result, strict=True)]
    sizes[axis] = Batch(result[axis] // size)
    return changed(step, step.sizes, sizes)


def _batch_axis(sizes: Sequence[Any], result: Sequence[int], size: int) -> int | None:
    """Where in a list of sizes the batch stands: at its number, in front before elsewhere, or merged in front."""
    if not sizes or len(sizes) != len(result):
        return None
    same = [i for i, s in enumerate(result) if s == size and sizes[i] in (size, -1)]
    if same and (same[0] == 0 or len(same) == 1):
        return same[0]
    return 0 if result[0] and result[0] % size == 0 else None


def _leads(operand: Sequence[int], result: Sequence[int], axis: int, size: int) -> bool:
    """Whether an expansion makes the batch, which its operand does not have."""
    behind = axis - (len(result) - len(operand))
    return behind < 0 or operand[behind] != size


def shapes_of(
    path: Any,
    program: Program,
    shape: Sequence[int],
    dtype: torch.dtype,
    sizes: dict[int, list[int]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Shapes of all values in a run on an input of this shape, without numbers.

    Args:
        path: for messages.
        program: of the file.
        shape: of the input.
        dtype: of the input.
        sizes: filled with the lists of sizes that the graph computes, by place of the step that takes one.

    Raises:
        InputError: it does not run.
    """
    try:
        return _on_meta(program, shape, dtype, sizes)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: its graph does not run on its own input: {first_line(error)}") from None


def _on_meta(
    program: Program, shape: Sequence[int], dtype: torch.dtype, sizes: dict[int, list[int]] | None = None
) -> dict[str, tuple[int, ...]]:
    """Shapes of all values of a run without numbers, which takes no memory."""
    shapes: dict[str, tuple[int, ...]] = {}
    held: dict[str, Tensor] = {**dict(program.named_parameters()), **dict(program.named_buffers())}
    empty = {name: torch.empty_like(t, device="meta") for name, t in held.items()}
    steps = program.steps
    program.with_steps([_noting(step, shapes, sizes, place) for place, step in enumerate(steps)])
    try:
        with torch.no_grad(), torch.device("meta"):
            functional_call(program, empty, (torch.empty(tuple(shape), dtype=dtype),))
    finally:
        program.with_steps(steps)
    return shapes


def _noting(
    step: Step, shapes: dict[str, tuple[int, ...]], sizes: dict[int, list[int]] | None = None, place: int = 0
) -> Step:
    """A step that writes down the shapes of its results, and the sizes that it was handed."""
    computes = sizes is not None and step.sized and step.sizes < len(step.args)
    computes = computes and isinstance(step.args[step.sizes], Reference)

    def function(*args: Any, **kwargs: Any) -> Any:
        if computes and sizes is not None:
            with suppress(TypeError, ValueError):  # of another kind than whole numbers
                sizes[place] = [int(n) for n in args[step.sizes]]
        try:
            result = step.function(*args, **kwargs)
        except Exception as error:
            raise InputError(f"{step.where}: {first_line(error)}") from error
        results = (result,) if len(step.results) == 1 else result
        for name, one in zip(step.results, results, strict=False):
            if name is not None and isinstance(one, Tensor):
                shapes[name] = tuple(one.shape)
        return result

    return Step(function, step.args, step.kwargs, step.results, step.where)
