"""How large the random error of each parameter is, and that each is read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.models.memory import identity, named_tensors, share_memory
from thetabox.noise import Noise
from thetabox.verify.network.graph import Graph


def sizes(model: nn.Module, box: Box, noise: Noise) -> dict[str, Tensor]:
    """Square roots of the variance proxies at σ = 1, by name, float64; what is absent is exact.

    Relative sizes with factors of 1 are exact. Others are off by at most 2^-51 of themselves, in either direction: some
    proofs need a size from below, and all allow for more than that.

    Args:
        model: whose parameters.
        box: which of them are off, and what their unit is.
        noise: factors beside those of the box.

    Raises:
        InputError: nothing is in the box or off.
    """
    held = named_tensors(model)
    factors = box.factors(model)
    by_name = {}
    for name, factor in factors.items():
        by_name[name] = box.unit_radius(held[name].detach().cpu().double()) * (factor * noise.factor(name))
    if not any(bool((size > 0).any()) for size in by_name.values()):
        raise InputError("no parameter has a random error: box and noise leave nothing that is off")
    return by_name


def gains(model: nn.Module, box: Box, sizes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a shared error changes each parameter by, at σ = 1: their sizes, with their signs in a relative box."""
    if box.kind != "relative":
        return dict(sizes)
    held = named_tensors(model)
    return {name: size * held[name].detach().cpu().double().sign() for name, size in sizes.items()}


def read_more_than_once(graph: Graph, model: nn.Module, names: Iterable[str]) -> dict[str, bool]:
    """Those of the parameters that operators read more than once, under whatever name; whether always as a whole."""
    held = named_tensors(model)
    # Several positions of the graph may hold one tensor, or parts of it, some of its entries at several places.
    tensors: dict[int, Tensor] = {i: held[name] for i, name in graph.tensors.items()}
    tensors |= {i: held[view.name] for i, view in graph.views.items()}
    several = {}
    for name in names:
        own = held[name]
        mine = [i for i, t in tensors.items() if identity(t) == identity(own) or share_memory(t, own)]
        views = [graph.views[i].entries for i in mine if i in graph.views]
        repeated = any(p is not None and p.unique().numel() < p.numel() for p in views) or _overlaps(own)
        if repeated or sum(graph.readers[i] for i in mine) > 1:
            alike = all(identity(tensors[i]) == identity(own) for i in mine)
            several[name] = alike and not repeated and all(p is None for p in views)
    return several


def _overlaps(t: Tensor) -> bool:
    """Whether two entries of a tensor are one number in memory."""
    if t.is_contiguous():
        return False
    span = sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True)) + 1
    return torch.arange(span).as_strided(t.shape, t.stride()).unique().numel() < t.numel()


def at_places(graph: Graph, model: nn.Module, sizes: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Sizes (or gains) by the positions at which a graph reads their parameters, in whole or in part."""
    held = named_tensors(model)
    by_tensor = {identity(held[name]): size for name, size in sizes.items()}
    placed = {}
    for index, name in graph.tensors.items():
        size = by_tensor.get(identity(held[name]))
        if size is not None:
            placed[index] = size
    for index, view in graph.views.items():
        size = by_tensor.get(identity(held[view.name]))
        if size is not None:
            placed[index] = view.of(size)
    return {index: size for index, size in placed.items() if bool((size != 0).any())}
