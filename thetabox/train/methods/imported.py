"""Training methods of the user's own, by the place where they are defined."""

from __future__ import annotations

from thetabox.errors import InputError
from thetabox.train.methods.method import Method
from thetabox.user_code import object_at


def imported(place: str) -> type[Method]:
    """The method at ``package.module:Class`` or ``path/to/file.py:Class``; importing it runs the user's code.

    Modules of the current folder count too, behind those that are installed.

    Raises:
        InputError: there is none, its module cannot be imported, or it is no frozen dataclass over :class:`Method`.
    """
    kind = object_at(place, "training method")
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise InputError(f"{place} is no training method: it must be a subclass of thetabox.train.Method")
    if "__dataclass_params__" not in vars(kind):
        raise InputError(f"{place} must be a frozen dataclass (@dataclass(frozen=True)): its fields are its settings")
    return kind
