"""The claim on a box at the gate: verified accuracy at ε. Never mixed with that of yield."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import click

import thetabox as tb
from thetabox import report
from thetabox.cli import asked
from thetabox.cli.commands import gate_yield
from thetabox.cli.console import ProgressLine, progress_bar
from thetabox.cli.counts import enough, written
from thetabox.cli.executors import chosen_executor
from thetabox.cli.inputs import proof_settings, read_all
from thetabox.errors import InputError
from thetabox.report.results import number
from thetabox.verify import domains


def judged(context: click.Context, model: Path, source: dict[str, Any]) -> tuple[tb.Certificate, list[report.Case]]:
    """The certificate, stored or computed, and whether enough is verified at each ε.

    Raises:
        InputError: anything wrong, a stored one that answers another question, or none that is a proof.
    """
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
    asked.tell_changed(context, certificate, path)
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
