"""Which random errors a chip's parameters have: options of the commands about yield, and the object made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from thetabox.cli.options import Function
from thetabox.cli.values import Numbers, Scale, once
from thetabox.noise import Noise

# Field of the noise → its option and what is said of it.
PATTERNS = {
    "scale": ("--noise-scale", "PATTERN=FACTOR", "Factor on σ for a pattern of names"),
    "correlated": (
        "--correlated",
        "chip|layer=FACTOR",
        "An error that a chip's parameters, or those of a tensor, share besides",
    ),
    "drift": ("--drift", "PATTERN=SHIFT", "Known relative shift, e.g. *=-0.05"),
    "drift_bound": ("--drift-bound", "PATTERN=BOUND", "Largest unknown relative shift of each parameter"),
}


def sigma_option(default: str | None) -> Callable[[Function], Function]:
    """One σ or several."""
    return click.option(
        "--sigma",
        type=Numbers(),
        default=default,
        metavar="S[,S…]",
        show_default=default is not None,
        help="Size of the random errors: their standard deviation, in units of each parameter's own size.",
    )


def noise_options(function: Function) -> Function:
    """Which random errors, and how the yield is proven."""
    decorate = click.option(
        "--method",
        default="auto",
        show_default=True,
        help="Of the proof of yield; auto takes the best that fits for each sample.",
    )
    function = decorate(function)
    for option, metavar, text in reversed(PATTERNS.values()):
        function = click.option(option, type=Scale(), multiple=True, metavar=metavar, help=f"{text}; repeatable.")(
            function
        )
    decorate = click.option(
        "--noise",
        default="gaussian",
        show_default=True,
        metavar="gaussian|subgaussian",
        help="Of the errors n in θ + σ|θ|n, independent of each other: standard normal, or any of mean zero and "
        "variance proxy at most 1 (bounded ones in [-1, 1], for instance).",
    )
    return decorate(function)


def make_noise(source: dict[str, Any]) -> Noise:
    """The random errors, taken out of what the command was given.

    Raises:
        InputError: a pattern has two numbers, or see :class:`Noise`.
    """
    held = {
        field: once(option, source.pop(option.removeprefix("--").replace("-", "_")))
        for field, (option, _, _) in PATTERNS.items()
    }
    return Noise(source.pop("noise"), **held)
