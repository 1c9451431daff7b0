"""Batch sizes at which a module's code may branch: its own comparisons of the size are read off, traced and called."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from thetabox.errors import InputError
from thetabox.models.compiled import as_written

if TYPE_CHECKING:
    from torch.fx.experimental.symbolic_shapes import StatelessSymbolicContext

    from thetabox.verify.network.asked_sizes import AskedSizes

# Calls on fake tensors, each at a batch size at which the code may go another way than before.
MOST_CALLS = 32
# The largest batch at which code is looked for that branches, up to which every size is tried, and the most found so.
LARGEST_BATCH, EVERY_SIZE, MOST_TURNS = 1 << 20, 130, 8


def sizes_of_trace(program: Any) -> set[int]:
    """Around what a trace assumes of the batch size."""
    sizes: set[int] = set()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or not isinstance(value, Tensor):
            continue
        symbols: list[Any] = [getattr(size, "node", None) for size in value.shape if not isinstance(size, int)]
        if symbols:
            guards = [guard.expr for guard in symbols[0].shape_env.guards]
            sizes.update(*(_turns(guard) for guard in guards))
            break
    for limits in program.range_constraints.values():
        for limit in (limits.lower, limits.upper):
            if 2 < limit <= LARGEST_BATCH:
                sizes |= {int(limit) - 1, int(limit), int(limit) + 1}
    return sizes - {1}


def sizes_of_calls(module: nn.Module, inputs: Sequence[Tensor]) -> set[int]:
    """Around what the code assumes of the batch size where it is called, not traced: it can ask which of the two it is.

    The result of a question hides what the code would ask had it been another, its own question or torch's (a
    convolution asks which side of 16 it is on), so that it is called again at the sizes around each. Into how many
    pieces torch cuts a batch is for the code to see; of these as many numbers are tried as there are calls, and one for
    each sample is refused. So is what no call without a certain batch size can do (numpy): nothing is known behind it.
    """
    # What a call writes to the numbers of a tensor it writes for real: no twins stand between.
    held = [(t, t.detach().clone()) for t in [*module.parameters(), *module.buffers()]]
    try:
        return _followed(module, inputs)
    finally:
        for t, value in held:
            if not torch.equal(t, value):
                t.data.copy_(value)


def _followed(module: nn.Module, inputs: Sequence[Tensor]) -> set[int]:
    """See :func:`sizes_of_calls`; what the calls write is written."""
    ways: list[list[Any]] = []
    waiting, tried, sizes, cut = [len(inputs[0])], set[int](), set[int](), set[int]()
    while waiting and len(ways) < MOST_CALLS:
        batch = waiting.pop(0)
        if batch in tried or _covered(batch, ways):
            continue
        tried.add(batch)
        questions = _questions_of_a_call(module, [x.new_zeros(batch, *x.shape[1:]) for x in inputs])
        ways.append([question.guard for question in questions])
        if any(question.tells_samples for question in questions):
            raise InputError("its code cuts the batch into single samples, whose number it may look at unseen")
        for question in questions:
            around = question.turns()
            waiting += sorted(around - {1})
            if question.pieces:
                cut |= around
            elif not question.of_torch:
                sizes |= around
    if any(size in sizes and size not in tried and not _covered(size, ways) for size in waiting):
        raise InputError(f"its code takes more than {MOST_CALLS} ways by the size of the batch, too many to follow")
    return (sizes | cut) - {1}


def _covered(size: int, ways: Sequence[Sequence[Any]]) -> bool:
    """Whether a call has gone the way that code takes at a size."""
    return any(all(_holds(question, size) for question in way) for way in ways)


@dataclass(frozen=True)
class _Question:
    """What a call assumes of the batch size.

    Attributes:
        guard: the assumption.
        of_torch: whether torch compares the size and not the code: it returns the same by either way.
        pieces: whether it stands in a function that returns several tensors, whose number the code sees.
    """

    guard: Any
    of_torch: bool
    pieces: bool

    @property
    def tells_samples(self) -> bool:
        """Whether the code sees how many samples there are, as a number that it may compare unseen."""
        return self.pieces and self.guard.is_Equality and any(side.is_Symbol for side in self.guard.args)

    def turns(self) -> set[int]:
        """Sizes around which it begins or ceases to hold."""
        # Where torch itself takes the batch for a constant, another one is no other way.
        constant = self.of_torch and not self.pieces and self.guard.is_Equality
        return set() if constant else _turns(self.guard)


def _questions_of_a_call(module: nn.Module, inputs: Sequence[Tensor], *, values: bool = False) -> list[_Question]:
    """What a call assumes of the batch size; with ``values`` it computes numbers too, as where it cannot do without."""
    from torch._functorch import config  # here, for these and sympy take their time

    from thetabox.verify.network.asked_sizes import AskedSizes

    shapes = AskedSizes()
    pieces = _Pieces(shapes)
    with config.patch(fake_tensor_propagate_real_tensors=values):
        fake = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    further: list[_Question] = []
    try:
        with ExitStack() as inside:
            for setting in (torch.no_grad(), enable_python_dispatcher(), as_written(), fake, pieces):
                inside.enter_context(setting)
            module(*(fake.from_tensor(x, symbolic_context=_any_batch(x)) for x in inputs))
    except Exception as error:  # whatever torch cannot do with sizes that are not known
        if not values:
            further = _questions_of_a_call(module, inputs, values=True)
        elif _runs(module, inputs):
            reason = next(iter(str(error).splitlines()), "")[:100]
            raise InputError(
                "where no trace sees it, its code does what only a batch of a certain size allows"
                f" ({type(error).__name__}: {reason}), and may look at that size unseen"
            ) from error
    asked = enumerate(shapes.guards)
    return [_Question(g.expr, _is_of_torch(g), place in pieces.places) for place, g in asked] + further


def _runs(module: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Whether the call itself, of these numbers, ends well."""
    try:
        with torch.no_grad():
            module(*inputs)
    except Exception:
        return False
    return True


class _Pieces(TorchFunctionMode):
    """Remembers what is assumed of sizes inside functions that return several tensors: how many, Python sees."""

    def __init__(self, shapes: AskedSizes) -> None:
        super().__init__()
        self._shapes, self.places = shapes, set[int]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = len(self._shapes.guards)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, tuple | list):
            self.places.update(range(before, len(self._shapes.guards)))
        return result


def _is_of_torch(guard: Any) -> bool:
    file = getattr(guard.sloc.framework_loc, "filename", "")
    return Path(file).is_relative_to(Path(torch.__file__).parent)


def _any_batch(x: Tensor) -> StatelessSymbolicContext[Any, Any]:
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext  # here, as above

    return StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (x.dim() - 1)])


def _turns(guard: Any) -> set[int]:
    """Where an assumption about the batch size begins or ceases to hold, the first few places of each kind."""
    if len(guard.free_symbols) != 1:
        return set()
    numbers = {int(n) for n in guard.atoms() if n.is_Integer and 0 < n <= LARGEST_BATCH}
    powers = {1 << power for power in range(LARGEST_BATCH.bit_length())}
    tried = sorted(
        {*range(1, EVERY_SIZE), *powers, *(n + more for n in numbers for more in (-1, 0, 1) if n + more > 0)}
    )
    truth = [_holds(guard, size) for size in tried]
    sizes: set[int] = set()
    for low, high, before, after in zip(tried, tried[1:], truth, truth[1:], strict=False):
        if before == after:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _holds(guard, middle) == before else (low, middle)
        sizes |= {low, high}
        if len(sizes) >= MOST_TURNS:
            break
    return sizes


def _holds(guard: Any, size: int) -> bool:
    """Whether an assumption about the batch size holds at one; not where that cannot be told."""
    return str(guard.subs(dict.fromkeys(guard.free_symbols, size))) == "True"
