"""Backward linear bounds, weights kept shared: the domain ``linear``."""

from thetabox.verify.linear.domain import Linear
from thetabox.verify.linear.walk import BACKWARD, Stop, backward

__all__ = ["BACKWARD", "Linear", "Stop", "backward"]
