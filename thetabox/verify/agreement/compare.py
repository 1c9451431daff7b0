r"""Before any proof: the graph that is bounded is the module that runs.

A proof speaks of the traced graph. What a user runs is the module: Python code with hooks, branches and attributes.
Here the two are held against each other, at the numbers that the certificate is about:

1. the module's own forward of every sample lies inside the bounds at ε = 0, up to the arithmetic of that run: in
   float64 and in the network's precision, in one batch, one by one, and at every batch size at which the code may
   branch, with gradients on and off;
2. with the parameters moved in place to corners and random points of the box (all at once and each alone) the module
   answers what the graph does, and lies inside the bounds at that ε.

Where the graph is without jumps the two are compared as numbers: they call the same operators. Where it has
comparisons, a sum in another order may flip one; the module must then lie inside the bounds of a network whose every
operation may be off by :data:`~thetabox.verify.agreement.nearness.ROUNDOFF`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.running import Running, running
from thetabox.models.twins import RUNNING
from thetabox.verify.agreement.folding import compare_folded
from thetabox.verify.agreement.moved import compare_moved
from thetabox.verify.agreement.own import OwnForward, as_traced, compare_precision, holds_narrow
from thetabox.verify.arguments import Settings
from thetabox.verify.arithmetic.rounding import sound_kernels
from thetabox.verify.network.origins import check_apart
from thetabox.verify.problem import Engine


@dataclass(frozen=True)
class Agreement:
    """What was compared.

    Attributes:
        logits: of the unperturbed network, float64.
        record: for the certificate.
    """

    logits: Float[Tensor, "samples classes"]
    record: dict[str, Any]


def begin(
    model: nn.Module, settings: Settings, x: Float[Tensor, "samples ..."], epsilon: Float[Tensor, " sweeps"]
) -> tuple[Engine, Agreement]:
    """What every public function that bounds begins with: the network traced, its box looked at, the two compared.

    Raises:
        InputError: as :func:`check`, or nothing moves in the box.
    """
    with RUNNING:
        engine = Engine(model, settings, x)
        settings.box.check(engine.model)
        engine.tensors.check_reach(epsilon)
        agreed = check(engine, epsilon)
        if engine.model is not model:
            compare_folded(engine, model)
        return engine, agreed


def check(engine: Engine, epsilon: Float[Tensor, " sweeps"]) -> Agreement:
    """Compare the engine's graph with its module.

    Raises:
        InputError: they differ; the message says in what, and the likely reason.
    """
    check_apart(engine.model, [n for n, value in engine.tensors.values.items() if id(value) in engine.tensors.factors])
    unread = _unread(engine)
    with torch.no_grad(), sound_kernels():
        with running(engine.model) as run:
            found = as_traced(engine, run)
            wide = found or (found is False and not _as_traced_in_its_own(engine))
            own, record = _compared(engine, epsilon, run, traced=bool(found)) if wide else (None, {})
        if own is None or holds_narrow(engine):
            with running(engine.model, wide=False) as narrow:
                if own is None:
                    own, record = _compared(engine, epsilon, narrow)
                else:
                    compare_precision(engine, narrow, own.logits)
    constants = sum(t.numel() for graph in engine.network.graphs.values() for t in graph.constants.values())
    return Agreement(own.logits, {**record, "unread": unread, "constants": constants})


def _as_traced_in_its_own(engine: Engine) -> bool:
    """Whether the module answers the graph's numbers in its own precision, though not in double.

    A few fused operators of torch have no such form, and code may ask for the type (for the least number of it, say).
    """
    with running(engine.model, wide=False) as run:
        return bool(as_traced(engine, run))


def _compared(
    engine: Engine, epsilon: Tensor, run: Running, *, traced: bool = False
) -> tuple[OwnForward, dict[str, Any]]:
    """The module at its own weights and at others, and what the certificate records of that."""
    own = OwnForward(engine, run)
    own.compare_all(traced=traced)
    own.compare_sizes()
    moved = compare_moved(engine, epsilon, run, own.logits, own.sizes)
    precision = "float64" if run.wide else str(run.dtype).removeprefix("torch.")
    return own, {
        "samples": len(own.logits),
        "batch_sizes": own.sizes,
        "tensors_moved": moved,
        "precision": precision,
    }


def _unread(engine: Engine) -> list[str]:
    """Parameters in the box that the network never reads.

    Raises:
        InputError: it reads none of those in the box, so that nothing would be perturbed.
    """
    tensors = engine.tensors
    graphs = engine.network.graphs.values()
    read = {id(tensors.values[name]) for g in graphs for i, name in g.tensors.items() if g.readers[i]}
    boxed = [name for name, value in tensors.values.items() if id(value) in tensors.factors]
    unread = [name for name in boxed if id(tensors.values[name]) not in read]
    if boxed and len(unread) == len(boxed):
        raise InputError(
            f"the network reads no parameter of the box ({', '.join(boxed[:3])}{', …' * (len(boxed) > 3)}), so nothing "
            "would be perturbed: it computes with copies of them, or with other tensors"
        )
    return unread
