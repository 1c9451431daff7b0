"""SpikingJelly: LIF, ParametricLIF, IF and CUBALIF nodes with a hard reset, from which the potential starts.

They fire at the threshold: H(0) = 1. A soft reset it does not export.
"""

from __future__ import annotations

from thetabox.models.nir import cells
from thetabox.models.nir.cells import NirNeurons, Update
from thetabox.models.nir.constants import Stored
from thetabox.models.nir.frameworks.decays import DT, decay

FRAMEWORK = "SpikingJelly 2.0.0"


def _lif(stored: Stored) -> NirNeurons:
    tau = stored.solved("tau", lambda t: t * DT, lambda t: t / DT, f"τ·{DT:g}")
    stored.between("tau", tau, 1.0, 1e6, "τ/dt")
    stored.expect("v_leak", stored["v_reset"], "v_reset")
    whole = bool((stored["r"] == 1).all())
    if not whole:
        stored.expect("r", tau, "1, or τ/dt where the input does not decay,")
    membrane = cells.leaks_from_reset if whole else cells.leaks_alone_from_reset
    constants = {"rate": 1 / tau, "threshold": stored["v_threshold"], "v_reset": stored["v_reset"]}
    return NirNeurons(Update(membrane, cells.resets_at), stored.tensors(constants), rest="v_reset")


def _if(stored: Stored) -> NirNeurons:
    stored.expect("r", 1 / DT, f"1/dt with dt = {DT:g}")
    constants = {"threshold": stored["v_threshold"], "v_reset": stored["v_reset"]}
    return NirNeurons(Update(cells.sums, cells.resets_at), stored.tensors(constants), rest="v_reset")


def _cuba(stored: Stored) -> NirNeurons:
    constants = {"decay": decay(stored, "tau_mem", "r"), "decay_syn": decay(stored, "tau_syn", "w_in")}
    stored.expect("v_leak", 0.0, "0")
    constants |= {"threshold": stored["v_threshold"], "v_reset": stored["v_reset"]}
    return NirNeurons(Update(cells.decays, cells.resets_at, cells.current), stored.tensors(constants), rest="v_reset")


PRESETS = {"spikingjelly": ("hard reset, fires at the threshold", {"LIF": _lif, "IF": _if, "CubaLIF": _cuba})}
__all__ = ["DT", "FRAMEWORK", "PRESETS"]
