"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from thetabox.cli import console
from thetabox.cli.values import Numbers, Range, Scale, Setting

Function = Callable[..., Any]


class Command(click.Command):
    """Every command: with ``--json`` and ``--quiet``, and no option given twice, of which one would be dropped."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += [
            _way(console.JSON, "--json", "Print one JSON document in place of tables and lines."),
            _way(console.QUIET, "--quiet", "Print nothing, and show no progress: the files and the exit status tell."),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(list(args))
            for parameter in order:
                single = isinstance(parameter, click.Option) and not parameter.multiple and not parameter.is_eager
                if single and order.count(parameter) > 1:
                    raise click.UsageError(f"{'/'.join(parameter.opts)} is given twice", ctx)
        return super().parse_args(ctx, args)


def _way(way: str, name: str, text: str) -> click.Option:
    """A flag that says how the command prints, wherever in it that is asked."""

    def noted(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.meta[way] = value

    return click.Option([name], is_flag=True, expose_value=False, callback=noted, help=text)


def model_options(function: Function) -> Function:
    """Which network: a checkpoint, and how to read one that does not say what it holds."""
    argument = click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
    return _apply(function, argument, *_reading())


def several_models_options(function: Function) -> Function:
    """Which networks, one or more, all of them read in the same way."""
    argument = click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path))
    return _apply(function, argument, *_reading())


def _reading() -> tuple[Callable[[Function], Function], ...]:
    return (
        click.option(
            "--model",
            "architecture",
            metavar="NAME",
            help="Network of a state_dict: lsnn, convnet, mlp, resnet32; or your own, path/to/file.py:Class or "
            "package.module:factory, which runs that code.",
        ),
        click.option(
            "--set",
            "config",
            type=Setting(),
            multiple=True,
            help="Constructor argument of it, e.g. units=128; repeatable.",
        ),
        click.option(
            "--dynamics",
            metavar="NAME",
            help="Of a .nir file, how its neurons are updated: snntorch, norse, spikingjelly, sinabs, …; an unknown "
            "name lists them all.",
        ),
    )


def data_options(required: bool = True) -> Callable[[Function], Function]:
    """Which samples."""

    def decorate(function: Function) -> Function:
        return _apply(
            function,
            click.option("--data", metavar="TASK_OR_NPZ", required=required, help="A task, or a .npz with x and y."),
            click.option(
                "--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True
            ),
            click.option(
                "--samples",
                type=click.IntRange(min=1),
                metavar="N",
                help="A fixed class-balanced subset, the same for every command; all by default.",
            ),
            click.option(
                "--data-dir", type=click.Path(path_type=Path), help="Folder of the task's files (or set THETABOX_DATA)."
            ),
        )

    return decorate


def box_options(function: Function) -> Function:
    """Which parameters may be off, and how ε is meant."""
    return _apply(
        function,
        click.option(
            "--box-kind",
            type=click.Choice(["relative", "absolute", "range"]),
            default="relative",
            show_default=True,
            help="θ ± ε|θ|, θ ± ε, or θ ± ε(max − min).",
        ),
        click.option("--include", default="*", show_default=True, help="Patterns of parameter names in the box."),
        click.option("--exclude", default="", help="Patterns left out again."),
        click.option("--scale", type=Scale(), multiple=True, help="Factor on ε for a pattern; repeatable."),
        click.option("--fold", is_flag=True, help="Fold batch norm into the layer before it first."),
    )


def stored_options(function: Function) -> Function:
    """Which parameters a measurement is about that has errors of its own."""
    return _apply(
        function,
        click.option("--include", default="*", show_default=True, help="Patterns of the weight matrices meant."),
        click.option("--exclude", default="", help="Patterns left out again."),
        click.option("--fold", is_flag=True, help="Fold batch norm into the layer before it first."),
    )


def machine_options(function: Function) -> Function:
    """Where and how to compute."""
    return _apply(
        function,
        click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda"),
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            help="CPU threads; by default 1 for recurrent networks, whose steps are too small to share.",
        ),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    )


# Where the parts of a run go, as the command line asks: a number of processes, the address of a scheduler.
WORKERS, CLUSTER = "thetabox.workers", "thetabox.cluster"


def worker_options(function: Function) -> Function:
    """Which processes do the parts of the run; see :mod:`thetabox.cli.executors`."""

    def noted(key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
        def note(context: click.Context, _: click.Parameter, value: Any) -> None:
            context.meta[key] = value

        return note

    return _apply(
        function,
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            expose_value=False,
            callback=noted(WORKERS),
            help="Processes that share the work, one thread each; by default as many as there are cores once that "
            "pays. The answers are the same.",
        ),
        click.option(
            "--cluster",
            metavar="ADDRESS",
            expose_value=False,
            callback=noted(CLUSTER),
            help="Dask scheduler whose workers do it instead, as tcp://host:8786.",
        ),
    )


def proof_options(function: Function) -> Function:
    """How to bound."""
    return _apply(
        function,
        click.option(
            "--domain",
            default="auto",
            show_default=True,
            help="Of the bounds: auto, interval, linear (no spikes), histories (spiking), lirpa (no proof).",
        ),
        click.option("--option", "option", type=Setting(), multiple=True, help="Of the domain; repeatable."),
        click.option(
            "--effort",
            type=Range(),
            metavar="PASSES",
            help="Forward passes for each sample and ε that auto may take after intervals, on average; 300 by "
            "default, inf for no limit. They are counted, not timed: the verdicts are the same on any machine.",
        ),
        click.option(
            "--timeout",
            type=Range(),
            metavar="SECONDS",
            help="Stop then; what was proven stands, and the certificate says that it is not finished.",
        ),
        click.option("--budget", type=Range(), metavar="SECONDS", help="What --effort was before; it will go."),
        click.option("--criterion", default="margin", show_default=True, metavar="margin|logits"),
        click.option("--arithmetic", default="real", show_default=True, metavar="real|float32"),
        click.option("--precision", default="float64", show_default=True, metavar="float64|float32"),
    )


def epsilon_option(default: str | None = None, *, required: bool = True) -> Callable[[Function], Function]:
    """One ε or several."""
    needed = required and default is None
    return click.option(
        "--epsilon", type=Numbers(), required=needed, default=default, metavar="E[,E…]", show_default=True
    )


def out_option(required: bool = True) -> Callable[[Function], Function]:
    """The output folder."""
    return click.option(
        "--out", type=click.Path(path_type=Path), required=required, metavar="DIR", help="Output folder."
    )


def _apply(function: Function, *decorators: Callable[[Function], Function]) -> Function:
    for decorator in reversed(decorators):
        function = decorator(function)
    return function
