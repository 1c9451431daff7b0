"""A few histories a neuron: the domain for spiking networks of leaky cells."""

from thetabox.verify.histories.domain import Histories

__all__ = ["Histories"]
