"""sinabs: LIF, IAF as IF, ExpLeak as LI; time constants in steps, α = exp(−1/τ), r = 1, several spikes a step.

What a file does not hold: norm_input, the spike function, and min_v_mem, which is taken to be none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from thetabox.models.nir import cells
from thetabox.models.nir.cells import Builder, NirNeurons, Update
from thetabox.models.nir.constants import Stored

FRAMEWORK = "sinabs 3.1.3"
DT = 1.0


def _builder(membrane: cells.Membrane, firing: cells.Firing | None) -> Builder:
    def build(stored: Stored) -> NirNeurons:
        constants = {}
        stored.expect("r", 1.0, "1")
        if "tau" in stored:
            stored.between("tau", stored["tau"], 0.02, 1e9, "a time constant of so many steps,")
            stored.expect("v_leak", 0.0, "0")
            constants["decay"] = torch.exp(-1.0 / stored.tensor("tau"))
        if "v_threshold" in stored:
            stored.expect("v_reset", 0.0, "0")
            stored.positive("v_threshold")
            constants["threshold"] = stored.tensor("v_threshold")
        return NirNeurons(Update(membrane, firing), constants)

    return build


def _builders(membrane: cells.Membrane, firing: cells.Firing) -> Mapping[str, Builder]:
    readout = _builder(cells.decays, None)  # whose norm_input is False unless it is asked for
    return {"LIF": _builder(membrane, firing), "IF": _builder(cells.sums, firing), "LI": readout}


PRESETS = {
    "sinabs": ("several spikes a step, norm_input=True, no min_v_mem", _builders(cells.decays_scaled, cells.counts)),
    "sinabs-unscaled": ("as sinabs, norm_input=False", _builders(cells.decays, cells.counts)),
    "sinabs-single": (
        "as sinabs, one spike a step (SingleSpike)", _builders(cells.decays_scaled, cells.subtracts_at)
    ),
}  # a table  # fmt: skip
