"""The one table from operator to rule.

A rule is a function of a :class:`~thetabox.verify.context.Context` and the operator's own arguments, in which every
tensor is an :class:`~thetabox.verify.interval.Interval` (or a :class:`~thetabox.verify.parameter.Parameter`, for
rules that ask for it). It returns an interval that holds every value the operator can take, rounding included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RuleFunction = Callable[..., Any]


@dataclass(frozen=True)
class Rule:
    """How to bound one operator.

    Attributes:
        function: the rule.
        elementwise: operands arrive as intervals that broadcast against each other.
        parameters: parameters arrive as they are, not as intervals.
        slack: the rule accounts for its operands' slack; otherwise they arrive settled.
        rows: a value that depends on ε but on no sample is handed over with its leading rows dimension; otherwise the
            rule is called once a row.
    """

    function: RuleFunction
    elementwise: bool = False
    parameters: bool = False
    slack: bool = False
    rows: bool = False


TABLE: dict[str, Rule] = {}


def rule(
    *operators: str,
    elementwise: bool = False,
    parameters: bool = False,
    slack: bool = False,
    rows: bool = False,
) -> Callable[[RuleFunction], RuleFunction]:
    """Register a function as the rule of operators such as ``"aten.relu.default"``.

    Own operators are added from outside with the same call; a later registration replaces an earlier one.
    """

    def register(function: RuleFunction) -> RuleFunction:
        for operator in operators:
            TABLE[operator] = Rule(function, elementwise, parameters, slack, rows=rows or elementwise)
        return function

    return register
