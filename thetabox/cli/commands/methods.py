"""``thetabox methods``."""

from __future__ import annotations

from typing import Any

import click

from thetabox.cli import options
from thetabox.cli.console import print_json, show
from thetabox.json_text import finite
from thetabox.report import plain_table
from thetabox.train import METHODS, hyper_parameters


@click.command("methods", cls=options.Command)
def command() -> None:
    """a+b combines two of them, --set name=value changes a setting."""
    print_json({"methods": [_facts(name) for name in METHODS]})
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


def _facts(name: str) -> dict[str, Any]:
    kind = METHODS[name]
    settings = [
        {
            "name": key,
            "default": default if finite(default) is not None else str(default),
            "meaning": kind.meanings.get(key, ""),
        }
        for key, default in hyper_parameters(kind).items()
    ]
    return {"name": name, "summary": kind.summary, "source": kind.source, "settings": settings}
