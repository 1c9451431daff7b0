"""The parameter box: which parameters may be off, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
        for names, explicit_only in _candidates(model):
            patterns = _patterns(self.include)
            if explicit_only:
                patterns = [p for p in patterns if p.strip("*?")]
            # A tensor that is shared under several names is in the box as soon as one of them is.
            wanted = [n for n in names if _matches(n, patterns) and not _matches(n, _patterns(self.exclude))]
            factor = max((self._factor(name) for name in wanted), default=0.0)
            if factor > 0:
                factors[names[0]] = factor
        return factors

    def _factor(self, name: str) -> float:
        return next((float(f) for p, f in self.scale.items() if fnmatchcase(name, p)), 1.0)

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


def _candidates(model: nn.Module) -> list[tuple[list[str], bool]]:
    """(names, only when named explicitly) of each tensor that a box may hold."""
    spiking = hasattr(model, "initial_state") and hasattr(model, "step")
    parameters = _by_tensor(model.named_parameters(remove_duplicate=False))
    found = [(n, spiking and any(name.rsplit(".", 1)[-1] in NEURON_PARAMETERS for name in n)) for n in parameters]
    return found + [(names, True) for names in _by_tensor(model.named_buffers(remove_duplicate=False))]


def _by_tensor(named: Iterable[tuple[str, Tensor]]) -> list[list[str]]:
    """All names of each floating-point tensor, in order."""
    names: dict[int, list[str]] = {}
    for name, tensor in named:
        if tensor.is_floating_point():
            names.setdefault(id(tensor), []).append(name)
    return list(names.values())
