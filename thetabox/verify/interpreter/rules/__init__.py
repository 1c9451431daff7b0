"""Operator rules, one file a family; importing this package fills the table."""

from thetabox.verify.interpreter.rules import (
    activation,
    compare,
    dense,
    einsum,
    elementwise,
    movement,
    normalise,
    pooling,
    products,
    rearrangement,
    reduction,
    resampling,
    statistics,
)
from thetabox.verify.interpreter.rules.table import TABLE, Rule, rule

__all__ = [
    "TABLE",
    "Rule",
    "activation",
    "compare",
    "dense",
    "einsum",
    "elementwise",
    "movement",
    "normalise",
    "pooling",
    "products",
    "rearrangement",
    "reduction",
    "resampling",
    "rule",
    "statistics",
]
