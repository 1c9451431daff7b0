"""The parameter box: which parameters may be off, and by how much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.errors import InputError

KINDS = ("relative", "absolute", "range")
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

    Raises:
        InputError: unknown kind, or a factor that is negative or not finite.
    """

    kind: str = "relative"
    include: str = "*"
    exclude: str = ""
    scale: Mapping[str, float] = field(default_factory=dict)
    fold: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown box kind {self.kind!r}; choose one of {', '.join(KINDS)}")
        for pattern, factor in self.scale.items():
            if not (math.isfinite(factor) and factor >= 0):
                raise InputError(f"box scale for {pattern!r} is {factor}; it must be a finite number of at least 0")

    def factors(self, model: nn.Module) -> dict[str, float]:
        """Factor on ε of every tensor in the box, by name; what is absent is exact."""
        factors = {}
        for name, explicit_only in _candidates(model):
            patterns = _patterns(self.include)
            if explicit_only:
                patterns = [p for p in patterns if p.strip("*?")]
            if _matches(name, patterns) and not _matches(name, _patterns(self.exclude)):
                factor = next((float(f) for p, f in self.scale.items() if fnmatchcase(name, p)), 1.0)
                if factor > 0:
                    factors[name] = factor
        return factors

    def unit_radius(self, theta: Tensor) -> Tensor:
        """Radius of the box at ε = 1 and factor 1: same shape as ``theta``."""
        if self.kind == "relative":
            return theta.abs()
        if self.kind == "absolute":
            return torch.ones_like(theta)
        return torch.full_like(theta, 1.0) * (theta.max() - theta.min())

    def describe(self) -> dict[str, Any]:
        """The ``box`` entry of ``certificate.json``."""
        return {
            "kind": self.kind,
            "include": self.include,
            "exclude": self.exclude,
            "scale": dict(self.scale),
            "fold": self.fold,
        }


def _patterns(text: str) -> list[str]:
    return [p.strip() for p in text.split(",") if p.strip()]


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, p) for p in patterns)


def _candidates(model: nn.Module) -> list[tuple[str, bool]]:
    """(name, only when named explicitly) of each tensor that a box may hold."""
    spiking = hasattr(model, "initial_state") and hasattr(model, "step")
    found = []
    for name, p in model.named_parameters():
        if p.is_floating_point():
            found.append((name, spiking and name.rsplit(".", 1)[-1] in NEURON_PARAMETERS))
    found += [(name, True) for name, b in model.named_buffers() if b.is_floating_point()]
    return found
