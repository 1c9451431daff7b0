"""The outcome of a gate as Markdown, for the page that a CI system shows beside a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path

from thetabox.errors import InputError
from thetabox.report.junit import Case


def append_summary(path: str | os.PathLike[str], title: str, cases: Sequence[Case], models: Sequence[str] = ()) -> None:
    """Append a heading and a table of the cases: what stands in the file already is of other steps.

    Args:
        path: the file.
        title: the heading.
        cases: one row each.
        models: of each case the model that it is about, in a column of its own; none where all are about one.

    Raises:
        InputError: the file cannot be written.
    """
    heads = ["", *(["model"] if models else []), "claim", "found"]
    of = ([_cell(model)] for model in models) if models else repeat([])
    rows = [
        [_outcome(case), *model, _cell(case.name), _cell(case.error or case.failure or case.output)]
        for case, model in zip(cases, of, strict=False)
    ]
    table = [heads, ["---"] * len(heads), *rows]
    text = "\n".join((f"### {title}", "", *(_line(row) for row in table), "", ""))
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _line(cells: Sequence[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _outcome(case: Case) -> str:
    return "⚠️ no answer" if case.error else "❌ fail" if case.failure else "✅ pass"


def _cell(text: str) -> str:
    """Text that ends no cell, and is no HTML."""
    plain = text.replace("\\", "\\\\").replace("|", "\\|").replace("&", "&amp;").replace("<", "&lt;")
    return " ".join(plain.split())
