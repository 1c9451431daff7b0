"""thetabox: proves how much every weight of a trained network may be off before a prediction can change."""

from thetabox import compare, data, measure, models, train
from thetabox.box import Box
from thetabox.errors import InputError, UnsupportedOperator
from thetabox.measure.attack import attack
from thetabox.measure.landscape import landscape
from thetabox.measure.mismatch import mismatch
from thetabox.measure.pcm import pcm
from thetabox.measure.random_attack import random_attack
from thetabox.measure.shared_attack import shared_attack
from thetabox.models.checkpoint import load, save
from thetabox.verify import Certificate, Interval, Radii, certified_radius, certify, inspect, logit_bounds, rule
from thetabox.version import __version__

__all__ = [
    "Box",
    "Certificate",
    "InputError",
    "Interval",
    "Radii",
    "UnsupportedOperator",
    "__version__",
    "attack",
    "certified_radius",
    "certify",
    "compare",
    "data",
    "inspect",
    "landscape",
    "load",
    "logit_bounds",
    "measure",
    "mismatch",
    "models",
    "pcm",
    "random_attack",
    "rule",
    "save",
    "shared_attack",
    "train",
]
