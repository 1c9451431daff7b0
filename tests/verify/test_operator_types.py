"""Every operator of the interval table on every type: what torch answers lies inside, or the operator is refused."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.verify import typed_cases_attention, typed_structure  # noqa: F401  # they add their cases
from tests.verify.typed_cases import CASES, FLOATS, SIZES_ONLY, STATES_SECOND, Batch, Call, Operand, ends, filled, pick
from thetabox.errors import InputError, OneEpsilonAtATime
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.parameter import Parameter, stored
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interpreter.rules.table import TABLE
from thetabox.verify.interpreter.walk import check_rules, evaluate
from thetabox.verify.network.graph import BatchSize, Graph, Layout, Operation, Ref, map_arg_refs
from thetabox.verify.network.samples_apart import check_samples_apart

EPSILON = (0.0, 0.01, 0.3, 1.5)
SAMPLES = 3
DRAWS = 5


@dataclass
class Trial:
    """One call with its operands' ends, and the graph of the one operator."""

    call: Call
    ends: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.operands = self.call.operands()
        self.ends = [ends(o, SAMPLES, seed) for seed, o in enumerate(self.operands)]

    def answer(self, tensors: list[Tensor], samples: int = SAMPLES, dtype: torch.dtype | None = None) -> Any:
        """What torch answers; with a ``dtype``, with all floating operands in it."""
        left = iter(tensors)

        def place(leaf: Any) -> Any:
            if isinstance(leaf, Batch):
                return samples
            if not isinstance(leaf, Operand):
                return dtype if dtype is not None and leaf in FLOATS else leaf
            t = next(left)
            return t.to(dtype) if dtype is not None and t.is_floating_point() else t.clone()

        args, kwargs = filled((self.call.args, self.call.kwargs), place)
        return self.call.target(*args, **kwargs)

    def graph(self) -> tuple[Graph, dict[int, Any]] | None:
        """The operator alone, and values of its operands at the bounds' ε; ``None`` where torch does not take it."""
        longer = [
            torch.cat([low, low[:2]]) if o.role == "input" else low
            for o, (low, _) in zip(self.operands, self.ends, strict=True)
        ]
        try:
            short, long = self.answer([low for low, _ in self.ends]), self.answer(longer, SAMPLES + 2)
        except (RuntimeError, TypeError, IndexError, ValueError):
            return None
        first = Layout((None,), 0)
        layouts, dtypes = {0: first}, {0: self.call.network}
        values: dict[int, Any] = {}
        left = iter(range(len(self.operands)))

        def refer(leaf: Any) -> Any:
            index = len(layouts) + 100
            if isinstance(leaf, Batch):
                layouts[index] = Layout(())
                values[index] = BatchSize()
                return Ref(index)
            if not isinstance(leaf, Operand):
                return leaf
            place = next(left)
            low, _ = self.ends[place]
            shape = tuple(low.shape)
            layouts[index] = Layout((None, *shape[1:]), 0) if leaf.role == "input" else Layout(shape)
            dtypes[index] = leaf.dtype
            values[index] = place
            return Ref(index)

        args, kwargs = filled((self.call.args, self.call.kwargs), refer)
        references: list[int] = []
        map_arg_refs((args, kwargs), lambda r: references.append(r.index))
        layout: Any = _layouts(short, long)
        operation = Operation(
            index=1,
            name="probe",
            operator=self.call.operator,
            target=self.call.target,
            args=args,
            kwargs=kwargs,
            layout=layout,
            inputs=tuple(references),
            where="here",
            dtype=short.dtype if isinstance(short, Tensor) else None,
        )
        for index in [i for i, v in values.items() if isinstance(v, BatchSize)]:
            del layouts[index]
        tensors = {i: f"t{i}" for i, v in values.items() if isinstance(v, int) and self.operands[v].role != "input"}
        graph = Graph([0], tensors, {}, [operation], Ref(1), layouts, dtypes)
        check_samples_apart(graph, operation)
        return graph, values

    def bounds(self, rounding: Rounding) -> list[Interval | None] | None:
        """Bounds of each of the answers; ``None`` where torch does not take the operands."""
        found = self.graph()
        if found is None:
            return None
        graph, places = found
        check_rules(graph)
        try:
            return self._bounds(graph, places, rounding, EPSILON)
        except OneEpsilonAtATime:
            each = [self._bounds(graph, places, rounding, (e,)) for e in EPSILON]
            return [_beside([bounds[k] for bounds in each]) for k in range(len(each[0]))]

    def _bounds(
        self, graph: Graph, places: dict[int, Any], rounding: Rounding, epsilon: tuple[float, ...]
    ) -> list[Interval | None]:
        context = Context(RowEpsilons(torch.tensor(epsilon, dtype=torch.float64)[:, None].repeat(1, SAMPLES)), rounding)
        values: dict[int, Any] = {}
        for index, place in places.items():
            if isinstance(place, BatchSize):
                values[index] = place
                continue
            operand, (low, high) = self.operands[place], self.ends[place]
            if operand.role == "input":
                lower, upper = low.double(), high.double()
                if low.dtype is torch.int64 and bool(
                    (low.abs() > 2**53).any() | (low == torch.iinfo(low.dtype).min).any()
                ):
                    lower, upper = lower * (1 - 1e-15 * lower.sign()), upper * (1 + 1e-15 * upper.sign())
                bound = 1.0 if operand.dtype is torch.bool else None
                values[index] = Interval(lower, upper, 0.0, bound, bool((lower >= 0).all()), batch=0)
            else:
                values[index] = stored("it", low, rounding, 1.0 if operand.role == "parameter" else 0.0)
        with torch.no_grad():
            evaluate(context, graph, values)
        result = values[1]
        return [_interval(context, r) for r in (result if isinstance(result, (tuple, list)) else [result])]

    def points(self, epsilon: float) -> Iterator[list[Tensor]]:
        """Operands inside their bounds, each in its own type: ends, corners, and random ones."""
        random = torch.Generator().manual_seed(5)
        for draw in range(DRAWS):
            point = []
            for operand, (low, high) in zip(self.operands, self.ends, strict=True):
                part = torch.rand(low.shape, generator=random, dtype=torch.float64)
                part = [torch.zeros_like(part), torch.ones_like(part), part.round(), part, part.round()][draw]
                if operand.role == "parameter":
                    theta = low.double()
                    value = (theta + epsilon * theta.abs() * (2 * part - 1)).to(low.dtype)
                    inside = (value.double() - theta).abs() <= epsilon * theta.abs()
                    point.append(torch.where(inside, value, low))
                else:
                    point.append(torch.where(part >= 0.5, high, low))
            yield point


def _layouts(short: Any, long: Any) -> Any:
    if isinstance(short, (tuple, list)):
        return tuple(_layouts(a, b) for a, b in zip(short, long, strict=True))
    if not isinstance(short, Tensor):
        return None
    differing = [d for d, (a, b) in enumerate(zip(short.shape, long.shape, strict=True)) if a != b]
    if len(differing) > 1:
        raise InputError("mixes samples")
    shape: list[int | None] = list(short.shape)
    if not differing:
        return Layout(tuple(shape))
    (batch,) = differing
    merged, rest = divmod(short.shape[batch], SAMPLES)
    if rest or long.shape[batch] != merged * (SAMPLES + 2):
        raise InputError("mixes samples")
    shape[batch] = None
    return Layout(tuple(shape), batch, merged)


def _interval(context: Context, result: Any) -> Interval | None:
    if isinstance(result, Parameter):
        result = context.interval(result)
    return result.settled(context.rounding.roundoff) if isinstance(result, Interval) else None


def _beside(bounds: list[Interval | None]) -> Interval | None:
    """Bounds at one ε each as those of several."""
    known = [b for b in bounds if b is not None]
    if not known:
        return None
    lower, upper = (
        torch.cat(
            [
                getattr(b, end)[None].repeat_interleave(SAMPLES, 0)
                if b.batch is None and not b.by_row
                else getattr(b, end)
                for b in known
            ],
            known[0].batch or 0,
        )
        for end in ("lower", "upper")
    )
    return Interval(lower, upper, batch=known[0].batch, merged=known[0].merged, by_row=known[0].batch is None)


def _of_row(bounds: Interval, place: int) -> tuple[Tensor, Tensor]:
    """Ends at one ε, in the shape of torch's answer."""
    if bounds.by_row:
        at = 0 if bounds.shape[0] == 1 else place * SAMPLES
        return bounds.lower[at], bounds.upper[at]
    if bounds.batch is None or bounds.shape[bounds.batch] == SAMPLES * bounds.merged:
        return bounds.lower, bounds.upper
    low, high = (
        t.unflatten(bounds.batch, (len(EPSILON), -1)).select(bounds.batch, place) for t in (bounds.lower, bounds.upper)
    )
    return low, high


def outside(bounds: Interval, place: int, truth: Tensor, room: float) -> str | None:
    """How far an answer lies outside, if it does."""
    low, high = _of_row(bounds, place)
    if low.shape != truth.shape:
        return f"shape {list(low.shape)} instead of {list(truth.shape)}"
    known = truth.double()
    unbounded = low.isnan() | high.isnan() | ((low == -torch.inf) & (high == torch.inf))
    space = room * (1.0 + known.abs().nan_to_num(0.0, 0.0, 0.0))
    if truth.dtype is torch.int64:  # not every one of them is a number in float64
        space = space + torch.where(known.abs() > 2**53, known.abs() * 2.0**-52, 0.0)
    inside = ((low - space <= known) & (known <= high + space)) | (known.isnan() & (room > 0.0))
    wrong = ~(inside | unbounded)
    if not bool(wrong.any()):
        return None
    at = tuple(wrong.nonzero()[0].tolist())
    return f"{known[at].item():.17g} outside [{low[at].item():.17g}, {high[at].item():.17g}]"


def tried(call: Call, arithmetic: str) -> str:
    """``held``, ``refused: why``, ``torch`` where it does not take the call; or how the bounds are wrong."""
    trial = Trial(call)
    rounding = Rounding(torch.float64, arithmetic)
    try:
        bounds = trial.bounds(rounding)
    except InputError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"wrong: {type(error).__name__} {error}"
    if bounds is None:
        return "torch"
    size = 1.0
    for low, high in trial.ends:
        if low.is_floating_point() or any(n in call.operator for n in ("sum", "mean", "linear", "mm", "conv", "avg")):
            size = max(size, float(low.double().abs().max()), float(high.double().abs().max())) if low.numel() else size
    created = any(n in call.operator for n in ("zeros", "ones", "full", "arange", "scalar"))
    single = call.network is torch.float64
    for place, epsilon in enumerate(EPSILON):
        for point in trial.points(epsilon):
            answers = trial.answer(point)
            precise = answers if single or created or arithmetic != "real" else trial.answer(point, dtype=torch.float64)
            for kind, answer in (("in its type", answers), ("in float64", precise)):
                many = answer if isinstance(answer, (tuple, list)) else [answer]
                for bound, truth in zip(bounds, many, strict=False):
                    if bound is None or not isinstance(truth, Tensor):
                        continue
                    room = 0.0
                    if truth.is_floating_point():
                        digits = torch.finfo(torch.float64 if single else truth.dtype).eps
                        if arithmetic == "real" and truth.dtype is not torch.float64 and not single:
                            truth = torch.where(truth.isfinite(), truth, torch.nan)  # overflow is rounding
                        room = 0.0 if arithmetic != "real" else 64 * digits * size * size
                    how = outside(bound, place, truth, room)
                    if how is not None:
                        return f"wrong: {how} {kind} at ε = {epsilon}"
    return "held"


def all_calls(operator: str) -> list[Call]:
    """Every case of an operator, each once."""
    return list({call.name: call for call in CASES[operator](operator)}.values())


# Reasons for which a call is refused whose operands are all of the network's own floating type.
REASONS = (
    "divides by zero",
    "root of a negative",
    "log1p has a rule for nonnegative",
    "may raise a negative number",
    "drops values at random",
    "mixes samples",
    "beta or alpha other than 1",
    "statistics of the batch",
)


def ordinary(call: Call) -> bool:
    """Whether nothing but the network's own floating type takes part."""
    types = [a for a in (*call.args, *call.kwargs.values()) if isinstance(a, torch.dtype)]
    return not types and all(o.dtype is call.network for o in call.operands())


def results(operator: str, share: int) -> Counter[str]:
    """What became of one in ``share`` of an operator's calls, in real and in float32 arithmetic."""
    found: Counter[str] = Counter()
    for call in pick(all_calls(operator), operator, share):
        for arithmetic in ("real", "float32") if call.network is torch.float32 else ("real",):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, of types that it will no longer take
                outcome = tried(call, arithmetic)
            assert not outcome.startswith("wrong"), f"{call.name} in {arithmetic} arithmetic: {outcome}"
            if outcome.startswith("refused"):
                assert "\n" not in outcome
                known = any(reason in outcome for reason in REASONS)
                assert known or not ordinary(call), f"{call.name} in {arithmetic} arithmetic is {outcome}"
            found[outcome.split(":")[0]] += 1
    return found


def test_every_operator_has_cases() -> None:
    """An operator joins with a generator of its calls."""
    sizes = {name for name in TABLE if name in SIZES_ONLY or name.startswith("<built-in")}
    builtin = {name for name, rule in TABLE.items() if rule.function.__module__.startswith("thetabox.")}
    assert builtin - sizes - set(STATES_SECOND) == set(CASES)


@pytest.mark.thin(quick=13)
@pytest.mark.parametrize("operator", CASES)
def test_some_calls(operator: str) -> None:
    results(operator, 16)


@pytest.mark.long
@pytest.mark.parametrize("operator", CASES)
def test_all_calls(operator: str) -> None:
    """About 30,000 that hold, 6,000 that are refused and 10,000 that torch does not take."""
    found = results(operator, 1)
    assert found["held"] > 0
