"""Where the module's parameters have other values: moved in a run, and written to."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from thetabox.models.lsnn import LSNN
from thetabox.models.recurrent import RecurrentModule, is_recurrent
from thetabox.verify.agreement.batches import FEW, at_once, branching
from thetabox.verify.agreement.claims import Observed
from thetabox.verify.agreement.moved import Moving
from thetabox.verify.agreement.own import OwnForward
from thetabox.verify.agreement.written import compare_written
from thetabox.verify.problem import Problem

# Of a recurrent network with a forward of its own, which no graph shows.
MANY = 64
# What stands between a call of a recurrent network and its steps, and as this package has it.
OVERRIDABLE = {"__call__", "forward", "outputs"}
OURS = {getattr(kind, name) for kind in (RecurrentModule, LSNN) for name in OVERRIDABLE}


def compare_moved(problem: Problem, epsilon: Tensor, own: OwnForward, unread: Sequence[str]) -> list[Observed]:
    """The module with its parameters moved in place beside the graph with the same; what it returned in the box.

    What was found of a trace holds as long as the trace does, so this is done once for each; but for a recurrent
    network with a forward of its own, of which the trace says nothing, nor of the batch sizes at which it may branch.

    Args:
        problem: of the module.
        epsilon: of the certificate; the largest, and one that is not small, are tried.
        own: what the module does at its own weights.
        unread: tensors of the box that the graph does not read.
    """
    names, run = problem.tensors.boxed, own.run
    key = ("moved", repr(problem.settings.box), *problem.network.graphs.values(), run.wide)
    checked = problem.network.main.checked
    traced = forward_is_traced(problem.model)
    if (traced and key in checked) or not names:
        return []
    run.recording = False
    # Where the code asks for numbers that it computes, which no trace shows, a few samples do not stand for the others.
    few = at_once(problem.network) if run.twins.asked else FEW if traced else MANY
    moving = Moving(problem, run, names, few)
    moving.compare_corner()
    # A batch of one is no size of the trace, which takes it for a constant.
    moving.compare_sizes([size for size in (1, *branching(problem.network)) if size in own.sizes])
    moving.compare_otherwise(own.otherwise)
    if not traced:
        moving.compare_whole()
    run.forget()
    compare_written(moving, own.logits[moving.few], unread)
    moving.back(names)
    if (top := float(epsilon.max())) > 0:
        moving.compare_points(top)
    observed = moving.observed(top)
    for name in names:
        moving.compare_alone(name)
    checked.add(key)
    return observed


def forward_is_traced(model: nn.Module) -> bool:
    """Whether what the user calls is what was traced: a recurrent network's forward may be its own, or have hooks."""
    if not is_recurrent(model) or type(model).forward is nn.Module.forward:
        return True
    methods = {getattr(type(model), name, None) for name in OVERRIDABLE}
    changed = OVERRIDABLE & vars(model).keys() or model._forward_hooks or model._forward_pre_hooks
    return methods <= OURS and not changed
