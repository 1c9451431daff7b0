"""Backward rules, one module a family of operators; importing this fills the table."""

from thetabox.verify.linear.rules import (
    activation,
    affine,
    arithmetic,
    attention,
    convolution,
    curves,
    einsum,
    groups,
    joining,
    masking,
    movement,
    normalise,
    pooling,
    sliding,
    windows,
)

__all__ = [
    "activation",
    "affine",
    "arithmetic",
    "attention",
    "convolution",
    "curves",
    "einsum",
    "groups",
    "joining",
    "masking",
    "movement",
    "normalise",
    "pooling",
    "sliding",
    "windows",
]
