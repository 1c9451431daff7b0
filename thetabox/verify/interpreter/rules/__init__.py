"""Operator rules, one file a family; importing this package fills the table."""

from thetabox.verify.interpreter.rules import (
    activation,
    compare,
    dense,
    elementwise,
    movement,
    normalise,
    pooling,
    recurrent,
    reduction,
)
from thetabox.verify.interpreter.rules.table import TABLE, Rule, rule

__all__ = [
    "TABLE",
    "Rule",
    "activation",
    "compare",
    "dense",
    "elementwise",
    "movement",
    "normalise",
    "pooling",
    "recurrent",
    "reduction",
    "rule",
]
