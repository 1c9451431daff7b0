"""``thetabox gate``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import torch

from thetabox.cli import options, values
from thetabox.cli.commands import gate_box, gate_yield
from thetabox.cli.console import about, note
from thetabox.cli.gate_answers import Answers, Judged
from thetabox.cli.group import BAD_INPUT, UNEXPECTED, explained
from thetabox.cli.noise_options import noise_options
from thetabox.errors import InputError

Judge = Callable[[Path], Judged]


class Gate(options.Command):
    """A command line that cannot be read is no answer either."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        given = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError:
            lenient = {"resilient_parsing": True, "ignore_unknown_options": True, "allow_extra_args": True}
            known = super().make_context(info_name, given, parent, **lenient).params
            with suppress(InputError), Answers(known.get("junit"), known.get("summary")).kept():
                raise
            raise


@click.command("gate", cls=Gate)
@options.several_models_options
@options.data_options(required=False)
@options.epsilon_option(required=False)
@click.option("--min-verified", type=values.Share(), metavar="SHARE", help="With --epsilon: least verified accuracy.")
@gate_yield.claim_options
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write the outcome as JUnit XML.")
@click.option(
    "--summary",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Append the outcome as Markdown, as to $GITHUB_STEP_SUMMARY.",
)
@options.proof_options
@noise_options
@options.box_options
@options.machine_options
@options.worker_options
@click.pass_context
def command(
    context: click.Context, models: tuple[Path, ...], junit: Path | None, summary: Path | None, **source: Any
) -> None:
    """Exit 0 when MODEL (a checkpoint, or the folder of what was stored) is proven to be good enough, else 1.

    Two claims, never mixed: verified accuracy at ε (--epsilon, --min-verified), or, at σ, the accuracy that a share of
    all chips reaches (--sigma, --min-yield, --min-accuracy).

    A stored certificate counts for every ε up to one that it holds: the smaller box lies inside the larger one. A
    stored yield counts for its own σ. Each answers its own question alone: an option that asks for another box, noise,
    proof, model or other samples is refused. What is not finished does not pass. Bad input is exit status 2.

    Several models are judged one by one by the same claim, and all must pass. One with which something is wrong does
    not keep the others from being judged; the exit status is 2 then.
    """
    answers = Answers(junit, summary, models)
    with answers.kept():
        claim = gate_yield if gate_yield.asked_for(context) else gate_box

        def judge(model: Path) -> Judged:
            return Judged.by(model, *claim.judged(context, model, source))

        for model in models:
            answers.add(_one_of_several(judge, model, context) if answers.named else judge(model))
        status = answers.end()
    sys.exit(status)


def _one_of_several(judge: Judge, model: Path, context: click.Context) -> Judged:
    """An answer, whatever is wrong with this model; the line that says what is goes to standard error."""
    threads = torch.get_num_threads()
    with about(model):
        try:
            return judge(model)
        except Exception as error:
            why, status = explained(error)
            if status not in (BAD_INPUT, UNEXPECTED) or context.find_root().params.get("debug"):
                raise
            note(why)
            return Judged.without_answer(model, why, status)
        finally:
            # Those that suit one network need not suit the next.
            torch.set_num_threads(threads)
