"""Folders of stored claims for the gate: one that a command wrote beside its model, and copies of it to spoil."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from click.testing import CliRunner

from thetabox.cli import thetabox

# Options of the gate that ask nothing of a claim.
OF_THE_RUN = frozenset(
    {"--json", "--quiet", "--summary", "--junit", "--device", "--threads", "--seed", "--timeout", "--help"}
    | {"--workers", "--cluster"}
)


def written(place: Path, model: Path, command: str, *given: object) -> Path:
    """The folder that a command writes of a model that lies beside it."""
    shutil.copy(model, place / model.name)
    arguments = [command, place / model.name, *given, "--out", place / "out"]
    result = CliRunner().invoke(thetabox, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return place / "out"


def copied(made: Path, place: Path, claim: str, model: Path) -> Path:
    """A copy, whose claim names its model by a path of its own."""
    shutil.copytree(made.parent, place / "copy")
    path = place / "copy" / "out" / claim
    facts = json.loads(path.read_text())
    facts["model"]["source"] = model.name
    path.write_text(json.dumps(facts))
    return path.parent
