"""The one exception for what the user gave wrong, the notice of what was done with it, errors of others in a line."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: one line that says what is wrong and what to do about it.

    The command line prints the message and exits with status 2; in Python it is a ``ValueError``.
    """


class OneEpsilonAtATime(InputError):
    """The network computes values from perturbed parameters in a way that rows of different ε cannot share."""


class UnsupportedOperator(InputError):
    """The network holds an operator that no rule covers; the message names it and where it stands."""


class NoProof(InputError):
    """No proof of yield is about such a network, box or noise; chips of it can be drawn all the same."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, treated as Ctrl-C; unlike it, it reaches one process alone, not those that it started."""


class Notice(UserWarning):
    """Something was read in another way than it stands there; the message says how."""


def in_one_line(error: BaseException, most: int | None = None) -> str:
    """An error of others for a message: its kind and what it says, at most so many characters of that."""
    reason = " ".join(str(error).split())[:most]
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
