"""What a report needs of its inputs, as plain numbers: one place that reads certificates and attacks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thetabox.errors import InputError

if TYPE_CHECKING:
    from thetabox.verify.certificate import Certificate

FLOAT32_WARNING = (
    "This certificate covers every IEEE binary32 evaluation by ordinary dot products: any order of summation, any "
    "batch size and thread count, fused multiply-add or not. It does not cover TF32, bfloat16, Winograd, FFT or flush "
    "to zero. The rounding term it must allow for is as large as ε itself at ε ≤ 1e-5 on large layers, where this "
    "claim is worth little."
)
UNSOUND_WARNING = (
    "The domain of these numbers rounds without care for direction: they are a second opinion and no proof, "
    "and the gate refuses them."
)


# A rise of the uncertain share from one layer or time step to the next that is worth a word.
SUDDEN = 0.1


@dataclass(frozen=True)
class AccuracyCurve:
    """Accuracies over ε, in ascending order of ε; each array has shape [E], as fractions of the samples."""

    epsilon: np.ndarray
    verified: np.ndarray
    attacked: np.ndarray | None
    baseline: np.ndarray | None
    clean: float
    samples: int
    stages: dict[str, np.ndarray] = field(default_factory=dict)
    """How many samples each stage of the proof added, [E] each, in the order they ran; empty where there was one."""

    def count(self, index: int) -> int:
        """Verified samples at one ε."""
        return round(float(self.verified[index]) * self.samples)


@dataclass(frozen=True)
class RadiusSummary:
    """Largest proven ε of every sample; ``exact`` when searched for, else the largest verified ε of the sweep."""

    values: np.ndarray
    bisected: bool

    @property
    def proven(self) -> np.ndarray:
        """The positive ones."""
        return self.values[self.values > 0]


@dataclass(frozen=True)
class UncertainUnits:
    """Where certainty is lost: share of uncertain units by layer or time step, [E, L], for ε ascending."""

    kind: str
    names: list[str]
    epsilon: np.ndarray
    share: np.ndarray
    own_unit: str = ""
    caption: str = ""

    @property
    def unit(self) -> str:
        return self.own_unit or ("spikes" if self.kind == "steps" else "ReLUs")

    def sentences(self) -> list[str]:
        """One line an ε: where the first uncertain unit stands and where half are uncertain, or what costs most."""
        if self.kind == "losses":
            return self._dearest()
        where = "time step" if self.kind == "steps" else "layer"
        lines = []
        for epsilon, share in zip(self.epsilon, self.share, strict=True):
            if epsilon <= 0:
                continue
            some, half = np.flatnonzero(share > 0), np.flatnonzero(share >= 0.5)
            if not len(some):
                lines.append(f"ε = {number(epsilon)}: no uncertain {self.unit} at all.")
                continue
            text = f"ε = {number(epsilon)}: the first uncertain {self.unit} at {where} {self.names[some[0]]}"
            if len(half):
                text += f", half of them uncertain from {where} {self.names[half[0]]}"
            else:
                peak = int(share.argmax())
                text += f", at most {percent(float(share[peak]))} uncertain (at {where} {self.names[peak]})"
            steps = np.diff(share, prepend=0.0)
            most = int(steps.argmax())
            if len(share) > 1 and steps[most] >= SUDDEN:
                before = percent(float(share[most] - steps[most]))
                text += f"; most is lost at {where} {self.names[most]}, from {before} to {percent(float(share[most]))}"
            lines.append(text + ".")
        return lines

    def _dearest(self) -> list[str]:
        lines = []
        for epsilon, share in zip(self.epsilon, self.share, strict=True):
            if epsilon > 0 and share.any():
                most = [f"{self.names[i]} ({percent(float(share[i]))})" for i in np.argsort(-share)[:2] if share[i] > 0]
                lines.append(f"ε = {number(epsilon)}: most is lost at {', then at '.join(most)}.")
        return lines


def curve_of(certificate: Certificate, attack: Any = None) -> AccuracyCurve:
    """The accuracies of a certificate and, where its ε match, of an attack.

    Raises:
        InputError: the attack was run at other ε than the certificate.
    """
    epsilon = _array(certificate.epsilon)
    order = np.argsort(epsilon, kind="stable")
    attacked = None
    if attack is not None:
        attacked = _array(attack.accuracy)
        if not np.array_equal(_array(attack.epsilon), epsilon):
            raise InputError("the attack was run at other ε than the certificate; run both at the same ε")
        attacked = attacked[order]
    baseline = certificate.baseline
    return AccuracyCurve(
        epsilon[order],
        _array(certificate.verified_accuracy)[order],
        attacked,
        None if baseline is None else _array(baseline)[order],
        float(certificate.clean_accuracy),
        int(certificate.label.shape[0]),
        _stages(certificate, order),
    )


def _stages(certificate: Certificate, order: np.ndarray) -> dict[str, np.ndarray]:
    counts = certificate.options.get("proven_by", {})
    stages = {str(name): _array(values)[order] for name, values in counts.items() if len(values) == len(order)}
    return stages if len(stages) > 1 else {}


def radii_of(certificate: Certificate) -> RadiusSummary:
    """Certified radii [N] where they were computed, else the largest verified ε of the sweep (0 where none)."""
    radius = certificate.radius
    if radius is not None:
        return RadiusSummary(_array(radius), True)
    epsilon = _array(certificate.epsilon)
    verified = np.asarray(certificate.verified.cpu(), dtype=bool)
    return RadiusSummary((verified * epsilon[:, None]).max(0), False)


def failure_of(certificate: Certificate) -> UncertainUnits | None:
    """The certificate's profile of uncertain units, if it has one."""
    profile = certificate.profile
    if profile is None or not len(profile.names):
        return None
    epsilon = _array(certificate.epsilon)
    order = np.argsort(epsilon, kind="stable")
    names, share = [str(n) for n in profile.names], _array(profile.share)[order]
    return UncertainUnits(profile.kind, names, epsilon[order], share, profile.unit, profile.caption)


def number(value: float) -> str:
    """A number as people write it: ``0``, ``0.0005``, ``1e-05``."""
    if value == 0:
        return "0"
    return f"{value:.4g}"


def percent(fraction: float) -> str:
    """``0.975`` → ``97.5 %``."""
    return "–" if not math.isfinite(fraction) else f"{100 * fraction:.1f} %"


def duration(seconds: float) -> str:
    """A time as people write it: ``25 s``, ``1 h``, ``30 d``, ``1 y``."""
    for size, unit in ((31_536_000, "y"), (86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} s"


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
