"""The page of a proven yield: the claims in a sentence each, what they rest on, and what is assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from thetabox.report.facts import UNITS, Rows, count_text, interface, origin, patterns, source
from thetabox.report.html import render
from thetabox.report.results import duration, number, percent
from thetabox.report.yield_curve import SHARE, SHARES, STATISTICAL, YieldCurve, at_least, complement, share_of

if TYPE_CHECKING:
    from thetabox.box import Box
    from thetabox.noise import Noise
    from thetabox.verify.yields.certificate import YieldCertificate

KINDS = {
    "gaussian": "every n is standard normal",
    "subgaussian": "every n has mean zero and variance proxy at most 1, E exp(t n) ≤ exp(t²/2) for every t; each may "
    "have a distribution of its own (bounded errors in [−1, 1] of mean zero are such)",
}


def yield_page(certificate: YieldCertificate, curve: YieldCurve, title: str | None = None) -> str:
    """The page, from a certificate and the numbers of :func:`~thetabox.report.yield_curve.yield_curve`."""
    from thetabox.report.figures import to_svg  # here, for matplotlib takes a second
    from thetabox.report.yield_figure import yield_figure

    data = certificate.data_info.get("name") or f"{count_text(curve.samples)} samples"
    indices = curve.order.tolist()
    return render(
        "yield.html.j2",
        title=title or f"Proven yield of {source(certificate)} on {data}",
        finished=certificate.finished,
        cards=_cards(curve),
        claims=[certificate.claim(index) for index in indices],
        figure=Markup(to_svg(yield_figure(curve), "yield")),
        samples=curve.samples,
        delta=number(curve.delta),
        almost_all=complement(curve.delta),
        shares=[share_of(share) for share in SHARES],
        rows=_rows(curve),
        draws=_draws(curve),
        ledgers=[
            _ledger(sigma, certificate.ledger[index] if certificate.ledger else {})
            for sigma, index in zip(curve.sigma.tolist(), indices, strict=True)
        ],
        assumed=_assumed(certificate.noise, certificate.box),
        facts=_facts(certificate),
    )


def _cards(curve: YieldCurve) -> list[dict[str, str]]:
    cards = [{"label": "clean accuracy", "value": percent(curve.clean)}]
    last = len(curve.sigma) - 1
    for index in sorted({0, last // 2, last}):
        label = f"reached by {share_of(SHARE)} of all chips at σ = {number(curve.sigma[index])}, at least"
        cards.append({"label": label, "value": at_least(curve.chips[SHARE][index])})
    return cards


def _rows(curve: YieldCurve) -> list[dict[str, Any]]:
    rows = []
    for index, sigma in enumerate(curve.sigma.tolist()):
        row: dict[str, Any] = {
            "sigma": number(sigma),
            "proven": f"{int(curve.count[index])}/{curve.samples}",
            "mean": at_least(curve.mean[index]),
            "chips": [at_least(curve.chips[share][index]) for share in SHARES],
        }
        if curve.draws is not None:
            row["sampled"] = [
                f"{int(curve.draws.right[index])}/{curve.samples}",
                percent(curve.draws.mean[index]),
                percent(curve.draws.reached[index]),
            ]
        rows.append(row)
    return rows


def _draws(curve: YieldCurve) -> dict[str, str] | None:
    if curve.draws is None:
        return None
    return {
        "label": STATISTICAL,
        "count": str(curve.draws.count),
        "share": share_of(curve.draws.share),
        "confidence": share_of(curve.draws.confidence),
    }


def _ledger(sigma: float, ledger: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """The events of one σ; empty where nothing is proven."""
    proof, groups = next(iter(ledger.items()), ("", {}))
    return {
        "sigma": number(sigma),
        "proof": proof,
        "rows": [
            (group, count_text(round(entry["events"])), number(entry["probability"])) for group, entry in groups.items()
        ],
        "sum": number(sum(entry["probability"] for entry in groups.values())),
    }


def _assumed(noise: Noise, box: Box) -> list[tuple[str, str]]:
    """What the claim takes for granted, of this very noise."""
    independent = "the errors of different parameters are independent of each other"
    if not noise.independent:
        shared = " and ".join(f"one of a {where}, {number(a)} times as large" for where, a in noise.correlated.items())
        independent += f", but for the errors that they share: {shared}"
    drift = [f"{p} is off by {number(100 * d)} % besides, known" for p, d in noise.drift.items() if d]
    drift += [f"{p} is off by up to {number(100 * b)} % besides, unknown" for p, b in noise.drift_bound.items() if b]
    factors = [f"σ times {number(f)} for {p}" for p, f in noise.scale.items()]
    return [
        ("Independent errors", f"{independent}."),
        (
            "Their distribution",
            f"a parameter θ is stored as θ + σ τ n, τ = {UNITS[box.kind]}; {KINDS[noise.kind]}"
            f"{''.join(f'; {one}' for one in (*factors, *drift))}.",
        ),
        (
            "A parameter has one error",
            "wherever it is read (a kernel at all of its positions, a cell's weight at every step), and all of its "
            "readings are counted together; a network of which that is not known is refused.",
        ),
        (
            "Real arithmetic",
            "inputs and parameters outside of the box are as stored, and the chip computes without rounding.",
        ),
    ]


def _facts(certificate: YieldCertificate) -> Rows:
    box, noise = certificate.box.describe(), certificate.noise
    rows: Rows = [
        *origin(certificate),
        ("errors", noise.kind),
        *(
            (what, ", ".join(f"{k}: {number(v)}" for k, v in held.items()))
            for what, held in noise.parts.items()
            if held
        ),
        ("unit of σ", f"{UNITS[box['kind']]} ({box['kind']}); {patterns(box, 'σ')}"),
        ("δ asked for", number(certificate.asked)),
        ("method", certificate.method),
        *_proofs(certificate),
        *interface(certificate.model_info),
        ("arithmetic covered", "real numbers: parameters, inputs and σ as stored, everything computed from them exact"),
        ("time", duration(certificate.seconds)),
    ]
    if not certificate.finished:
        rows.append(("finished", "no: the time that was given was over; what is proven stands, more may be"))
    return rows


def _proofs(certificate: YieldCertificate) -> Rows:
    """Which proof gave how many of the proven entries, where that is known."""
    counts: Counter[str] = Counter()
    for index in range(len(certificate.sigma)):
        counts.update(certificate.proofs(index))
    text = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [("proven by", f"{text} (of samples × σ)")] if text else []
