"""The report page: one self-contained HTML file, figures inline."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup

from thetabox.report.by_layer import by_layer, heads, rows
from thetabox.report.facts import count_text, interface, origin, patterns, source
from thetabox.report.results import (
    FLOAT32_WARNING,
    UNSOUND_WARNING,
    AccuracyCurve,
    RadiusSummary,
    UncertainUnits,
    curve_of,
    duration,
    failure_of,
    number,
    percent,
    radii_of,
)
from thetabox.report.weakest import claim, weakest
from thetabox.version import __version__

if TYPE_CHECKING:
    from thetabox.verify.certificate import Certificate

Entry = tuple[str, "Certificate", Any]
"""(name, certificate, attack or None)"""


def single_page(certificate: Certificate, attack: Any = None, title: str | None = None) -> str:
    """Report of one certificate."""
    data = certificate.data_info.get("name") or f"{count_text(certificate.label.shape[0])} samples"
    name = title or f"{PurePath(source(certificate)).name} on {data}"
    return render("report.html.j2", title=name, summary=None, entries=[_section(name, certificate, attack, 0)])


def comparison_page(entries: Sequence[Entry], title: str) -> str:
    """Report of several networks: their curves side by side by data set, then each by itself."""
    from thetabox.report.figures import comparison_figure, to_svg  # here, for matplotlib takes a second

    groups = grouped(entries)
    summary = {
        "figures": [Markup(to_svg(comparison_figure([part]), f"summary-{n}")) for n, part in enumerate(groups)],
        "tables": [_summary_table(data, curves) for data, curves in groups],
    }
    sections = [_section(name, cert, attack, i) for i, (name, cert, attack) in enumerate(entries)]
    return render("report.html.j2", title=title, summary=summary, entries=sections)


def grouped(entries: Sequence[Entry]) -> list[tuple[str, list[tuple[str, AccuracyCurve]]]]:
    """Curves by data set, in order of first appearance."""
    groups: dict[str, list[tuple[str, AccuracyCurve]]] = {}
    for name, certificate, attack in entries:
        groups.setdefault(str(certificate.data_info.get("name", "data")), []).append(
            (name, curve_of(certificate, attack))
        )
    return list(groups.items())


def render(template: str, **context: Any) -> str:
    """A page of one of the templates, with the tool's versions at its foot."""
    tool = {
        "version": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    return _environment().get_template(template).render(tool=tool, **context)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("thetabox.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )


def _section(name: str, certificate: Certificate, attack: Any, index: int) -> dict[str, Any]:
    from thetabox.report.figures import accuracy_figure, radius_figure, to_svg  # here, for matplotlib takes a second

    curve, radii, failure = curve_of(certificate, attack), radii_of(certificate), failure_of(certificate)
    key = f"model{index}"
    warnings = []
    if certificate.arithmetic == "float32":
        warnings.append(FLOAT32_WARNING)
    if not certificate.sound:
        warnings.append(UNSOUND_WARNING)
    section: dict[str, Any] = {
        "id": key,
        "name": name,
        "warnings": warnings,
        "samples": curve.samples,
        "attacked": curve.attacked is not None,
        "baseline": curve.baseline is not None,
        "claim": claim(certificate, curve),
        "weakest": weakest(certificate, attack),
        "searched": radii.bisected,
        "cards": _cards(curve, radii),
        "rows": _rows(curve),
        "stages": list(curve.stages),
        "curve_figure": Markup(to_svg(accuracy_figure(curve), f"{key}-curve")),
        "radius_figure": Markup(to_svg(radius_figure(radii, curve.epsilon), f"{key}-radius")),
        "radius_caption": _radius_caption(radii),
        "failure": None,
        "facts": _facts(certificate),
    }
    if failure is not None and (failure.epsilon > 0).any():
        caption = (
            "Share of neurons whose spike is not certain at a time step, over up to 64 of the samples."
            if failure.kind == "steps"
            else "Share of ReLUs whose sign is not certain, by layer, over up to 64 of the samples."
        )
        section["failure"] = _failure(failure, failure.caption or caption, f"{key}-failure")
    return section


def _failure(failure: UncertainUnits, caption: str, key: str) -> dict[str, Any]:
    """The profile, by layer where it has many entries; those are given in full below then."""
    from thetabox.report.figures import failure_figure, to_svg  # here, for matplotlib takes a second

    layers = by_layer(failure)
    if layers is None:
        figure = Markup(to_svg(failure_figure(failure), key))
        return {"figure": figure, "caption": caption, "sentences": failure.sentences(), "layers": None}
    joined = (
        f"Summed over all that a layer does, in every step: {len(layers.entries)} layers, {len(failure.names)} entries."
        if failure.kind == "losses"
        else "Of a layer that runs several times the largest share is shown."
    )
    counted = zip(rows(layers.failure), layers.entries, strict=True)
    return {
        "figure": Markup(to_svg(failure_figure(layers.failure), key)),
        "caption": f"{caption} {joined}",
        # The first uncertain activation stands in one step of a layer; a loss is known by what it adds up to.
        "sentences": (layers.failure if failure.kind == "losses" else failure).sentences(),
        "layers": {
            "heads": heads(failure),
            "rows": [[name, str(count), *shares] for (name, *shares), count in counted],
            "entries": rows(failure),
        },
    }


def _cards(curve: AccuracyCurve, radii: RadiusSummary) -> list[dict[str, str]]:
    cards = [{"label": "clean accuracy", "value": percent(curve.clean)}]
    positive = np.flatnonzero(curve.epsilon > 0)
    for e in positive[sorted({0, len(positive) // 2, len(positive) - 1})] if len(positive) else positive:
        cards.append({"label": f"verified at ε = {number(curve.epsilon[e])}", "value": percent(curve.verified[e])})
    if curve.attacked is not None and len(curve.epsilon):
        gap = np.maximum(curve.attacked - curve.verified, 0.0)
        widest = int(gap.argmax())
        label = f"neither proven nor flipped at ε = {number(curve.epsilon[widest])}, the most of all"
        cards.append({"label": label, "value": percent(gap[widest])})
    if radii.bisected and len(radii.values):
        cards.append({"label": "median certified radius", "value": number(float(np.median(radii.values)))})
    return cards


def _rows(curve: AccuracyCurve) -> list[dict[str, Any]]:
    rows = []
    for i, epsilon in enumerate(curve.epsilon):
        row = {"epsilon": number(epsilon), "verified": percent(curve.verified[i]), "count": curve.count(i)}
        if curve.attacked is not None:
            row |= {
                "attacked": percent(curve.attacked[i]),
                "gap": percent(max(curve.attacked[i] - curve.verified[i], 0.0)),
            }
        if curve.baseline is not None:
            row["baseline"] = percent(curve.baseline[i])
        row["stages"] = [str(int(count[i])) for count in curve.stages.values()]
        rows.append(row)
    return rows


def _summary_table(data: str, curves: Sequence[tuple[str, AccuracyCurve]]) -> dict[str, Any]:
    sweep = sorted({float(e) for _, curve in curves for e in curve.epsilon})

    def spread(curve: AccuracyCurve, values: np.ndarray) -> list[str]:
        by_epsilon = dict(zip(curve.epsilon.tolist(), values.tolist(), strict=True))
        return [percent(by_epsilon[e]) if e in by_epsilon else "–" for e in sweep]

    return {
        "title": data,
        "epsilon": [number(e) for e in sweep],
        "rows": [
            {
                "name": name,
                "clean": percent(curve.clean),
                "verified": spread(curve, curve.verified),
                "attacked": None if curve.attacked is None else spread(curve, curve.attacked),
            }
            for name, curve in curves
        ],
    }


def _radius_caption(radii: RadiusSummary) -> str:
    if radii.bisected:
        return "Each radius is an ε at which that very sample was proven; a little more was tried and was not."
    return "The largest ε of the sweep at which a sample is verified; its own radius was not searched for."


def _facts(certificate: Certificate) -> list[tuple[str, str | Markup]]:
    boxes = {"relative": "θ ± ε|θ|", "absolute": "θ ± ε", "range": "θ ± ε(max θ − min θ)"}
    box = certificate.box.describe()
    rows: list[tuple[str, str | Markup]] = [
        *origin(certificate),
        ("box", f"{box['kind']}: {boxes.get(box['kind'], '')}; {patterns(box)}"),
        ("domain", certificate.domain + _options(certificate.options)),
        *interface(certificate.model_info),
        ("criterion", _criterion(certificate.criterion)),
        ("sound", "yes, rounding outward throughout" if certificate.sound else "no: a second opinion, not a proof"),
        ("arithmetic covered", _arithmetic(certificate.arithmetic)),
        ("precision of the bounds", certificate.precision),
        ("time", duration(certificate.seconds)),
    ]
    if not certificate.finished:
        rows.append(("finished", "no: the time that was given was over; what is proven stands, more may be"))
    return rows


def _options(options: Mapping[str, Any]) -> str:
    shown = [f"{k} = {_value(v)}" for k, v in options.items() if k not in ("proven_by", "left_out")]
    shown += [f"{stage} gave up: {why}" for stage, why in options.get("left_out", {}).items()]
    return f" ({', '.join(shown)})" if shown else ""


def _value(value: Any) -> str:
    return "no limit" if value is None else number(value) if isinstance(value, float) else str(value)


def _criterion(name: str) -> str:
    words = {"margin": "smallest difference of two logits is positive", "logits": "logit intervals are disjoint"}
    return f"{name}: {words[name]}" if name in words else name


def _arithmetic(name: str) -> str:
    words = {
        "real": "real numbers: parameters, inputs and ε as stored, everything computed from them exact",
        "float32": "every binary32 evaluation by ordinary dot products",
    }
    return f"{name}: {words[name]}" if name in words else name
