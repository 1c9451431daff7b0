"""A module as graphs of operators; knows no interval."""

from thetabox.verify.network.feedforward import Network
from thetabox.verify.network.recurrent import RecurrentNetwork, network

__all__ = ["Network", "RecurrentNetwork", "network"]
