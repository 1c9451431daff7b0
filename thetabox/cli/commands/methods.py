"""``thetabox methods``."""

from __future__ import annotations

import click

from thetabox.cli.console import show
from thetabox.report import plain_table
from thetabox.train import METHODS, hyper_parameters


@click.command("methods")
def command() -> None:
    """a+b combines two of them, --set name=value changes a setting."""
    for name, kind in METHODS.items():
        show(f"{name}: {kind.summary}")
        if kind.source:
            show(f"  source: {kind.source}")
        settings = hyper_parameters(kind)
        if settings:
            table = plain_table("  setting", "default", "meaning", text=3)
            for key, default in settings.items():
                table.add_row(f"  {key}", str(default), kind.meanings.get(key, ""))
            show(table)
        show("")
