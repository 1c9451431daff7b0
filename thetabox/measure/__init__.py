"""What happens empirically: the worst weights in the box, and random ones; the loss around them; ageing devices."""

from thetabox.measure.attack import AttackResult, attack
from thetabox.measure.constant_noise import ConstantNoiseResult, constant_noise, grown
from thetabox.measure.during_training import AttackedDuring, attacked_during
from thetabox.measure.landscape import LandscapeResult, landscape
from thetabox.measure.membrane import MembraneResult, membrane
from thetabox.measure.mismatch import PAPER_LEVELS, MismatchResult, mismatch
from thetabox.measure.pcm import PCMResult, pcm
from thetabox.measure.quantise import QuantisationResult, quantisation, quantised
from thetabox.measure.random_attack import RandomAttackResult, random_attack
from thetabox.measure.sampled_yield import SampledYield, sampled_yield
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
    "PCMResult",
    "QuantisationResult",
    "RandomAttackResult",
    "SampledYield",
    "SharedAttackResult",
    "attack",
    "attacked_during",
    "constant_noise",
    "grown",
    "landscape",
    "mann_whitney",
    "membrane",
    "mismatch",
    "pcm",
    "quantisation",
    "quantised",
    "random_attack",
    "sampled_yield",
    "shared_attack",
]
