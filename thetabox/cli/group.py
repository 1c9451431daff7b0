"""The command group, and the one place where errors become a line and an exit status."""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, NoReturn

import click

from thetabox.cli.console import note
from thetabox.errors import InputError, Notice, Terminated
from thetabox.version import __version__

# Name → the first line of its help; the rest is the docstring of the command.
COMMANDS = {
    "demo": "Train four small networks on real data, certify them on the same samples, write one report.",
    "train": "Train a network on a task or on data of your own.",
    "certify": "Prove which predictions survive every weight error up to ε, and write a report.",
    "radius": "Find every sample's certified radius: the largest ε at which it was proven.",
    "yield": "Prove what share of all chips of random mismatch classifies each sample right, and write a report.",
    "attack": "Search the box for weights that change a prediction, each sample by itself.",
    "mismatch": "Draw the weights at random and measure accuracy.",
    "compare": "Train by several methods, measure and certify every network, write one report.",
    "landscape": "Follow the loss along random directions of weight error.",
    "pcm": "Store the weights on phase-change memory and measure accuracy as it ages.",
    "gate": "Pass or fail: is enough verified at ε, or the yield proven at σ? For CI.",
    "diff": "Compare two stored claims, sample by sample: what was proven before and is not now. For CI.",
    "export": "Write a spiking network as a NIR file.",
    "inspect": "List parameters, operators and whether each has a rule.",
    "tasks": "List the data sets.",
    "methods": "List the training methods and their settings.",
}
# Commands whose name is no name of a module.
MODULES = {"yield": "yield_"}
BAD_INPUT, UNEXPECTED, INTERRUPTED = 2, 70, 130


class LazyGroup(click.Group):
    """Imports a command only when it runs, so that help is quick; turns every error into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = _module(cmd_name).command
        if command.short_help is None:
            command.short_help = COMMANDS[cmd_name]
            command.help = f"{command.short_help}\n\n{inspect.cleandoc(command.help or '')}"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        args = sys.argv[1:] if args is None else list(args)
        try:
            with _terminable(), _notices():
                status = super().main(args, prog_name or "thetabox", complete_var, standalone_mode=False, **extra)
        except Exception as error:
            if "--debug" in args[:1] or os.environ.get("THETABOX_DEBUG"):
                raise
            line, status = explained(error)
            if line:
                note(line)
        if not standalone_mode:
            return status
        sys.exit(status if isinstance(status, int) else 0)


@contextmanager
def _notices() -> Iterator[None]:
    """What the library reports that it did is a line on standard error."""
    with warnings.catch_warnings():
        before = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
            if issubclass(category, Notice):
                note(message)
            else:
                before(message, category, *where, **how)

        warnings.simplefilter("always", Notice)
        warnings.showwarning = shown
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, by which batch systems and containers end a run, treated as Ctrl-C: what is finished is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    # A handler that Python did not set could not be put back, one that ignores the signal is meant to.
    ours = before not in (None, signal.SIG_IGN)
    if ours:
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def explained(error: BaseException) -> tuple[str, int]:
    """(one line for the user, exit status) of an exception; an empty line where nothing is to be said."""
    if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
        return str(error.__cause__ or error.__context__ or "") or "interrupted", INTERRUPTED
    if isinstance(error, click.exceptions.Exit):
        return "", error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return _one_line(f"no command given; one of: {', '.join(COMMANDS)}"), BAD_INPUT
    if isinstance(error, click.ClickException):
        return _one_line(error.format_message()), BAD_INPUT
    if isinstance(error, InputError):
        return _one_line(str(error)), BAD_INPUT
    if isinstance(error, OSError):
        if error.errno == errno.EPIPE:  # the reader of our output went away
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open until the interpreter ends
            return "", 0
        where = f"{error.filename}: " if error.filename else ""
        return _one_line(f"{where}{error.strerror or error}"), BAD_INPUT
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return "not enough memory; take fewer --samples, or a smaller network", BAD_INPUT
    text = _one_line(f"unexpected {type(error).__name__}: {error}")
    return f"{text} (thetabox --debug COMMAND … shows where)", UNEXPECTED


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; never returns."""
    thetabox.main(args)
    sys.exit(0)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="thetabox %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def thetabox(debug: bool) -> None:
    """Prove how much every weight of a trained network may be off before a prediction can change."""


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"thetabox.cli.commands.{MODULES.get(name, name)}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
