"""What the command line prints: results on standard output, progress on standard error."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import IO, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from thetabox.json_text import finite, json_text


class Output(Console):
    """A console whose reader may go away: what is not read any more ends nothing, nor does it change a status."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _unread(self.file)


_subject: ContextVar[str] = ContextVar("subject", default="")

# How a command prints, of those that are on.
JSON, QUIET = "thetabox.json", "thetabox.quiet"


def print_json(document: Mapping[str, Any]) -> None:
    """Print what a command found, where it was asked for as JSON: one document and nothing else.

    What is no number for JSON is null.
    """
    if _on(JSON) and not quiet():
        try:
            click.echo(json_text(finite(document)), nl=False)
        except OSError:
            _unread(sys.stdout)


def _on(way: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(way))


def quiet() -> bool:
    """Whether nothing is to be printed but errors."""
    return _on(QUIET)


def show(*things: Any) -> None:
    """Print tables and lines; a pipe gets wide lines instead of folded ones. Not beside JSON, nor where it is quiet."""
    if sys.stdout is None or _on(JSON) or quiet():  # closed, or not wanted
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no ε
    width = None if sys.stdout.isatty() else 160
    console = Output(file=sys.stdout, highlight=False, width=width, soft_wrap=width is not None, markup=False)
    for thing in things:
        console.print(thing, crop=False)


class ProgressLine:
    """Callable as ``progress(done, total)`` for one line of a progress bar."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar = bar
        self._task = bar.add_task(title, total=None)

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on standard error; silent where that is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Output(stderr=True), disable=not watched()) as bar:
        yield bar


def watched() -> bool:
    """Whether standard error is a terminal, on which things may move."""
    return not quiet() and sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def about(subject: object) -> Iterator[None]:
    """Inside, every note names what it is about: one of several models."""
    before = _subject.set(f"{subject}: ")
    try:
        yield
    finally:
        _subject.reset(before)


def note(text: object) -> None:
    """A line on standard error under the name of the command, and that of the model where there are several."""
    tell(f"thetabox: {_subject.get()}{text}")


def tell(line: str) -> None:
    """A line on standard error; whoever does not read it changes nothing."""
    try:
        click.echo(line, err=True)
    except OSError:
        _unread(sys.stderr)


def _unread(file: IO[str]) -> None:
    """Let what is left go nowhere: an interpreter that cannot write it ends in a status of its own."""
    with suppress(OSError, ValueError):  # no file at all
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
