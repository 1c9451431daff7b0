"""The report of a finished comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from thetabox.compare.comparison import Comparison
from thetabox.compare.row import Row
from thetabox.compare.tables import (
    Table,
    cost_table,
    curve_table,
    draws,
    flatness,
    mismatch_table,
    p_table,
    pcm_table,
    yield_table,
)
from thetabox.json_text import json_text
from thetabox.report.folder import write_files
from thetabox.report.html import render
from thetabox.report.results import percent
from thetabox.report.yield_curve import complement


def write_report(out: Path, comparison: Comparison) -> Path:
    """Write report.html, results.json, tables.md and the figures as PNG.

    Everything but the seconds follows from the configuration alone, however often the run was interrupted.

    Returns:
        Path of report.html.
    """
    from thetabox.report.figures import picture_files, to_svg  # here, for matplotlib takes a second
    from thetabox.report.methods_figures import landscapes_figure, lines_figure

    rows, config = comparison.rows, comparison.config
    parts = [
        _part(
            "Random mismatch",
            mismatch_note(comparison),
            mismatch_figure(rows, config.level),
            [mismatch_table(rows, config.level), p_table(rows, config.level)],
        ),
        _part(
            "Worst case found inside the box",
            ATTACK_NOTE,
            lines_figure(comparison.lines("attack")),
            [curve_table(rows, "attack")],
        ),
    ]
    if config.shared_runs:
        figure, table = lines_figure(comparison.lines("shared")), curve_table(rows, "shared")
        parts.append(_part("One worst case for all samples", shared_note(comparison), figure, [table]))
    parts.append(_part("Proven", PROOF_NOTE, lines_figure(comparison.lines("certify")), [curve_table(rows, "certify")]))
    if config.yield_sigma:
        parts.append(_part("Proven yield", yield_note(comparison), None, [yield_table(rows)]))
    landscapes = {"landscape": "Loss landscape", "landscape_train": "Loss landscape on the training set"}
    for stage, title in landscapes.items():
        if rows[0].results.get(stage):
            figure = landscapes_figure(_landscapes(rows, stage))
            parts.append(_part(title, LANDSCAPE_NOTE, figure, [flatness(rows, stage)]))
    if config.pcm_draws:
        parts.append(_part("Phase-change memory", pcm_note(comparison), None, [pcm_table(rows, config.pcm_times)]))
    parts.append(_part("Cost of training", COST_NOTE, None, [cost_table(rows)]))
    files: dict[str, bytes | str] = {
        "results.json": json_text(results(comparison)),
        "tables.md": "\n".join(
            f"## {table.title or part['title']}\n\n{table.markdown()}"
            for part in parts
            if part["title"] != "Cost of training"
            for table in part["tables"]
        ),
    }
    pages = []
    for part in parts:
        figure = part.pop("drawn")
        if figure is not None:
            files |= picture_files(part["id"], figure)
        pages.append(part | {"figure": None if figure is None else Markup(to_svg(figure, part["id"]))})
    files["report.html"] = render(
        "methods.html.j2",
        title=f"Training methods on {Path(config.task).stem}",
        cards=_cards(rows),
        parts=pages,
        configuration=config.to_toml(),
    )
    write_files(out, files)
    return out / "report.html"


ATTACK_NOTE = (
    "Projected gradient with weights of its own for every sample: an upper bound of the accuracy that holds for every "
    "choice of weights. Mean over the seeds; thin lines are single networks."
)
PROOF_NOTE = "Verified accuracy: a lower bound, proven with outward rounding. Mean over the seeds."
LANDSCAPE_NOTE = "Cross entropy along random directions ξ ~ N(0, 1) relative to each weight, mean over directions."
COST_NOTE = (
    "Gradient steps: passes forward and backward through the network for one batch, the inner steps of a method "
    "included. Seconds on one thread of the machine that ran it."
)


def mismatch_note(comparison: Comparison) -> str:
    """What the mismatch table counts."""
    config, result = comparison.config, comparison.rows[0].results["mismatch"][0]
    return (
        f"Accuracy in percent on {result['samples']} test samples with θ ~ N(θ, (level · |θ|)²): mean ± standard "
        f"deviation, and the worst, of {config.draws} frozen draws for each of {config.seeds} networks."
    )


def shared_note(comparison: Comparison) -> str:
    """What the table of shared perturbations says."""
    samples = comparison.rows[0].results["shared"][0]["samples"]
    return (
        f"One perturbation of the weights for all {samples} test samples, as one chip would have it: projected "
        "gradient with momentum on the mean cross entropy. An upper bound of the accuracy of the worst chip. Mean over "
        "the seeds."
    )


def yield_note(comparison: Comparison) -> str:
    """What the table of proven yield says."""
    config, result = comparison.config, comparison.rows[0].results["yield"][0]
    return (
        f"Percent of {result['samples']} test samples that at least {complement(config.yield_delta)} of all chips "
        "classify right, each sample for itself: proven, with outward rounding, and no chip was drawn. A chip's "
        "parameters have independent errors σ |θ| n, n ~ N(0, 1). Mean over the seeds."
    )


def pcm_note(comparison: Comparison) -> str:
    """What the table of phase-change memory counts."""
    config, result = comparison.config, comparison.rows[0].results["pcm"][0]
    return (
        f"Accuracy in percent on {result['samples']} test samples with the weight matrices on pairs of phase-change "
        "memory devices, 8-bit converters and drift compensation: mean ± standard deviation, and the worst, of "
        f"{config.pcm_draws} chips for each of {config.seeds} networks."
    )


def results(comparison: Comparison) -> dict[str, Any]:
    """Everything that was found, without the time that it took."""
    return {
        "schema": "thetabox.comparison/1",
        "task": comparison.config.task,
        "rows": [
            {"label": row.variant.label, "method": row.variant.method, "set": _plain(row.variant.set), **row.results}
            for row in comparison.rows
        ],
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters as JSON can hold them: an infinite one as a word."""
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in settings.items()}


def mismatch_figure(rows: Sequence[Row], level: Sequence[float]) -> Any:
    """A violin a method, a panel a level."""
    from thetabox.report.methods_figures import violin_figure  # here, for matplotlib takes a second

    return violin_figure({row.variant.label: draws(row) for row in rows}, level)


def _cards(rows: Sequence[Row]) -> list[dict[str, str]]:
    def best(stage: str, pick: Any) -> tuple[str, float]:
        means = [float(np.mean([pick(result) for result in row.results[stage]])) for row in rows]
        place = int(np.argmax(means))
        return rows[place].variant.label, means[place]

    level = len(rows[0].results["mismatch"][0]["accuracy"]) - 1
    chosen = [
        ("clean", best("mismatch", lambda result: result["clean_accuracy"])),
        ("under the largest mismatch", best("mismatch", lambda result: float(np.mean(result["accuracy"][level])))),
        ("proven, mean over the ε", best("certify", lambda result: float(np.mean(result["accuracy"])))),
    ]
    return [{"value": percent(value), "label": f"best {what}: {name}"} for what, (name, value) in chosen]


def _part(title: str, note: str, figure: Any, tables: list[Table]) -> dict[str, Any]:
    return {
        "id": title.lower().replace(" ", "-"),
        "title": title,
        "note": note,
        "drawn": figure,
        "tables": tables,
    }


def _landscapes(rows: Sequence[Row], stage: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        row.variant.label: (
            np.asarray(row.results[stage][0]["alpha"]),
            np.mean([np.mean(result["loss"], 0) for result in row.results[stage]], 0),
        )
        for row in rows
    }
