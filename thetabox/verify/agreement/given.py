"""Inputs as the user has them: in their own type and memory layout, of which code may take notice."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.calls import Call
from thetabox.models.input_type import input_type
from thetabox.models.memory import copied
from thetabox.models.running import Running, running
from thetabox.models.several import Separate, each_of, for_each
from thetabox.verify.agreement.batches import at_once
from thetabox.verify.problem import Problem, Which

RecordedRun = tuple[Tensor, Sequence[Call]]
"""Logits, float64, and the calls of torch by which the code computed them."""


def as_given(problem: Problem, x: Any) -> Tensor | Separate | None:
    """Inputs in the type and memory layout in which a call of the network would be handed them, in memory of our own.

    Args:
        problem: of the network.
        x: as the user has them.

    Returns:
        ``None`` where no such call can be made (of lists, of arrays that torch does not take as they are, or for a
        network that does not take them), or it is the call that is made anyway.
    """
    dtype = input_type(problem.model, problem.x)[0]
    held = for_each(x, _own)
    if any(one is None for one in each_of(held)):
        return None
    ways = [held]
    if isinstance(held, Separate):  # also cast, as one input is in the call that is made anyway
        ways.append(held.each(lambda t: t.to(dtype) if t.is_floating_point() else t))
    elif held.dtype == dtype and _in_rows(held):
        return None
    return next((way for way in ways if _takes(problem, way)), None)


def _own(x: Any) -> Tensor | None:
    try:
        tensor = torch.from_numpy(np.array(x, order="K")) if isinstance(x, np.ndarray) else x
    except (TypeError, ValueError):
        return None
    plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_complex()
    return copied(tensor.detach().cpu().resolve_neg()) if plain else None


def _takes(problem: Problem, x: Tensor | Separate) -> bool:
    """Whether the module can be called with inputs as they were given."""
    with torch.no_grad(), running(problem.model, problem.x, wide=False) as run:
        try:
            run(x[: at_once(problem.network)], as_given=True)
        except InputError:
            return False
    return True


def _in_rows(x: Tensor) -> bool:
    """Whether strides are those of a new tensor: a contiguous one may have others where a dimension is of one entry."""
    return x.stride() == torch.empty(x.shape, device="meta").stride()


def ordinary(problem: Problem, x: Any) -> bool:
    """Whether a call with ``x`` itself is the call that is made anyway, or none that could be made."""
    if isinstance(x, Separate):
        return all(ordinary(problem, one) for one in x.values)
    if not isinstance(x, Tensor):
        return not isinstance(x, np.ndarray)
    plain = type(x) is Tensor and x.layout == torch.strided and _in_rows(x) and x.dtype == problem.x.dtype
    return plain and not (x.requires_grad or x.storage_offset() or vars(x))


def logits_of(problem: Problem, run: Running, which: Which, *, mode: str = "no_grad") -> Tensor:
    """What a run returns for some samples, in the type and memory layout in which the user has them."""
    if problem.x_as_given is None:
        return run(problem.x[which], mode=mode)
    return run(problem.x_as_given[which], mode=mode, as_given=True)


def logits_in(problem: Problem, run: Running, which: Which, mode: str) -> Tensor:
    """The same in a mode of torch, where operators of the network's own take it in a run."""
    with suppress(*() if mode == "no_grad" else (InputError,)):
        return logits_of(problem, run, which, mode=mode)
    return logits_of(problem, run, which)


def all_logits(problem: Problem, run: Running) -> Tensor:
    """What a run returns for every sample, float64, in one batch where memory allows."""
    count, most = len(problem.x), at_once(problem.network)
    return torch.cat([logits_of(problem, run, slice(n, n + most)) for n in range(0, count, most)]).double()
