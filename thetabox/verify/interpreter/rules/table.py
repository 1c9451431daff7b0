"""The one table from operator to rule.

A rule is a function of a :class:`~thetabox.verify.interpreter.context.Context` and the operator's own arguments, in
which every tensor is an :class:`~thetabox.verify.arithmetic.interval.Interval` (or, for rules that ask for it, a
:class:`~thetabox.verify.arithmetic.parameter.Parameter`). It returns an interval that holds every value
the operator can take, rounding included.

An argument of the operator that the function does not name, and that is not at its default, is refused; ``*args`` and
``**kwargs`` name nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, signature
from typing import Any, Literal, NamedTuple

from thetabox.verify.network.graph import Operation, Ref
from thetabox.verify.network.operators import RULED

RuleFunction = Callable[..., Any]
Types = Literal["real", "whole", "moves", "casts"]

# Arguments that say where and how a tensor is stored, never what is in it.
STORAGE = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy", "implicit"})
EVERYTHING = ("*",)


class Named(NamedTuple):
    """What a rule's function takes behind the context: so many by place, these by name, any others."""

    positional: int
    names: frozenset[str]
    any_place: bool
    any_name: bool


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
        types: of which results the rule speaks: ``real`` of floating types only; ``whole`` of whole numbers and truth
            values too, as long as they do not wrap; ``moves`` of every type, as nothing is computed; ``casts`` of every
            type, each of which the rule itself refuses or bounds.
        honours: arguments that the rule accounts for beside those that its function names.
    """

    function: RuleFunction
    elementwise: bool = False
    parameters: bool = False
    slack: bool = False
    rows: bool = False
    types: Types = "real"
    honours: frozenset[str] = frozenset()

    @cached_property
    def _named(self) -> Named:
        parameters = list(signature(self.function).parameters.values())[1:]
        kinds = {p.kind for p in parameters}
        positional = [p for p in parameters if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
        names = [p.name for p in parameters if p.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
        return Named(
            len(positional), frozenset(names), Parameter.VAR_POSITIONAL in kinds, Parameter.VAR_KEYWORD in kinds
        )

    def __call__(self, context: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The rule's result; arguments of which :meth:`unheard` says nothing and that it does not take are left out."""
        if kwargs or len(args) > self._named.positional:
            named = self._named
            args = args if named.any_place else args[: named.positional]
            kwargs = kwargs if named.any_name else {k: v for k, v in kwargs.items() if k in named.names}
        return self.function(context, *args, **kwargs)

    def unheard(self, operation: Operation) -> str | None:
        """The first argument of an operation that the rule does not account for, if there is one."""
        schema = getattr(operation.target, "_schema", None)
        if schema is None or self.honours.issuperset(EVERYTHING):
            return None
        named = self._named
        positional = [a for a in schema.arguments if not a.kwarg_only]
        for place, (argument, value) in enumerate(zip(positional, operation.args, strict=False)):
            if place >= named.positional and not self._ignores(argument, value):
                return str(argument.name)
        for argument in schema.arguments:
            if argument.name not in operation.kwargs or argument.name in named.names:
                continue
            if not self._ignores(argument, operation.kwargs[argument.name]):
                return str(argument.name)
        return None

    def _ignores(self, argument: Any, value: Any) -> bool:
        if argument.name in STORAGE or argument.name in self.honours:
            return True
        return not isinstance(value, Ref) and argument.has_default_value() and value == argument.default_value


TABLE: dict[str, Rule] = {}


def rule(
    *operators: str,
    elementwise: bool = False,
    parameters: bool = False,
    slack: bool = False,
    rows: bool = False,
    types: Types = "real",
    honours: Iterable[str] = (),
) -> Callable[[RuleFunction], RuleFunction]:
    """Register a function as the rule of operators such as ``"aten.relu.default"``.

    Own operators are added from outside with the same call; a later registration replaces an earlier one.
    """

    def register(function: RuleFunction) -> RuleFunction:
        for operator in operators:
            TABLE[operator] = Rule(
                function, elementwise, parameters, slack, rows or elementwise, types, frozenset(honours)
            )
            RULED.add(operator)
        return function

    return register
