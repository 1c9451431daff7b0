"""Networks of :mod:`thetabox.verify.histories.neurons` for tests, and what they do in exact or in float arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

import thetabox as tb
from tests.oracles.rational import exact
from thetabox.verify import arguments
from thetabox.verify.histories.engine import Engine
from thetabox.verify.histories.neurons import Boxed, Neurons, Number, Spiking, Weights
from thetabox.verify.histories.spiking import SpikingPlan


def number(values: Any, error: float = 0.0) -> Number:
    t = torch.as_tensor(values, dtype=torch.float64).reshape(-1)
    return Number(t, torch.full_like(t, error))


def boxed(values: Any, share: float = 0.0, error: float = 0.0) -> Boxed:
    """Within ``share`` ε of the values' sizes."""
    t = torch.as_tensor(values, dtype=torch.float64).reshape(-1)
    return Boxed(t, share * t.abs(), torch.full_like(t, error))


def weights(values: Any, share: float = 1.0, *, absolute: bool = False, error: float = 0.0) -> Weights:
    """A box relative to the weights, or an absolute one of the same radius for all."""
    t = torch.as_tensor(values, dtype=torch.float64)
    spread = torch.full_like(t, share) if absolute else share * t.abs()
    return Weights(t, spread, torch.full_like(t, error), None if absolute else share)


def neurons(units: int, **more: Any) -> Neurons:
    """Cells of which everything that is not given is nothing, or 1."""
    zero = torch.zeros(units, dtype=torch.float64)
    given: dict[str, Any] = {
        "inputs": None,
        "below": {},
        "before": {},
        "bias": boxed(zero),
        "leak": boxed(zero),
        "synapse": None,
        "decay": number(zero + 0.5),
        "threshold": boxed(zero + 1.0),
        "next_drop": None,
        "reset": None,
        "current": number(zero),
        "start": number(zero),
    }
    return Neurons(units, **{**given, **more})


def engine(spiking: Spiking, x: Tensor, *, histories: int = 4, splits: int = 0, precision: str = "float64") -> Engine:
    how = arguments.settings("interval", tb.Box(), "real", precision, "cpu")
    plan = SpikingPlan(spiking, x.shape[1], how.rounding, how.device)
    return Engine(plan, x, how, histories, splits, lambda: 512)


# ---- the network itself

Move = Callable[[Any, Any, Any], Any]
"""(centre, spread, error) → a point within spread ε + error of the centre, as an array of the arithmetic."""


def moved(part: Any, move: Move) -> Any:
    """A network's numbers with every boxed and uncertain one replaced by a point, as arrays."""
    if isinstance(part, Boxed | Weights):
        return move(part.centre, part.spread, part.error)
    if isinstance(part, Number):
        return move(part.value, torch.zeros_like(part.value), part.error)
    if isinstance(part, Mapping):
        return {key: moved(value, move) for key, value in part.items()}
    if isinstance(part, tuple):
        return tuple(moved(value, move) for value in part)
    if is_dataclass(part):
        return replace(part, **{f.name: moved(getattr(part, f.name), move) for f in fields(part)})  # type: ignore[type-var]  # part is a dataclass here
    return part


@dataclass
class Ran:
    """Counts of every spiking layer side by side, and logits."""

    counts: Any
    logits: Any


def run(
    network: Any, x: Any, zeros: Callable[[int], Any], spikes: Callable[[Any, Any, int, bool], Any], *, strict: bool
) -> Ran:
    """The equations of :mod:`.neurons` step by step.

    Args:
        network: with points in place of boxes.
        x: ``[T, ..., inputs]``.
        zeros: of so many units.
        spikes: of potentials and thresholds, most, and whether at the threshold there is none.
        strict: that.
    """
    layers, says = network.layers, network.readout
    j = [zeros(layer.units) + layer.current for layer in layers]
    v = [zeros(layer.units) + layer.start for layer in layers]
    debt, last, counts = ([zeros(layer.units) for layer in layers] for _ in range(3))
    total = zeros(layers[says.layer].units)
    above = [zeros(layer.units) for layer in layers]
    largest: Any = None
    for x_t in x:
        now: list[Any] = []
        for n, layer in enumerate(layers):
            entering = zeros(layer.units) + layer.bias
            if layer.inputs is not None:
                entering = entering + x_t @ layer.inputs
            for source, w in layer.below.items():
                entering = entering + now[source] @ w
            for source, w in layer.before.items():
                entering = entering + last[source] @ w
            j[n] = entering if layer.synapse is None else layer.synapse * j[n] + entering
            p = layer.decay * v[n] - debt[n] + j[n] + layer.leak
            if layer.late:
                p = p + (layer.reset - p) * (last[n] > 0)
            level = layer.threshold + above[n] * layer.threshold
            z = spikes(p, level, layer.most, strict) if layer.most else zeros(layer.units)
            if layer.twice:
                above[n] = spikes(p - z * layer.threshold, layer.threshold, 1, strict)
            v[n] = p
            if layer.next_drop is not None:
                debt[n] = z * layer.next_drop
            elif layer.reset is not None and not layer.late:
                v[n] = p + (layer.reset - p) * (z > 0)
            now.append(z)
            counts[n] = counts[n] + z
        last = now
        total = total + v[says.layer]
        if says.over == "largest":
            logits = v[says.layer] @ says.weights + says.bias
            largest = logits if largest is None else _larger(largest, logits)
    top = layers[says.layer]
    read = counts[says.layer] if top.most else total if says.over == "sum" else v[says.layer]
    kept = [c for c, layer in zip(counts, layers, strict=True) if layer.most]
    return Ran(kept, read @ says.weights + says.bias if largest is None else largest)


def _larger(one: Any, other: Any) -> Any:
    return torch.maximum(one, other) if isinstance(one, Tensor) else np.maximum(one, other)


def exact_spikes(p: Any, level: Any, most: int, strict: bool) -> Any:
    """In fractions."""
    if most == 1:
        return np.array([Fraction(int(a > b or (a == b and not strict))) for a, b in zip(p, level, strict=True)])
    found = []
    for a, b in zip(p, level, strict=True):
        quotient = a / b
        floor = quotient.__floor__()
        if strict and quotient == floor:
            floor -= 1
        found.append(Fraction(min(max(floor, 0), most)))
    return np.array(found)


def float_spikes(p: Tensor, level: Tensor, most: int, strict: bool) -> Tensor:
    """In floating point, many networks at once."""
    if most == 1:
        return ((p > level) if strict else (p >= level)).to(p.dtype)
    return torch.floor(p / level).clamp(0, most)


def fractions(t: Tensor) -> Any:
    """The numbers as they are; infinities stay so."""
    return exact(t).reshape(tuple(t.shape))


def run_exactly(spiking: Spiking, x: Tensor, move: Move, *, strict: bool) -> Ran:
    """At one point of the box, in fractions; ``x [T, inputs]``."""
    network = moved(spiking, move)
    return run(network, fractions(x), lambda n: np.array([Fraction(0)] * n, dtype=object), exact_spikes, strict=strict)


def run_many(spiking: Spiking, x: Tensor, epsilon: float, draws: int, seed: int) -> Ran:
    """At random points and corners of the box in float64: ``[draws, samples, ...]``; ``x [samples, T, inputs]``."""
    generator = torch.Generator().manual_seed(seed)

    def move(centre: Tensor, spread: Tensor, error: Tensor) -> Tensor:
        noise = 2 * torch.rand(draws, *centre.shape, generator=generator, dtype=torch.float64) - 1
        noise[::2] = noise[::2].sign()
        point = centre + 0.999999 * noise * (spread * epsilon + error)
        return point if centre.dim() == 2 else point[:, None]

    network = moved(spiking, move)
    return run(
        network,
        x.double().movedim(1, 0)[:, None],
        lambda n: torch.zeros(draws, len(x), n, dtype=torch.float64),
        float_spikes,
        strict=True,
    )
