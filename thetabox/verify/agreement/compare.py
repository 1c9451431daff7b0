r"""Before any proof: the graph that is bounded is the module that runs.

A proof speaks of the traced graph. What a user runs is the module: Python code with hooks, branches and attributes.
Here the two are held against each other, at the numbers that the certificate is about:

1. the module's own forward of every sample lies inside the bounds at ε = 0, up to the arithmetic of that run: in
   float64 and in the network's precision, in one batch; of a few samples at every batch size at which the code may
   branch, with gradients on and off, and of every sample where the code then asks other things of torch;
2. with the parameters moved in place to corners and random points of the box (all at once and each alone) the module
   returns what the graph does, and lies inside the bounds at that ε.

Where the graph is without jumps the two are compared as numbers: they call the same operators. Where it has
comparisons, a sum in another order may flip one; the module must then lie inside the bounds of a network whose every
operation may be off by :data:`~thetabox.verify.agreement.nearness.ANY_ORDER`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from thetabox.errors import InputError
from thetabox.models.calls import alike, widened
from thetabox.models.fakes import forget_fakes
from thetabox.models.input_type import input_type
from thetabox.models.memory import storage_key
from thetabox.models.plain import same_draws
from thetabox.models.recurrent import called
from thetabox.models.running import running
from thetabox.models.several import Separate
from thetabox.models.twins import RUNNING, untouched
from thetabox.verify.agreement.batches import LARGE, at_once
from thetabox.verify.agreement.claims import Observed
from thetabox.verify.agreement.compiled import compare_compiled
from thetabox.verify.agreement.folding import compare_folded
from thetabox.verify.agreement.given import as_given, ordinary
from thetabox.verify.agreement.nearness import ANY_ORDER, nearness
from thetabox.verify.agreement.numbers_read import check_numbers_read, may_read
from thetabox.verify.agreement.own import OwnForward
from thetabox.verify.agreement.precision import compare_cast, compare_precision, holds_narrow
from thetabox.verify.agreement.verbatim import compare_verbatim, run_as_given
from thetabox.verify.agreement.weights import compare_moved, forward_is_traced
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.network.origins import check_apart
from thetabox.verify.problem import Problem, Settings


@dataclass(frozen=True)
class Agreement:
    """What was compared.

    Attributes:
        logits: of the unperturbed network, float64; as it computes them itself where that gives another class.
        reclassified: samples of which that is so.
        record: for the certificate.
        observed: what the network returned in the box, of which nothing that is claimed may be untrue.
    """

    logits: Float[Tensor, "samples classes"]
    reclassified: Bool[Tensor, " samples"]
    record: dict[str, Any]
    observed: list[Observed]


def checked_problem(
    model: nn.Module, settings: Settings, held: Tensor, epsilon: Float[Tensor, " levels"], x: Any
) -> tuple[Problem, Agreement]:
    """What every public function that bounds begins with: the network traced, its box looked at, the two compared.

    Args:
        model: of the user.
        settings: of the bounds.
        held: inputs as finite numbers, see :func:`thetabox.models.plain.plain`.
        epsilon: of the certificate.
        x: inputs as the user gave them.

    Raises:
        InputError: as :func:`check`, or nothing moves in the box.
    """
    with torch.inference_mode(False), RUNNING, same_draws(), _no_fakes():
        problem = Problem(model, settings, held)
        settings.box.check(problem.model)
        problem.tensors.check_reach(epsilon)
        problem.x_as_given = as_given(problem, x)
        agreed = check(problem, epsilon, x)
        compare_cast(problem)
        logits = compare_compiled(problem, agreed.logits)
        other = agreed.reclassified | (logits != agreed.logits).any(1)
        agreed = replace(agreed, logits=logits, reclassified=other)
        if problem.model is not model:
            compare_folded(problem, model)
        return problem, agreed


@contextmanager
def _no_fakes() -> Iterator[None]:
    """Where the call ends in an error, nothing of a trace stays in the caller's program: he would compute with it."""
    try:
        yield
    except Exception:
        forget_fakes()
        raise


def check(problem: Problem, epsilon: Float[Tensor, " levels"], x: Any = None) -> Agreement:
    """Compare the problem's graph with its module.

    Args:
        problem: of the module.
        epsilon: of the certificate.
        x: inputs as the user has them, if they are not those of the problem.

    Raises:
        InputError: they differ; the message says in what, and the likely reason.
    """
    check_apart(problem.model, problem.tensors.boxed)
    unread = _unread(problem)
    with torch.no_grad(), sound_kernels(), running(problem.model, problem.x, wide=False) as narrow:
        own = OwnForward(problem, narrow.widened())
        traced = own.is_traced()
        # A few fused operators of torch have no form in double precision, and code may ask for the type.
        if not traced:
            own.run.forget()
            if traced is None or OwnForward(problem, narrow).is_traced():
                own = OwnForward(problem, narrow)
            narrow.forget()
        record, in_box = _compared(own, epsilon, unread)
        own.run.forget()
        logits = narrow_logits = own.logits
        verbatim = isinstance(x, Tensor | np.ndarray | Separate) and (
            len(problem.x) <= LARGE or not ordinary(problem, x)
        )
        # One call for two comparisons, where that with a copy of the inputs is the same.
        recorded = run_as_given(problem, narrow, x) if verbatim and ordinary(problem, x) else None
        if own.run.wide and holds_narrow(problem):
            calls, logits, narrow_logits = compare_precision(problem, narrow, own.logits, recorded)
            last = (len(problem.x) - 1) % at_once(problem.network) + 1
            if not alike(widened(calls), last, widened(own.calls), own.batch):  # the code asks for the type or the size
                narrow.forget()
                own.compare_as_given()
                own.run.forget()
                _compared(OwnForward(problem, narrow), epsilon, unread)
        if verbatim:
            compare_verbatim(problem, narrow, x, own, recorded)
        if may_read(own.run, (name for name, _ in own.calls)):
            check_numbers_read(own.run, problem.tensors.boxed, own.every_way())
    _check_constants(problem, unread)
    constants = sum(t.numel() for graph in problem.network.graphs.values() for t in graph.constants.values())
    reclassified = (logits != own.logits).any(1)
    in_box += _at_own_weights(own, narrow_logits, narrow.dtype)
    return Agreement(logits, reclassified, {**record, "unread": unread, "constants": constants}, in_box)


def _at_own_weights(own: OwnForward, narrow: Tensor, dtype: torch.dtype) -> list[Observed]:
    """What the network returned in double precision, and where a claim is for float32, in that."""
    everything = torch.arange(len(own.logits))
    found = [Observed(0.0, everything, own.logits, nearness(own.run))] if own.run.wide else []
    # Of a recurrent network the claim speaks of its step, and a forward of its own may sum in another order.
    if own.problem.settings.rounding.network and dtype is torch.float32 and forward_is_traced(own.problem.model):
        found.append(Observed(0.0, everything, narrow, ANY_ORDER, exact=True))
    return found


def _compared(own: OwnForward, epsilon: Tensor, unread: list[str]) -> tuple[dict[str, Any], list[Observed]]:
    """The module at its own weights and at others: what the certificate records of that, and what it returned there.

    Args:
        own: the module in a run.
        epsilon: of the certificate.
        unread: tensors of the box that the graph does not read.
    """
    own.compare_all()
    own.compare_sizes()
    in_box = compare_moved(own.problem, epsilon, own, unread)
    record = {
        "samples": len(own.logits),
        "batch_sizes": own.sizes,
        "tensors_moved": len(own.problem.tensors.boxed),
        "precision": "float64" if own.run.wide else str(own.run.dtype).removeprefix("torch."),
    }
    return record, in_box


def _unread(problem: Problem) -> list[str]:
    """Parameters in the box that the network never reads.

    Raises:
        InputError: it reads none of those in the box, so that nothing would be perturbed.
    """
    tensors = problem.tensors
    graphs = problem.network.graphs.values()
    read = {id(tensors.values[name]) for g in graphs for i, name in g.tensors.items() if g.readers[i]}
    boxed = tensors.boxed
    unread = [name for name in boxed if id(tensors.values[name]) not in read]
    if boxed and len(unread) == len(boxed):
        raise InputError(
            f"the network reads no parameter of the box ({', '.join(boxed[:3])}{', …' * (len(boxed) > 3)}), so nothing "
            "would be perturbed: it computes with copies of them, or with other tensors"
        )
    return unread


def _check_constants(problem: Problem, unread: list[str]) -> None:
    """Refuse a constant that may be what was computed before of a tensor that is not read now.

    Raises:
        InputError: a call reads one that is kept, wherever that is, beside a tensor in the box that is never read.
    """
    constants = [t for g in problem.network.graphs.values() for t in g.constants.values() if t.is_floating_point()]
    if unread and any(_is_read(problem, constant) for constant in constants):
        raise InputError(
            f"the network does not read {unread[0]}, which is in the box, but a constant that is kept, which may have "
            "been computed of it before; compute it in forward, make the constant a buffer, or exclude the tensor if "
            "it has no part in it"
        )


def _is_read(problem: Problem, constant: Tensor) -> bool:
    """Whether a call reads that very memory: a tensor that the code writes out is a new one in every call."""
    reads = _Reads(constant)
    with suppress(Exception), torch.no_grad(), untouched(problem.model), reads:  # a network raises whatever it likes
        called(problem.model, _as_taken(problem))
    return reads.met


def _as_taken(problem: Problem) -> Tensor:
    dtype, device = input_type(problem.model, problem.x)
    return problem.x[:2].to(device=device, dtype=dtype)


class _Reads(TorchDispatchMode):
    """Looks for operands in the memory of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.key, self.met = storage_key(tensor), False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = pytree.tree_leaves((args, kwargs))
        self.met |= any(isinstance(t, Tensor) and storage_key(t) == self.key for t in operands)
        return func(*args, **(kwargs or {}))
