"""Whether a network does what its description says: a proof speaks of the description, so nothing may be left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.leaky import LeakyCells
from thetabox.verify.histories.description.products import Mismatch
from thetabox.verify.histories.description.runs import NEURON, differs
from thetabox.verify.histories.description.structure import check_structure
from thetabox.verify.interpreter.tensors import Tensors
from thetabox.verify.problem import Problem

INSTEAD = "use the domain 'interval'"

# Tensors that every layer has.
NAMED = ("weight_in", "threshold", "tau")

# Descriptions that were found true, of networks at the values that are held: stages of one proof ask several times.
_true: WeakKeyDictionary[Tensors, set[tuple[LeakyCells, ...]]] = WeakKeyDictionary()


def check_description(problem: Problem, described: Sequence[LeakyCells]) -> None:
    """Compare a network with its description: names, shapes, time constants, traced graphs, float64 runs.

    Graphs decide (:mod:`.structure`); what they do not show to be the equations, for all inputs and all parameters, is
    refused. Runs (:mod:`.runs`) are a second look at that.

    Raises:
        InputError: they differ, or the box holds a tensor that the description does not name.
    """
    held = _true.setdefault(problem.tensors, set())
    if tuple(described) in held:
        return
    _check_names(problem, described)
    _check_shapes(described, problem.tensors.values)
    _check_time_constants(described, problem.tensors.values)
    wrong = "the network does something else than leaky_cells says of it"
    try:
        check_structure(problem, described)
    except Mismatch as mismatch:
        raise InputError(f"{wrong}, or cannot be seen to do that: {mismatch}; {INSTEAD}") from None
    if differs(problem, described):
        raise InputError(f"{wrong} when it is run, so the domain 'histories' cannot speak of it; {INSTEAD}")
    held.add(tuple(described))


def _check_names(problem: Problem, described: Sequence[LeakyCells]) -> None:
    values = problem.tensors.values
    for place, says in enumerate(described):
        last = place == len(described) - 1
        lacking = next((role for role in NAMED if not isinstance(getattr(says, role), str)), None)
        if lacking is not None:
            raise InputError(f"leaky_cells must name a tensor for {lacking}, not {getattr(says, lacking)!r}")
        if not all(isinstance(n, (int, float)) for n in (says.dt, says.refractory)):
            raise InputError("leaky_cells must give dt and refractory as numbers of Python")
        if (says.weight_out is None) is last or (says.bias_out is not None and not last):
            raise InputError(
                "leaky_cells must name weight_out, and a bias_out if there is one, for the last layer alone"
            )
        if says.refractory != int(says.refractory) or says.refractory < 0:
            raise InputError(f"leaky_cells says refractory={says.refractory}; it must be a whole number of at least 0")
        if not (math.isfinite(says.dt) and says.dt > 0):
            raise InputError(f"leaky_cells says dt={says.dt}; it must be positive and finite")
    if len({says.dt for says in described}) > 1:
        raise InputError("leaky_cells says that layers have time steps of different length; they must have one")
    named = [n for says in described for n in vars(says).values() if isinstance(n, str)]
    missing = next((n for n in named if n not in values), None)
    if missing is not None:
        raise InputError(f"leaky_cells names {missing!r}, which the network does not have")
    known = {id(values[n]) for n in named}
    strange = sorted(n for n, v in values.items() if id(v) in problem.tensors.factors and id(v) not in known)
    if strange:
        raise InputError(
            f"the box holds {strange[0]!r}, of which leaky_cells says nothing; exclude it from the box, or {INSTEAD}"
        )


def _check_shapes(described: Sequence[LeakyCells], values: dict[str, Tensor]) -> None:
    below = None
    for says in described:
        weight = values[says.weight_in]
        units = weight.shape[-1] if weight.dim() == 2 else -1
        wanted: list[tuple[str | None, tuple[int, ...]]] = [
            (says.weight_in, (len(weight) if below is None else below, units)),
            (says.weight_rec, (units, units)),
        ]
        if says.weight_out is not None:
            out = values[says.weight_out]
            wanted.append((says.weight_out, (units, out.shape[-1] if out.dim() else -1)))
            wanted.append((says.bias_out, tuple(out.shape[-1:])))
        for name, shape in wanted:
            if name is not None and values[name].shape != shape:
                raise InputError(f"leaky_cells names {name!r} of shape {list(values[name].shape)}, not {list(shape)}")
        for role in NEURON:
            name = getattr(says, role)
            if name is not None and values[name].numel() not in (1, units):
                raise InputError(
                    f"leaky_cells names {name!r} for {role}; it holds {values[name].numel()} values, not {units}"
                )
        if (says.beta is None) != (says.tau_adapt is None):
            raise InputError("leaky_cells must name both beta and tau_adapt, or neither")
        below = units


def _check_time_constants(described: Sequence[LeakyCells], values: dict[str, Tensor]) -> None:
    for says in described:
        for name in (says.tau, says.tau_adapt):
            if name is not None and not bool(((values[name] > 0) & torch.isfinite(values[name])).all()):
                raise InputError(
                    f"leaky_cells names {name!r} for a time constant, which holds {_odd(values[name])}; time constants "
                    f"must be positive and finite: mend the model, or {INSTEAD}"
                )


def _odd(value: Tensor) -> float:
    wrong = ~((value > 0) & torch.isfinite(value))
    return float(value[wrong][0])
