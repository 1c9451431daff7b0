"""Cases for softmax, norms over moments, attention, tables and pointwise functions; importing it registers them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from tests.verify.typed_cases import FLOATS, TYPES, B, Call, Operand, cases, networks, singles, unary


@cases("aten.hardswish.default", "aten.mish.default", "aten.erf.default", "aten.log_sigmoid.default",
       "aten.log_sigmoid_forward.default", "aten.sin.default", "aten.cos.default", "aten.floor.default",
       "aten.ceil.default", "aten.round.default", "aten.trunc.default")  # a list of operators  # fmt: skip
def _single(operator: str) -> Iterator[Call]:
    yield from unary(operator)


@cases("aten.log.default")
def _log(operator: str) -> Iterator[Call]:
    yield from unary(operator, values="positive")


@cases("aten.celu.default")
def _celu(operator: str) -> Iterator[Call]:
    yield from unary(operator, (), (0.7,), (-0.3,))


@cases("aten.hardshrink.default", "aten.softshrink.default")
def _shrink(operator: str) -> Iterator[Call]:
    yield from unary(operator, (), (0.3,), (0,))


@cases("aten.threshold.default")
def _threshold(operator: str) -> Iterator[Call]:
    yield from unary(operator, (0.1, 2.5), (1, -1))


@cases("aten.prelu.default")
def _prelu(operator: str) -> Iterator[Call]:
    for dtype, (shape, slopes) in itertools.product(FLOATS, (((3,), (3,)), ((3,), (1,)), ((3, 2), (3,)), ((2, 2), ()))):
        for network in networks(Operand("input", dtype)):
            yield Call(operator, (Operand("input", dtype, shape), Operand("parameter", dtype, slopes)), {}, network)


@cases("aten._prelu_kernel.default")
def _prelu_kernel(operator: str) -> Iterator[Call]:
    for dtype in FLOATS:
        for network in networks(Operand("input", dtype)):
            for role in ("input", "parameter"):
                yield Call(operator, (Operand("input", dtype, (3,)), Operand(role, dtype, (3,))), {}, network)


@cases("aten.masked_fill.Scalar")
def _masked_fill(operator: str) -> Iterator[Call]:
    for operand in singles(((3,), (2, 3))):
        for role, value in itertools.product(("input", "constant"), (0, 2, -1.5, True, 300)):
            mask = Operand(role, torch.bool, operand.shape[-1:])
            yield Call(operator, (operand, mask, value), {}, networks(operand)[0])


@cases("aten.masked_fill.Tensor")
def _masked_fill_tensor(operator: str) -> Iterator[Call]:
    for operand, value in itertools.product(singles(((3,), (2, 3))), (torch.float32, torch.float64, torch.int64)):
        mask = Operand("constant", torch.bool, operand.shape[-1:])
        yield Call(operator, (operand, mask, Operand("constant", value, ())), {}, networks(operand)[0])


@cases("aten.tril.default", "aten.triu.default")
def _triangle(operator: str) -> Iterator[Call]:
    for operand in singles(((2, 3), (3, 3))):
        for diagonal in ((), (1,), (-1,)):
            yield Call(operator, (operand, *diagonal), {}, networks(operand)[0])


@cases("aten.embedding.default")
def _embedding(operator: str) -> Iterator[Call]:
    for dtype, places in itertools.product(FLOATS, (torch.int64, torch.int32)):
        table = Operand("parameter", dtype, (5, 2))
        for network in networks(table):
            for rest in ((), (1,), (-1, True)):
                constant = Operand("constant", places, (2,), "are [4, 0]")
                yield Call(operator, (table, constant, *rest), {}, network)
    yield Call(operator, (Operand("constant", torch.float32, (5, 2)), Operand("constant", torch.int64, (), "are 3")))


@cases("aten.softmax.int", "aten.log_softmax.int")
def _softmax(operator: str) -> Iterator[Call]:
    for dtype, way in itertools.product(TYPES, ((-1,), (1,), (-1, torch.float32), (1, torch.float64), (0,))):
        x = Operand("input", dtype, (2, 3))
        for network in networks(x):
            yield Call(operator, (x, *way), {}, network)


@cases("aten._softmax.default", "aten._log_softmax.default")
def _softmax_in_type(operator: str) -> Iterator[Call]:
    for dtype, half in itertools.product(FLOATS, (False, True)):
        x = Operand("input", dtype, (2, 3))
        for network in networks(x):
            yield Call(operator, (x, -1, half), {}, network)


@cases("aten.logsumexp.default")
def _logsumexp(operator: str) -> Iterator[Call]:
    for dtype, way in itertools.product(TYPES, (([-1],), ([1, 2], True), ([0],))):
        x = Operand("input", dtype, (2, 3))
        for network in networks(x):
            yield Call(operator, (x, *way), {}, network)


def _weights(dtype: torch.dtype, shape: tuple[int, ...]) -> Iterator[tuple[Operand | None, Operand | None]]:
    yield Operand("parameter", dtype, shape), Operand("parameter", dtype, shape)
    yield Operand("parameter", dtype, shape), None
    yield None, None


@cases("aten.layer_norm.default", "aten.native_layer_norm.default")
def _layer_norm(operator: str) -> Iterator[Call]:
    for dtype in FLOATS:
        x = Operand("input", dtype, (2, 3))
        for network, shape in itertools.product(networks(x), ((3,), (2, 3))):
            for weight, bias in _weights(dtype, shape):
                yield Call(operator, (x, list(shape), weight, bias, 1e-3), {}, network)


@cases("aten.group_norm.default")
def _group_norm(operator: str) -> Iterator[Call]:
    for dtype in FLOATS:
        x = Operand("input", dtype, (4, 3))
        for network, groups in itertools.product(networks(x), (1, 2)):
            for weight, bias in _weights(dtype, (4,)):
                yield Call(operator, (x, groups, weight, bias, 1e-3), {}, network)


@cases("aten.native_group_norm.default")
def _native_group_norm(operator: str) -> Iterator[Call]:
    for dtype in FLOATS:
        x = Operand("input", dtype, (4, 3))
        for network in networks(x):
            for weight, bias in _weights(dtype, (4,)):
                yield Call(operator, (x, weight, bias, B, 4, 3, 2, 1e-3), {}, network)


@cases("aten.instance_norm.default")
def _instance_norm(operator: str) -> Iterator[Call]:
    for dtype in FLOATS:
        x, stats = Operand("input", dtype, (2, 3)), Operand("constant", dtype, (2,), "positive")
        for network in networks(x):
            for weight, bias in _weights(dtype, (2,)):
                yield Call(operator, (x, weight, bias, None, None, True, 0.1, 1e-3, False), {}, network)
                yield Call(operator, (x, weight, bias, stats, stats, False, 0.1, 1e-3, False), {}, network)


@cases("aten.rms_norm.default")
def _rms_norm(operator: str) -> Iterator[Call]:
    for dtype in FLOATS:
        x = Operand("input", dtype, (2, 3))
        for network, eps in itertools.product(networks(x), ((), (1e-3,))):
            for weight, _ in _weights(dtype, (3,)):
                yield Call(operator, (x, [3], weight, *eps), {}, network)


@cases("aten.scaled_dot_product_attention.default")
def _attention(operator: str) -> Iterator[Call]:
    for dtype in FLOATS:
        x = Operand("input", dtype, (2, 3))
        for network in networks(x):
            yield Call(operator, (x, x, x), {}, network)
            yield Call(
                operator, (x, Operand("parameter", dtype, (4, 3)), Operand("constant", dtype, (4, 2))), {}, network
            )
            yield Call(operator, (x, x, x, None, 0.0, True), {"scale": 0.3}, network)
            yield Call(
                operator, (x, x, x, Operand("constant", torch.bool, (2, 2), "are [[1, 0], [1, 1]]")), {}, network
            )
            yield Call(operator, (x, x, x, Operand("constant", dtype, (2, 2))), {}, network)
            yield Call(operator, (x, x, x, Operand("input", dtype, (2, 2))), {}, network)
