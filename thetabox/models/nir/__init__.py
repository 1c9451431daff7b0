"""NIR files (neuromorphic intermediate representation): a spiking network, with the dynamics of a chosen framework."""

from thetabox.models.nir.network import NirNetwork
from thetabox.models.nir.presets import PRESETS, Preset
from thetabox.models.nir.read import read

__all__ = ["PRESETS", "NirNetwork", "Preset", "read"]
