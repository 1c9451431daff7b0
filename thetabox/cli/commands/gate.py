"""``thetabox gate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

import thetabox as tb
from thetabox import report
from thetabox.cli import asked, options
from thetabox.cli.console import Steps, progress_bar, show
from thetabox.cli.inputs import proof_settings, read_all
from thetabox.errors import InputError
from thetabox.report.results import number
from thetabox.verify import domains


@click.command("gate", short_help="Pass or fail: is enough verified at ε? For CI.")
@options.model_options
@options.data_options(required=False)
@options.epsilon_option()
@click.option(
    "--min-verified",
    type=options.Range(0, 1),
    required=True,
    metavar="SHARE",
    help="Least verified accuracy.",
)
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write the outcome as JUnit XML.")
@options.proof_options
@options.box_options
@options.machine_options
@click.pass_context
def command(
    context: click.Context, model: Path, epsilon: list[float], min_verified: float, junit: Path | None, **source: Any
) -> None:
    """Exit 0 when MODEL (a checkpoint, or the folder of a stored certificate) verifies enough at ε, else 1.

    A stored certificate counts for every ε up to one that it holds: the smaller box lies inside the larger one. It
    answers its own question alone: an option that asks for another box, proof, model or other samples is refused. A
    certificate that is not finished does not pass. Bad input is exit status 2.
    """
    if junit is not None and junit.is_dir():
        raise InputError(f"cannot write {junit}: it is a folder; name a file")
    if model.is_dir() or model.suffix == ".json":
        certificate = _stored(context, model)
    else:
        certificate = _computed(model, epsilon, source)
    if not certificate.sound:
        _refuse(certificate.domain)
    cases = [_case(certificate, e, min_verified) for e in epsilon]
    if junit is not None:
        report.write_junit(junit, "thetabox.gate", cases, certificate.seconds)
    for case in cases:
        show(f"{_verdict(case, certificate)}  {case.output}")
    sys.exit(0 if all(case.failure is None for case in cases) else 1)


def _stored(context: click.Context, path: Path) -> tb.Certificate:
    certificate = tb.Certificate.load(path)
    if certificate.domain not in domains.names():
        raise InputError(f"the certificate at {path} was made with {certificate.domain!r}, a domain unknown here")
    if not domains.is_sound(certificate.domain):
        _refuse(certificate.domain)
    asked.check(context, certificate, path)
    note = asked.changed(certificate, path)
    if note:
        click.echo(f"thetabox: {note}", err=True)
    return certificate


def _computed(model: Path, epsilon: list[float], source: dict[str, Any]) -> tb.Certificate:
    if source["data"] is None:
        raise InputError("--data is needed to gate a model; only a stored certificate holds its samples")
    keys = ("domain", "criterion", "arithmetic", "precision", "option", "effort", "timeout", "budget")
    how = proof_settings(**{key: source.pop(key) for key in keys})
    if not domains.is_sound(how["domain"]):
        _refuse(how["domain"])
    how["device"] = source.pop("device")
    source.pop("seed")
    given = read_all(model=model, **source)
    with progress_bar() as bar:
        return tb.certify(
            given.model,
            given.data.x,
            given.data.y,
            epsilon,
            box=given.box,
            progress=Steps(bar, "certify"),
            model_info=given.model_info,
            data_info=given.data_info,
            **how,
        )


def _refuse(domain: str) -> NoReturn:
    raise InputError(f"the domain {domain!r} is not sound; the gate takes proofs only")


def _case(certificate: tb.Certificate, epsilon: float, least: float) -> report.Case:
    covering = [(float(e), i) for i, e in enumerate(certificate.epsilon) if float(e) >= epsilon]
    if not covering:
        largest = number(float(certificate.epsilon.max()))
        raise InputError(f"the certificate goes up to ε = {largest}, so it says nothing of ε = {number(epsilon)}")
    at, index = min(covering)
    count, total = int(certificate.verified[index].sum()), int(certificate.label.shape[0])
    text = f"verified accuracy at ε = {number(epsilon)}: {count}/{total} = {count / total:.4f}, required {least:g}"
    if at != epsilon:
        text += f" (proven at ε = {number(at)})"
    name = f"verified accuracy at epsilon {number(epsilon)} is at least {least:g}"
    if not certificate.finished:
        return report.Case(name, f"not finished: {text}", f"{text}; the proof was cut, more may be proven")
    # Counts are compared, not rounded shares: 0.9 of 10 samples is 9.
    return report.Case(name, None if count >= least * total - 1e-9 else text, text)


def _verdict(case: report.Case, certificate: tb.Certificate) -> str:
    return "pass" if case.failure is None else "FAIL" if certificate.finished else "not finished"
