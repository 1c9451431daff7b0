"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from thetabox.report.html import Entry, grouped
from thetabox.report.results import curve_of, number, percent

if TYPE_CHECKING:
    from thetabox.verify.certificate import Certificate


def curve_table(certificate: Certificate, attack: Any = None) -> Table:
    """One row an ε: verified, attacked, and the paper's criterion where known."""
    curve = curve_of(certificate, attack)
    table = plain_table("ε", "verified", f"of {curve.samples}")
    if curve.attacked is not None:
        table.add_column("attacked", justify="right")
    if curve.baseline is not None:
        table.add_column("paper's criterion", justify="right")
    for i, epsilon in enumerate(curve.epsilon):
        cells = [number(epsilon), percent(curve.verified[i]), str(curve.count(i))]
        if curve.attacked is not None:
            cells.append(percent(curve.attacked[i]))
        if curve.baseline is not None:
            cells.append(percent(curve.baseline[i]))
        table.add_row(*cells)
    return table


def comparison_tables(entries: Sequence[Entry]) -> list[Table]:
    """One table a data set: verified (attacked) accuracy of every network at every ε."""
    tables = []
    for data, curves in grouped(entries):
        sweep = sorted({float(e) for _, curve in curves for e in curve.epsilon})
        table = plain_table(f"{data}: verified (attacked)", "clean", *(f"ε={number(e)}" for e in sweep), text=1)
        for name, curve in curves:
            cells = []
            for e in sweep:
                at = np.flatnonzero(curve.epsilon == e)
                if not len(at):
                    cells.append("–")
                    continue
                text = f"{curve.verified[at[0]]:.3f}"
                cells.append(text if curve.attacked is None else f"{text} ({curve.attacked[at[0]]:.3f})")
            table.add_row(name, f"{curve.clean:.3f}", *cells)
        tables.append(table)
    return tables


def plain_table(*columns: str, text: int = 0) -> Table:
    """A table of numbers without frames; the first ``text`` columns are left-aligned."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < text else "right", overflow="fold")
    return table
