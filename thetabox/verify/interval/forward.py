"""A network evaluated on intervals, from its inputs to the last layer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context, Memo, RowEpsilons
from thetabox.verify.interpreter.tensors import Tensors
from thetabox.verify.interval.final import Final, StepObserver, finish
from thetabox.verify.interval.recurrent import run_recurrent
from thetabox.verify.network import Network, RecurrentNetwork
from thetabox.verify.problem import Problem, Which, input_interval


def run(
    network: Network, context: Context, tensors: Tensors, x: Interval, observe: StepObserver | None = None
) -> Final:
    """Evaluate up to the last layer, over all time steps if there are any; called inside ``sound_kernels``."""
    if isinstance(network, RecurrentNetwork):
        return run_recurrent(network, context, tensors, x, observe)
    values = tensors.of(network.main)
    values[network.main.inputs[0]] = x
    return finish(network, context, values, observe, 0)


def run_problem(
    problem: Problem,
    which: Which,
    epsilon: Float[Tensor, "levels samples"],
    observe: StepObserver | None = None,
    memo: Memo | None = None,
) -> Final:
    """The samples ``which`` (a range or places) at their ε; called inside ``sound_kernels``."""
    settings, network = problem.settings, problem.network
    values = epsilon.to(settings.device, torch.float64)
    context = Context(RowEpsilons(values), settings.rounding, memo=memo, few_layers=network.few_layers)
    x = input_interval(problem.x[which], settings, nonnegative=problem.nonnegative)
    return run(network, context, problem.tensors, x, observe)
