"""Training methods of the user's own, by the place where they are defined."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from thetabox.errors import InputError
from thetabox.train.methods.method import Method


def imported(place: str) -> type[Method]:
    """The method at ``package.module:Class``; importing it runs the user's code.

    Modules of the current folder count too, behind those that are installed.

    Raises:
        InputError: there is none, its module cannot be imported, or it is no frozen dataclass over :class:`Method`.
    """
    name, _, attribute = place.partition(":")
    kind = getattr(_module(name, place), attribute, None)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise InputError(f"{place} is no training method: it must be a subclass of thetabox.train.Method")
    if "__dataclass_params__" not in vars(kind):
        raise InputError(f"{place} must be a frozen dataclass (@dataclass(frozen=True)): its fields are its settings")
    return kind


def _module(name: str, place: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except Exception as error:  # the user's code raises whatever it likes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot import the training method {place}: {reason}") from error
