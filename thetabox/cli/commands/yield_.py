"""``thetabox yield``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import thetabox as tb
from thetabox import report
from thetabox.cli import options, values
from thetabox.cli.console import ProgressLine, note, print_json, progress_bar, show
from thetabox.cli.doubts import doubt
from thetabox.cli.executors import chosen_executor
from thetabox.cli.inputs import CommandInputs, read_all
from thetabox.cli.kept import PARTIAL, cut, nothing_kept, part_kept
from thetabox.cli.noise_options import make_noise, noise_options, sigma_option
from thetabox.errors import InputError, NoProof, UnsupportedOperator
from thetabox.measure.binomial import draws_needed, worst_that_counts
from thetabox.verify import arguments
from thetabox.verify.effort import Deadline

# Of the chips that a sampled accuracy is about.
SHARE = 0.99
BETWEEN = values.Range(0.0, 1.0, min_open=True, max_open=True)


@click.command("yield", cls=options.Command)
@options.model_options
@options.data_options()
@sigma_option("0.02,0.05,0.1")
@click.option(
    "--delta",
    type=BETWEEN,
    default=0.01,
    show_default=True,
    metavar="D",
    help="A sample is proven where at least 1 - D of all chips classify it right.",
)
@noise_options
@click.option(
    "--timeout",
    type=values.Range(),
    metavar="SECONDS",
    help="Stop then; what was proven stands, and the file says that it is not finished.",
)
@click.option(
    "--draws",
    type=click.IntRange(min=0),
    default=459,
    show_default=True,
    help="Chips drawn at random for each σ, the report's upper line (statistical, no proof); 0 for none.",
)
@click.option(
    "--confidence",
    type=BETWEEN,
    default=0.99,
    show_default=True,
    help="Of what the draws say of all chips.",
)
@click.option("--sampled-only", is_flag=True, help="Prove nothing, draw alone; for networks that the proof refuses.")
@options.box_options
@options.machine_options
@options.worker_options
@options.out_option()
def command(
    sigma: list[float],
    delta: float,
    method: str,
    timeout: float | None,
    draws: int,
    confidence: float,
    sampled_only: bool,
    device: str,
    seed: int,
    out: Path,
    **source: Any,
) -> None:
    """At least 1 - δ of all chips, whose parameters are off by random errors of size σ, classify each proven sample
    right: proven, without drawing any. Random draws stand beside, labelled as statistical. The folder gets yield.json,
    samples.csv, yield.png, yield.pdf, report.html and sampled.json. Ctrl-C keeps the finished part; the same command
    goes on from there. So does one that --timeout has cut, given more time.
    """
    noise = make_noise(source)
    limit = arguments.seconds(timeout)
    if draws:
        _check_draws(draws, confidence)
    elif sampled_only:
        raise InputError("--sampled-only needs --draws above 0")
    with nothing_kept("the proof had not begun" if not sampled_only else "no chip was drawn yet"):
        given = read_all(**source)
    deadline = Deadline(limit)
    sampling = {"draws": draws, "confidence": confidence, "share": SHARE, "noise": noise, "seed": seed}
    sampling |= {"box": given.box, "device": device}
    if sampled_only:
        _draw_alone(given, sigma, sampling, out)
        return
    with report.output_folder(out) as folder, progress_bar() as bar, chosen_executor(device) as executor:
        report.check_claim(folder, "yield.json")
        doubt(given, folder / "yield.json")
        how = {"delta": delta, "noise": noise, "method": method, "device": device, "timeout": deadline.left}
        sampling["executor"] = how["executor"] = executor
        certificate = _certify(given, sigma, how, folder, ProgressLine(bar, "yield"))
        sampled = None
        wanted = draws > 0 and noise.drawable
        if wanted:
            report.write_yield_proof(folder, certificate)
        try:
            if wanted and not deadline.passed:
                sampled = _draw(given, sigma, sampling, ProgressLine(bar, "draws"))
        except KeyboardInterrupt:
            report.write_yield(folder, certificate)
            raise KeyboardInterrupt(f"interrupted; {folder}/report.html holds the proof, less the rest") from None
        page = report.write_yield(folder, certificate, sampled)
    estimate = {} if sampled is None else {"sampled": sampled.to_json()}
    print_json({**certificate.to_json(), "seconds": certificate.seconds, **estimate, "report": str(page)})
    if draws and not wanted:
        note("no chips were drawn, for these errors are a family of distributions and not one of them")
    notes = [] if sampled is None else [report.sampled_note(sampled)]
    notes += [certificate.claim(place) for place in range(len(sigma))]
    notes += cut(timeout, not certificate.finished, the_draws=wanted and sampled is None)
    show(report.yield_table(certificate, sampled), *notes, f"report: {page}")


def _certify(
    given: CommandInputs, sigma: list[float], how: dict[str, Any], folder: Path, progress: ProgressLine
) -> tb.YieldCertificate:
    partial = folder / PARTIAL
    try:
        with part_kept(partial, "no part of the proof was finished yet"):
            return tb.certify_yield(**given.claim, sigma=sigma, progress=progress, resume=partial, **how)
    except (NoProof, UnsupportedOperator) as error:
        raise InputError(f"{error} (thetabox yield --sampled-only draws chips alone)") from error


def _check_draws(draws: int, confidence: float) -> None:
    """Refuse too few draws before the proof and not after it."""
    if worst_that_counts(draws, SHARE, confidence) < 1:
        raise InputError(
            f"--draws {draws} cannot say with confidence {confidence:g} what a share {SHARE:g} of all chips reaches; "
            f"{draws_needed(SHARE, confidence)} can, and 0 draws none"
        )


def _draw(
    given: CommandInputs, sigma: list[float], sampling: dict[str, Any], progress: ProgressLine
) -> tb.SampledYield:
    return tb.sampled_yield(given.model, given.data.x, given.data.y, sigma, progress=progress, **sampling)


def _draw_alone(given: CommandInputs, sigma: list[float], sampling: dict[str, Any], out: Path) -> None:
    with report.output_folder(out) as folder:
        drawing = nothing_kept("not all chips were drawn yet")
        with drawing, progress_bar() as bar, chosen_executor(sampling["device"]) as executor:
            sampled = _draw(given, sigma, sampling | {"executor": executor}, ProgressLine(bar, "draws"))
        report.write_files(folder, {"sampled.json": report.sampled_text(sampled, given.model_info, given.data_info)})
    about = {"schema": report.SAMPLED, "model": given.model_info, "data": given.data_info}
    print_json({**about, **sampled.to_json(), "written": str(folder / "sampled.json")})
    show(report.sampled_table(sampled), report.sampled_note(sampled), f"written: {folder / 'sampled.json'}")
