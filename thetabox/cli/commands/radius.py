"""``thetabox radius``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

import thetabox as tb
from thetabox import report
from thetabox.cli import options, values
from thetabox.cli.console import ProgressLine, print_json, progress_bar, show
from thetabox.cli.doubts import doubt
from thetabox.cli.executors import chosen_executor
from thetabox.cli.inputs import proof_settings, read_all
from thetabox.report.results import number
from thetabox.verify import Radii, domains
from thetabox.version import __version__

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)


@click.command("radius", cls=options.Command)
@options.model_options
@options.data_options()
@options.proof_options
@options.box_options
@options.machine_options
@options.worker_options
@options.out_option()
@click.option("--max-epsilon", type=values.Range(), default=1.0, show_default=True, help="Where the search ends.")
@click.option("--rtol", type=values.Range(), default=1e-2, show_default=True, help="Relative resolution.")
def command(
    timeout: float | None,
    device: str,
    seed: int,
    out: Path,
    max_epsilon: float,
    rtol: float,
    **source: Any,
) -> None:
    """The folder gets radius.json and radius.csv (sample, label, radius, status)."""
    how = proof_settings(source, timeout)
    given = read_all(**source)
    with report.output_folder(out) as folder, progress_bar() as bar, chosen_executor(device) as executor:
        doubt(given, folder / "radius.json")
        radii = tb.certified_radius(
            given.model,
            given.data.x,
            given.data.y,
            max_epsilon=max_epsilon,
            rtol=rtol,
            box=given.box,
            device=device,
            details=True,
            progress=ProgressLine(bar, "radius"),
            executor=executor,
            **how,
        )
        assert isinstance(radii, Radii)
        quantiles = {str(q): float(radii.radius.quantile(q)) for q in SHARES}
        facts = {
            "schema": "thetabox.radius/1",
            "tool": {"name": "thetabox", "version": __version__},
            "model": given.model_info,
            "data": given.data_info,
            "box": given.box.describe(),
            **{key: value for key, value in how.items() if key != "timeout"},
            "options": domains.recorded(how["options"]),
            "sound": domains.is_sound(how["domain"]),
            **({} if radii.finished else {"finished": False}),
            "max_epsilon": max_epsilon,
            "rtol": rtol,
            "status": dict(Counter(radii.status)),
            "quantiles": quantiles,
        }
        rows = zip(range(len(given.data)), given.data.y.tolist(), radii.radius.tolist(), radii.status, strict=True)
        files = {
            "radius.json": report.json_text(facts),
            "radius.csv": report.csv_text(("sample", "label", "radius", "status"), rows),
        }
        report.write_files(folder, files)
    print_json({**facts, "radius": radii.radius.tolist(), "radii": str(folder / "radius.csv")})
    table = report.plain_table("share of samples at or below", "certified radius")
    for share, value in quantiles.items():
        table.add_row(f"{100 * float(share):.0f} %", number(value))
    counts = ", ".join(f"{count} {status}" for status, count in sorted(Counter(radii.status).items()))
    cut = [] if radii.finished else [f"not finished: {timeout:g} s were over; the radii are proven, but may be larger"]
    show(table, counts, *cut, f"radii: {folder / 'radius.csv'}")
