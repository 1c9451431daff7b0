"""Training methods by name; ``a+b`` combines two of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thetabox.errors import InputError
from thetabox.train.methods.abcd import Abcd
from thetabox.train.methods.amp import Amp
from thetabox.train.methods.awp import Awp
from thetabox.train.methods.counts import Counts
from thetabox.train.methods.dropout import Dropout
from thetabox.train.methods.entropy_sgd import EntropySgd
from thetabox.train.methods.forward_noise import ForwardNoise
from thetabox.train.methods.ibp import Ibp
from thetabox.train.methods.imported import imported
from thetabox.train.methods.l1 import L1
from thetabox.train.methods.method import Combined, Method, Step, hyper_parameters, parse_value, run_step
from thetabox.train.methods.quantised import Quantised
from thetabox.train.methods.sharpness import Asam, Sam, Samson
from thetabox.train.methods.small_boxes import SmallBoxes
from thetabox.train.methods.standard import Standard
from thetabox.train.methods.weight_attack import WeightAttack
from thetabox.train.methods.yield_loss import Yield

METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for kind in (
        Standard,
        Dropout,
        ForwardNoise,
        WeightAttack,
        Awp,
        Amp,
        Abcd,
        EntropySgd,
        Sam,
        Asam,
        Samson,
        Quantised,
        Ibp,
        SmallBoxes,
        Yield,
        Counts,
        L1,
    )
}
"""Name → method; ``thetabox methods`` lists them with their hyper-parameters."""


def kind_of(name: str) -> type[Method]:
    """The class of one method: a name of the table, or ``package.module:Class`` for one of the user's own.

    Raises:
        InputError: there is none.
    """
    if ":" in name:
        return imported(name)
    if name not in METHODS:
        raise InputError(
            f"unknown training method {name!r}; choose one of {', '.join(METHODS)}, join with +, or name a class of "
            "your own as package.module:Class"
        )
    return METHODS[name]


def method(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """The method of a name, or several joined by ``+``, with its hyper-parameters set.

    Args:
        name: ``"weight-attack"``, ``"weight-attack+forward-noise"``, ``"package.module:Class"``, …
        settings: hyper-parameter → value (a string is parsed); with several methods each value goes to those that
            have it, and ``method.name`` (``"forward-noise.noise"``) to one alone.

    Raises:
        InputError: unknown method or hyper-parameter, the same method twice, a value out of range, or two methods that
            search for weights of their own.
    """
    names = [part.strip() for part in name.split("+")]
    kinds = {part: kind_of(part) for part in names}
    if len(set(names)) < len(names):
        raise InputError(f"training method {name!r} names a method twice")
    left = dict(settings or {})
    used: set[str] = set()
    parts = []
    for part, kind in kinds.items():
        values = {}
        for parameter, default in hyper_parameters(kind).items():
            for key in (parameter, f"{part}.{parameter}"):
                if key in left:
                    values[parameter] = parse_value(parameter, left[key], default)
                    used.add(key)
        parts.append(kind(**values))
    unknown = [key for key in left if key not in used]
    if unknown:
        known = [parameter for kind in kinds.values() for parameter in hyper_parameters(kind)]
        raise InputError(
            f"method {name!r} has no hyper-parameter {unknown[0]!r}; it has {', '.join(known) if known else 'none'}"
        )
    searching = [part.name for part in parts if part.searches or type(part).backward is not Method.backward]
    if len(searching) > 1:
        raise InputError(f"training methods {' and '.join(searching)} cannot be combined: each searches for weights")
    return parts[0] if len(parts) == 1 else Combined(tuple(parts))


__all__ = ["METHODS", "Combined", "Method", "Step", "hyper_parameters", "kind_of", "method", "run_step"]
