"""The parameter box: which parameters may be off, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.errors import InputError
from thetabox.models.names import Name, by_tensor, nearest, seen_through, some, wrapped

KINDS = ("relative", "absolute", "range")
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
NEURON_PARAMETERS = ("threshold", "tau", "tau_adapt", "beta")


@dataclass(frozen=True)
class Box:
    r"""The set of all parameter values a certificate speaks of.

    For a parameter tensor :math:`\theta` and its factor :math:`f` (1 unless ``scale`` says otherwise):

    * ``relative``: :math:`\theta \pm f\varepsilon|\theta|`, elementwise, the tolerance of analog hardware;
    * ``absolute``: :math:`\theta \pm f\varepsilon`;
    * ``range``: :math:`\theta \pm f\varepsilon(\max\theta - \min\theta)`, over the whole tensor.

    Args:
        kind: one of ``relative``, ``absolute``, ``range``.
        include: comma-separated glob patterns over parameter names. ``*`` stands for every weight and bias;
            float buffers, and the neuron parameters of spiking networks (``threshold``, ``tau``, ``tau_adapt``,
            ``beta``), are in the box only when a pattern names them (``"*,threshold"``).
        exclude: comma-separated glob patterns that are left out again.
        scale: pattern → factor on ε; the first pattern that matches a name counts.
        fold: certify the network with batch norm folded into the layer before it (another box).

    Names are those of ``named_parameters`` and ``named_buffers``. Those of wrappers (``DataParallel``,
    ``torch.compile``) may be left out, so a pattern chooses the same tensors of a network and of its wrapped self.

    Raises:
        InputError: unknown kind, patterns that are no text, or a factor that is negative or not finite.

    Example:
        >>> import torch, thetabox as tb
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> tb.Box(exclude="*bias", scale={"0.*": 0.5}).factors(model)
        {'0.weight': 0.5, '2.weight': 1.0}
    """

    kind: str = "relative"
    include: str = "*"
    exclude: str = ""
    scale: Mapping[str, float] = field(default_factory=dict)
    fold: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise InputError(f"unknown box kind {self.kind!r}; choose one of {', '.join(KINDS)}")
        for what, patterns in (("include", self.include), ("exclude", self.exclude)):
            if not isinstance(patterns, str):
                raise InputError(
                    f"box {what} must be patterns in one text, separated by commas, not {type(patterns).__name__}"
                )
        if not isinstance(self.fold, bool):
            raise InputError(f"box fold must be True or False, not {self.fold!r}")
        # A dictionary of our own: the caller's may change later.
        object.__setattr__(self, "scale", _factors(self.scale))

    def factors(self, model: nn.Module, may_miss: str = "") -> dict[str, float]:
        """Factor on ε of every tensor in the box, by name; what is absent is exact.

        Args:
            model: whose tensors are meant.
            may_miss: patterns that need not match anything, as defaults that name layers of some networks only.

        Raises:
            InputError: a pattern matches nothing.
        """
        candidates = _candidates(model)
        self._check_patterns(model, candidates, _patterns(may_miss))
        include, exclude = _patterns(self.include), _patterns(self.exclude)
        factors = {}
        for tensor in candidates:
            patterns = [p for p in include if not _any_name(p)] if tensor.explicit_only else include
            # A tensor that is shared under several names is in the box as soon as one of them is.
            wanted = [n for n in tensor.names if _matches(n, patterns) and not _matches(n, exclude)]
            factor = max((self._factor(name) for name in wanted), default=0.0)
            if factor > 0:
                factors[tensor.names[0].full] = factor
        return factors

    def check(self, model: nn.Module) -> None:
        """Refuse a box in which nothing moves, though something of the network could.

        Raises:
            InputError: no tensor is in the box, the box of every one has no extent while that of another would have
                one, one holds infinite values, or a pattern matches nothing.
        """
        held = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        factors = self.factors(model)
        if not factors:
            raise InputError(
                f"no parameter is in the box (include {self.include!r}, exclude {self.exclude!r}, scale {self.scale}), "
                "so there is nothing to be proven or measured"
            )
        infinite = [name for name in factors if bool(torch.isinf(held[name].detach()).any())]
        if infinite:
            raise InputError(
                f"{infinite[0]} is in the box and holds infinite values, as a mask does, which are exact; exclude it"
            )
        if any(self._moves(held[name].detach()) for name in factors):
            return
        # A network of nothing but zeros has no weight that is off: that is no mistake of the box.
        others = [
            name for name in replace(self, include="*", exclude="", scale={}).factors(model) if name not in factors
        ]
        if any(self._moves(held[name].detach()) for name in others):
            raise InputError(
                f"nothing moves in the box: the {self.kind} error of every tensor in it ({some(factors)}) is 0; "
                "include others, or choose another kind"
            )

    def _moves(self, theta: Tensor) -> bool:
        """Whether any value of a tensor may be off; read from the bits, for arithmetic may flush small numbers to 0."""
        if self.kind == "absolute":
            return theta.numel() > 0
        bits = theta.contiguous().view(BITS[theta.dtype.itemsize]).flatten()
        if self.kind == "range":
            return bool((bits != bits[:1]).any())
        return bool(((bits != 0) & (bits != torch.iinfo(bits.dtype).min)).any())  # neither 0 nor -0

    def _check_patterns(self, model: nn.Module, candidates: list[_Candidate], may_miss: list[str]) -> None:
        names = [name for tensor in candidates for name in tensor.names]
        ordinary = [name for tensor in candidates for name in tensor.names if not tensor.explicit_only]
        include = _patterns(self.include)
        met = [
            # A network without tensors has nothing that `*` could match.
            not p.strip("*") or p in may_miss or any(n.matches(p) for n in (ordinary if _any_name(p) else names))
            for p in include
        ]
        if not all(met):
            pattern = include[met.index(False)]
            raise InputError(
                f"{'' if any(met) else 'no parameter is in the box: '}the include pattern {pattern!r} matches no "
                f"weight matrix, bias or buffer; {nearest(pattern, names)}"
            )
        # What is left out may be anything that the model holds: whole numbers are never in the box.
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        known = seen_through(model, [name for name, _ in tensors])
        for what, patterns, among in (("exclude", _patterns(self.exclude), known), ("scale", list(self.scale), names)):
            for pattern in patterns:
                if not (pattern in may_miss or any(n.matches(pattern) for n in among)):
                    raise InputError(
                        f"the {what} pattern {pattern!r} of the box matches nothing; {nearest(pattern, among)}"
                    )

    def _factor(self, name: Name) -> float:
        return next((factor for pattern, factor in self.scale.items() if name.matches(pattern)), 1.0)

    def unit_radius(self, theta: Tensor) -> Tensor:
        """Radius of the box at ε = 1 and factor 1: same shape as ``theta``."""
        if self.kind == "relative":
            return theta.abs()
        if self.kind == "absolute":
            return torch.ones_like(theta)
        return torch.full_like(theta, 1.0) * (theta.max() - theta.min()) if theta.numel() else theta.abs()

    def describe(self) -> dict[str, Any]:
        """The ``box`` entry of ``certificate.json``."""
        return {
            "kind": self.kind,
            "include": self.include,
            "exclude": self.exclude,
            "scale": dict(self.scale),
            "fold": self.fold,
        }


@dataclass(frozen=True)
class _Candidate:
    """A tensor that a box may hold: all its names, and whether only a pattern that names it chooses it."""

    names: list[Name]
    explicit_only: bool


def _factors(scale: Any) -> dict[str, float]:
    if not isinstance(scale, Mapping):
        raise InputError(f"box scale must be a dictionary of pattern to factor, not {type(scale).__name__}")
    factors = {}
    for pattern, factor in scale.items():
        if not isinstance(pattern, str):
            raise InputError(f"box scale must name its tensors by patterns in text, not by {type(pattern).__name__}")
        if isinstance(factor, bool) or not isinstance(factor, Real):
            raise InputError(f"box scale for {pattern!r} must be a number, not {type(factor).__name__}")
        try:
            number = float(factor)
        except OverflowError:  # a whole number or a fraction beyond what floats hold
            number = math.inf
        if not (math.isfinite(number) and number >= 0):
            raise InputError(f"box scale for {pattern!r} is {number}; it must be a finite number of at least 0")
        factors[pattern] = number
    return factors


def _patterns(text: str) -> list[str]:
    return [p.strip() for p in text.split(",") if p.strip()]


def _any_name(pattern: str) -> bool:
    """Whether a pattern names nothing, as ``*``: it stands for every weight and bias."""
    return not pattern.strip("*?")


def _matches(name: Name, patterns: list[str]) -> bool:
    return any(name.matches(p) for p in patterns)


def _candidates(model: nn.Module) -> list[_Candidate]:
    inner = model
    while (child := wrapped(inner)) is not None:
        inner = getattr(inner, child)
    spiking = hasattr(inner, "initial_state") and hasattr(inner, "step")
    parameters = by_tensor(model, model.named_parameters(remove_duplicate=False))
    candidates = [
        _Candidate(n, spiking and any(name.full.rsplit(".", 1)[-1] in NEURON_PARAMETERS for name in n))
        for n in parameters
    ]
    return candidates + [_Candidate(n, True) for n in by_tensor(model, model.named_buffers(remove_duplicate=False))]
