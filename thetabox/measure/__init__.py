"""What happens empirically: the worst weights that can be found in the box, and random ones; the loss around them."""

from thetabox.measure.attack import AttackResult, attack
from thetabox.measure.constant_noise import ConstantNoiseResult, constant_noise, grown
from thetabox.measure.during_training import AttackedDuring, attacked_during
from thetabox.measure.landscape import LandscapeResult, landscape
from thetabox.measure.membrane import MembraneResult, membrane
from thetabox.measure.mismatch import PAPER_LEVELS, MismatchResult, mismatch
from thetabox.measure.random_attack import RandomAttackResult, random_attack
from thetabox.measure.shared_attack import SharedAttackResult, shared_attack
from thetabox.measure.significance import mann_whitney

__all__ = [
    "PAPER_LEVELS",
    "AttackResult",
    "AttackedDuring",
    "ConstantNoiseResult",
    "LandscapeResult",
    "MembraneResult",
    "MismatchResult",
    "RandomAttackResult",
    "SharedAttackResult",
    "attack",
    "attacked_during",
    "constant_noise",
    "grown",
    "landscape",
    "mann_whitney",
    "membrane",
    "mismatch",
    "random_attack",
    "shared_attack",
]
