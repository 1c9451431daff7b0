"""Operators on polynomials, as :mod:`.evaluation` evaluates them; those that are not here are unknown.

A result of another type than those of real numbers and truth values is unknown too, so whole numbers that wrap and
halves that round never pass for real ones.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.histories.description.algebra import FLOOR, ONE, ZERO
from thetabox.verify.histories.description.spatial import SPATIAL
from thetabox.verify.histories.description.symbolic import Rows, Symbolic, Unknown
from thetabox.verify.network.graph import Operation, Ref
from thetabox.verify.network.kinds import kinds

FLOATING = (torch.float32, torch.float64)
WHOLES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _dims(x: Tensor, dims: Any) -> list[int]:
    if dims is None or dims == []:
        return list(range(x.dim()))
    return [dims] if isinstance(dims, int) else list(dims)


def _is_number(value: Any) -> bool:
    """Whether it is a number of the code, and not that of the samples."""
    return isinstance(value, (int, float)) and not isinstance(value, Rows)


def _real(o: Operation) -> None:
    """The result is a real number, or a whole one that does not wrap (which is seen to afterwards)."""
    if o.dtype not in (*FLOATING, *WHOLES):
        raise Unknown


def _truth(s: Symbolic, o: Operation, place: int, value: Any) -> Tensor:
    """An operand as a truth value."""
    ref = o.args[place]
    kind = s.graph.dtypes.get(ref.index) if isinstance(ref, Ref) else None
    value = s.operand(value)
    if kind == torch.bool:
        return value
    if kind not in (*FLOATING, *WHOLES):
        raise Unknown
    return s.each(s.algebra.nonzero, value)


def _known_operands(s: Symbolic, o: Operation) -> None:
    """No halves among the operands."""
    if any(s.graph.dtypes.get(i, torch.float32) not in (*FLOATING, *WHOLES, torch.bool) for i in o.inputs):
        raise Unknown


def _unrounded(s: Symbolic, o: Operation) -> None:
    """Not computed in float32 inside a network in float64, where what that rounds is no rounding of the network's."""
    if kinds(s.graph)[o.index].rounded:
        raise Unknown


def add(s: Symbolic, o: Operation, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    """A + alpha b; of two truth values, whether one holds."""
    _known_operands(s, o)
    if o.dtype == torch.bool and alpha == 1:
        return logical_or(s, o, a, b)
    _real(o)
    return s.each(s.algebra.add, a, s.each(s.algebra.multiply, b, alpha))


def sub(s: Symbolic, o: Operation, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    """A − alpha b."""
    _known_operands(s, o)
    _real(o)
    return s.each(s.algebra.subtract, a, s.each(s.algebra.multiply, b, alpha))


def rsub(s: Symbolic, o: Operation, a: Any, b: Any, alpha: Any = 1) -> Tensor:
    """B − alpha a."""
    return sub(s, o, b, a, alpha)


def neg(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """−a."""
    _real(o)
    return s.each(lambda p: s.algebra.scale(p, -1), a)


def mul(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """A b."""
    _known_operands(s, o)
    if o.dtype != torch.bool:
        _real(o)
    for x, mask in ((a, b), (b, a)):
        if (
            isinstance(mask, Tensor)
            and isinstance(x, Tensor)
            and not s.algebra.undefined
            and bool(((mask == ZERO) | (mask == ONE)).all())
        ):
            return torch.where(mask == ONE, x, torch.tensor(ZERO))
    return s.each(s.algebra.multiply, a, b)


def div(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """a/b; by zero it is unknown."""
    _known_operands(s, o)
    _real(o)
    if bool((s.operand(b) == ZERO).any()):
        raise Unknown
    return s.each(lambda p, q: s.algebra.multiply(p, s.algebra.reciprocal(q)), a, b)


def reciprocal(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """1/a."""
    return div(s, o, 1, a)


def power(s: Symbolic, o: Operation, a: Tensor, exponent: Any) -> Tensor:
    """A small whole power."""
    _real(o)
    # A tensor holds numbers of polynomials, none of which is an exponent.
    if not _is_number(exponent) or exponent != int(exponent) or abs(exponent) > 8:
        raise Unknown
    if exponent < 0 and bool((a == ZERO).any()):
        raise Unknown
    return s.each(lambda p: s.algebra.power(p, int(exponent)), a)


def exp(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """The exponential."""
    _real(o)
    return s.each(s.algebra.exp, a)


def addcmul(s: Symbolic, o: Operation, a: Any, b: Any, c: Any, value: Any = 1) -> Tensor:
    """A + value b c."""
    _known_operands(s, o)
    _real(o)
    product = s.each(s.algebra.multiply, s.each(s.algebra.multiply, b, c), value)
    return s.each(s.algebra.add, a, product)


def lerp(s: Symbolic, o: Operation, a: Tensor, b: Tensor, weight: Any) -> Tensor:
    """A + weight (b − a)."""
    _known_operands(s, o)
    _real(o)
    return s.each(s.algebra.add, a, s.each(s.algebra.multiply, weight, s.each(s.algebra.subtract, b, a)))


def compared(side: int, *, strict: bool) -> Callable[..., Tensor]:
    """A comparison: a above b (side 1) or below, equal ones included unless strict."""

    def rule(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
        _known_operands(s, o)

        def one(p: int, q: int) -> int:
            difference = s.algebra.subtract(p, q)
            if strict:
                return s.algebra.positive(s.algebra.scale(difference, side))
            return s.algebra.subtract(ONE, s.algebra.positive(s.algebra.scale(difference, -side)))

        return s.each(one, a, b)

    return rule


def sign(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """1, 0 or −1."""
    _real(o)
    return s.each(lambda p: s.algebra.subtract(s.algebra.positive(p), s.algebra.positive(s.algebra.scale(p, -1))), a)


def logical_and(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """Both hold."""
    if o.dtype != torch.bool:
        raise Unknown
    return s.each(s.algebra.multiply, _truth(s, o, 0, a), _truth(s, o, 1, b))


def logical_or(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """One of them holds."""
    if o.dtype != torch.bool:
        raise Unknown

    def one(p: int, q: int) -> int:
        return s.algebra.subtract(s.algebra.add(p, q), s.algebra.multiply(p, q))

    return s.each(one, _truth(s, o, 0, a), _truth(s, o, 1, b))


def logical_not(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """It does not hold."""
    if o.dtype != torch.bool:
        raise Unknown
    return s.each(lambda p: s.algebra.subtract(ONE, p), _truth(s, o, 0, a))


def where(s: Symbolic, o: Operation, condition: Tensor, a: Any, b: Any) -> Tensor:
    """A where the condition holds, b elsewhere."""
    _known_operands(s, o)
    if o.dtype not in (*FLOATING, *WHOLES, torch.bool):
        raise Unknown
    c = _truth(s, o, 0, condition)

    def one(p: int, q: int, r: int) -> int:
        return s.algebra.add(r, s.algebra.multiply(p, s.algebra.subtract(q, r)))

    return s.each(one, c, a, b)


def largest(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """The larger one."""
    _known_operands(s, o)
    _real(o)
    return s.each(lambda p, q: s.algebra.function("maximum", (p, q)), a, b)


def smallest(s: Symbolic, o: Operation, a: Any, b: Any) -> Tensor:
    """The smaller one."""
    _known_operands(s, o)
    _real(o)
    return s.each(lambda p, q: s.algebra.function("minimum", (p, q)), a, b)


def clamp(s: Symbolic, o: Operation, a: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """min(max(a, low), high)."""
    if low is not None:
        a = largest(s, o, a, low)
    return a if high is None else smallest(s, o, a, high)


def clamp_max(s: Symbolic, o: Operation, a: Tensor, high: Any) -> Tensor:
    """min(a, high)."""
    return clamp(s, o, a, None, high)


def hardtanh(s: Symbolic, o: Operation, a: Tensor, low: Any = -1.0, high: Any = 1.0) -> Tensor:
    """As ``clamp``, between -1 and 1 by default."""
    return clamp(s, o, a, low, high)


def relu(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """max(a, 0)."""
    return largest(s, o, a, 0)


def absolute(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """max(a, −a)."""
    return largest(s, o, a, s.each(lambda p: s.algebra.scale(p, -1), a))


def unary(s: Symbolic, o: Operation, a: Tensor, *settings: Any, **named: Any) -> Tensor:
    """A function that is no part of the equations, but may cancel (as surrogates of a spike's gradient do)."""
    _real(o)
    if not all(v is None or isinstance(v, str) or _is_number(v) for v in (*settings, *named.values())):
        raise Unknown
    key = (*settings, *sorted(named.items()))
    return s.each(lambda p: s.algebra.function(o.operator, (p,), key), a)


def floor(s: Symbolic, o: Operation, a: Tensor) -> Tensor:
    """The largest whole number that is not above."""
    _real(o)
    return s.each(lambda p: s.algebra.function(FLOOR, (p,)), a)


def total(s: Symbolic, o: Operation, a: Tensor, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Sums; of real numbers that are first made whole ones, nothing is known."""
    _known_operands(s, o)
    _real(o)
    if o.dtype in WHOLES and any(s.graph.dtypes.get(i) in FLOATING for i in o.inputs):
        raise Unknown
    return s.reduced(a, _dims(a, dims), keepdim)


def mean(s: Symbolic, o: Operation, a: Tensor, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """Means."""
    _known_operands(s, o)
    _real(o)
    chosen = _dims(a, dims)
    count = math.prod(a.shape[d] for d in chosen)
    return s.reduced(a, chosen, keepdim, Fraction(1, count))


def matmul(s: Symbolic, o: Operation, a: Tensor, b: Tensor) -> Tensor:
    """Matrix product."""
    _known_operands(s, o)
    _real(o)
    return s.product(a, b)


def linear(s: Symbolic, o: Operation, a: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A Wᵀ + bias."""
    _real(o)
    out = s.product(a, weight.t())
    return out if bias is None else s.each(s.algebra.add, out, bias)


def addmm(s: Symbolic, o: Operation, bias: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """Beta bias + alpha a b."""
    _real(o)
    scaled = s.each(s.algebra.multiply, s.product(a, b), alpha)
    return s.each(s.algebra.add, s.each(s.algebra.multiply, bias, beta), scaled)


def cast(s: Symbolic, o: Operation, a: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Between types of real numbers, and from truth values and back; not to fewer digits than the network's own."""
    source = s.graph.dtypes.get(o.inputs[0])
    if source != torch.bool:
        _unrounded(s, o)
    known = (*FLOATING, *WHOLES, torch.bool)
    if source == o.dtype or (source in known and o.dtype in (*FLOATING, *WHOLES)):
        return a
    if source in known and o.dtype == torch.bool:
        return s.each(s.algebra.nonzero, a)
    raise Unknown


def dropout(s: Symbolic, o: Operation, a: Tensor, probability: Any, train: bool) -> Tensor:
    """Nothing in evaluation mode."""
    if train:
        raise Unknown
    return a


def same(s: Symbolic, o: Operation, a: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A copy."""
    return a


def moved(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> Any:
    """The operator itself on the numbers of the polynomials, which have no bits to be read in another type."""
    if any(isinstance(v, torch.dtype) for v in (*args, *kwargs.values())):
        raise Unknown
    return o.target(*_sizes(args), **_sizes(kwargs))


def indexed(s: Symbolic, o: Operation, a: Tensor, *args: Any) -> Any:
    """As ``moved``; tensors among the arguments are places, but for truth values, which choose."""
    if any(s.graph.dtypes.get(i) in (torch.bool, torch.uint8) for i in o.inputs[1:]):
        raise Unknown

    def places(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            values = [s.algebra.value(p) for p in tree.reshape(-1).tolist()]
            if any(v is None or v != int(v) for v in values):
                raise Unknown
            return torch.tensor([int(v) for v in values if v is not None]).reshape(tree.shape)
        if isinstance(tree, (list, tuple)):
            return type(tree)(places(t) for t in tree)
        return tree

    return o.target(a, *_sizes(places(args)))


def padded(s: Symbolic, o: Operation, a: Tensor, sizes: Any, value: Any = 0.0) -> Tensor:
    """One number around, which a tensor of whole numbers would round."""
    number = s.constant(value)
    if o.dtype not in FLOATING and value not in ((0, 1) if o.dtype == torch.bool else (int(value),)):
        raise Unknown
    return torch.nn.functional.pad(a, _sizes(sizes), value=number)


def filled(value: float | None) -> Callable[..., Tensor]:
    """A new tensor of one number, read off the layout."""

    def rule(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> Tensor:
        if o.dtype not in (*FLOATING, torch.bool, torch.int64, torch.int32):
            raise Unknown
        given = args[0] if "scalar_tensor" in o.operator else (args[1:2] or (kwargs.get("fill_value"),))[0]
        if "new_full" in o.operator:
            given = args[2] if len(args) > 2 else kwargs.get("fill_value")
        number = s.constant(given if value is None else value)
        whole = s.algebra.value(number)
        if (o.dtype == torch.bool and whole not in (0, 1)) or (o.dtype not in FLOATING and whole != int(whole or 0)):
            raise Unknown
        return torch.full(o.layout.sizes(s.rows), number, dtype=torch.int64)  # type: ignore[union-attr]  # of one tensor

    return rule


def arange(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> Tensor:
    """Whole numbers in order."""
    if any(not isinstance(a, int) or isinstance(a, Rows) for a in args):
        raise Unknown
    return s.literals(torch.arange(*args))


def split(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """Parts of a tensor."""
    return tuple(moved(s, o, *args, **kwargs))


def item(s: Symbolic, o: Operation, values: Any, place: int) -> Any:
    """One of several results."""
    return values[place]


def size(s: Symbolic, o: Operation, a: Tensor, dim: int) -> int:
    """A size; that of the samples is marked."""
    layout = s.graph.layouts[o.inputs[0]]
    return Rows(a.shape[dim]) if layout.batch == dim % a.dim() else a.shape[dim]


def size_arithmetic(function: Callable[[int, int], int]) -> Callable[..., int]:
    """Arithmetic on sizes."""

    def rule(s: Symbolic, o: Operation, a: int, b: int) -> int:
        if not (isinstance(a, int) and isinstance(b, int)):
            raise Unknown
        return Rows(function(int(a), int(b))) if isinstance(a, Rows) or isinstance(b, Rows) else function(a, b)

    return rule


def _sizes(tree: Any) -> Any:
    if isinstance(tree, Rows):
        return int(tree)
    if isinstance(tree, (list, tuple)):
        return type(tree)(_sizes(t) for t in tree)
    if isinstance(tree, dict):
        return {k: _sizes(v) for k, v in tree.items()}
    return tree


def computing(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule of an operator that may round."""

    def checked(s: Symbolic, o: Operation, *args: Any, **kwargs: Any) -> Any:
        _unrounded(s, o)
        return rule(s, o, *args, **kwargs)

    return checked


_COMPUTING: dict[str, Callable[..., Any]] = {
    "add": add,
    "sub": sub,
    "rsub": rsub,
    "neg": neg,
    "mul": mul,
    "div": div,
    "reciprocal": reciprocal,
    "pow": power,
    "exp": exp,
    "addcmul": addcmul,
    "lerp": lerp,
    "gt": compared(1, strict=True),
    "ge": compared(1, strict=False),
    "lt": compared(-1, strict=True),
    "le": compared(-1, strict=False),
    "sign": sign,
    "logical_and": logical_and,
    "bitwise_and": logical_and,
    "__and__": logical_and,
    "logical_or": logical_or,
    "bitwise_or": logical_or,
    "__or__": logical_or,
    "logical_not": logical_not,
    "bitwise_not": logical_not,
    "where": where,
    "maximum": largest,
    "minimum": smallest,
    "clamp": clamp,
    "clamp_min": clamp,
    "clamp_max": clamp_max,
    "hardtanh": hardtanh,
    "relu": relu,
    "relu_": relu,
    "abs": absolute,
    "floor": floor,
    "sum": total,
    "mean": mean,
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "linear": linear,
    "addmm": addmm,
    "constant_pad_nd": padded,
    "full": filled(None),
    "full_like": filled(None),
    "new_full": filled(None),
    "scalar_tensor": filled(None),
    **dict.fromkeys(
        ("sigmoid", "tanh", "softplus", "elu", "selu", "gelu", "silu", "hardsigmoid", "leaky_relu", "relu6"),
        unary,
    ),
    **SPATIAL,
}  # a table, several to a line  # fmt: skip

RULES: dict[str, Callable[..., Any]] = {
    **{name: computing(rule) for name, rule in _COMPUTING.items()},
    "_to_copy": cast,
    "to": cast,
    "zeros": filled(0.0),
    "zeros_like": filled(0.0),
    "new_zeros": filled(0.0),
    "ones": filled(1.0),
    "ones_like": filled(1.0),
    "new_ones": filled(1.0),
    "arange": arange,
    "split": split,
    "split_with_sizes": split,
    "chunk": split,
    "unbind": split,
    "getitem": item,
    "sym_size": size,
    "index": indexed,
    "index_select": indexed,
    "<built-in function mul>": size_arithmetic(operator.mul),
    "<built-in function add>": size_arithmetic(operator.add),
    "<built-in function sub>": size_arithmetic(operator.sub),
    "<built-in function floordiv>": size_arithmetic(operator.floordiv),
    **dict.fromkeys(
        ("clone", "alias", "detach", "contiguous", "lift_fresh_copy"),
        same,
    ),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout"), dropout),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "expand", "permute", "transpose", "t", "unsqueeze",
         "squeeze", "select", "movedim", "slice", "cat", "stack"),
        moved,
    ),
}  # a table, several to a line  # fmt: skip
