"""Neurons whose spikes are no longer certain: a history for each number of spikes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from thetabox.verify.histories.cells import Cells
from thetabox.verify.histories.equations import Pair, few_spikes, second_look
from thetabox.verify.histories.records import Exact
from thetabox.verify.histories.slots import Slots

# What a history and an exact record call the same quantity.
RECORDED = {"reset": "reset", "adaptation": "b", "potential": "v"}


def forked(
    slots: Slots, cells: Cells, exact: Exact, places: Tensor, units: Tensor, spikes: Pair, reset: Exact | None
) -> Slots:
    """Slots of the neurons that fork now.

    Args:
        slots: those of the others.
        cells: constants.
        exact: records with everything up to the spikes, and v that of no spike.
        places, units: of the neurons, in a row-major list of all and in their rows.
        spikes: fewest and most of each.
        reset: records with R and v as a spike leaves them, where they are not those of ``exact``.
    """
    if not len(places):
        return Slots(slots.values[:, :0], slots.quantities)
    traces = [t.take(places) for t in exact.h]
    quiet = _taken(exact, slots.quantities.names, places)
    quiet["count"] = (count := exact.count.take(places)), count
    if cells.twice:
        quiet["pending"] = (pending := exact.pending.take(places)), pending
    spiked = {} if reset is None else _taken(reset, ("reset", "potential"), places)
    steps = None if cells.silent_steps is None else cells.silent_steps.take(units)
    children = [
        _child(slots.quantities.names, cells, traces, quiet, spiked, steps, numbers)
        for numbers in few_spikes(*spikes, single=cells.levels == 1)
    ]
    out = slots.values.new_full((len(slots.values), len(places), slots.histories), math.inf)
    if len(children) > slots.histories:
        # All that spike are one history, or all are one.
        split = slots.histories - 1
        children = [*children[:split], torch.stack(children[split:]).amin(0)]
    for index, child in enumerate(children):
        out[:, :, index] = child
    return Slots(out, slots.quantities)


def _taken(exact: Exact, names: Iterable[str], places: Tensor) -> dict[str, Pair]:
    """Quantities of some neurons, by the names that histories have for them."""
    pairs = {name: getattr(exact, RECORDED[name]) for name in names if name in RECORDED}
    return {name: (low.take(places), high.take(places)) for name, (low, high) in pairs.items()}


def _child(
    names: Iterable[str],
    cells: Cells,
    traces: list[Tensor],
    quiet: dict[str, Pair],
    spiked: dict[str, Pair],
    steps: Tensor | None,
    numbers: Pair,
) -> Tensor:
    """One history each, of these numbers of spikes; infinite where there are none such."""
    (low, high), held = numbers, dict(quiet)
    has, empty = high > 0, low > high
    for name, ends in spiked.items():
        held[name] = torch.where(has, ends[0], quiet[name][0]), torch.where(has, ends[1], quiet[name][1])
    held["pending"] = low, high  # a spike that sets the potential late
    if cells.twice:
        (low, high), held["pending"] = second_look((low, high), quiet["pending"])
    held["spike"], held["count"] = (low, high), (quiet["count"][0] + low, quiet["count"][1] + high)
    if steps is not None:
        held["silent"] = low * steps, high * steps
    low_ends, high_ends = ([*traces, *(held[name][end] for name in names)] for end in (0, 1))
    child = torch.stack([*low_ends, *(-t for t in high_ends)])
    return child.masked_fill_(empty, math.inf) if cells.levels > 1 else child
