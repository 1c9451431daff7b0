"""Random errors of a chip's parameters: of which kind, how large for each tensor, and what they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from glob import escape
from numbers import Real
from typing import Any

from torch import nn

from thetabox.errors import InputError
from thetabox.models.names import some, tensor_names

KINDS = ("gaussian", "subgaussian")
SHARED = ("chip", "layer")
NAMES = {"gaussian": "Gaussian", "subgaussian": "sub-Gaussian"}


@dataclass(frozen=True)
class Noise:
    r"""The random errors a claim of yield speaks of.

    A parameter :math:`\theta` of unit size :math:`r` (:math:`|\theta|` in a relative :class:`~thetabox.Box`) and factor
    :math:`f` is stored as

    .. math:: \theta' = \theta (1 + d) + \sigma f r n ,

    with the :math:`n` of all parameters **independent**, mean zero, and

    * ``gaussian``: standard normal;
    * ``subgaussian``: any distributions, one for each parameter, with variance proxy at most 1, that is
      :math:`E e^{tn} \le e^{t^2/2}` for every t. Bounded errors of mean zero in [-1, 1] are such (Hoeffding, 1963), and
      so are symmetric truncations of a standard normal.

    Args:
        kind: ``gaussian`` or ``subgaussian``.
        scale: pattern over parameter names → factor on σ; the first pattern that matches counts, 1 where none does. It
            multiplies the factor of the box.
        correlated: ``{"chip": a}``: besides, all parameters of a chip share one error,
            :math:`\theta' = \theta(1 + d) + \sigma f (r n + a c\,g)` with one standard normal :math:`c` a chip and
            :math:`g = \theta` in a relative box (a gain that is off by the same factor everywhere), :math:`g = r` in
            others (an offset). ``{"layer": a}``: one c for each tensor. Both may be given.
        drift: pattern → known relative shift :math:`d` of all parameters of a tensor (-0.05: they lost 5 %).
        drift_bound: pattern → largest absolute value of an unknown relative shift, one for each parameter and the same
            whatever the random errors are.

    Raises:
        InputError: an unknown kind or key, or a number that is not finite or of the wrong sign.

    Example:
        >>> import thetabox as tb
        >>> tb.Noise("gaussian", scale={"*bias": 0.5}).factor("fc.bias")
        0.5
    """

    kind: str = "gaussian"
    scale: Mapping[str, float] = field(default_factory=dict)
    correlated: Mapping[str, float] = field(default_factory=dict)
    drift: Mapping[str, float] = field(default_factory=dict)
    drift_bound: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise InputError(f"unknown noise {self.kind!r}; choose one of {', '.join(KINDS)}")
        for name in ("scale", "correlated", "drift", "drift_bound"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name), signed=name == "drift"))
        strange = sorted(set(self.correlated) - set(SHARED))
        if strange:
            raise InputError(f"unknown key {strange[0]!r} of correlated noise; choose among {', '.join(SHARED)}")

    @property
    def independent(self) -> bool:
        """Whether parameters share nothing random."""
        return not any(self.correlated.values())

    @property
    def drawable(self) -> bool:
        """Whether it is one distribution, which can be drawn, and no family of them."""
        return self.kind == "gaussian" and not any(self.drift_bound.values())

    @property
    def parts(self) -> dict[str, Mapping[str, float]]:
        """What is said of some parameters alone or of several together, by its name in words."""
        return {
            "factors on σ": self.scale,
            "errors in common": self.correlated,
            "known drift": self.drift,
            "unknown drift, at most": self.drift_bound,
        }

    @property
    def errors(self) -> str:
        """The errors in words, as a claim names them: ``Gaussian errors``, and whatever else they are said to be."""
        named = [
            f"{what} {', '.join(f'{key}: {number:g}' for key, number in numbers.items())}"
            for what, numbers in self.parts.items()
            if numbers
        ]
        return f"{NAMES[self.kind]} errors" + (f" ({'; '.join(named)})" if named else "")

    def factor(self, name: str) -> float:
        """Factor on σ of a parameter."""
        return _of(self.scale, name, 1.0)

    def shift(self, name: str) -> float:
        """Known relative drift of a parameter."""
        return _of(self.drift, name, 0.0)

    def bound(self, name: str) -> float:
        """Largest unknown relative drift of a parameter."""
        return _of(self.drift_bound, name, 0.0)

    def on(self, model: nn.Module, names: Iterable[str]) -> Noise:
        """The same noise of a model's parameters, each by its own name instead of the patterns that match it.

        A pattern matches a tensor by any of its names: with and without the names of wrappers (``DataParallel``,
        ``torch.compile``), and by every name of a tensor that is shared.

        Args:
            model: whose parameters.
            names: of those that are in the box, as :meth:`thetabox.Box.factors` gives them.

        Raises:
            InputError: a pattern matches none of them.
        """
        known = tensor_names(model)
        tensors = {name: known[name] for name in names}

        def by_name(what: str) -> dict[str, float]:
            patterns: Mapping[str, float] = getattr(self, what)
            for pattern in patterns:
                if not any(name.matches(pattern) for several in tensors.values() for name in several):
                    others = some(tensors) or "no parameters"
                    raise InputError(f"the {what} pattern {pattern!r} of the noise matches none of {others}")
            factors = {}
            for name, several in tensors.items():
                matching = [number for pattern, number in patterns.items() if any(n.matches(pattern) for n in several)]
                if matching:
                    factors[escape(name)] = matching[0]
            return factors

        return replace(self, scale=by_name("scale"), drift=by_name("drift"), drift_bound=by_name("drift_bound"))

    def describe(self) -> dict[str, Any]:
        """The ``noise`` entry of ``yield.json``."""
        return {
            "kind": self.kind,
            "scale": dict(self.scale),
            "correlated": dict(self.correlated),
            "drift": dict(self.drift),
            "drift_bound": dict(self.drift_bound),
        }


def _of(factors: Mapping[str, float], name: str, otherwise: float) -> float:
    return next((number for pattern, number in factors.items() if fnmatchcase(name, pattern)), otherwise)


def _numbers(what: str, patterns: Any, *, signed: bool) -> dict[str, float]:
    if not isinstance(patterns, Mapping):
        raise InputError(
            f"{what} of the noise must be a dictionary of pattern to number, not {type(patterns).__name__}"
        )
    numbers = {}
    for key, value in patterns.items():
        if not isinstance(key, str) or isinstance(value, bool) or not isinstance(value, Real):
            raise InputError(
                f"{what} of the noise must be a dictionary of pattern to number, not {{{key!r}: {value!r}}}"
            )
        number = float(value)
        if not math.isfinite(number) or (number < 0 and not signed):
            kind = "finite number" if signed else "finite number of at least 0"
            raise InputError(f"{what} of the noise for {key!r} is {number}; it must be a {kind}")
        numbers[key] = number
    return numbers
