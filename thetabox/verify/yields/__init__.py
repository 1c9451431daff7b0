"""Proven yield: the share of chips of random mismatch that classify a sample right, bounded from below by proof."""

from thetabox.verify.yields.certificate import YieldCertificate
from thetabox.verify.yields.certify import certify_yield
from thetabox.verify.yields.largest import proven_sigma

__all__ = ["YieldCertificate", "certify_yield", "proven_sigma"]
