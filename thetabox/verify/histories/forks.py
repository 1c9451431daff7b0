"""Neurons whose spikes are no longer certain: a history for each number of spikes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thetabox.verify.histories.cells import Cells
from thetabox.verify.histories.equations import Pair, few_spikes, second_look
from thetabox.verify.histories.records import Exact
from thetabox.verify.histories.slots import Slots


def forked(
    slots: Slots, cells: Cells, exact: Exact, rows: Tensor, units: Tensor, spikes: Pair, reset: Exact | None
) -> Slots:
    """Slots of the neurons that fork now.

    Args:
        slots: those of the others.
        cells: constants.
        exact: records with everything up to the spikes, and v that of no spike.
        rows, units: the neurons.
        spikes: fewest and most of each.
        reset: records with R and v as a spike leaves them, where they are not those of ``exact``.
    """
    if not len(rows):
        return Slots(slots.values[:, :0], slots.quantities)
    children = [
        _child(slots, cells, exact if reset is None else reset, exact, rows, units, low, high)
        for low, high in few_spikes(*spikes, single=cells.levels == 1)
    ]
    out = slots.values.new_full((len(slots.values), len(rows), slots.histories), math.inf)
    if len(children) > slots.histories:
        # All that spike are one history, or all are one.
        split = slots.histories - 1
        children = [*children[:split], torch.stack(children[split:]).amin(0)]
    for index, child in enumerate(children):
        out[:, :, index] = child
    return Slots(out, slots.quantities)


def _child(
    slots: Slots, cells: Cells, reset: Exact, exact: Exact, rows: Tensor, units: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """One history each, of these numbers of spikes; infinite where there are none such."""
    spiked, names = high > 0, slots.quantities.names
    empty = low > high
    pending = low, high  # a spike that sets the potential late
    if cells.twice:
        held = exact.pending[rows, units]
        (low, high), pending = second_look((low, high), (held, held))

    def either(name: str, end: int) -> Tensor:
        quiet: Tensor = getattr(exact, name)[end][rows, units]
        return quiet if reset is exact else torch.where(spiked, getattr(reset, name)[end][rows, units], quiet)

    count, out = exact.count[rows, units], []
    for end, z in enumerate((low, high)):
        quantities = {"spike": z, "count": count + z}
        if "reset" in names:
            quantities["reset"] = either("reset", end)
        if "adaptation" in names:
            quantities["adaptation"] = exact.b[end][rows, units]
        if cells.silent_steps is not None:
            quantities["silent"] = z * cells.silent_steps[units]
        if "pending" in names:
            quantities["pending"] = pending[end]
        if "potential" in names:
            quantities["potential"] = either("v", end)
        ends = [*(t[rows, units] for t in exact.h), *(quantities[name] for name in names)]
        out += ends if end == 0 else [-t for t in ends]
    child = torch.stack(out)
    return child.masked_fill_(empty, math.inf) if cells.levels > 1 else child
