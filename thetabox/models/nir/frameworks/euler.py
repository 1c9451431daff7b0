"""No framework's: the equations of NIR by Euler's forward steps; v starts at v_leak or 0, and H(0) = 0."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from thetabox.models.nir import cells
from thetabox.models.nir.cells import Builder, NirNeurons, Update
from thetabox.models.nir.constants import Array, Stored

SAYS = "no framework's: the equations of NIR, v0 = v_leak or 0, H(0) = 0, by forward Euler"


def builders(dt: float) -> Mapping[str, Builder]:
    """Of every neuron of NIR, in steps of ``dt``."""
    return {kind: _builder(kind, dt) for kind in ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")}


def _builder(kind: str, dt: float) -> Builder:
    spiking, leaky, synapse = kind.endswith("IF"), "L" in kind, kind.startswith("Cuba")
    membrane = cells.leaks_scaled if leaky else cells.sums_scaled
    update = Update(membrane, cells.resets if spiking else None, cells.current_euler if synapse else None)

    def rate(stored: Stored, key: str) -> Array:
        with np.errstate(all="ignore"):
            rates: Array = np.asarray(dt / stored[key])
        stored.between(key, rates, 1e-9, 1.0, "dt/τ")
        return rates

    def build(stored: Stored) -> NirNeurons:
        constants = {"gain": stored["r"] * (1.0 if leaky else dt)}
        if leaky:
            constants |= {"rate": rate(stored, "tau_mem" if synapse else "tau"), "v_leak": stored["v_leak"]}
        if synapse:
            constants |= {"rate_syn": rate(stored, "tau_syn"), "w_in": stored["w_in"]}
        if spiking:
            constants |= {"threshold": stored["v_threshold"], "v_reset": stored["v_reset"]}
        return NirNeurons(update, stored.tensors(constants), rest="v_leak" if leaky else None)

    return build
