"""``thetabox gate``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import click

import thetabox as tb
from thetabox import report
from thetabox.cli import asked, options, values
from thetabox.cli.commands import gate_yield
from thetabox.cli.console import ProgressLine, print_json, progress_bar, show, tell
from thetabox.cli.counts import enough, written
from thetabox.cli.executors import chosen_executor
from thetabox.cli.group import explained
from thetabox.cli.inputs import proof_settings, read_all
from thetabox.cli.noise_options import noise_options
from thetabox.errors import InputError
from thetabox.report.results import number
from thetabox.verify import domains

SUITE = "thetabox.gate"


@contextmanager
def _ended(junit: Path | None, summary: Path | None) -> Iterator[None]:
    """Make the JUnit file report a gate that ended with no answer as just that, whatever stood there before.

    The summary says so too, below what other steps have written there.
    """
    try:
        for option, path in (("--junit", junit), ("--summary", summary)):
            if path is not None and path.is_dir():
                raise InputError(f"cannot write {path}: it is a folder; name a file after {option}")
        if junit is not None:
            _write_error(junit, "the gate did not end")
        yield
    except BaseException as error:
        with suppress(InputError):
            if junit is not None:
                _write_error(junit, explained(error)[0])
        with suppress(InputError):
            if summary is not None:
                report.append_summary(summary, SUITE, [_no_verdict(explained(error)[0])])
        raise


def _no_verdict(why: str) -> report.Case:
    return report.Case("the gate ends", error=why)


def _write_error(junit: Path, why: str) -> None:
    report.write_junit(junit, SUITE, [_no_verdict(why)])


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
            with suppress(InputError), _ended(known.get("junit"), known.get("summary")):
                raise
            raise


@click.command("gate", cls=Gate)
@options.model_options
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
def command(context: click.Context, model: Path, junit: Path | None, summary: Path | None, **source: Any) -> None:
    """Exit 0 when MODEL (a checkpoint, or the folder of what was stored) is proven to be good enough, else 1.

    Two claims, never mixed: verified accuracy at ε (--epsilon, --min-verified), or, at σ, the accuracy that a share of
    all chips reaches (--sigma, --min-yield, --min-accuracy).

    A stored certificate counts for every ε up to one that it holds: the smaller box lies inside the larger one. A
    stored yield counts for its own σ. Each answers its own question alone: an option that asks for another box, noise,
    proof, model or other samples is refused. What is not finished does not pass. Bad input is exit status 2.
    """
    with _ended(junit, summary):
        certificate: tb.Certificate | tb.YieldCertificate
        if gate_yield.asked_for(context):
            certificate, cases = gate_yield.judged(context, model, source)
        else:
            certificate, cases = _judged(context, model, source)
        if junit is not None:
            report.write_junit(junit, SUITE, cases, certificate.seconds)
        if summary is not None:
            report.append_summary(summary, SUITE, cases)
        passes = all(case.failure is None for case in cases)
        claims = [{"claim": case.name, "pass": case.failure is None, "found": case.output} for case in cases]
        print_json({"pass": passes, "finished": certificate.finished, "claims": claims})
        for case in cases:
            show(f"{_verdict(case, certificate)}  {case.output}")
    sys.exit(0 if passes else 1)


def _judged(context: click.Context, model: Path, source: dict[str, Any]) -> tuple[tb.Certificate, list[report.Case]]:
    epsilon, least = context.params["epsilon"], context.params["min_verified"]
    if model.is_dir() or model.suffix == ".json":
        certificate = _stored(context, model)
    else:
        certificate = _computed(model, epsilon, dict(source))
    if not certificate.sound:
        _refuse(certificate.domain)
    return certificate, [_case(certificate, e, least) for e in epsilon]


def _stored(context: click.Context, path: Path) -> tb.Certificate:
    gate_yield.refuse_a_yield(path)
    certificate = tb.Certificate.load(path)
    if certificate.domain not in domains.names():
        raise InputError(f"the certificate at {path} was made with {certificate.domain!r}, a domain unknown here")
    if not domains.is_sound(certificate.domain):
        _refuse(certificate.domain)
    if "proven_by" in certificate.options and certificate.domain != domains.AUTO:
        raise InputError(f"the certificate at {path} is not as it was written: stages are those of 'auto' alone")
    asked.check(context, certificate, path)
    for note in asked.changed(certificate, path, data=context.params["data"] is None):
        tell(f"thetabox: {note}")
    return certificate


def _computed(model: Path, epsilon: list[float], source: dict[str, Any]) -> tb.Certificate:
    if source["data"] is None:
        raise InputError("--data is needed to gate a model; only a stored certificate holds its samples")
    how = proof_settings(source, source.pop("timeout"))
    if not domains.is_sound(how["domain"]):
        _refuse(how["domain"])
    how["device"] = source.pop("device")
    for name in (*gate_yield.BOX, *gate_yield.YIELD, *gate_yield.PROOF_OF_A_YIELD, "seed"):
        source.pop(name)
    given = read_all(model=model, **source)
    with progress_bar() as bar, chosen_executor(how["device"]) as executor:
        return tb.certify(
            **given.claim, epsilon=epsilon, progress=ProgressLine(bar, "certify"), executor=executor, **how
        )


def _refuse(domain: str) -> NoReturn:
    raise InputError(f"the domain {domain!r} is not sound; the gate takes proofs only")


def _case(certificate: tb.Certificate, epsilon: float, least: Decimal) -> report.Case:
    covering = [(float(e), i) for i, e in enumerate(certificate.epsilon) if float(e) >= epsilon]
    if not covering:
        largest = number(float(certificate.epsilon.max()))
        raise InputError(f"the certificate goes up to ε = {largest}, so it says nothing of ε = {number(epsilon)}")
    at, index = min(covering)
    count, total = int(certificate.verified[index].sum()), int(certificate.label.shape[0])
    required = written(least)
    text = f"verified accuracy at ε = {number(epsilon)}: {count}/{total} = {count / total:.4f}, required {required}"
    if at != epsilon:
        text += f" (proven at ε = {number(at)})"
    name = f"verified accuracy at epsilon {number(epsilon)} is at least {required}"
    if not certificate.finished:
        return report.Case(name, f"not finished: {text}", f"{text}; the proof was cut, more may be proven")
    return report.Case(name, None if enough(count, total, least) else text, text)


def _verdict(case: report.Case, certificate: tb.Certificate | tb.YieldCertificate) -> str:
    return "pass" if case.failure is None else "FAIL" if certificate.finished else "not finished"
