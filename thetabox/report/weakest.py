"""What a report says of a proof in one sentence, and of the samples for which least is proven."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from thetabox.report.results import AccuracyCurve, number, radii_of

if TYPE_CHECKING:
    from thetabox.verify.certificate import Certificate

SAMPLES = 20
# ε that a sentence can hold.
NAMED = 4


def claim(certificate: Certificate, curve: AccuracyCurve) -> str:
    """What is proven, in one sentence; nothing of what is no proof."""
    positive = [i for i, epsilon in enumerate(curve.epsilon) if epsilon > 0]
    if not certificate.sound or not positive:
        return ""
    chosen = positive if len(positive) <= NAMED else [positive[i] for i in _spread(len(positive))]
    counts = [f"{curve.count(i) or 'none'} at ε = {number(curve.epsilon[i])}" for i in chosen]
    counts[0] = counts[0].replace(" at", f" of {curve.samples} samples at", 1)
    listed = counts[0] if len(counts) == 1 else f"{', '.join(counts[:-1])} and {counts[-1]}"
    reals = certificate.arithmetic == "real"
    where = "evaluated in real numbers" if reals else "in every float32 evaluation that the certificate covers"
    return (
        f"Proven for {listed}: whatever values all parameters take in their boxes at once, the label's class wins, "
        f"{where}."
    )


def weakest(certificate: Certificate, attack: Any = None) -> list[dict[str, str]]:
    """Samples for which least is proven, those first; of equals the one whose margin is the least where proofs end."""
    epsilon = np.asarray(certificate.epsilon.cpu(), dtype=float)
    order = np.argsort(epsilon, kind="stable")
    margin = np.asarray(certificate.margin.cpu(), dtype=float)[order]
    epsilon, open_ = epsilon[order], ~(margin > 0)
    radius = radii_of(certificate).values
    samples = np.arange(margin.shape[1])
    first = np.where(open_.any(0), open_.argmax(0), len(epsilon) - 1)
    flipped = None if attack is None else ~np.asarray(attack.correct.cpu(), dtype=bool)[order]
    rows = []
    for n in np.lexsort((margin[first, samples], radius))[:SAMPLES]:
        end = margin[first[n], n]
        row = {
            "sample": str(n),
            "label": str(int(certificate.label[n])),
            "predicted": str(int(certificate.predicted[n])),
            "radius": number(radius[n]) if radius[n] > 0 else "none",
            "margin": f"{end:.3g} at ε = {number(epsilon[first[n]])}" if np.isfinite(end) else "not known",
        }
        if flipped is not None:
            row["flipped"] = number(epsilon[flipped[:, n].argmax()]) if flipped[:, n].any() else "not found"
        rows.append(row)
    return rows


def _spread(count: int) -> list[int]:
    """Places of a few of so many, the first and the last among them."""
    return sorted({round(i * (count - 1) / (NAMED - 1)) for i in range(NAMED)})
