"""Types of the values of options: numbers, times, shares, settings of the form name=value."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, TypeVar

import click

from thetabox.errors import InputError
from thetabox.json_text import parse

T = TypeVar("T")


class Several(click.ParamType):
    """Values separated by commas, none of them twice."""

    one_of_them = "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        values = [self.one(part, param, ctx) for part in str(value).split(",")]
        if len(set(values)) < len(values):
            self.fail(f"a {self.one_of_them} stands twice", param, ctx)
        return values

    def one(self, part: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """One of the values, of its own text."""
        raise NotImplementedError


class Numbers(Several):
    """One number or several, separated by commas; finite and at least 0."""

    name = "numbers"

    def one(self, part: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(part)
        except ValueError:
            self.fail(f"{part.strip()!r} is not a number; write for instance 0,1e-4,1e-3", param, ctx)
        if not 0 <= number < float("inf"):
            self.fail(f"{part.strip()} is not a finite number of at least 0", param, ctx)
        return number


class Range(click.FloatRange):
    """A number within bounds, where there are any; NaN lies in no range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class Durations(Several):
    """One time or several, separated by commas; seconds, or with a unit (s, min, h, d, y of 365 days)."""

    name = "times"
    one_of_them = "time"
    UNITS: ClassVar[dict[str, float]] = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "y": 31_536_000}

    def one(self, part: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(s|min|h|d|y)?\s*", part)
        try:
            time = float(match[1]) * self.UNITS[match[2] or "s"] if match else math.nan
        except ValueError:
            time = math.nan
        if not math.isfinite(time):
            self.fail(f"{part.strip()!r} is not a time; write for instance 25s,1h,30d,1y", param, ctx)
        return time


class Setting(click.ParamType):
    """``name=value``."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key.strip():
            self.fail(f"{value!r} is not of the form name=value", param, ctx)
        return key.strip(), text.strip()


class Scale(Setting):
    """``pattern=factor``."""

    name = "pattern=factor"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        key, text = super().convert(value, param, ctx)
        try:
            return key, float(text)
        except ValueError:
            self.fail(f"{text!r} is not a number", param, ctx)


class Share(click.ParamType):
    """A number from 0 to 1, exactly as it is written."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            share = Decimal(str(value))
        except InvalidOperation:
            share = Decimal("nan")
        if share.is_nan() or not 0 <= share <= 1:
            self.fail(f"{value!r} is not a number from 0 to 1", param, ctx)
        return share


def once(option: str, pairs: Sequence[tuple[str, T]]) -> dict[str, T]:
    """The values of a repeatable ``name=value`` by their names.

    Raises:
        InputError: a name has two values.
    """
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{option} gives {name!r} two values")
    return dict(pairs)


def literals(option: str, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The values of a repeatable ``name=value`` by their names.

    Raises:
        InputError: a name has two values.
    """
    return {name: literal(text) for name, text in once(option, pairs).items()}


def literal(text: str) -> Any:
    """A value as JSON reads it (numbers, lists, true, false), else the text itself."""
    try:
        return parse(text)
    except ValueError:
        return text
