"""The module with its weights written to, in a copy or in itself, beside the graph with the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.forgetting import WAYS, keeps
from thetabox.models.memory import named_tensors
from thetabox.models.replica import Replica, Unfaithful, swapped
from thetabox.models.running import running
from thetabox.verify.agreement.moved import Moving, numbers
from thetabox.verify.agreement.nearness import NEAR_OWN, distance, near, nearness
from thetabox.verify.agreement.numbers_read import numbers_read, refuse_read
from thetabox.verify.agreement.points import FAR
from thetabox.verify.agreement.refusal import refuse
from thetabox.verify.network.replay import replay


def compare_written(moving: Moving, own: Tensor, unread: Sequence[str]) -> None:
    """A network whose weights are written to themselves: what no operator shows, as a cache or another thread.

    Args:
        moving: its parameters, in a run on twins, at their corner.
        own: what the module returns at its own weights: another result there is another program.
        unread: tensors of the box that the graph does not read.
    """
    done = _faithful(moving, _compare_replica, own)
    for way in WAYS if done and keeps(moving.problem.model) else ():
        if _faithful(moving, _compare_forgetful, own, way):
            break
    # A copy does not show what is kept by the very tensors, of which a trace has only the result.
    constants = any(t.is_floating_point() for g in moving.problem.network.graphs.values() for t in g.constants.values())
    if unread or constants or not done:
        done |= _faithful(moving, _compare_swapped)
    if unread and not done:
        raise InputError(
            f"the network does not read {unread[0]}, which is in the box, but may keep what it computed of it: it "
            "can neither be copied nor moved to see that; exclude the tensor if it has no part in it"
        )
    if constants and not done:
        raise InputError(
            "the network computes with constants, which may be what it keeps of its weights: it can neither be "
            "copied nor moved to see that; make them buffers, and compiled parts of it modules of Python"
        )


def _faithful(moving: Moving, compare: Callable[..., None], *arguments: Any) -> bool:
    """Whether a comparison could be made; what it has left outside of the copies is forgotten."""
    try:
        compare(moving, *arguments)
    except Unfaithful:
        return False
    finally:
        moving.run.forget()
    return True


def _compare_replica(moving: Moving, own: Tensor) -> None:
    if not moving.run.wide:
        raise Unfaithful
    # Moved before its first call: what that keeps of its weights, a later one would compute with.
    replica = Replica(moving.problem.model, moving.run.held)
    replica.move(moving.corner)
    if moving.same(replica(moving.x), moving.expected, moving.few):
        return
    moving.run.forget()
    if not near(Replica(moving.problem.model, moving.run.held)(moving.x), own, nearness(moving.run)):
        raise Unfaithful
    refuse(moving.problem, "a copy of it whose weights are written to answers another thing than the traced graph")


def _compare_forgetful(moving: Moving, own: Tensor, way: str) -> None:
    """A copy that has lost what earlier calls kept returns what the graph does, as nearly as at its own weights."""
    asked = _forgetful(moving, way).copy
    refuse_read(numbers_read(asked, named_tensors(asked), moving.names, moving.x, mode="no_grad", wide=True))
    moving.run.forget()
    again = _forgetful(moving, way)(moving.x)
    if again.shape != own.shape or not near(again, own, NEAR_OWN):
        raise Unfaithful
    moving.run.forget()
    replica = _forgetful(moving, way)
    replica.move(moving.corner)
    logits, graph = replica(moving.x), moving.expected
    rows = numbers(graph)
    # What was kept in less precision is off by that at any weights.
    tolerance = 16 * (again - own).abs().amax(1, keepdim=True) + nearness(moving.run) * graph.abs().amax(
        1, keepdim=True
    )
    if bool(((logits - graph).abs() <= tolerance)[rows].all()) or moving.same(logits, graph, moving.few):
        return
    raise InputError(
        "the network computes with what an earlier call computed of its weights and kept, and which does not move "
        "with them; certify it before its first call, or let it compute that in every call"
    )


def _forgetful(moving: Moving, way: str) -> Replica:
    replica = Replica(moving.problem.model, moving.run.held)
    replica.forget(way)
    return replica


def _compare_swapped(moving: Moving) -> None:
    """In its own precision, beside a plain run and the graph in the same."""
    x = moving.problem.x[moving.few]
    with running(moving.problem.model, moving.problem.x, wide=False) as narrow:
        held = narrow.inputs(x)
        # Farther in half precision, whose own rounding would hide what a small move changes.
        epsilon = FAR if torch.finfo(narrow.dtype).eps < FAR**2 else 10 * FAR
        moved = {name: t.to(narrow.tensors[name].dtype) for name, t in moving.points.at(epsilon, "larger").items()}
        plain = narrow(x).double()
        apart_at_own = distance(plain, replay(moving.problem.network, narrow.read, held, wide=False).double().cpu())
        narrow.forget()
        with swapped(moving.problem.model) as network:
            network.move(moved)
            logits = network(held)
        narrow.move(moved)
        graph = replay(moving.problem.network, narrow.read, held, wide=False).double().cpu()
        rows, tolerance = numbers(graph), 2.0 * torch.finfo(narrow.dtype).eps + 4.0 * apart_at_own
        if near(logits[rows], graph[rows], tolerance) or moving.same(logits, graph, moving.few, narrow):
            return
        narrow.move({name: narrow.tensors[name].detach() for name in moving.names})
        with swapped(moving.problem.model) as network:
            if not near(network(held), plain, nearness(narrow)):
                raise Unfaithful
    refuse(moving.problem, "when its weights are written to it returns another thing than the traced graph")
