"""Proven yield on disk and in the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from thetabox.json_text import json_text
from thetabox.report.folder import check_claim, output_folder, write_files
from thetabox.report.results import number, percent
from thetabox.report.tables import plain_table
from thetabox.report.write import csv_text
from thetabox.report.yield_curve import SHARE, at_least, share_of, yield_curve
from thetabox.report.yield_page import yield_page
from thetabox.verify.yields.stored import COLUMNS

if TYPE_CHECKING:
    from thetabox.measure.sampled_yield import SampledYield
    from thetabox.verify.yields.certificate import YieldCertificate

SAMPLED = "thetabox.sampled_yield/1"


def write_yield(
    out: str | os.PathLike[str],
    certificate: YieldCertificate,
    sampled: SampledYield | None = None,
    *,
    title: str | None = None,
) -> Path:
    """Write a proven yield's folder: yield.json, samples.csv, yield.png, yield.pdf, report.html.

    Args:
        out: the folder, made when absent.
        certificate: what :func:`thetabox.certify_yield` returned.
        sampled: what :func:`thetabox.sampled_yield` returned for the same σ, samples, noise and box; it stands beside
            in sampled.json and in the report, labelled as statistical.
        title: heading of the report.

    Returns:
        Path of report.html.

    Raises:
        InputError: the folder is a file, holds the certificate of a box or cannot be written, the disk is full (nothing
            is left then), or the draws are of another question.
    """
    from thetabox.report.figures import picture_files  # here, for matplotlib takes a second
    from thetabox.report.yield_figure import yield_figure

    curve = yield_curve(certificate, sampled)
    files = {
        **_proof_files(certificate),
        **picture_files("yield", yield_figure(curve)),
        "report.html": yield_page(certificate, curve, title),
    }
    if sampled is not None:
        files["sampled.json"] = sampled_text(sampled, certificate.model_info, certificate.data_info)
    with output_folder(out) as folder:
        check_claim(folder, "yield.json")
        write_files(folder, files)
    return folder / "report.html"


def write_yield_proof(out: str | os.PathLike[str], certificate: YieldCertificate) -> None:
    """Write yield.json and samples.csv alone: what is proven, before anything else.

    Raises:
        InputError: as :func:`write_yield`.
    """
    with output_folder(out) as folder:
        check_claim(folder, "yield.json")
        write_files(folder, _proof_files(certificate))


def sampled_text(sampled: SampledYield, model: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The content of ``sampled.json``; two runs on the same inputs are the same file."""
    facts = {"schema": SAMPLED, "model": dict(model), "data": dict(data)}
    return json_text(facts | sampled.to_json() | {"seconds": None})


def yield_table(certificate: YieldCertificate, sampled: SampledYield | None = None) -> Table:
    """One row a σ: proven samples, what chips reach at least, and what draws say."""
    curve = yield_curve(certificate, sampled)
    table = plain_table("σ", "proven", f"of {curve.samples}", "mean of chips", f"{share_of(SHARE)} of chips")
    if curve.draws is not None:
        _add_sampled_columns(table, curve.draws.share)
    for index, sigma in enumerate(curve.sigma.tolist()):
        count = int(curve.count[index])
        cells = [number(sigma), at_least(count / curve.samples), str(count)]
        cells += [at_least(curve.mean[index]), at_least(curve.chips[SHARE][index])]
        if curve.draws is not None:
            cells += [percent(curve.draws.mean[index]), percent(curve.draws.reached[index])]
        table.add_row(*cells)
    return table


def sampled_table(sampled: SampledYield) -> Table:
    """One row a σ: what draws say alone."""
    table = plain_table("σ")
    _add_sampled_columns(table, sampled.share)
    for sigma, mean, reached in zip(
        sampled.sigma.tolist(), sampled.mean.tolist(), sampled.accuracy.tolist(), strict=True
    ):
        table.add_row(number(sigma), percent(mean), percent(reached))
    return table


def sampled_note(sampled: SampledYield) -> str:
    """One line on what the sampled columns are."""
    return (
        f"sampled: {sampled.draws} chips a σ; what {share_of(sampled.share)} of chips reach has "
        f"{share_of(sampled.confidence)} confidence: statistical, not proof"
    )


def _add_sampled_columns(table: Table, share: float) -> None:
    for name in ("sampled mean", f"sampled {share_of(share)} of chips"):
        table.add_column(name, justify="right", overflow="fold")


def _proof_files(certificate: YieldCertificate) -> dict[str, bytes | str]:
    return {"yield.json": json_text(certificate.to_json()), "samples.csv": csv_text(COLUMNS, certificate.rows())}
