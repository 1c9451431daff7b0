"""Rockpool: LIFTorch as CubaLIF, r = (τ/dt)·exp(−dt/τ), from which dt is found; the bias is not in the file."""

from __future__ import annotations

import numpy as np
import torch

from thetabox.models.nir import cells
from thetabox.models.nir.cells import NirNeurons, Update
from thetabox.models.nir.constants import Array, Stored

FRAMEWORK = "Rockpool 3.1.0"
DECAYS = {"decay": "tau_mem", "decay_syn": "tau_syn"}


def _cuba(stored: Stored) -> NirNeurons:
    for key in ("tau_mem", "tau_syn", "r", "v_threshold"):
        stored.positive(key)
    stored.expect("w_in", 1.0, "1")
    for key in ("v_leak", "v_reset"):
        stored.expect(key, 0.0, "0")
    tau = stored["tau_mem"].astype(np.float64)
    dt = _step(stored["r"].astype(np.float64), tau)
    stored.expect("r", tau / dt * np.exp(-dt / tau), f"(τ/dt)·exp(−dt/τ) with dt = {dt:.4g}")
    decays = {name: torch.exp(-dt / stored.tensor(key)) for name, key in DECAYS.items()}
    constants = {**decays, "threshold": stored.tensor("v_threshold")}
    return NirNeurons(Update(cells.decays, cells.counts, cells.current_before), constants)


def _step(r: Array, tau: Array) -> float:
    """The dt of r = (τ/dt)·exp(−dt/τ), the same for all neurons, in as few digits as the stored numbers allow."""
    low, high = np.full_like(r, 1e-12), np.full_like(r, 700.0)
    for _ in range(200):  # r falls as dt/τ grows: halves of the logarithm
        middle = np.sqrt(low * high)
        above = np.exp(-middle) / middle > r
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    dt = float(np.median(tau * np.sqrt(low * high)))
    short = (float(f"{dt:.{digits}e}") for digits in range(6))
    return next((s for s in short if abs(s - dt) <= 1e-6 * dt), dt)


SAYS = "LIFTorch without bias, any number of spikes a step; by its equations, not its run"
PRESETS = {"rockpool": (SAYS, {"CubaLIF": _cuba})}
