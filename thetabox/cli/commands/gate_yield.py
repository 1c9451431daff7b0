"""The claim of yield at the gate: at least so many of all chips reach an accuracy. Never mixed with that of a box."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

import thetabox as tb
from thetabox import report
from thetabox.cli import asked, options, values
from thetabox.cli.console import ProgressLine, progress_bar
from thetabox.cli.counts import enough, written
from thetabox.cli.executors import chosen_executor
from thetabox.cli.inputs import read_all
from thetabox.cli.noise_options import make_noise, sigma_option
from thetabox.errors import InputError
from thetabox.report.results import number
from thetabox.verify import arguments

BOX = ("epsilon", "min_verified")
YIELD = ("sigma", "min_yield", "min_accuracy")
# Options that say how the one or the other is proven.
PROOF_OF_A_BOX = ("domain", "option", "effort", "budget", "criterion", "arithmetic", "precision")
PROOF_OF_A_YIELD = ("noise", "noise_scale", "correlated", "drift", "drift_bound", "method")
CLAIMS = "--epsilon with --min-verified, or --sigma with --min-yield and --min-accuracy"


def claim_options(function: options.Function) -> options.Function:
    """What is claimed of the yield."""
    share = click.option(
        "--min-yield", type=values.Share(), metavar="SHARE", help="With --sigma: least share of all chips, ..."
    )
    accuracy = click.option(
        "--min-accuracy", type=values.Share(), metavar="SHARE", help="... and the accuracy that each of them reaches."
    )
    return sigma_option(None)(share(accuracy(function)))


def asked_for(context: click.Context) -> bool:
    """Whether the claim is one of yield.

    Raises:
        InputError: it is no claim, half of one, or mixed of both.
    """
    box = [name for name in BOX if context.params[name] is not None]
    of_yield = [name for name in YIELD if context.params[name] is not None]
    if not box and not of_yield:
        raise InputError(f"a claim is needed: {CLAIMS}")
    if box and of_yield:
        raise InputError(
            f"{_option(of_yield[0])} is part of a claim of yield, {_option(box[0])} of one of a box; gate them one by "
            f"one: {CLAIMS}"
        )
    parts, others = (YIELD, PROOF_OF_A_BOX) if of_yield else (BOX, PROOF_OF_A_YIELD)
    for name in parts:
        if context.params[name] is None:
            raise InputError(f"{_option(name)} is missing; a claim is {CLAIMS}")
    for name in others:
        if asked.given(context, name):
            raise InputError(
                f"{_option(name)} has no part in a claim of {'yield' if of_yield else 'a box'}; leave it out"
            )
    if of_yield:
        _share(context.params["min_yield"])
    return bool(of_yield)


def judged(
    context: click.Context, model: Path, source: dict[str, Any]
) -> tuple[tb.YieldCertificate, list[report.Case]]:
    """The proven yield, stored or computed, and whether it is enough at each σ.

    Raises:
        InputError: anything wrong, or a stored one that answers another question.
    """
    sigma, least = context.params["sigma"], context.params["min_accuracy"]
    share = _share(context.params["min_yield"])
    if model.is_dir() or model.suffix == ".json":
        certificate = _stored(context, model)
    else:
        certificate = _computed(model, sigma, dict(source))
    return certificate, [_case(certificate, s, context.params["min_yield"], share, least) for s in sigma]


def refuse_a_yield(path: Path) -> None:
    """Refuse a folder of a proven yield where the certificate of a box is meant.

    Raises:
        InputError: it is one.
    """
    if path.is_dir() and (path / "yield.json").exists() and not (path / "certificate.json").exists():
        raise InputError(f"{path} holds a proven yield, which says nothing of ε; ask with --sigma")


def _stored(context: click.Context, path: Path) -> tb.YieldCertificate:
    if path.is_dir() and (path / "certificate.json").exists() and not (path / "yield.json").exists():
        raise InputError(f"{path} holds the certificate of a box, which says nothing of σ; ask with --epsilon")
    certificate = tb.YieldCertificate.load(path)
    asked.check(context, certificate, path)
    asked.tell_changed(context, certificate, path)
    return certificate


def _computed(model: Path, sigma: list[float], source: dict[str, Any]) -> tb.YieldCertificate:
    if source["data"] is None:
        raise InputError("--data is needed to gate a model; only a stored proven yield holds its samples")
    for name in (*BOX, *YIELD, *PROOF_OF_A_BOX, "seed"):
        source.pop(name, None)
    how = {
        "noise": make_noise(source),
        "timeout": arguments.seconds(source.pop("timeout")),
        "method": source.pop("method"),
        "device": source.pop("device"),
    }
    given = read_all(model=model, **source)
    with progress_bar() as bar, chosen_executor(how["device"]) as executor:
        return tb.certify_yield(
            **given.claim, sigma=sigma, progress=ProgressLine(bar, "yield"), executor=executor, **how
        )


def _share(least: Decimal) -> float:
    """The smallest float that is no smaller than a share of all chips."""
    if not 0 < least < 1:
        raise InputError(f"--min-yield is {written(least)}; a share of all chips must lie above 0 and below 1")
    share = float(least)
    if Decimal(share) < least:
        share = math.nextafter(share, 1.0)
    if share >= 1.0:
        raise InputError(f"--min-yield is {least}, which is too close to 1 to be told apart from it")
    return share


def _case(
    certificate: tb.YieldCertificate, sigma: float, least_share: Decimal, share: float, least: Decimal
) -> report.Case:
    if sigma not in certificate.sigma.tolist():
        known = ", ".join(number(s) for s in certificate.sigma.tolist())
        raise InputError(f"the proven yield is of σ = {known}, so it says nothing of σ = {number(sigma)}")
    index, total = certificate.sigma.tolist().index(sigma), int(certificate.label.shape[0])
    count = round(float(certificate.chips(share)[index]) * total)
    chips, required = written(least_share), written(least)
    text = (
        f"proven yield at σ = {number(sigma)}: at least {chips} of all chips reach {count}/{total} = "
        f"{count / total:.4f}, required {required} ({certificate.errors})"
    )
    name = f"at least {chips} of all chips reach accuracy {required} at sigma {number(sigma)}"
    if not certificate.finished:
        return report.Case(name, f"not finished: {text}", f"{text}; the proof was cut, more may be proven")
    return report.Case(name, None if enough(count, total, least) else text, text)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
