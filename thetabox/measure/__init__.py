"""What happens empirically: the worst weights that can be found in the box, and random mismatch."""

from thetabox.measure.attack import AttackResult, attack
from thetabox.measure.mismatch import PAPER_LEVELS, MismatchResult, mismatch
from thetabox.measure.significance import mann_whitney

__all__ = ["PAPER_LEVELS", "AttackResult", "MismatchResult", "attack", "mann_whitney", "mismatch"]
