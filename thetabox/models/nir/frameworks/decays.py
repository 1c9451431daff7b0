"""Decays of frameworks that write a time constant τ = dt/(1 − β) and a gain τ/dt, so that the input counts once."""

from __future__ import annotations

from thetabox.models.nir.constants import Array, Stored

DT = 1e-4
"""Seconds of a step in the files of snnTorch and SpikingJelly."""


def decay(stored: Stored, key: str, gain: str, low: float = 0.0, high: float = 1.0) -> Array:
    """The decay β = 1 − dt/τ of a potential (r = τ/dt) or of a current (w_in = τ_syn/dt).

    Args:
        stored: constants of the node.
        key, gain: names of the time constant and of the gain that goes with it.
        low, high: between which it must lie.

    Raises:
        InputError: the gain is another, or the decay lies elsewhere.
    """
    name = "a decay of the current" if key == "tau_syn" else "a decay"
    beta = stored.solved(key, lambda b: DT / (1 - b), lambda t: 1 - DT / t, f"dt/(1 − {name})")
    stored.between(key, beta, low, high, name)
    stored.expect(gain, stored[key] / DT, f"{key}/dt with dt = {DT:g}")
    return beta
