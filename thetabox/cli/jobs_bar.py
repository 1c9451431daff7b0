"""A progress line for each of several jobs that run at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from thetabox.cli.console import Output, quiet, watched


@contextmanager
def jobs_bar(names: Sequence[str]) -> Iterator[Callable[[int, str, float], None]]:
    """Function of (job, phase, share done) that moves its line; where there is no terminal, a printed line a phase."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[phase]}"))
    console = Output(stderr=True, quiet=quiet())
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not watched()) as bar:
        lines = [bar.add_task(name, total=1.0, phase="waiting") for name in names]

        def show(index: int, phase: str, share: float) -> None:
            if bar.disable and bar.tasks[index].fields["phase"] != phase:
                console.print(f"{names[index]}: {phase}", highlight=False)
            bar.update(lines[index], completed=share, phase=phase)

        yield show
