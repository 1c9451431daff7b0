"""What the files of a stored claim have in common: a JSON file, and a table of one row for each sample and size."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from thetabox.checks import LARGEST_WHOLE
from thetabox.errors import InputError
from thetabox.json_text import parse

SHA256 = re.compile("[0-9a-f]{64}")
TRUTH = {"true": True, "false": False}


def demand(kind: str, holds: bool, path: Path, what: str) -> None:
    """Refuse a file that was changed by hand.

    Raises:
        InputError: something does not hold.
    """
    if not holds:
        raise InputError(f"{path} is not a {kind} as it was written: {what}")


def content(kind: str, path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not a readable {kind} ({type(error).__name__}: {_line(error)})") from error


def check_origin(kind: str, path: Path, model: dict[str, Any], data: dict[str, Any]) -> None:
    """Check what a claim records of the network and of the samples.

    Raises:
        InputError: an entry is missing or of another kind.
    """
    for what, entries, text, counts in (
        ("model", model, "source", ("parameters", "perturbed")),
        ("data", data, "name", ("samples",)),
    ):
        demand(kind, isinstance(entries.get(text), str), path, f"{text!r} of its {what} is no text")
        for key in counts:
            demand(kind, is_whole(entries.get(key)), path, f"{key!r} of its {what} is no whole number")
            demand(kind, entries[key] > 0, path, f"{key!r} of its {what} is {entries[key]}")
        known = entries.get("sha256")
        demand(kind, isinstance(known, str) and bool(SHA256.fullmatch(known)), path, f"its {what} has no SHA-256")
    demand(kind, isinstance(data.get("path", ""), str), path, "'path' of its data is no text")


class StoredRow(NamedTuple):
    """One sample at one ε or σ.

    Attributes:
        level, sample: which.
        where: its line, for messages.
        label, predicted: of the sample.
        bound: what is proven.
        holds: whether that is the claim.
        cells: as they are written.
    """

    level: int
    sample: int
    where: str
    label: int
    predicted: int
    bound: float
    holds: bool
    cells: list[str]


def rows(
    kind: str, path: Path, columns: Sequence[str], symbol: str, values: Sequence[float], total: int
) -> Iterator[StoredRow]:
    """The rows of ``samples.csv``: all samples at the first value, then all at the next.

    Args:
        kind: what the claim is called.
        path: of the table.
        columns: their names.
        symbol: what the values are called.
        values: every ε or σ.
        total: samples.

    Raises:
        InputError: rows are missing, doubled or in another order, or differ in a sample's label or prediction.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *table = list(csv.reader(file)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or _line(error)}") from error
    demand(kind, tuple(header) == tuple(columns), path, f"its columns are not {', '.join(columns)}")
    if len(table) != total * len(values):
        raise InputError(f"{path} has {len(table)} rows, the {kind} speaks of {total * len(values)}")
    of_sample: list[tuple[int, int]] = []
    for line, cells in enumerate(table):
        level, sample = divmod(line, total)
        where = f"line {line + 2}"
        demand(kind, len(cells) == len(columns), path, f"{where} has {len(cells)} columns")
        try:
            number, label, predicted = (int(cell) for cell in cells[:3])
            value, bound = (float(cell) for cell in cells[3:5])
            holds = TRUTH[cells[5]]
        except (ValueError, KeyError):
            raise InputError(f"{path} cannot be read at {where}") from None
        demand(kind, number == sample, path, f"{where} is of sample {number}, where sample {sample} belongs")
        demand(kind, value == values[level], path, f"{where} is of another {symbol} than the curve's")
        classes = all(0 <= one < LARGEST_WHOLE for one in (label, predicted))
        demand(kind, classes, path, f"{where} has a class that is none")
        if level == 0:
            of_sample.append((label, predicted))
        same = of_sample[sample] == (label, predicted)
        demand(kind, same, path, f"{where} has another label or prediction than before")
        yield StoredRow(level, sample, where, label, predicted, bound, holds, cells)


def is_number(value: Any) -> bool:
    """Whether an entry is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what floats hold
        return False


def is_whole(value: Any) -> bool:
    """Whether an entry is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
