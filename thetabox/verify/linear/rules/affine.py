r"""Dense layers backwards.

For a row :math:`A` on :math:`z = (\theta + \delta)x + b + \beta` with :math:`|\delta| \le \varepsilon u` (:math:`u =
|\theta|` in a relative box) the least over :math:`\delta` is :math:`A\theta x - \varepsilon |A|u |x|`, and :math:`|x|
\le s x + t` on :math:`[l, u]` with :math:`s = 1, t = 0` where :math:`x \ge 0`, the chord where its sign is open. So

.. math:: A_x = A\theta - \varepsilon s |A|u, \quad c = -\varepsilon t |A|u + A b - \varepsilon |\sum_p A_p| u_b ,

exact for :math:`x \ge 0`, at any ε. With :math:`Z = (|\theta| + \varepsilon u)|x| + |b| + \varepsilon u_b`, computed
once a layer, all rounding of a row is at most a small multiple of :math:`\langle |A|, Z \rangle`: each number above
is a sum of n products whose sizes add up to no more, so it errs by at most :math:`\gamma_n` times that (Higham,
Accuracy and Stability of Numerical Algorithms, ch. 3), as does every product of a float32 network itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thetabox.verify.arithmetic.parameter import Parameter
from thetabox.verify.arithmetic.rounding import gamma
from thetabox.verify.linear.constant import gamma_sum
from thetabox.verify.linear.region import Region
from thetabox.verify.linear.samples import Samples
from thetabox.verify.linear.walk import Stop, Walk, backward, dot
from thetabox.verify.network.graph import Operation


def parameter(samples: Samples, operation: Operation, place: int) -> Parameter | None:
    """The parameter at a place of the arguments, ``None`` where there is none.

    Raises:
        Stop: a computed value stands there.
    """
    argument = operation.args[place] if len(operation.args) > place else None
    if argument is None:
        return None
    value = samples.values.get(argument.index)
    if not isinstance(value, Parameter):
        raise Stop
    return value


def relative_error(samples: Samples, fan_in: int, sums: int, *parameters: Parameter | None) -> float:
    """Error of a row, and of the network's own layer, relative to ``⟨|A|, Z⟩``."""
    theta_error = max(p.theta_error for p in parameters if p is not None)
    network = 1.01 * gamma(fan_in + 4, samples.rounding.network) if samples.rounding.network else 0.0
    return gamma_sum(fan_in + sums) + network + 4.0 * theta_error


def chord(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and constant of a line above ``|x|`` on ``[lower, upper]``."""
    slope = ((upper + lower) / (upper - lower)).nan_to_num(0.0).clamp(-1.0, 1.0)
    slope = torch.where(lower >= 0, 1.0, torch.where(upper <= 0, -1.0, slope))
    return slope, torch.maximum(lower.abs() - slope * lower, upper.abs() - slope * upper)


def add_bias(walk: Walk, a: Tensor, bias: Parameter | None, channels: int) -> None:
    """Put the bias aside, which may be one number: ``a [samples, rows, ...]``, outputs in dimension ``channels``."""
    if bias is None:
        return
    sums = a.sum([d for d in range(2, a.dim()) if d != channels]) if a.dim() > 3 else a
    if sums.shape[2] != len(bias.theta):
        sums = sums.sum(2, keepdim=True)
    walk.constant.add(sums @ bias.theta)
    if bias.factor:
        spread = sums.abs() @ bias.unit_radius
        walk.constant.lose(spread * walk.epsilon(walk.samples.factor(bias), 2), a[0, 0].numel())


def term_sizes(
    samples: Samples, operation: Operation, x: int, weight: Parameter, bias: Parameter | None, product: object
) -> Tensor:
    """Upper bound of ``Z`` for all samples, ``[samples, *outputs]``; computed once."""

    def compute() -> Tensor:
        value = samples.interval(x)
        most = value.lower.abs() if value.is_point else torch.maximum(value.lower.abs(), value.upper.abs())
        z = product(most, weight.magnitude)  # type: ignore[operator]  # a callable of two tensors
        shape = [-1] + [1] * (z.dim() - 1)
        if weight.factor:
            around = z if weight.absolute is None else product(most, weight.absolute)  # type: ignore[operator]  # a callable of two tensors
            z = z + around * samples.factor(weight).view(shape)
        if bias is not None:
            spread = [-1] if weight.theta.dim() == 2 else [-1] + [1] * (z.dim() - 2)
            z = z + bias.magnitude.view(spread)
            if bias.factor:
                z = z + bias.unit_radius.view(spread) * samples.factor(bias).view(shape)
        return z * (1.0 + gamma_sum(weight.theta.numel()))

    radii: Tensor = samples.once(("term sizes", operation.index), compute)
    return radii


def lose_start(walk: Walk, z: Tensor, relative: float, inputs: int) -> None:
    """Take off the rounding of outputs of sizes ``z [samples, n]``, of which each and its negative is a row."""
    lost = z * relative + (walk.underflow()[:, None] + walk.samples.rounding.underflow * inputs)
    walk.constant.lose(torch.cat([lost, lost], 1), 1)


def layer(samples: Samples, operation: Operation) -> tuple[int, Parameter, Parameter | None]:
    """Operand, weight ``[outputs, inputs]`` and bias of a dense layer.

    Raises:
        Stop: it multiplies something else than a value by a parameter.
    """
    name = operation.operator
    if operation.kwargs:
        raise Stop
    if name == "aten.linear.default":
        x, weight, bias = 0, parameter(samples, operation, 1), parameter(samples, operation, 2)
    elif name == "aten.addmm.default":
        x, weight, bias = 1, parameter(samples, operation, 2), parameter(samples, operation, 0)
    else:
        x, weight, bias = 0, parameter(samples, operation, 1), None
    if weight is None or weight.theta.dim() != 2:
        raise Stop
    if name != "aten.linear.default":
        weight = weight.moved(lambda t: t.T)
    if bias is not None and bias.theta.dim() != 1:
        bias = bias.moved(lambda t: t.reshape(-1))
    if bias is not None and len(bias.theta) not in (1, len(weight.theta)):
        raise Stop
    index = operation.args[x].index
    if not samples.depends(index):
        raise Stop
    return index, weight, bias


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


@backward("aten.linear.default", "aten.addmm.default", "aten.mm.default", "aten.matmul.default")
def dense(walk: Walk, operation: Operation, a: Tensor, region: Region | None) -> None:
    """``x Wᵀ + b``; with several positions a sample, noise is bounded position by position."""
    samples = walk.samples
    index, weight, bias = layer(samples, operation)
    if region is not None:
        raise Stop
    z = walk.cut(term_sizes(samples, operation, index, weight, bias, _product), None)
    outputs, inputs = weight.theta.shape
    first = a @ weight.theta
    if weight.factor:
        first = less_noise(walk, index, first, a.abs() @ weight.unit_radius, weight, outputs)
    add_bias(walk, a, bias, a.dim() - 1)
    relative = relative_error(samples, inputs, a[0, 0].numel() * 2, weight, bias)
    walk.penalty(a, z, relative, samples.rounding.underflow * inputs)
    walk.give(index, first)


def less_noise(walk: Walk, index: int, first: Tensor, spread: Tensor, weight: Parameter, terms: int) -> Tensor:
    """``first - ε s spread``, its constant put aside."""
    lower, upper = walk.ends(index)
    epsilon = walk.samples.factor(weight)
    nonnegative = bool((lower >= 0).all())
    slope, offset = (None, None) if nonnegative else chord(lower, upper)
    shape = walk.epsilon(epsilon, lower.dim())
    rate = shape if slope is None else slope * shape
    first = first - spread * rate[:, None]
    if offset is not None and bool((offset > 0).any()):
        walk.constant.lose(dot(spread, offset * shape), spread[0, 0].numel() + terms)
    return first


def start_dense(walk: Walk, operation: Operation, neurons: Tensor) -> None:
    """Start at the outputs ``neurons [samples, n]`` of a dense layer: each, then each with its sign turned."""
    samples = walk.samples
    index, weight, bias = layer(samples, operation)
    if samples.interval(index).lower.dim() != 2:
        raise Stop
    inputs = weight.theta.shape[1]
    theta = weight.theta[neurons]
    first = torch.cat([theta, -theta], 1)
    if weight.factor:
        spread = weight.unit_radius[neurons]
        first = less_noise(walk, index, first, torch.cat([spread, spread], 1), weight, 1)
    if bias is not None:
        bias = bias.moved(lambda t: t.expand(len(weight.theta)))
        b = bias.theta[neurons]
        walk.constant.add(torch.cat([b, -b], 1))
        if bias.factor:
            around = bias.unit_radius[neurons] * walk.epsilon(samples.factor(bias), 2)
            walk.constant.lose(torch.cat([around, around], 1), 1)
    z = walk.cut(term_sizes(samples, operation, index, weight, bias, _product), None).gather(1, neurons)
    lose_start(walk, z, relative_error(samples, inputs, 8, weight, bias), inputs)
    walk.give(index, first)
