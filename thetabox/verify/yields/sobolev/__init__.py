"""Proven yield of convolutions and pools by the log-Sobolev inequality; see ``docs/yield.md``, method log-sobolev."""

from thetabox.verify.yields.sobolev.proof import events, failure, fits

__all__ = ["events", "failure", "fits"]
