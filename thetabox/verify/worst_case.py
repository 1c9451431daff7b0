"""The proven worst case of a batch as a differentiable function of the weights: what certified training minimises."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thetabox import checks
from thetabox.box import Box
from thetabox.models.recurrent import is_recurrent
from thetabox.verify import agreement, arguments
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.context import Context, RowEpsilons
from thetabox.verify.interpreter.tensors import Tensors
from thetabox.verify.interval.forward import run
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.network import Network, network
from thetabox.verify.problem import Problem


def worst_margins(
    model: nn.Module,
    x: Float[Tensor, "samples ..."],
    y: Int[Tensor, " samples"],
    epsilon: float,
    *,
    box: Box | None = None,
    weights: Mapping[str, Tensor] | None = None,
    surrogate: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Float[Tensor, "samples classes"]:
    r"""Interval bounds of :math:`\min_\theta (logit_y - logit_k)` over the box, with a gradient.

    Computed in the precision of the weights, in double precision for a recurrent network: rounding alone makes spikes
    uncertain otherwise.

    Args:
        model: the network; its evaluation mode is what is bounded.
        x, y: inputs and labels.
        epsilon: ε of every sample.
        box: which parameters move; every weight and bias by default.
        weights: parameters by name that stand in for the model's own (and get the gradient).
        surrogate: a step function ``(a, b) → a > b`` whose gradient stands for a comparison's.

    Returns:
        Lower bounds for every class k; the column of y itself says nothing.
    """
    first = next(model.parameters())
    dtype = torch.float64 if is_recurrent(model) else first.dtype
    rounding = Rounding(dtype)
    rows = RowEpsilons(torch.full((1, len(x)), epsilon, dtype=torch.float64, device=first.device))
    with sound_kernels():
        tensors = Tensors(model, box or Box(), rounding, first.device, weights)
        inputs = Interval.point(x.to(dtype))
        inputs.batch = 0
        context = Context(rows, rounding, surrogate=surrogate)
        traced = network(model, x, training=True)
        _check_once(model, traced, x, box or Box())
        return run(traced, context, tensors, inputs).class_margins(y)


def _check_once(model: nn.Module, traced: Network, x: Tensor, box: Box) -> None:
    """Compare the trace with the module, once as long as the trace serves.

    Raises:
        InputError: they differ.
    """
    done = ("training", repr(box))
    if done not in traced.main.checked:
        settings = arguments.settings("interval", box, "real", "float64", x.device.type)
        few = checks.inputs(x[: agreement.FEW])
        agreement.check(Problem(model, settings, few, traced=traced), torch.zeros(1, dtype=torch.float64))
        traced.main.checked.add(done)
