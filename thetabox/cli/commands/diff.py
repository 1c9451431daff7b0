"""``thetabox diff``."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path

import click

import thetabox as tb
from thetabox import report
from thetabox.cli import options, values
from thetabox.cli.console import print_json, show
from thetabox.cli.counts import enough, written
from thetabox.report.results import number

SHOWN = 20


@click.command("diff", cls=options.Command)
@click.argument("before", metavar="BEFORE", type=click.Path(path_type=Path))
@click.argument("after", metavar="AFTER", type=click.Path(path_type=Path))
@click.option(
    "--max-lost",
    type=values.Share(),
    default="0",
    show_default=True,
    metavar="SHARE",
    help="Largest share of the samples that may be lost at any ε or σ.",
)
def command(before: Path, after: Path, max_lost: Decimal) -> None:
    """BEFORE and AFTER are folders that certify or yield wrote, or the certificate.json or yield.json in them.

    Exit status 0 when no sample was lost that was proven before, at any ε or σ that both hold; 1 when some were, more
    than --max-lost allows. Samples that were gained weigh nothing against them. The networks may differ, and how they
    were proven; claims about other samples, another box or another noise are refused (2).
    """
    difference = tb.diff(_read(before), _read(after))
    total, kept = difference.label.numel(), (~difference.lost).sum(1)
    passes = all(enough(int(count), total, Decimal(1) - max_lost) for count in kept)
    print_json({**difference.to_json(), "max_lost": float(max_lost), "pass": passes})
    _print(difference)
    most = int(difference.lost.sum(1).max())
    show(f"{'pass' if passes else 'FAIL'}  lost at most {most}/{total} = {most / total:.4f}, {_allowed(max_lost)}")
    sys.exit(0 if passes else 1)


def _read(path: Path) -> tb.Certificate | tb.YieldCertificate:
    folder = path if path.is_dir() else path.parent
    if path.name == "yield.json" or (path.is_dir() and (folder / "yield.json").exists()):
        return tb.YieldCertificate.load(path)
    return tb.Certificate.load(path)


def _allowed(max_lost: Decimal) -> str:
    return f"allowed {written(max_lost)}" if max_lost else "none allowed"


def _print(difference: tb.Difference) -> None:
    symbol, bound = ("ε", "margin") if difference.kind == "epsilon" else ("σ", "failure probability")
    table = report.plain_table(symbol, "before", "after", "lost", "gained")
    for row in difference.to_json()["curve"]:
        table.add_row(number(row[difference.kind]), *(str(row[name]) for name in ("before", "after", "lost", "gained")))
    show(table, *difference.notes)
    lost = list(difference.samples())
    if not lost:
        return
    samples = report.plain_table("lost sample", "label", f"from {symbol}", f"{bound} before", "after")
    for row in lost[:SHOWN]:
        ends = ("–" if row[name] is None else f"{row[name]:.3g}" for name in ("before", "after"))
        samples.add_row(str(row["sample"]), str(row["label"]), number(row[difference.kind]), *ends)
    show(samples, *([f"and {len(lost) - SHOWN} more: --json lists them all"] if len(lost) > SHOWN else []))
