"""thetabox: proves how much every weight of a trained network may be off before a prediction can change."""

from thetabox import compare, data, measure, models, train, workers
from thetabox.box import Box
from thetabox.errors import InputError, UnsupportedOperator
from thetabox.measure.attack import attack
from thetabox.measure.landscape import landscape
from thetabox.measure.mismatch import mismatch
from thetabox.measure.pcm import pcm
from thetabox.measure.random_attack import random_attack
from thetabox.measure.sampled_yield import SampledYield, sampled_yield
from thetabox.measure.shared_attack import shared_attack
from thetabox.models.checkpoint import load, save
from thetabox.noise import Noise
from thetabox.verify import Certificate, Interval, Radii, certified_radius, certify, inspect, logit_bounds, rule
from thetabox.verify.difference import Difference, diff
from thetabox.verify.yields import YieldCertificate, certify_yield, proven_sigma
from thetabox.version import __version__

__all__ = [
    "Box",
    "Certificate",
    "Difference",
    "InputError",
    "Interval",
    "Noise",
    "Radii",
    "SampledYield",
    "UnsupportedOperator",
    "YieldCertificate",
    "__version__",
    "attack",
    "certified_radius",
    "certify",
    "certify_yield",
    "compare",
    "data",
    "diff",
    "inspect",
    "landscape",
    "load",
    "logit_bounds",
    "measure",
    "mismatch",
    "models",
    "pcm",
    "proven_sigma",
    "random_attack",
    "rule",
    "sampled_yield",
    "save",
    "shared_attack",
    "train",
    "workers",
]
