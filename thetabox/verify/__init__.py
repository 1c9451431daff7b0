"""The verifier: intervals, operator rules, certificates."""

from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.certificate import Certificate
from thetabox.verify.certify import certify
from thetabox.verify.domain import Profile
from thetabox.verify.inspect import inspect
from thetabox.verify.interpreter.rules.table import rule
from thetabox.verify.logits import logit_bounds
from thetabox.verify.radii import Radii
from thetabox.verify.radius import certified_radius
from thetabox.verify.yields import YieldCertificate, certify_yield, proven_sigma

__all__ = [
    "Certificate",
    "Interval",
    "Profile",
    "Radii",
    "YieldCertificate",
    "certified_radius",
    "certify",
    "certify_yield",
    "inspect",
    "logit_bounds",
    "proven_sigma",
    "rule",
]
