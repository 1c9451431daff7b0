"""``thetabox compare``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from thetabox.cli import options, values
from thetabox.cli.console import print_json, show
from thetabox.cli.jobs_bar import jobs_bar
from thetabox.compare import cells, compare, read_config
from thetabox.compare.summary import results, write_report
from thetabox.compare.tables import curve_table, mismatch_table, yield_table
from thetabox.report import plain_table
from thetabox.workers import on_cluster


@click.command("compare", cls=options.Command)
@click.option("--task", "--data", "task", metavar="TASK_OR_NPZ", help="A task, or a .npz with x and y.")
@click.option("--methods", metavar="M[,M…]", help="Training methods, a+b for two at once; see `thetabox methods`.")
@click.option("--seeds", type=click.IntRange(min=1), help="Networks a method.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the data; the task's own by default.")
@click.option("--sweep", type=values.Setting(), multiple=True, metavar="NAME=V,V…", help="Values to try; repeatable.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="All of this and more.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the task's files (or set THETABOX_DATA).")
@click.option("--device", default="cpu", show_default=True, metavar="auto|cpu|cuda")
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True, help="Networks at a time.")
@click.option("--cluster", metavar="ADDRESS", help="Dask scheduler whose workers do it, and see the same folders.")
@options.out_option()
def command(
    task: str | None,
    methods: str | None,
    seeds: int | None,
    epochs: int | None,
    sweep: tuple[tuple[str, str], ...],
    config: Path | None,
    data_dir: Path | None,
    device: str,
    processes: int,
    cluster: str | None,
    out: Path,
) -> None:
    """Interrupt it at any time: the same command goes on, and what is finished is never done again."""
    changes: dict[str, Any] = {"task": task, "seeds": seeds}
    if methods is not None:
        changes["methods"] = [name.strip() for name in methods.split(",") if name.strip()]
    if sweep:
        named = values.once("--sweep", sweep)
        changes["sweep"] = {name: [values.literal(v.strip()) for v in text.split(",")] for name, text in named.items()}
    chosen = read_config(config, **changes)
    if epochs is not None:
        chosen = read_config(config, **changes, fit={**chosen.fit, "epochs": epochs})
    where = nullcontext() if cluster is None else on_cluster(cluster)
    with jobs_bar([cell.name for cell in cells(chosen, out)]) as event, where as executor:
        comparison = compare(
            chosen, out, data_dir=data_dir, device=device, processes=processes, on_event=event, executor=executor
        )
    page = write_report(out, comparison)
    print_json({**results(comparison), "report": str(page)})
    tables = [
        ("mismatch", mismatch_table(comparison.rows, chosen.level)),
        ("verified", curve_table(comparison.rows, "certify")),
    ]
    if chosen.yield_sigma:
        tables.append(("proven yield", yield_table(comparison.rows)))
    for title, table in tables:
        shown = plain_table(title, *table.columns[1:], text=1)
        for row in table.rows:
            shown.add_row(*row)
        show("", shown)
    show("", f"report: {page}")
