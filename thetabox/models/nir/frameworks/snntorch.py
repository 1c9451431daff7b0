"""snnTorch: Leaky and RLeaky as LIF, Synaptic and RSynaptic as CubaLIF; the v_reset = 0 of a file is not what runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from thetabox.models.nir import cells
from thetabox.models.nir.cells import Builder, NirNeurons, Update
from thetabox.models.nir.constants import Array, Stored
from thetabox.models.nir.frameworks.decays import DT, decay

FRAMEWORK = "snnTorch 1.0.0"

LATER = Update(cells.decays, cells.subtracts_later, before="z")
ZEROES_LATER = Update(cells.decays, cells.zeroes_later, before="z")
SYNAPTIC = Update(cells.decays, cells.subtracts_later, cells.current, before="z")
ZERO_SYNAPTIC = Update(cells.decays, cells.zeroes_later, cells.current, before="z")
ONCE = Update(cells.decays, cells.subtracts_once)
ONCE_SYNAPTIC = Update(cells.decays, cells.subtracts_once, cells.current)
ZEROES = Update(cells.decays, cells.zeroes)


def _clamped(stored: Stored, key: str, gain: str) -> Array:
    """A decay as snnTorch uses it: one that was learnt may have left 0 to 1, and is clamped at every step."""
    clamped: Array = np.clip(decay(stored, key, gain, -1.0, 2.0), 0.0, 1.0)
    return clamped


def _builder(update: Update, recurrent: Update) -> Builder:
    def build(stored: Stored) -> NirNeurons:
        if update is not recurrent and stored.feeds_back - {stored.node.name}:
            stored.refuse("it lies in a circle with other neurons, where what its reset takes away is not known")
        synapse = stored.node.kind == "CubaLIF"
        constants = {"decay": _clamped(stored, "tau_mem" if synapse else "tau", "r")}
        if synapse:
            constants["decay_syn"] = _clamped(stored, "tau_syn", "w_in")
        for key in ("v_leak", "v_reset"):
            stored.expect(key, 0.0, "0")
        stored.positive("v_threshold")  # a silent neuron then lies below it, and is not reset before the first spike
        constants["threshold"] = stored["v_threshold"]
        return NirNeurons(recurrent if stored.feeds_back else update, stored.tensors(constants))

    return build


def _builders(leaky: Update, recurrent: Update, synaptic: Update) -> Mapping[str, Builder]:
    return {"LIF": _builder(leaky, recurrent), "CubaLIF": _builder(synaptic, synaptic)}


PRESETS = {
    "snntorch": ("reset by subtraction in the next step, the default", _builders(LATER, LATER, SYNAPTIC)),
    "snntorch-zero": (
        'reset_mechanism="zero"; Synaptic and RLeaky lose the input of the next step with it',
        _builders(ZEROES, ZEROES_LATER, ZERO_SYNAPTIC),
    ),
    "snntorch-undelayed": (
        "reset by subtraction in the same step, reset_delay=False", _builders(ONCE, ONCE, ONCE_SYNAPTIC)
    ),
}  # a table  # fmt: skip
__all__ = ["DT", "FRAMEWORK", "PRESETS"]
