"""``thetabox certify``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

import thetabox as tb
from thetabox import report
from thetabox.cli import options
from thetabox.cli.console import ProgressLine, print_json, progress_bar, show
from thetabox.cli.doubts import doubt
from thetabox.cli.executors import chosen_executor
from thetabox.cli.inputs import CommandInputs, proof_settings, read_all
from thetabox.cli.kept import PARTIAL, cut, nothing_kept, part_kept
from thetabox.measure import AttackResult
from thetabox.verify import Radii
from thetabox.verify.effort import Deadline


@click.command("certify", cls=options.Command)
@options.model_options
@options.data_options()
@options.epsilon_option()
@options.proof_options
@options.box_options
@options.machine_options
@options.worker_options
@options.out_option()
@click.option("--attack/--no-attack", default=True, help="Search for counterexamples too: the report's upper line.")
@click.option("--attack-steps", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--attack-restarts", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--radius/--no-radius", default=True, help="Find every sample's certified radius as well.")
def command(
    epsilon: list[float],
    timeout: float | None,
    device: str,
    seed: int,
    out: Path,
    attack: bool,
    attack_steps: int,
    attack_restarts: int,
    radius: bool,
    **source: Any,
) -> None:
    """The folder gets certificate.json, samples.csv, verified_accuracy.png and .pdf, and report.html. Ctrl-C keeps the
    finished part; the same command goes on from there. So does one that --timeout has cut, given more time.
    """
    how = proof_settings(source, timeout)
    with nothing_kept("the proof had not begun"):
        given = read_all(**source)
    deadline = Deadline(how["timeout"])
    how["device"] = device
    with report.output_folder(out) as folder, progress_bar() as bar, chosen_executor(device) as how["executor"]:
        report.check_claim(folder, "certificate.json")
        doubt(given, folder / "certificate.json", epsilon=epsilon)
        certificate = _certify(given, epsilon, how, folder, ProgressLine(bar, "certify"))
        attacked = None
        if radius or attack:
            report.write_proof(folder, certificate)
        try:
            if radius and not deadline.passed:
                how["timeout"] = deadline.left
                certificate = _with_radii(certificate, given, how, ProgressLine(bar, "radius"))
            if attack and not deadline.passed:
                strength = {"steps": attack_steps, "restarts": attack_restarts, "seed": seed, "device": device}
                # A worker has one thread: beside several here, its margins would end in other digits.
                strength |= {"executor": how["executor"] if torch.get_num_threads() == 1 else None}
                attacked = _attacked(given, epsilon, strength, ProgressLine(bar, "attack"))
        except KeyboardInterrupt:
            report.write(folder, certificate)
            raise KeyboardInterrupt(f"interrupted; {folder}/report.html holds the proof, less the rest") from None
        page = report.write(folder, certificate, attacked)
    why = [f"{name} gave up: {reason}" for name, reason in certificate.options.get("left_out", {}).items()]
    why += cut(
        timeout,
        not certificate.finished,
        the_radii=radius and certificate.radius is None,
        the_attack=attack and attacked is None,
    )
    upper_bound = {} if attacked is None else {"attack": attacked.to_json()}
    radii = {} if certificate.radius is None else {"radius": certificate.radius.tolist()}
    print_json({**certificate.to_json(), "seconds": certificate.seconds, **radii, **upper_bound, "report": str(page)})
    show(report.curve_table(certificate, attacked), *why, f"report: {page}")


def _certify(
    given: CommandInputs, epsilon: list[float], how: dict[str, Any], folder: Path, progress: ProgressLine
) -> tb.Certificate:
    partial = folder / PARTIAL
    with part_kept(partial, "no part of the proof was finished yet"):
        return tb.certify(
            **given.claim, epsilon=epsilon, baseline=True, profile=True, progress=progress, resume=partial, **how
        )


def _with_radii(
    certificate: tb.Certificate, given: CommandInputs, how: dict[str, Any], progress: ProgressLine
) -> tb.Certificate:
    """The certificate with the radii; without those that a search was cut at, which say less than they seem to."""
    radii = tb.certified_radius(
        given.model, given.data.x, given.data.y, box=given.box, details=True, progress=progress, **how
    )
    assert isinstance(radii, Radii)
    return replace(certificate, radius=radii.radius) if radii.finished else certificate


def _attacked(given: CommandInputs, epsilon: list[float], how: dict[str, Any], progress: ProgressLine) -> AttackResult:
    return tb.attack(given.model, given.data.x, given.data.y, epsilon, box=given.box, progress=progress, **how)
