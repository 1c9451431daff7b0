"""Balls beside intervals: how far a value moves in the Euclidean norm, which depth multiplies by less."""

from thetabox.verify.linear.norms import rules  # noqa: F401  # fills the table
from thetabox.verify.linear.norms.balls import BALLS, ROUNDING_ONLY, Balls, Norms, ball_rule, deep

__all__ = ["BALLS", "ROUNDING_ONLY", "Balls", "Norms", "ball_rule", "deep"]
