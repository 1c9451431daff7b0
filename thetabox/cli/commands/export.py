"""``thetabox export``."""

from __future__ import annotations

from pathlib import Path

import click

from thetabox.cli import options
from thetabox.cli.console import print_json, show
from thetabox.cli.inputs import read_model
from thetabox.models.atomic_write import write_atomically
from thetabox.models.nir.write import DYNAMICS, nir_bytes


@click.command("export", cls=options.Command)
@options.model_options
@click.option("--nir", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The .nir file to write.")
def command(
    model: Path, architecture: str | None, config: tuple[tuple[str, str], ...], dynamics: str | None, nir: Path
) -> None:
    """For networks of leaky cells without adaptation and refractory steps: lsnn with beta=0 and refractory=0, or your
    own with leaky_cells. The gain of the cells goes into the weights.
    """
    write_atomically(nir, nir_bytes(read_model(model, architecture, config, dynamics)))
    print_json({"file": str(nir), "dynamics": DYNAMICS})
    show(f"{nir}: read it with --dynamics {DYNAMICS}; its weights are times 1 − α, so a box around them is another box")
