"""The table of domains: name → class, with the checks of what the user asked for."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thetabox.errors import InputError

if TYPE_CHECKING:
    from thetabox.verify.domain import Domain

AUTO = "auto"
# Cheap ones first. Classes are imported when they are asked for; a domain whose module is absent is no domain.
DOMAINS = {
    "interval": "thetabox.verify.plain:PlainIntervals",
    "linear": "thetabox.verify.linear:Linear",
    "histories": "thetabox.verify.histories:Histories",
    "lirpa": "thetabox.verify.second_opinion:Lirpa",
}
# Options of ``auto`` itself: seconds a sample that the stages after plain intervals may take (None: see cascade).
AUTO_DEFAULTS: Mapping[str, Any] = {"budget": None}


def names() -> list[str]:
    """Every domain that a user may ask for, ``auto`` first."""
    return [AUTO, *(name for name, place in DOMAINS.items() if importlib.util.find_spec(place.partition(":")[0]))]


def domain_class(name: str) -> type[Domain]:
    """The class of a domain other than ``auto``.

    Raises:
        InputError: there is none of this name.
    """
    if name not in names() or name == AUTO:
        raise InputError(f"unknown domain {name!r}; choose one of {', '.join(names())}")
    module, _, kind = DOMAINS[name].partition(":")
    found: type[Domain] = getattr(importlib.import_module(module), kind)
    return found


def check(name: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options that were given, once domain and options are known to exist and to be of the right kind.

    Raises:
        InputError: unknown domain or option, or a value of another kind than the default.
    """
    given = dict(options or {})
    if name != AUTO:
        defaults = domain_class(name).defaults
    else:
        defaults = AUTO_DEFAULTS
    for key, value in given.items():
        if key not in defaults:
            known = f"; it has {', '.join(defaults)}" if defaults else ""
            raise InputError(f"the domain {name!r} has no option {key!r}{known}")
        _check_value(name, key, value, defaults[key])
    if given.get("budget") is not None and name == AUTO:
        budget = given["budget"]
        if not isinstance(budget, int | float) or isinstance(budget, bool) or math.isnan(budget) or budget < 0:
            raise InputError(f"the option 'budget' must be a number of seconds of at least 0, not {budget!r}")
    return given


def recorded(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a file holds them: no limit is ``None``, for JSON knows no infinity."""
    return {key: None if value == math.inf else value for key, value in options.items()}


def is_sound(name: str) -> bool:
    """Whether a domain's answers are proofs; an unknown name is taken at its word."""
    return name not in names() or name == AUTO or domain_class(name).sound


def _check_value(name: str, key: str, value: Any, default: Any) -> None:
    if default is None:
        return
    kinds: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, kinds) or (isinstance(value, bool) and not isinstance(default, bool)):
        word = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}.get(type(default))
        raise InputError(
            f"the option {key!r} of the domain {name!r} must be {word or type(default).__name__}, not {value!r}"
        )
