"""``thetabox pcm``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import thetabox as tb
from thetabox import report
from thetabox.cli import options, values
from thetabox.cli.console import ProgressLine, print_json, progress_bar, show
from thetabox.cli.executors import chosen_executor
from thetabox.cli.inputs import read_all
from thetabox.report.results import duration, percent

BITS = click.IntRange(min=0, max=24)


@click.command("pcm", cls=options.Command)
@options.model_options
@options.data_options()
@click.option("--times", type=values.Durations(), default="25s,1h,1d,30d,1y", show_default=True, metavar="T[,T…]")
@click.option("--draws", type=click.IntRange(min=1), default=10, show_default=True, help="Chips, each programmed once.")
@click.option("--adc-bits", type=BITS, default=8, show_default=True, help="Of what a tile puts out; 0 for ideal ones.")
@click.option("--dac-bits", type=BITS, default=8, show_default=True, help="Of what a tile takes in; 0 for ideal ones.")
@click.option(
    "--tile", type=click.IntRange(min=1), default=256, show_default=True, help="Rows and columns of a tile at most."
)
@click.option(
    "--compensation/--no-compensation", default=True, show_default=True, help="Correct each tile's mean drift."
)
@options.stored_options
@options.machine_options
@options.worker_options
@options.out_option(required=False)
def command(
    times: list[float],
    draws: int,
    adc_bits: int,
    dac_bits: int,
    tile: int,
    compensation: bool,
    device: str,
    seed: int,
    out: Path | None,
    **source: Any,
) -> None:
    """Every weight matrix lies on pairs of devices, many times drawn: programming noise, drift and read noise as
    measured on real ones (Joshi et al. 2020). With --out: pcm.json, pcm.csv, pcm.png and pcm.pdf.
    """
    from thetabox.report.figures import picture_files  # here, for matplotlib takes a second
    from thetabox.report.measured_figures import ageing_figure

    given = read_all(**source, box_kind="relative", scale=())

    def run() -> tb.measure.PCMResult:
        with progress_bar() as bar, chosen_executor(device) as executor:
            return tb.measure.pcm(
                given.model,
                given.data.x,
                given.data.y,
                times,
                draws,
                seed=seed,
                compensation=compensation,
                adc_bits=adc_bits,
                dac_bits=dac_bits,
                tile=tile,
                box=given.box,
                device=device,
                progress=ProgressLine(bar, "pcm"),
                executor=executor,
            )

    facts = {"schema": "thetabox.pcm/1", "model": given.model_info, "data": given.data_info}
    if out is None:
        result = run()
    else:
        with report.output_folder(out) as folder:
            result = run()
            rows = (
                (float(at), chip, accuracy)
                for at, row in zip(result.times, result.accuracy.tolist(), strict=True)
                for chip, accuracy in enumerate(row)
            )
            figure = ageing_figure(result.times.numpy(), result.accuracy.numpy(), result.clean_accuracy)
            files: dict[str, bytes | str] = {
                "pcm.json": report.json_text(facts | result.to_json()),
                "pcm.csv": report.csv_text(("time", "chip", "accuracy"), rows),
                **picture_files("pcm", figure),
            }
            report.write_files(folder, files)
    print_json(facts | result.to_json())
    table = report.plain_table("after", "mean", "std", "worst chip")
    for at, mean, std, least in zip(result.times, result.mean, result.std, result.min, strict=True):
        table.add_row(duration(float(at)), percent(float(mean)), percent(float(std)), percent(float(least)))
    show(f"clean accuracy {percent(result.clean_accuracy)}, {draws} chips, {len(result.stored)} matrices stored", table)
    without = [name for name in result.stored if name not in result.converted]
    if without and (adc_bits or dac_bits):
        show(f"no converters could be placed at: {', '.join(without)}")
