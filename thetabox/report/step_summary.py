"""The outcome of a gate as Markdown, for the page that a CI system shows beside a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from thetabox.errors import InputError
from thetabox.report.junit import Case


def append_summary(path: str | os.PathLike[str], title: str, cases: Sequence[Case]) -> None:
    """Append a heading and a table of the cases: what stands in the file already is of other steps.

    Raises:
        InputError: the file cannot be written.
    """
    rows = [
        f"| {_outcome(case)} | {_cell(case.name)} | {_cell(case.error or case.failure or case.output)} |"
        for case in cases
    ]
    text = "\n".join((f"### {title}", "", "| | claim | found |", "| --- | --- | --- |", *rows, "", ""))
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _outcome(case: Case) -> str:
    return "⚠️ no answer" if case.error else "❌ fail" if case.failure else "✅ pass"


def _cell(text: str) -> str:
    """Text that ends no cell, and is no HTML."""
    plain = text.replace("\\", "\\\\").replace("|", "\\|").replace("&", "&amp;").replace("<", "&lt;")
    return " ".join(plain.split())
