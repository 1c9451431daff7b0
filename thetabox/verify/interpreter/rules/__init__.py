"""Operator rules, one file a family; importing this package fills the table."""

from thetabox.verify.interpreter.rules import (
    activation,
    attention,
    compare,
    curves,
    dense,
    elementwise,
    masking,
    movement,
    normalise,
    norms,
    pooling,
    prelu,
    reduction,
    softmax,
    steps,
)
from thetabox.verify.interpreter.rules.table import TABLE, Rule, rule

__all__ = [
    "TABLE",
    "Rule",
    "activation",
    "attention",
    "compare",
    "curves",
    "dense",
    "elementwise",
    "masking",
    "movement",
    "normalise",
    "norms",
    "pooling",
    "prelu",
    "reduction",
    "rule",
    "softmax",
    "steps",
]
