"""Typed cases of the operators of structure; importing this adds them to the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from tests.verify.typed_cases import FLOATS, ROLES, TYPES, Call, Operand, cases, layer, moved, networks, unary

# Shape of an operand, arguments for inputs, and for parameters and constants.
Ways = tuple[tuple[int, ...], tuple[tuple[Any, ...], ...], tuple[tuple[Any, ...], ...]]

MOVED: dict[str, Ways] = {
    "aten.flip.default": ((2, 3), (([1],), ([-1, 1],), ([0],)), (([0],), ([0, -1],))),
    "aten.roll.default": ((2, 3), (([1], [1]), ([-2, 1], [2, 1]), ([1], [0]), ([2],)), (([1], [0]), ([2],))),
    "aten.tril.default": ((3, 3), ((), (1,), (-1,)), ((),)),
    "aten.triu.default": ((3, 3), ((), (1,), (-1,)), ((),)),
    "aten.diagonal.default": ((3, 4), ((0, 1, 2), (1, -2, -1), (0, 0, 1)), ((), (1,))),
    "aten.diagonal_copy.default": ((3, 4), ((0, 1, 2), (-1, -2, -1), (0, 0, 1)), ((), (1,))),
    "aten.diag_embed.default": ((3,), ((), (1,), (0, 1, 2)), ((), (-1,))),
    "aten.pixel_shuffle.default": ((4, 1, 2), ((2,),), ((2,),)),
    "aten.pixel_unshuffle.default": ((1, 2, 4), ((2,),), ((2,),)),
    "aten.channel_shuffle.default": ((4, 1, 2), ((2,),), ((2,),)),
    "aten.native_channel_shuffle.default": ((4, 1, 2), ((2,),), ((2,),)),
    "aten.repeat.default": ((2,), (([1, 3],), ([1, 1],), ([2, 1],), ([2, 1, 1],)), (([3],), ([2, 2],))),
    "aten.repeat_interleave.self_int": ((2,), ((2, 1), (3, -1), (2, 0)), ((2, 0), (2,))),
    "aten.unfold.default": ((4,), ((1, 2, 1), (-1, 3, 2), (0, 2, 1)), ((0, 2, 2),)),
    "aten.im2col.default": ((2, 3, 3), (([2, 2], [1, 1], [1, 0], [1, 2]),), (([2, 2], [1, 1], [0, 0], [1, 1]),)),
    "aten.reflection_pad1d.default": ((2, 4), (([1, 2],), ([0, 1],)), (([1, 1],),)),
    "aten.reflection_pad2d.default": ((2, 3, 4), (([1, 2, 0, 1],),), (([1, 1, 1, 1],),)),
    "aten.reflection_pad3d.default": ((1, 2, 3, 4), (([1, 2, 0, 1, 1, 1],),), (([1, 1, 1, 1, 0, 0],),)),
    "aten.replication_pad1d.default": ((2, 4), (([1, 2],), ([0, 1],)), (([1, 1],),)),
    "aten.replication_pad2d.default": ((2, 3, 4), (([1, 2, 0, 1],),), (([1, 1, 1, 1],),)),
    "aten.replication_pad3d.default": ((1, 2, 3, 4), (([1, 2, 0, 1, 1, 1],),), (([1, 1, 1, 1, 0, 0],),)),
    "aten._pad_circular.default": ((2, 4), (([1, 2],), ([0, 1],)), (([1, 1],),)),
    "aten.cumsum.default": ((2, 3), ((1,), (-1,), (0,)), ((0,),)),
    "aten.col2im.default": ((4, 4), (([3, 3], [2, 2], [1, 1], [0, 0], [1, 1]),), ()),
    "aten.sort.default": ((3,), ((), (1, True), (0,)), ((),)),
    "aten.topk.default": ((3,), ((2,), (1, 1, False)), ((2,),)),
    "aten.kthvalue.default": ((3,), ((2,), (1, 1)), ((2,),)),
    "aten.median.dim": ((3,), ((1,), (-1, True)), ((0,),)),
    "aten.cummax.default": ((3,), ((1,), (-1,)), ((0,),)),
    "aten.cummin.default": ((3,), ((1,), (-1,)), ((0,),)),
}


@cases(*MOVED)
def _moved(operator: str) -> Iterator[Call]:
    shape, batched, plain = MOVED[operator]
    yield from moved(operator, shape, *batched, plain=plain)


@cases("aten.sort.stable")
def _sorted(operator: str) -> Iterator[Call]:
    for call in moved(operator, (3,), ()):
        yield Call(operator, call.args, {"stable": True, "dim": -1}, call.network)


@cases("aten.gather.default")
def _gather(operator: str) -> Iterator[Call]:
    for dtype, role in itertools.product(TYPES, ROLES):
        x = Operand("input", dtype, (3,)) if role == "input" else layer(dtype, role, (3, 3))
        for place in ("are [[0, 2], [1, 1], [2, 0]]", "are [[2], [0], [1]]"):
            yield Call(operator, (x, 1, Operand("constant", torch.int64, (3, 2), place)), {}, networks(x)[0])


@cases("aten._unsafe_index.Tensor")
def _index(operator: str) -> Iterator[Call]:
    places = Operand("constant", torch.int64, (3,), "are [2, 0, -1]")
    yield from moved(operator, (3,), ([None, places],), plain=(([places],),))


@cases("aten.select_scatter.default", "aten.slice_scatter.default")
def _written(operator: str) -> Iterator[Call]:
    select = "select" in operator
    for dtype in TYPES:
        x, part = Operand("input", dtype, (2, 3)), Operand("input", dtype, (3,) if select else (1, 3))
        for rest in ((1, 0), (1, -1)) if select else ((1, 1), (1, 0, 1)):
            yield Call(operator, (x, part, *rest), {}, networks(x)[0])
        if not select:
            yield Call(operator, (x, x, 0, 0, (1 << 63) - 1), {}, networks(x)[0])


@cases("aten.copy.default", "aten.fill.Tensor")
def _copied(operator: str) -> Iterator[Call]:
    for dtype, other in itertools.product(TYPES, TYPES):
        x = Operand("input", dtype, (3,))
        if "fill" not in operator:
            yield Call(operator, (x, Operand("input", other, (3,))), {}, networks(x)[0])
        yield Call(operator, (x, Operand("constant", other, () if "fill" in operator else (3,))), {}, networks(x)[0])


@cases("aten.fill.Scalar")
def _filled(operator: str) -> Iterator[Call]:
    for dtype, value in itertools.product(TYPES, (0, 2, 0.3, -1.5, True)):
        x = Operand("input", dtype, (3,))
        yield Call(operator, (x, value), {}, networks(x)[0])


@cases("aten.logit.default")
def _logit(operator: str) -> Iterator[Call]:
    yield from unary(operator, (), (0.25,))  # others float32 does not hold, which is refused


@cases("aten._weight_norm.default", "aten._weight_norm_interface.default")
def _weight_norm(operator: str) -> Iterator[Call]:
    for dtype, role in itertools.product(FLOATS, ("parameter", "constant")):
        for dim, shape in ((0, (2, 1)), (1, (1, 3))):
            v, g = Operand(role, dtype, (2, 3)), Operand(role, dtype, shape)
            for network in networks(v):
                yield Call(operator, (v, g, dim), {}, network)


def _floats(operator: str, shape: tuple[int, ...], *ways: tuple[Any, ...], kwargs: Any = ({},)) -> Iterator[Call]:
    for dtype, way, named in itertools.product((*FLOATS, torch.int64, torch.uint8), ways, kwargs):
        x = Operand("input", dtype, shape)
        for network in networks(x):
            yield Call(operator, (x, *way), named, network)


SHAPES = {1: (2, 4), 2: (2, 3, 4), 3: (1, 2, 3, 2)}


@cases(*(f"aten.{name}{n}d.{form}" for name in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)
         for form in ("default", "vec")), "aten.upsample_linear1d.default", "aten.upsample_linear1d.vec",
       "aten.upsample_bilinear2d.default", "aten.upsample_bilinear2d.vec", "aten.upsample_trilinear3d.default",
       "aten.upsample_trilinear3d.vec")  # a list of operators  # fmt: skip
def _resampled(operator: str) -> Iterator[Call]:
    rank = next(n for n in (1, 2, 3) if f"{n}d" in operator)
    size, scales = [5, 2, 3][:rank], [2.0, 1.7, 0.6][:rank]
    scaled = [int(s * n) for s, n in zip(scales, SHAPES[rank][1:], strict=True)]
    aligned: tuple[tuple[Any, ...], ...] = ((),) if "nearest" in operator else ((True,), (False,))
    for more in aligned:
        if operator.endswith("vec"):
            ways: tuple[tuple[Any, ...], ...] = ((size, *more, None), (None, *more, scales))
        else:
            ways = ((size, *more), (scaled, *more, *scales))
        yield from _floats(operator, SHAPES[rank], *ways)


@cases("aten.linalg_vector_norm.default")
def _norm(operator: str) -> Iterator[Call]:
    orders = (2, 1, float("inf"), -float("inf"))
    yield from _floats(operator, (2, 3), *((order, [1], keep) for order in orders for keep in (True, False)))
    yield from _floats(operator, (2, 3), (2, [-1, 1]), kwargs=({}, {"dtype": torch.float64}))


@cases("aten.prod.dim_int")
def _product(operator: str) -> Iterator[Call]:
    yield from _floats(operator, (2, 3), (1,), (-1, True), kwargs=({}, {"dtype": torch.float64}))


@cases("aten.var.correction", "aten.std.correction", "aten.var_mean.correction", "aten.std_mean.correction")
def _variance(operator: str) -> Iterator[Call]:
    yield from _floats(operator, (2, 3), ([1, 2],), kwargs=({}, {"correction": 0}, {"correction": 1, "keepdim": True}))


@cases("aten.conv3d.default", "aten.conv3d.padding")
def _volumes(operator: str) -> Iterator[Call]:
    named = operator.endswith("padding")
    ways: tuple[tuple[Any, ...], ...] = (
        ([1, 1, 1], "same" if named else [1, 0, 1]),
        ([2, 1, 1], "valid" if named else [0, 1, 1], [1, 2, 1], 2),
    )
    for dtype, role, way in itertools.product(FLOATS, ROLES[1:], ways):
        x, weight = Operand("input", dtype, (2, 2, 4, 3)), layer(dtype, role, (2, 2 // (way[3:] or (1,))[0], 2, 2, 1))
        for network in networks(x):
            yield Call(operator, (x, weight, layer(dtype, "parameter", (2,)), *way), {}, network)


@cases("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def _transposed(operator: str) -> Iterator[Call]:
    rank = next(n for n in (1, 2, 3) if f"{n}d" in operator)
    for dtype, role, groups in itertools.product(FLOATS, ROLES[1:], (1, 2)):
        x, weight = Operand("input", dtype, (2, 3, 2, 2)[: rank + 1]), layer(dtype, role, (2, 2, 3, 2, 2)[: rank + 2])
        bias = layer(dtype, "parameter", (2 * groups,)) if groups == 2 else None
        for network in networks(x):
            yield Call(operator, (x, weight, bias), {"groups": groups} if groups == 2 else {}, network)
            rest = ([2] * rank, [1] * rank, [1] * rank, groups, [1] * rank)
            yield Call(operator, (x, weight, bias, *rest), {}, network)


@cases("aten.max_pool3d.default", "aten.max_pool3d_with_indices.default")
def _largest(operator: str) -> Iterator[Call]:
    yield from _floats(
        operator, (2, 2, 3, 4), ([2, 2, 2],), ([2, 2, 2], [1, 1, 2], [1, 1, 1]), ([2], [2], [0], [1], True)
    )


@cases("aten.avg_pool3d.default")
def _average(operator: str) -> Iterator[Call]:
    ways = ([2, 2, 3], [1, 1, 2], [1, 1, 1], True, False), ([2], [2], [0], False, True, 3)
    yield from _floats(operator, (2, 2, 3, 4), ([2, 2, 2],), *ways)


@cases("aten.adaptive_max_pool3d.default", "aten.adaptive_avg_pool3d.default", "aten._adaptive_avg_pool3d.default")
def _adaptive(operator: str) -> Iterator[Call]:
    yield from _floats(operator, (2, 2, 3, 4), ([1, 2, 3],), ([1, 1, 1],))


@cases("aten.einsum.default")
def _einsum(operator: str) -> Iterator[Call]:
    for dtype, role in itertools.product(FLOATS, ROLES):
        x, other = Operand("input", dtype, (2, 3)), Operand(role, dtype, (2, 3) if role == "input" else (3, 2))
        for network in networks(x):
            yield Call(operator, ("bcl,bdl->bcd" if role == "input" else "bcl,lk->bck", [x, other]), {}, network)
            yield Call(operator, ("bcl->bl", [x]), {}, network)


@cases("aten.bilinear.default")
def _bilinear(operator: str) -> Iterator[Call]:
    for dtype, role in itertools.product(FLOATS, ROLES[1:]):
        x, y = Operand("input", dtype, (3,)), Operand("input", dtype, (2,))
        weight, bias = layer(dtype, role, (4, 3, 2)), layer(dtype, "parameter", (4,))
        for network in networks(x):
            yield Call(operator, (x, y, weight, bias), {}, network)
            yield Call(operator, (x, y, weight), {}, network)


@cases("aten.baddbmm.default")
def _stack(operator: str) -> Iterator[Call]:
    for dtype, role in itertools.product(FLOATS, ROLES[1:]):
        x, y, term = Operand("input", dtype, (2, 3)), Operand("input", dtype, (3, 4)), layer(dtype, role, (1, 2, 4))
        for network in networks(x):
            yield Call(operator, (term, x, y), {}, network)
            yield Call(operator, (term, x, y), {"alpha": 2}, network)


@cases("aten.addmv.default")
def _vector(operator: str) -> Iterator[Call]:
    for dtype, role in itertools.product(FLOATS, ROLES[1:]):
        x, weight, term = Operand("input", dtype, (3,)), layer(dtype, role, (3,)), Operand("input", dtype, ())
        for network in networks(x):
            yield Call(operator, (term, x, weight), {}, network)


@cases("aten.mv.default", "aten.dot.default", "aten.vdot.default")
def _inner(operator: str) -> Iterator[Call]:
    for dtype, role in itertools.product(FLOATS, ROLES[1:]):
        weight = layer(dtype, role, (3,))
        first = Operand("input", dtype, (3,)) if "mv" in operator else layer(dtype, "parameter", (3,))
        for network in networks(weight):
            yield Call(operator, (first, weight), {}, network)
