"""A whole comparison: every cell in a process of its own, and what all of them found."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from thetabox import data
from thetabox.compare.cells import Cell, recipe_of
from thetabox.compare.comparison import Comparison
from thetabox.compare.config import Config, Variant
from thetabox.compare.row import Row
from thetabox.compare.stages import run_cell
from thetabox.errors import InputError
from thetabox.processes import run_all
from thetabox.report.folder import output_folder, write_file
from thetabox.workers import Pool, check_executor


def cells(config: Config, out: Path, data_dir: Path | None = None, device: str = "cpu") -> list[Cell]:
    """Every network of a comparison."""
    return [
        Cell(config, variant, seed, out / "cells" / f"{variant.folder}-seed{seed}", data_dir, device)
        for variant in config.variants()
        for seed in range(config.seeds)
    ]


def compare(
    config: Config,
    out: str | Path,
    *,
    data_dir: Path | None = None,
    device: str = "cpu",
    processes: int = 2,
    on_event: Callable[[int, str, float], None] | None = None,
    executor: Executor | None = None,
) -> Comparison:
    """Train, measure and certify all that is not there yet, then read all of it.

    What is finished is never done again: a stage is kept with the settings that made it, and one whose settings
    changed is done anew. ``out/missing.txt`` names what is missing for as long as anything is.

    Args:
        config: what to compare.
        out: folder of the comparison; one of an earlier run goes on.
        data_dir: of the task's files.
        device: where to train and measure.
        processes: networks at a time, one thread each.
        on_event: called with (number of the cell, stage, share of it done).
        executor: whose workers (:mod:`thetabox.workers`) do the networks, in place of processes of this machine. They
            must see the same folders; of each network is told when it is done.

    Raises:
        InputError: bad configuration or data, or a folder that cannot be written.
    """
    check_executor(executor)
    with output_folder(out) as folder:
        all_cells = cells(config, folder, data_dir, device)
        for split in ("train", "validation", "test"):
            data.load(config.task, split, data_dir)
        recipe_of(all_cells[0])
        write_file(folder / "config.toml", config.to_toml())
        todo = [(index, cell) for index, cell in enumerate(all_cells) if cell.missing()]
        if todo:
            _note_missing(folder, [cell for _, cell in todo])

            def event(place: int, phase: str, share: float) -> None:
                if on_event is not None:
                    on_event(todo[place][0], phase, share)

            try:
                if executor is None:
                    run_all(run_cell, [cell for _, cell in todo], processes, event)
                else:
                    _by_workers(executor, [cell for _, cell in todo], event)
            finally:
                _note_missing(folder, all_cells)
        else:
            _note_missing(folder, [])
    return Comparison(config, [_row(variant, all_cells) for variant in config.variants()])


def _by_workers(executor: Executor, todo: list[Cell], event: Callable[[int, str, float], None]) -> None:
    with Pool(executor, None) as pool:
        for cell in todo:
            data_dir = None if cell.data_dir is None else cell.data_dir.resolve()
            pool.add(_run_untold, replace(cell, folder=cell.folder.resolve(), data_dir=data_dir))
        for number, _ in pool.answers():
            event(number, "done", 1.0)


def _run_untold(_: None, cell: Cell) -> None:
    run_cell(cell, lambda stage: lambda done, total: None)


def _note_missing(folder: Path, some: list[Cell]) -> None:
    lines = [f"{cell.folder.name}: {', '.join(missing)}" for cell in some if (missing := cell.missing())]
    if lines:
        write_file(folder / "missing.txt", "\n".join(lines) + "\n")
    else:
        (folder / "missing.txt").unlink(missing_ok=True)


def _row(variant: Variant, some: list[Cell]) -> Row:
    results: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, list[float]] = {}
    for cell in some:
        if cell.variant == variant:
            for stage in cell.stages:
                content = cell.read(stage)
                if content is None:
                    raise InputError(f"{cell.folder} was changed while it was read; run the comparison again")
                results.setdefault(stage, []).append(content["result"])
                seconds.setdefault(stage, []).append(content["seconds"])
    return Row(variant, results, seconds)
