"""What happens empirically: the worst weights that can be found in the box, and random mismatch."""

from thetabox.measure.attack import AttackResult, attack
from thetabox.measure.mismatch import MismatchResult, mismatch

__all__ = ["AttackResult", "MismatchResult", "attack", "mismatch"]
