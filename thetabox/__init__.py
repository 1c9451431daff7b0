"""thetabox: proves how much every weight of a trained network may be off before a prediction can change."""

from thetabox import data, measure, models, train
from thetabox.box import Box
from thetabox.errors import InputError, UnsupportedOperator
from thetabox.measure.attack import attack
from thetabox.measure.mismatch import mismatch
from thetabox.models.checkpoint import load, save
from thetabox.verify import Certificate, Interval, certified_radius, certify, logit_bounds
from thetabox.version import __version__

__all__ = [
    "Box",
    "Certificate",
    "InputError",
    "Interval",
    "UnsupportedOperator",
    "__version__",
    "attack",
    "certified_radius",
    "certify",
    "data",
    "load",
    "logit_bounds",
    "measure",
    "mismatch",
    "models",
    "save",
    "train",
]
