"""From result objects to the files of an output folder."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thetabox.json_text import json_text
from thetabox.report.folder import check_claim, output_folder, write_files
from thetabox.report.html import Entry, comparison_page, grouped, single_page
from thetabox.report.results import curve_of
from thetabox.verify.stored import COLUMNS

if TYPE_CHECKING:
    from thetabox.verify.certificate import Certificate


def write(
    out: str | os.PathLike[str], certificate: Certificate, attack: Any = None, *, title: str | None = None
) -> Path:
    """Write a certificate's folder: certificate.json, samples.csv, verified_accuracy.png and .pdf, report.html.

    Args:
        out: the folder, made when absent.
        certificate: what :func:`thetabox.certify` returned.
        attack: what :func:`thetabox.attack` returned at the same ε; the upper line of the figure.
        title: heading of the report.

    Returns:
        Path of report.html.

    Raises:
        InputError: the folder is a file, holds a proven yield or cannot be written, the disk is full (nothing is left
            then), or the attack was run at other ε.
    """
    from thetabox.report.figures import accuracy_figure, picture_files  # here, for matplotlib takes a second

    files = {
        **_certificate_files(certificate),
        **picture_files("verified_accuracy", accuracy_figure(curve_of(certificate, attack))),
        "report.html": single_page(certificate, attack, title),
    }
    with output_folder(out) as folder:
        check_claim(folder, "certificate.json")
        write_files(folder, files)
    return folder / "report.html"


def write_proof(folder: Path, certificate: Certificate) -> None:
    """Write certificate.json and samples.csv alone into an existing folder: what is proven, before anything else.

    Raises:
        InputError: as :func:`write`.
    """
    check_claim(folder, "certificate.json")
    write_files(folder, _certificate_files(certificate))


def write_comparison(out: str | os.PathLike[str], entries: Sequence[Entry], *, title: str) -> Path:
    """Write one report over several certificates, and every certificate's own json and csv in a folder of its name.

    Args:
        out: the folder, made when absent.
        entries: (name, certificate, attack or None) of each network.
        title: heading of the report.

    Returns:
        Path of report.html.

    Raises:
        InputError: as :func:`write`.
    """
    from thetabox.report.figures import comparison_figure, picture_files  # here, for matplotlib takes a second

    page = comparison_page(entries, title)
    pictures = picture_files("verified_accuracy", comparison_figure(grouped(entries)))
    with output_folder(out) as folder:
        check_claim(folder, "")
        for name, certificate, _ in entries:
            with output_folder(folder / _slug(name)) as subfolder:
                write_files(subfolder, _certificate_files(certificate))
        write_files(folder, {**pictures, "report.html": page})
    return folder / "report.html"


def csv_text(columns: Sequence[str], rows: Iterable[Any]) -> str:
    """Rows (sequences, or mappings by column) as CSV with a header and plain newlines."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[c]) for c in columns] if isinstance(row, Mapping) else [_cell(v) for v in row])
    return buffer.getvalue()


def _certificate_files(certificate: Certificate) -> dict[str, bytes | str]:
    return {
        "certificate.json": json_text(certificate.to_json()),
        "samples.csv": csv_text(COLUMNS, certificate.rows()),
    }


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split()) or "model"
