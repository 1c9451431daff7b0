"""Balls through the operators of a network: what each multiplies a distance by, and what it adds.

One module a family of operators; importing this fills the table.
"""

from thetabox.verify.linear.norms.rules import affine, elementwise, normalise, pooling

__all__ = ["affine", "elementwise", "normalise", "pooling"]
