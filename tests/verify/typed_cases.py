"""Cases for every operator of the interval table: operand types, roles, shapes and keyword arguments."""

from __future__ import annotations

import ast
import itertools
import operator as python_operator
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
TYPES = (*FLOATS, *WHOLE)
ROLES = ("input", "parameter", "constant")


@dataclass(frozen=True)
class Operand:
    """A tensor argument.

    Attributes:
        role: an input (samples first, known up to an interval), a parameter in the box, or a constant.
        dtype: its type.
        shape: without the samples.
        values: ``small`` numbers of either sign, ``positive`` ones, ``extreme`` ones of its type, or what they ``are``.
        expanded: one number in memory.
    """

    role: str
    dtype: torch.dtype
    shape: tuple[int, ...] = (3,)
    values: str = "small"
    expanded: bool = False


@dataclass(frozen=True)
class Batch:
    """Stands for the number of samples in the arguments."""


B = Batch()


@dataclass(frozen=True)
class Call:
    """One operator on some arguments, in a network of some type."""

    operator: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    network: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        """For messages."""

        def told(a: Any) -> str:
            if isinstance(a, Operand):
                dtype = str(a.dtype).removeprefix("torch.")
                return f"{a.role}:{dtype}{list(a.shape)}{'' if a.values == 'small' else ':' + a.values}"
            return "B" if a == B else f"[{', '.join(map(told, a))}]" if isinstance(a, list) else str(a)

        named = "".join(f", {k}={told(v)}" for k, v in self.kwargs.items())
        return f"{self.operator}({', '.join(map(told, self.args))}{named}) in {self.network}"

    @property
    def target(self) -> Any:
        """What torch calls."""
        if self.operator == "getitem":
            return python_operator.getitem
        _, name, overload = self.operator.split(".")
        return getattr(getattr(torch.ops.aten, name), overload)

    def operands(self) -> list[Operand]:
        """The tensor arguments."""
        found: list[Operand] = []
        filled((self.args, self.kwargs), lambda a: found.append(a) if isinstance(a, Operand) else None)
        return found


def filled(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Arguments with ``function`` of each leaf in its place."""
    if isinstance(tree, (list, tuple)):
        return type(tree)(filled(t, function) for t in tree)
    if isinstance(tree, dict):
        return {k: filled(v, function) for k, v in tree.items()}
    return function(tree)


def _literal(values: str) -> Any:
    return ast.literal_eval(values.removeprefix("are "))


def ends(operand: Operand, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Least and largest values of an operand, of an input for every sample; the same tensor but for inputs."""
    random = torch.Generator().manual_seed(seed)
    shape = (samples, *operand.shape) if operand.role == "input" else operand.shape
    whole = not operand.dtype.is_floating_point
    if operand.values.startswith("are "):
        low = torch.tensor(_literal(operand.values), dtype=operand.dtype)
        return low, low
    if operand.dtype is torch.bool:
        low = torch.randint(0, 2, shape, generator=random).bool()
        return low, low | torch.randint(0, 2, shape, generator=random).bool() if operand.role == "input" else low
    if whole:
        limits = torch.iinfo(operand.dtype)
        if operand.values == "extreme":
            choice = torch.tensor([limits.min, limits.min + 1, 0, 1, limits.max // 2 + 1, limits.max - 1, limits.max])
            low = choice[torch.randint(0, 7, shape, generator=random)]
        else:
            low = torch.randint(0 if operand.values == "positive" else max(limits.min, -3), 5, shape, generator=random)
            low = low + (operand.values == "positive")
        low = low.to(operand.dtype)
        high = low + torch.where(low < limits.max - 3, torch.randint(0, 3, shape, generator=random), 0).to(low.dtype)
    else:
        low = torch.randn(shape, generator=random, dtype=torch.float64)
        if operand.values == "positive":
            low = low.abs() + 0.1
        if operand.values == "extreme":
            low = low * 1e3
        low = low.to(operand.dtype)
        high = low + torch.rand(shape, generator=random, dtype=torch.float64).to(low.dtype)
    if operand.expanded and operand.role != "input":
        low = low.reshape(-1)[:1].clone().reshape([1] * len(shape)).expand(shape)
    return (low, high) if operand.role == "input" else (low, low)


def pick(items: Iterable[Any], key: str, share: int) -> Iterator[Any]:
    """One in ``share`` of the items, always the same ones."""
    for item in items:
        if share == 1 or zlib.crc32(f"{key}{item}".encode()) % share == 0:
            yield item


CASES: dict[str, Callable[[str], Iterator[Call]]] = {}


def cases(*operators: str) -> Callable[[Callable[[str], Iterator[Call]]], Callable[[str], Iterator[Call]]]:
    """Register the generator of some operators' cases."""

    def register(function: Callable[[str], Iterator[Call]]) -> Callable[[str], Iterator[Call]]:
        for operator in operators:
            CASES[operator] = function
        return function

    return register


def singles(shapes: Iterable[tuple[int, ...]] = ((3,), (2, 3), ()), values: str = "small") -> Iterator[Operand]:
    """One operand in every type and role."""
    for number, (dtype, role) in enumerate(itertools.product(TYPES, ROLES)):
        if role == "parameter" and not dtype.is_floating_point:
            continue
        shape = list(shapes)[number % len(list(shapes))]
        yield Operand(role, dtype, shape, values)
        if not dtype.is_floating_point:
            yield Operand(role, dtype, shape, "extreme")
        elif role != "input" and shape:
            yield Operand(role, dtype, shape, values, expanded=True)


def networks(*operands: Operand) -> tuple[torch.dtype, ...]:
    """Types of networks that hold such operands."""
    floats = [o.dtype for o in operands if o.dtype.is_floating_point]
    if not floats:
        return (torch.float32,)
    return (floats[0],) if floats[0] in (torch.float64, torch.float32) else (floats[0], torch.float32)


def unary(operator: str, *more: tuple[Any, ...], values: str = "small", kwargs: Any = ({},)) -> Iterator[Call]:
    """One operand, with other arguments behind it."""
    for operand in singles(values=values):
        for network in networks(operand):
            for rest, named in itertools.product(more or ((),), kwargs):
                yield Call(operator, (operand, *rest), named, network)
    for rest, named in itertools.product(more or ((),), kwargs):
        yield Call(operator, (Operand("input", torch.float32, (2, 3), values), *rest), named, torch.float64)


PAIRS = [((3,), (3,)), ((2, 3), (3,)), ((3,), (1,)), ((3,), ()), ((), (3,)), ((2, 1), (1, 3))]


def pairs(key: str, share: int = 3) -> Iterator[tuple[Operand, Operand]]:
    """Two operands in all pairs of types, roles and shapes taken in turn."""
    roles = [(a, b) for a in ROLES for b in ROLES]
    everything = itertools.product(TYPES, TYPES, range(len(roles)))
    for number, (first, second, place) in enumerate(pick(everything, key, share)):
        a, b = roles[place]
        if (a == "parameter" and not first.is_floating_point) or (b == "parameter" and not second.is_floating_point):
            continue
        left, right = PAIRS[number % len(PAIRS)]
        values = "extreme" if number % 4 == 3 else "small"
        yield (
            Operand(a, first, left, values if not first.is_floating_point else "small"),
            Operand(b, second, right, values if not second.is_floating_point else "small", number % 5 == 4),
        )


NUMBERS = (2, -1, 0.5, True, 0, 300)


def with_numbers(operator: str, *, first: bool = False, kwargs: Any = ({},)) -> Iterator[Call]:
    """An operand and a number."""
    for operand in singles():
        for value, named in itertools.product(NUMBERS, kwargs):
            args = (value, operand) if first else (operand, value)
            yield Call(operator, args, named, networks(operand)[0])


def binary(operator: str, kwargs: Any = ({},), share: int = 3) -> Iterator[Call]:
    """Two operands."""
    for number, (a, b) in enumerate(pairs(operator, share)):
        for network in networks(a, b):
            yield Call(operator, (a, b), kwargs[number % len(kwargs)], network)


@cases("aten.add.Tensor", "aten.sub.Tensor", "aten.rsub.Tensor")
def _sums(operator: str) -> Iterator[Call]:
    yield from binary(operator, ({}, {"alpha": 2}, {"alpha": -1}, {"alpha": 0.5}, {"alpha": True}, {"alpha": 0}))
    yield from with_numbers(operator, kwargs=({}, {"alpha": 3}))


@cases("aten.add.Scalar", "aten.sub.Scalar", "aten.rsub.Scalar")
def _scalar_sums(operator: str) -> Iterator[Call]:
    yield from with_numbers(operator)
    for operand in singles():
        yield Call(operator, (operand, 2, 3), {}, networks(operand)[0])


@cases("aten.mul.Tensor", "aten.div.Tensor", "aten.gt.Tensor", "aten.ge.Tensor", "aten.lt.Tensor", "aten.le.Tensor",
       "aten.eq.Tensor", "aten.ne.Tensor")  # a list of operators  # fmt: skip
def _pairs(operator: str) -> Iterator[Call]:
    yield from binary(operator)
    yield from with_numbers(operator)


@cases("aten.logical_and.default", "aten.logical_or.default", "aten.bitwise_and.Tensor", "aten.bitwise_or.Tensor",
       "aten.__and__.Tensor", "aten.__or__.Tensor", "aten.maximum.default",
       "aten.minimum.default", "aten.logaddexp.default", "aten.logaddexp2.default",
       "aten.hypot.default", "aten.fmax.default", "aten.fmin.default")  # a list of operators  # fmt: skip
def _logic(operator: str) -> Iterator[Call]:
    yield from binary(operator)


@cases("aten.lerp.Scalar")
def _between(operator: str) -> Iterator[Call]:
    for number, (a, b) in enumerate(pairs(operator)):
        for network in networks(a, b):
            yield Call(operator, (a, b, (0.3, 0.8, -0.6, 1, 1.7, 0)[number % 6]), {}, network)


@cases("aten.lerp.Tensor")
def _between_by_values(operator: str) -> Iterator[Call]:
    for number, (a, b) in enumerate(pairs(operator)):
        for network in networks(a, b):
            weight = Operand(ROLES[number % 3], a.dtype if a.dtype.is_floating_point else torch.float32)
            yield Call(operator, (a, b, weight), {}, network)


@cases("aten.clamp.Tensor")
def _clamped_by_values(operator: str) -> Iterator[Call]:
    for number, (a, b) in enumerate(pairs(operator)):
        for network in networks(a, b):
            args, named = (((a, b), {}), ((a, None, b), {}), ((a,), {"max": b}), ((a, b), {"max": b}))[number % 4]
            yield Call(operator, args, named, network)


@cases("aten.mul.Scalar", "aten.div.Scalar", "aten.gt.Scalar", "aten.ge.Scalar", "aten.lt.Scalar", "aten.le.Scalar",
       "aten.eq.Scalar", "aten.ne.Scalar")  # a list of operators  # fmt: skip
def _numbers(operator: str) -> Iterator[Call]:
    yield from with_numbers(operator)


@cases("aten.neg.default", "aten.relu.default", "aten.relu_.default", "aten.abs.default", "aten.sigmoid.default",
       "aten.tanh.default", "aten.atan.default", "aten.exp.default", "aten.selu.default",
       "aten.silu.default", "aten.hardsigmoid.default", "aten.relu6.default", "aten.sign.default",
       "aten.logical_not.default", "aten.bitwise_not.default", "aten.clone.default", "aten.alias.default",
       "aten.detach.default", "aten.contiguous.default", "aten.lift_fresh_copy.default",
       "aten.reciprocal.default", "aten.asin.default", "aten.acos.default", "aten.tan.default", "aten.sinh.default",
       "aten.cosh.default", "aten.exp2.default", "aten.expm1.default", "aten.isnan.default", "aten.isinf.default",
       "aten.erfc.default")  # a list of operators  # fmt: skip
def _functions(operator: str) -> Iterator[Call]:
    yield from unary(operator)


@cases("aten.sqrt.default", "aten.rsqrt.default", "aten.log1p.default", "aten.log2.default", "aten.log10.default")
def _of_positive(operator: str) -> Iterator[Call]:
    yield from unary(operator, values="positive")
    yield from unary(operator)


@cases("aten.pow.Tensor_Scalar")
def _powers(operator: str) -> Iterator[Call]:
    yield from unary(
        operator, (2,), (3,), (1,), (0,), (2.0,), (-1,), (0.5,), (2.5,), (-2,), (20,), (-1.3,), values="positive"
    )
    yield from unary(operator, (2,), (3,))


@cases("aten.leaky_relu.default")
def _leaky(operator: str) -> Iterator[Call]:
    yield from unary(operator, (), (0.2,), (1.5,), (-0.5,))


LIMITS = ((-1, 1), (1, -1), (1.5, -0.5), (None, 1), (0.5, None), (0, 2.5), (-0.25, 300), (2, 2))


@cases("aten.hardtanh.default", "aten.clamp.default")
def _limits(operator: str) -> Iterator[Call]:
    yield from unary(operator, *(LIMITS if "clamp" in operator else [p for p in LIMITS if None not in p]))


@cases("aten.clamp_min.default", "aten.clamp_max.default")
def _limit(operator: str) -> Iterator[Call]:
    yield from unary(operator, (1,), (-0.5,), (300,), (True,))


@cases("aten.softplus.default")
def _softplus(operator: str) -> Iterator[Call]:
    yield from unary(operator, (), (2.0,), (0.5, 3.0), (1, -1.0), (-1.0,))


@cases("aten.elu.default")
def _elu(operator: str) -> Iterator[Call]:
    yield from unary(operator, (), (0.3,), (1.5, 2.0), (1.0, 1.0, 0.5), (-1.0,))


@cases("aten.gelu.default")
def _gelu(operator: str) -> Iterator[Call]:
    yield from unary(operator, kwargs=({}, {"approximate": "tanh"}))


@cases("aten.where.self")
def _where(operator: str) -> Iterator[Call]:
    for number, (a, b) in enumerate(pairs(operator)):
        condition = Operand(ROLES[(number % 2) * 2], torch.uint8 if number % 7 == 6 else torch.bool, (3,), "positive")
        yield Call(operator, (condition, a, b), {}, networks(a, b)[0])


@cases("aten.where.ScalarOther", "aten.where.ScalarSelf")
def _where_number(operator: str) -> Iterator[Call]:
    for number, operand in enumerate(singles()):
        condition = Operand(ROLES[(number % 2) * 2], torch.bool)
        for value in NUMBERS:
            args = (condition, operand, value) if operator.endswith("Other") else (condition, value, operand)
            yield Call(operator, args, {}, networks(operand)[0])


@cases("aten.where.Scalar")
def _where_numbers(operator: str) -> Iterator[Call]:
    for role, a, b in itertools.product(("input", "constant"), NUMBERS, NUMBERS):
        yield Call(operator, (Operand(role, torch.bool), a, b), {}, torch.float64 if a == b else torch.float32)


@cases("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default")
def _dropout(operator: str) -> Iterator[Call]:
    yield from unary(operator, (0.5, False), (0.5, True), (0.0, True))


@cases("aten._to_copy.default", "aten.to.dtype_layout")
def _casts(operator: str) -> Iterator[Call]:
    yield from unary(operator, kwargs=[{"dtype": t} for t in TYPES])
    yield from unary(operator, kwargs=[{"dtype": torch.complex64}])


@cases("aten.to.dtype")
def _cast(operator: str) -> Iterator[Call]:
    yield from unary(operator, *((t,) for t in TYPES))
    yield from unary(operator, (torch.float32, False, True))


@cases("aten.to.device")
def _device(operator: str) -> Iterator[Call]:
    yield from unary(operator, *((torch.device("cpu"), t) for t in TYPES))


def moved(operator: str, shape: tuple[int, ...], *batched: tuple[Any, ...], plain: Any = ()) -> Iterator[Call]:
    """An operand of every type; arguments for inputs, and for the others."""
    for operand in singles((shape,)):
        for rest in batched if operand.role == "input" else plain or batched:
            yield Call(operator, (operand, *rest), {}, networks(operand)[0])


@cases("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default")
def _view(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), ([B, 6],), ([B, -1],), ([B, 3, 2],), plain=(([6],), ([3, -1],), ([1, 2, 3],)))


@cases("aten.flatten.using_ints")
def _flatten(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), (1,), (1, -1), (-2, -1), plain=((), (0, 1)))


@cases("aten.unflatten.int")
def _unflatten(operator: str) -> Iterator[Call]:
    yield from moved(operator, (4,), (1, [2, 2]), (-1, [2, -1]), plain=((0, [2, 2]),))


@cases("aten.expand.default")
def _expand(operator: str) -> Iterator[Call]:
    yield from moved(
        operator,
        (1, 3),
        ([B, 2, 3],),
        ([-1, 4, -1],),
        plain=(([2, 3],), ([-1, 3],), ([B, 3],), ([B, 2, 3],), ([B, -1, -1],)),
    )


@cases("aten.permute.default")
def _permute(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), ([0, 2, 1],), ([1, 0, 2],), plain=(([1, 0],), ([-1, 0],)))


@cases("aten.transpose.int", "aten.movedim.int")
def _transpose(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), (1, 2), (-1, 1), (0, 1), plain=((0, 1), (-1, 0)))


@cases("aten.t.default")
def _t(operator: str) -> Iterator[Call]:
    yield from moved(operator, (3,), ())
    yield from (Call(operator, (Operand("parameter", torch.float32, (2, 3)),)) for _ in range(1))


@cases("aten.unsqueeze.default")
def _unsqueeze(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), (0,), (-1,), (2,), plain=((0,), (-1,)))


@cases("aten.squeeze.dim")
def _squeeze(operator: str) -> Iterator[Call]:
    yield from moved(operator, (1, 3), (1,), (2,), (-2,), (0,), plain=((0,), (1,), (-2,)))


@cases("aten.squeeze.dims")
def _squeeze_several(operator: str) -> Iterator[Call]:
    yield from moved(operator, (1, 3), ([1],), ([1, 2],), ([-2],), plain=(([0],), ([0, 1],)))


@cases("aten.squeeze.default")
def _squeeze_all(operator: str) -> Iterator[Call]:
    yield from moved(operator, (1, 3), ())


@cases("aten.select.int")
def _select(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), (1, 0), (-1, -1), (2, 1), plain=((0, 1), (-1, -2)))


@cases("aten.slice.Tensor")
def _slice(operator: str) -> Iterator[Call]:
    plain = ((0, 1), (0, -3), (0, None, -1), (0, 0, 4, 2), (0, -100, 2), (0, 3, 1))
    batched = ((1, 1), (1, -3, -1), (1, None, None, 2), (1, -100, 100), (1, 4, 2), (0, 0), (1, 0, 3, 3))
    yield from moved(operator, (4,), *batched, plain=plain)


def _places(values: Any, dtype: torch.dtype = torch.int64) -> Operand:
    return Operand("constant", dtype, (len(values),), f"are {list(values)}")


@cases("aten.index_select.default")
def _index_select(operator: str) -> Iterator[Call]:
    for places in (_places([2, 0, 0]), _places([1], torch.int32)):
        yield from moved(operator, (3,), (1, places), (-1, places), plain=((0, places),))
    yield Call(operator, (Operand("constant", torch.float32), 0, Operand("input", torch.int64)))


@cases("aten.index.Tensor")
def _index(operator: str) -> Iterator[Call]:
    for places in (_places([2, 0, -1]), _places([True, False, True], torch.bool), _places([1, 1], torch.int32)):
        yield from moved(operator, (3,), ([None, places],), plain=(([places],),))
        yield from moved(
            operator, (3, 3), ([None, places, places],), ([None, None, places],), plain=(([None, places],),)
        )
    yield Call(operator, (Operand("constant", torch.float32), [Operand("input", torch.int64, (), "positive")]))


@cases("aten.pad.default")
def _pad(operator: str) -> Iterator[Call]:
    rest = (([1, 2],), ([1, 0], "constant", 0.5), ([0, 1], "constant", -2.0), ([-1, 1],), ([1, 1], "reflect"))
    yield from moved(operator, (2, 3), *rest, ([1, 1], "replicate"), ([1, 1], "circular"))


@cases("aten.constant_pad_nd.default")
def _constant_pad(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), ([1, 2],), ([1, 0], 0.5), ([0, 1, 1, 0], -2), ([-1, 0], True), ([0, 1], 300))


@cases("aten.cat.default", "aten.stack.default")
def _joined(operator: str) -> Iterator[Call]:
    for a, b in pairs(operator):
        shape = (3,) if a.shape == () or b.shape == () else a.shape
        first, second = (Operand(o.role, o.dtype, shape, o.values, o.expanded) for o in (a, b))
        if (first.role == "input") == (second.role == "input"):
            for dim in (-1, 1) if first.role == "input" else (0, -1):
                for network in networks(a, b):
                    yield Call(operator, ([first, second], dim), {}, network)
    yield Call(operator, ([Operand("input", torch.float32, (2, 3))] * 2,), {})


@cases("aten.split.Tensor")
def _split(operator: str) -> Iterator[Call]:
    yield from moved(operator, (5,), (2, 1), (5, -1), plain=((2,), (2, 0), (3, -1)))


@cases("aten.split_with_sizes.default")
def _split_sizes(operator: str) -> Iterator[Call]:
    yield from moved(operator, (5,), ([2, 3], 1), ([1, 4], -1), plain=(([2, 3],), ([5, 0], -1)))


@cases("aten.chunk.default")
def _chunk(operator: str) -> Iterator[Call]:
    yield from moved(operator, (5,), (2, 1), (3, -1), plain=((2,), (3, -1)))


@cases("aten.unbind.int")
def _unbind(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), (1,), (-1,), plain=((), (-1,)))


def created(operator: str, *arguments: tuple[Any, ...]) -> Iterator[Call]:
    """Tensors made from numbers, in every type."""
    for rest in arguments:
        for dtype in (None, *TYPES):
            for network in (torch.float32, torch.float64):
                yield Call(operator, rest, {} if dtype is None else {"dtype": dtype}, network)


SIZES: tuple[list[Any], ...] = ([3], [B, 3], [], [2, B], [0])
FILLS = (2, 0.5, 2.7, -1, True, 300, -2.7, 1e9)


@cases("aten.zeros.default", "aten.ones.default")
def _zeros(operator: str) -> Iterator[Call]:
    yield from created(operator, *((s,) for s in SIZES))


@cases("aten.zeros_like.default", "aten.ones_like.default")
def _zeros_like(operator: str) -> Iterator[Call]:
    yield from created(operator, *((o,) for o in pick(singles(), operator, 2)))


@cases("aten.new_zeros.default", "aten.new_ones.default")
def _new_zeros(operator: str) -> Iterator[Call]:
    yield from created(operator, *((o, s) for o in pick(singles(), operator, 4) for s in SIZES[:2]))


@cases("aten.full.default")
def _full(operator: str) -> Iterator[Call]:
    yield from created(operator, *((s, v) for s in SIZES[:2] for v in FILLS))


@cases("aten.full_like.default")
def _full_like(operator: str) -> Iterator[Call]:
    yield from pick(created(operator, *((o, v) for o in pick(singles(), operator, 2) for v in FILLS)), operator, 3)


@cases("aten.new_full.default")
def _new_full(operator: str) -> Iterator[Call]:
    yield from pick(created(operator, *((o, s, v) for o in singles() for s in SIZES[:2] for v in FILLS)), operator, 10)


@cases("aten.scalar_tensor.default")
def _scalar(operator: str) -> Iterator[Call]:
    yield from created(operator, *((v,) for v in FILLS))


@cases("aten.arange.default")
def _arange(operator: str) -> Iterator[Call]:
    yield from created(operator, (4,), (3.5,), (0,))


@cases("aten.arange.start")
def _arange_start(operator: str) -> Iterator[Call]:
    yield from created(operator, (1, 5), (0.5, 4.5), (-2, 2), (-0.5, 3))


@cases("aten.arange.start_step")
def _arange_step(operator: str) -> Iterator[Call]:
    yield from created(operator, (0, 8, 3), (0.5, 3.0, 0.7), (5, 0, -2), (0, 1.0, 0.1))


@cases("aten.eye.default")
def _eye(operator: str) -> Iterator[Call]:
    yield from created(operator, (3,), (0,))


@cases("aten.eye.m")
def _eye_of_two_sizes(operator: str) -> Iterator[Call]:
    yield from created(operator, (2, 3), (3, 2))


@cases("aten.linspace.default")
def _linspace(operator: str) -> Iterator[Call]:
    yield from created(operator, (0, 1, 4), (-0.5, 2.5, 3), (3, 1, 1), (0.1, 0.7, 5))


@cases("aten.sum.dim_IntList", "aten.mean.dim")
def _reduced(operator: str) -> Iterator[Call]:
    for number, operand in enumerate(singles(((2, 3), (3,)))):
        first = 1 if operand.role == "input" else 0
        for place, dtype in enumerate((None, *TYPES)):
            dims = ([first], [-1], list(range(first, first + len(operand.shape))))[(number + place) % 3]
            named = {} if dtype is None else {"dtype": dtype}
            yield Call(operator, (operand, dims, bool(number % 2)), named, networks(operand)[0])
            if dtype is None:
                yield Call(operator, (operand, dims), {}, networks(operand)[-1])


@cases("aten.sum.default", "aten.mean.default")
def _reduced_whole(operator: str) -> Iterator[Call]:
    for operand in singles():
        for dtype in (None, *TYPES):
            yield Call(operator, (operand,), {} if dtype is None else {"dtype": dtype}, networks(operand)[0])


@cases("aten.amax.default", "aten.amin.default")
def _extremes(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), ([1],), ([-1], True), ([1, 2],), plain=(([0],), (), ([0, 1], True)))


@cases("aten.all.dim", "aten.any.dim")
def _truths(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), (1,), (-1, True), plain=((0,), (-1, True)))


@cases("aten.all.dims", "aten.any.dims", "aten.count_nonzero.dim_IntList")
def _truths_over_several(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), ([1],), ([-1, 2],), plain=(([0],), ([0, 1],)))


@cases("aten.all.default", "aten.any.default", "aten.count_nonzero.default")
def _truths_over_all(operator: str) -> Iterator[Call]:
    for operand in singles():
        yield Call(operator, (operand,), {}, networks(operand)[0])


@cases("aten.max.dim", "aten.min.dim")
def _extreme(operator: str) -> Iterator[Call]:
    yield from moved(operator, (2, 3), (1,), (-1, True), plain=((0,), (-1, True)))


def layer(dtype: torch.dtype, role: str, shape: tuple[int, ...], values: str = "small") -> Operand:
    """A weight; whole ones are constants."""
    return Operand(role if dtype.is_floating_point else "constant", dtype, shape, values)


@cases("aten.linear.default")
def _linear(operator: str) -> Iterator[Call]:
    for dtype, role, first in itertools.product(TYPES, ROLES[1:], ("input", "constant")):
        x = Operand(first, dtype, (3,) if first == "input" else (2, 3))
        weight = layer(dtype, role, (4, 3))
        for network in networks(x):
            yield Call(operator, (x, weight), {}, network)
            for bias in ((4,), (1,)):
                yield Call(operator, (x, weight, layer(dtype, "parameter", bias)), {}, network)
            yield Call(operator, (x, weight, Operand("constant", dtype, (4,), "small", True)), {}, network)
    yield Call(operator, (Operand("input", torch.float32, (2, 3)), layer(torch.float32, "parameter", (4, 3))), {})


@cases("aten.addmm.default")
def _addmm(operator: str) -> Iterator[Call]:
    for dtype, role in itertools.product(TYPES, ROLES[1:]):
        x, weight = Operand("input", dtype), layer(dtype, role, (3, 4))
        for shape in ((4,), (1,), (), (1, 4), (1, 1)):
            for network in networks(x):
                yield Call(operator, (layer(dtype, role, shape), x, weight), {}, network)
        yield Call(operator, (layer(dtype, role, (4,)), x, weight), {"alpha": 2}, networks(x)[0])
        yield Call(operator, (layer(dtype, role, (4,)), x, weight), {"beta": 0}, networks(x)[0])


@cases("aten.mm.default")
def _mm(operator: str) -> Iterator[Call]:
    for dtype, role in itertools.product(TYPES, ROLES[1:]):
        for network in networks(Operand("input", dtype)):
            yield Call(operator, (Operand("input", dtype), layer(dtype, role, (3, 4))), {}, network)
            yield Call(operator, (layer(dtype, role, (2, 3)), layer(dtype, "parameter", (3, 4))), {}, network)
    yield Call(operator, (Operand("input", torch.int8, (3,), "extreme"), layer(torch.int8, "constant", (3, 4))), {})


@cases("aten.matmul.default")
def _matmul(operator: str) -> Iterator[Call]:
    shapes = [
        ((3,), (3, 4)),
        ((2, 3), (3, 4)),
        ((2, 3), (3,)),
        ((2, 3), (2, 3, 4)),
        ((1, 2, 3), (5, 3, 4)),
        ((3,), (3,)),
    ]
    for (left, right), dtype, role in itertools.product(shapes, TYPES, ROLES):
        for network in networks(Operand("input", dtype)):
            weight = Operand(role if dtype.is_floating_point or role != "parameter" else "constant", dtype, right)
            if role != "input":
                yield Call(operator, (Operand("input", dtype, left), weight), {}, network)
                yield Call(operator, (layer(dtype, role, left), layer(dtype, "parameter", right)), {}, network)
            elif len(left) == len(right) == 2:
                yield Call(operator, (Operand("input", dtype, (2, 3)), Operand("input", dtype, (3, 2))), {}, network)
    yield Call(operator, (layer(torch.float32, "parameter", (2, 5)), Operand("input", torch.float32, (5, 3))), {})


@cases("aten.bmm.default")
def _bmm(operator: str) -> Iterator[Call]:
    for dtype in TYPES:
        for network in networks(Operand("input", dtype)):
            yield Call(operator, (Operand("input", dtype, (2, 3)), Operand("input", dtype, (3, 2))), {}, network)
            yield Call(
                operator, (layer(dtype, "parameter", (2, 3, 4)), layer(dtype, "constant", (2, 4, 3))), {}, network
            )


@cases("aten.conv1d.default", "aten.conv2d.default", "aten.conv1d.padding", "aten.conv2d.padding")
def _convolution(operator: str) -> Iterator[Call]:
    dims = int(operator[9])
    space, kernel = (5, 4)[:dims], (3, 2)[:dims]
    named = operator.endswith("padding")
    ways: list[tuple[Any, ...]] = [
        (),
        ([1] * dims, "same" if named else [1] * dims),
        ([1] * dims, "valid" if named else [0] * dims),
    ]
    ways += [([2] * dims, "valid" if named else [1] * dims, [2] * dims if dims == 1 else [1] * dims)]
    ways += [([1] * dims, "same" if named else [2] * dims, [2] * dims, 2)]
    for dtype, role in itertools.product(TYPES, ROLES[1:]):
        for number, way in enumerate(ways):
            groups = way[3] if len(way) > 3 else 1
            x, weight = Operand("input", dtype, (2, *space)), layer(dtype, role, (4, 2 // groups, *kernel))
            bias = None if number % 2 else layer(dtype, "parameter", (4,))
            for network in networks(x):
                yield Call(operator, (x, weight, bias, *way), {}, network)


def pooled(operator: str, *ways: tuple[Any, ...], space: tuple[int, ...] = (6, 5)) -> Iterator[Call]:
    """A pool of images or signals in every type."""
    space = space[: 1 if "1d" in operator else 2]
    for dtype, way in itertools.product(TYPES, ways):
        for values in ("small", "extreme") if not dtype.is_floating_point else ("small",):
            x = Operand("input", dtype, (2, *space), values)
            for network in networks(x):
                yield Call(operator, (x, *way), {}, network)


@cases("aten.max_pool1d.default", "aten.max_pool2d.default", "aten.max_pool2d_with_indices.default")
def _max_pool(operator: str) -> Iterator[Call]:
    d = 1 if "1d" in operator else 2
    ways: tuple[tuple[Any, ...], ...] = (
        ([2] * d,),
        ([2] * d, []),
        ([3] * d, [2] * d, [1] * d),
        ([2] * d, [1] * d, [0] * d, [2] * d),
    )
    yield from pooled(operator, *ways, ([3] * d, [2] * d, [1] * d, [1] * d, True), ([2] * d, [3] * d), ([3],))


@cases("aten.avg_pool1d.default", "aten.avg_pool2d.default")
def _average_pool(operator: str) -> Iterator[Call]:
    d = 1 if "1d" in operator else 2
    ways: tuple[tuple[Any, ...], ...] = (
        ([2] * d,),
        ([2] * d, []),
        ([3] * d, [2] * d, [1] * d),
        ([3] * d, [2] * d, [1] * d, True, False),
        ([3],),
    )
    yield from pooled(operator, *ways, ([3] * d, [2] * d, [1] * d, True), ([3] * d, [2] * d, [1] * d, False, False))
    if d == 2:
        yield from pooled(operator, *(([2, 3], [2, 2], [1, 1], c, True, o) for c in (True, False) for o in (1, 3, 50)))


@cases("aten.adaptive_max_pool1d.default", "aten.adaptive_avg_pool1d.default")
def _adaptive(operator: str) -> Iterator[Call]:
    yield from pooled(operator, ([2],), ([4],), ([1],))


@cases("aten.adaptive_max_pool2d.default", "aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default")
def _adaptive_image(operator: str) -> Iterator[Call]:
    yield from pooled(operator, ([2, 3],), ([1, 1],), ([4, 5],))


@cases("aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default")
def _norm(operator: str) -> Iterator[Call]:
    behind = (False, 0.1, 1e-5, True) if operator.startswith("aten.batch") else (0.1, 1e-5)
    for dtype, shape in itertools.product(FLOATS, ((3,), (3, 2))):
        x, stats = Operand("input", dtype, shape), Operand("constant", dtype, (3,), "positive")
        weights = (layer(dtype, "parameter", (3,)), layer(dtype, "parameter", (3,)))
        for network in networks(x):
            yield Call(operator, (x, *weights, stats, stats, *behind), {}, network)
            yield Call(operator, (x, None, None, stats, stats, *behind), {}, network)
    if len(behind) == 4:
        yield Call(operator, (x, *weights, stats, stats, True, 0.1, 1e-5, True), {})


@cases("aten.lstm_cell.default", "aten.gru_cell.default", "aten.rnn_tanh_cell.default", "aten.rnn_relu_cell.default")
def _recurrent_cell(operator: str) -> Iterator[Call]:
    rows = 3 * {"lstm": 4, "gru": 3}.get(operator.split(".")[1].removesuffix("_cell"), 1)
    for dtype, role in itertools.product(FLOATS, ROLES[1:]):
        x, h = Operand("input", dtype, (2,)), Operand("input", dtype, (3,))
        state: Any = [h, h] if rows == 12 else h
        weights = layer(dtype, role, (rows, 2)), layer(dtype, "parameter", (rows, 3))
        for network in networks(x):
            yield Call(operator, (x, state, *weights), {}, network)
            biases = layer(dtype, "parameter", (rows,)), layer(dtype, role, (rows,))
            yield Call(operator, (x, state, *weights, *biases), {}, network)


# Layers whose states have the samples second, where these trials have them first: see test_rules_recurrent.
STATES_SECOND = ("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
# Of sizes, which are no numbers that a network computes with: covered by views, slices and new tensors of the batch.
SIZES_ONLY = ("getitem", "aten.sym_size.int", "aten.sym_numel.default", "mul", "add", "sub", "floordiv")
