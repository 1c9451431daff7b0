r"""Products by Einstein's convention of a value and a parameter, backwards.

As a dense layer: :math:`A_x = A\theta - \varepsilon s |A|u`, each a product of the same kind, in which the row of
coefficients stands for the samples.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.interpreter.rules.einsum import names, read
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.rules.affine import less_noise, relative_error, term_sizes
from thetabox.verify.linear.walk import NeedsImages, Stop, Walk, backward
from thetabox.verify.network.graph import Operation

ROW = "!"


@backward("aten.einsum.default")
def einsum(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """A value times a parameter, or one value rearranged or summed."""
    samples = walk.samples
    if not walk.frame.whole:
        raise NeedsImages
    equation, operands = operation.args[:2]
    held: list[Any] = [samples.values[r.index] for r in operands]
    weights = [place for place, v in enumerate(held) if isinstance(v, Parameter)]
    ranks = [v.theta.dim() if isinstance(v, Parameter) else v.lower.dim() for v in held]
    terms, result = read(equation, ranks, operation.describe())
    if len(held) > 2 or len(weights) != len(held) - 1 or any(len(set(t)) != len(t) for t in terms):
        raise Stop
    place = 0 if len(held) == 1 else 1 - weights[0]
    index, value_terms = operands[place].index, terms[place]
    weight_terms = terms[weights[0]] if weights else ""
    batch = value_terms[0]
    if not samples.plain(index) or batch in weight_terms or not result.startswith(batch):
        raise Stop
    sizes = dict(zip(value_terms, samples.interval(index).shape, strict=True))
    if weights:
        sizes |= dict(zip(weight_terms, held[weights[0]].theta.shape, strict=True))
    if tuple(sizes[c] for c in result[1:]) != tuple(a.shape[2:]):
        raise Stop  # a dimension of one place is read as often as another is long
    # Indices that the value alone is summed over: all its places have the same coefficient.
    summed = [c for c in value_terms if c not in weight_terms + result]
    kept = "".join(c for c in value_terms if c not in summed)
    alphabet = "".join(dict.fromkeys(value_terms + weight_terms + result)) + ROW
    rows, columns, inputs = (
        names(term, alphabet) for term in (f"{batch}{ROW}{result[1:]}", weight_terms, f"{batch}{ROW}{kept[1:]}")
    )
    forward = names(value_terms, alphabet), names(result, alphabet)

    def spread_out(t: Tensor) -> Tensor:
        for c in summed:
            t = t.unsqueeze(value_terms.index(c) + 1)
        return t.expand(*t.shape[:2], *samples.shape(index))

    inner = prod(n for c, n in sizes.items() if c not in result)
    if not weights:
        first = spread_out(torch.einsum(f"{rows}->{inputs}", a))
        lower, upper = walk.ends(index)
        most = torch.einsum("->".join(forward), torch.maximum(lower.abs(), upper.abs()))
        walk.penalty(a, most, gamma_sum(a[0, 0].numel() + inner) + samples.rounding.of_sum(inner))
        walk.give(index, first)
        return
    weight = held[weights[0]]
    product = f"{forward[0]},{columns}->{forward[1]}"
    z = walk.cut(term_sizes(samples, operation, index, weight, None, lambda x, w: torch.einsum(product, x, w)), None)
    transposed = f"{rows},{columns}->{inputs}"
    first = spread_out(torch.einsum(transposed, a, weight.theta))
    if weight.factor:
        spread = spread_out(torch.einsum(transposed, a.abs(), weight.unit_radius))
        first = less_noise(walk, index, first, spread, weight, weight.theta.numel())
    relative = relative_error(samples, inner, 2 * a[0, 0].numel() + weight.theta.numel(), weight)
    walk.penalty(a, z, relative, samples.rounding.underflow * inner)
    walk.give(index, first)
