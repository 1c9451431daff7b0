"""Norse: LIFBox as LIF, LIF as CubaLIF, IAF as IF, LIBox as LI; r = 1, and the potential starts at v_leak.

The rate κ = dt/τ comes from files in which τ stands as dt·τ, with Norse's dt = 0.001 s. The reset method of LIFBox and
every v_reset are lost in a file.
"""

from __future__ import annotations

import numpy as np

from thetabox.models.nir import cells
from thetabox.models.nir.cells import Builder, NirNeurons, Update
from thetabox.models.nir.constants import Array, Stored

FRAMEWORK = "Norse 1.1.0"
DT = 1e-3
CONSTANTS = {"v_leak": "v_leak", "v_threshold": "threshold", "v_reset": "v_reset"}


def _rate(stored: Stored, key: str) -> Array:
    def formula(inverse: Array) -> Array:
        product: Array = np.reciprocal(inverse) * inverse.dtype.type(DT)  # as torch computes dt / tensor
        return product

    inverse = stored.solved(key, formula, lambda t: DT / t, "dt·τ")
    rate: Array = inverse.dtype.type(DT) * inverse
    stored.between(key, rate, 1e-6, 2.0, "dt/τ")
    return rate


def _builder(update: Update, *tau: str) -> Builder:
    def build(stored: Stored) -> NirNeurons:
        for key in ("r", "w_in"):
            if key in stored:
                stored.expect(key, 1.0, "1")
        constants = {name: _rate(stored, key) for key, name in zip(tau, ("rate", "rate_syn"), strict=False)}
        constants |= {name: stored[key] for key, name in CONSTANTS.items() if key in stored}
        if update.firing is cells.subtracts:
            del constants["v_reset"]
        return NirNeurons(update, stored.tensors(constants), rest="v_leak" if tau else "v_reset")

    return build


READOUT = _builder(Update(cells.leaks, None), "tau")
PRESETS = {
    "norse": (
        "reset to v_reset, dt = 0.001",
        {
            "LIF": _builder(Update(cells.leaks, cells.resets), "tau"),
            "CubaLIF": _builder(Update(cells.leaks, cells.resets, cells.jump), "tau_mem", "tau_syn"),
            "IF": _builder(Update(cells.sums, cells.resets)),
            "LI": READOUT,
        },
    ),
    "norse-subtract": (
        "LIFBox with reset_method=reset_subtract, dt = 0.001",
        {"LIF": _builder(Update(cells.leaks, cells.subtracts), "tau"), "LI": READOUT},
    ),
}
