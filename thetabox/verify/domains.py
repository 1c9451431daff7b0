"""The table of domains: name → class, with the checks of what the user asked for."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from thetabox.errors import InputError
from thetabox.verify.effort import DEFAULT, PASSES_A_SECOND

if TYPE_CHECKING:
    from thetabox.verify.domain import Domain

AUTO = "auto"
# Cheap ones first. Classes are imported when they are asked for; a domain whose module is absent is no domain.
DOMAINS = {
    "interval": "thetabox.verify.interval.domain:PlainIntervals",
    "linear": "thetabox.verify.linear:Linear",
    "histories": "thetabox.verify.histories:Histories",
    "lirpa": "thetabox.verify.lirpa.domain:Lirpa",
}
# Options of ``auto`` itself: forward passes that the stages after plain intervals may take for each sample and ε.
AUTO_DEFAULTS: Mapping[str, Any] = {"effort": DEFAULT}


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
    domain: type[Domain] = getattr(importlib.import_module(module), kind)
    return domain


def check(name: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options that were given, once domain and options are known to exist and to be of the right kind.

    A ``budget`` in seconds, which ``auto`` took before, becomes an ``effort``; a warning says so.

    Raises:
        InputError: unknown domain or option, or a value of another kind than the default.
    """
    if not isinstance(options, Mapping | None):
        raise InputError(f"options must be a dictionary of name to value, not {type(options).__name__}")
    chosen = dict(options or {})
    if name == AUTO:
        chosen = _without_budget(chosen)
        defaults = AUTO_DEFAULTS
    else:
        defaults = domain_class(name).defaults
        chosen = _renamed(domain_class(name), chosen)
    for key, value in chosen.items():
        if key not in defaults:
            known = f"; it has {', '.join(defaults)}" if defaults else ""
            raise InputError(f"the domain {name!r} has no option {key!r}{known}")
        if name == AUTO:
            chosen[key] = _effort(key, value, "forward passes")
        else:
            _check_value(name, key, value, defaults[key])
    return chosen


def _renamed(kind: type[Domain], chosen: dict[str, Any]) -> dict[str, Any]:
    """Former options by the names and values that they have today."""
    out = {}
    for key, value in chosen.items():
        name, values = kind.renamed.get(key, (key, {}))
        if name != key:
            if name in chosen:
                raise InputError(f"give {name!r} alone; {key!r} is what it was called before")
            try:
                now = values.get(value, value)
            except TypeError:  # a list, say: no value of any option
                now = value
            warnings.warn(
                f"the option {key!r} of the domain {kind.name!r} is called {name!r} now, and {value!r} is {now!r}",
                FutureWarning,
                stacklevel=_outside(),
            )
            value = now
        out[name] = value
    return out


def _effort(key: str, value: Any, unit: str) -> float:
    """``None`` stands for the default."""
    if value is None:
        return DEFAULT
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        raise InputError(f"the option {key!r} is beyond what floats hold; inf stands for no limit") from None
    if not number >= 0:  # as NaN is not
        raise InputError(f"the option {key!r} must be a number of {unit} of at least 0, not {value!r}")
    return number


def _without_budget(chosen: dict[str, Any]) -> dict[str, Any]:
    """Seconds a sample as the effort that they are read as; the clock has no say in it any more."""
    if "budget" not in chosen:
        return chosen
    if "effort" in chosen:
        raise InputError("give 'effort' alone; 'budget', in seconds, is what it was before")
    seconds = chosen.pop("budget")
    if seconds is None:
        return chosen
    effort = PASSES_A_SECOND * _effort("budget", seconds, "seconds")
    warnings.warn(
        f"the option 'budget' is no longer kept by the clock and will go: {seconds:g} s is read as effort {effort:g}, "
        "forward passes for each sample and ε; give 'effort', and a timeout where there must be an end",
        FutureWarning,
        stacklevel=_outside(),
    )
    return {**chosen, "effort": effort}


def _outside() -> int:
    """Frames from the warning to the caller of the package."""
    depth, frame = 1, inspect.currentframe()
    frame = frame.f_back if frame is not None else None
    while frame is not None and str(frame.f_globals.get("__name__", "")).split(".")[0] == "thetabox":
        depth, frame = depth + 1, frame.f_back
    return depth


def recorded(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a file holds them: no limit is ``None``, for JSON knows no infinity."""
    return {key: None if value == math.inf else value for key, value in options.items()}


def is_sound(name: str) -> bool:
    """Whether a domain's bounds are proofs; an unknown name is taken at its word."""
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
