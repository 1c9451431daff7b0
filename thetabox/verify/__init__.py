"""The verifier: intervals, operator rules, certificates."""

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.certificate import Certificate
from thetabox.verify.certify import certify, logit_bounds
from thetabox.verify.domain import Profile
from thetabox.verify.inspect import inspect
from thetabox.verify.interpreter.rules.table import rule
from thetabox.verify.radius import Radii, certified_radius

__all__ = [
    "Certificate",
    "Interval",
    "Profile",
    "Radii",
    "certified_radius",
    "certify",
    "inspect",
    "logit_bounds",
    "rule",
]
