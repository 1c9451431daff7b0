"""Margins that most chips keep, as a differentiable function of the weights: the bounds that training for yield takes.

These are losses. They follow the proofs of ``docs/yield.md`` and prove nothing themselves.
"""

from thetabox.train.yields.bounds import BOUNDS, yield_margins

__all__ = ["BOUNDS", "yield_margins"]
