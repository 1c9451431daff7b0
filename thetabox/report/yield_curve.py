"""What a report of proven yield needs, as plain numbers: one place that reads certificates and draws."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import TYPE_CHECKING

import numpy as np

from thetabox.errors import InputError

if TYPE_CHECKING:
    from thetabox.measure.sampled_yield import SampledYield
    from thetabox.verify.yields.certificate import YieldCertificate

STATISTICAL = "statistical: confidence, not proof"
# Shares of chips of the table; the middle one stands in the figure.
SHARES = (0.9, 0.99, 0.999)
SHARE = 0.99
TENTH_OF_A_PERCENT = Decimal("0.1")


@dataclass(frozen=True)
class Draws:
    """What chips that were drawn reached, in ascending order of σ; arrays are ``[S]``.

    Attributes:
        mean: mean accuracy of the draws.
        reached: accuracy of at least ``share`` of all chips, with the confidence.
        right: samples that at least 1 - δ of the draws classify right; an estimate, as the mean is.
        count: draws a σ.
        confidence, share: as given.
    """

    mean: np.ndarray
    reached: np.ndarray
    right: np.ndarray
    count: int
    confidence: float
    share: float


@dataclass(frozen=True)
class YieldCurve:
    """What is proven of all chips, in ascending order of σ; arrays are ``[S]``, accuracies fractions of the samples.

    Attributes:
        sigma: standard deviations.
        order: places in the certificate.
        count: proven samples.
        mean: mean accuracy over chips, at least.
        chips: share of all chips → accuracy that it reaches, at least.
        delta: failure probability that was asked for.
        clean: accuracy without errors.
        samples: in all.
        draws: of random chips, if there are any.
    """

    sigma: np.ndarray
    order: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    chips: dict[float, np.ndarray]
    delta: float
    clean: float
    samples: int
    draws: Draws | None


def yield_curve(certificate: YieldCertificate, sampled: SampledYield | None = None) -> YieldCurve:
    """The numbers of a certificate and, where they are of the same question, of draws.

    Raises:
        InputError: the draws are of other σ, other samples, another noise or box than the certificate.
    """
    sigma = certificate.sigma.numpy()
    order = np.argsort(sigma, kind="stable")
    return YieldCurve(
        sigma=sigma[order],
        order=order,
        count=certificate.proven.sum(1).numpy()[order],
        mean=certificate.mean_accuracy.numpy()[order],
        chips={share: certificate.chips(share).numpy()[order] for share in SHARES},
        delta=certificate.asked,
        clean=certificate.clean_accuracy,
        samples=int(certificate.label.shape[0]),
        draws=None if sampled is None else _draws(certificate, sampled, order),
    )


def _draws(certificate: YieldCertificate, sampled: SampledYield, order: np.ndarray) -> Draws:
    if sampled.sigma.tolist() != certificate.sigma.tolist():
        raise InputError("chips were drawn at other σ than those of the proof; draw at the same σ")
    if sampled.probability.shape != certificate.delta.shape:
        raise InputError("chips were drawn for other samples than those of the proof")
    if (sampled.noise, sampled.box) != (certificate.noise, certificate.box):
        raise InputError("chips were drawn with another noise or box than those of the proof")
    right = (sampled.correct >= (1.0 - certificate.asked) * sampled.draws).sum(1)
    return Draws(
        mean=sampled.mean.numpy()[order],
        reached=sampled.accuracy.numpy()[order],
        right=right.numpy()[order],
        count=sampled.draws,
        confidence=sampled.confidence,
        share=sampled.share,
    )


def at_least(fraction: float) -> str:
    """A proven share in percent, never more than it is: ``0.99999`` → ``99.9 %``."""
    percent = Decimal(repr(float(fraction))) * 100
    return f"{percent.quantize(TENTH_OF_A_PERCENT, rounding=ROUND_DOWN)} %"


def share_of(fraction: float) -> str:
    """A share that was asked for, as it was: ``0.999`` → ``99.9 %``."""
    percent = (Decimal(repr(float(fraction))) * 100).normalize()
    return f"{percent:f} %"


def complement(delta: float) -> str:
    """1 - δ, as people write it: ``0.01`` → ``0.99``, and never more than it is."""
    return f"{(1 - Decimal(repr(delta))).normalize():f}"
