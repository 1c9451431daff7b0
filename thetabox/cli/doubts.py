"""What is allowed and rarely meant: a line each on standard error, before the work begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from thetabox.cli.console import note
from thetabox.cli.inputs import CommandInputs
from thetabox.data import TASKS, load
from thetabox.errors import InputError
from thetabox.json_text import parse
from thetabox.models.checkpoint import checkpoint_info
from thetabox.report.results import number

# Inputs so many times larger than those of the training are likely of another scale.
LARGER = 4.0
# The largest value of a pixel as cameras and image files have it; and small whole numbers, which may be anything.
BYTE, SMALL = 255.0, 16.0


def doubt(given: CommandInputs, file: Path, *, epsilon: Sequence[float] = ()) -> None:
    """Say what looks strange of what is about to be proven.

    Args:
        given: network, samples and box.
        file: the result's file, which may be there already.
        epsilon: of the box; none for random errors.
    """
    for line in (*_of_epsilon(given, epsilon), *_of_inputs(given), *_of_the_file(given, file)):
        note(line)


def _of_epsilon(given: CommandInputs, epsilon: Sequence[float]) -> Iterator[str]:
    largest = max(epsilon, default=0.0)
    if given.box.kind == "relative" and largest > 1:
        yield (
            f"at ε = {number(largest)} a relative box holds every parameter at zero and of either sign; "
            f"if percent were meant, write {number(largest / 100)}"
        )


def _of_inputs(given: CommandInputs) -> Iterator[str]:
    x = given.data.x
    largest = float(x.abs().max())
    known = _trained_up_to(Path(given.model_info["source"]))
    if known is not None:
        task, most = known
        if largest > LARGER * most:
            yield (
                f"the data reach {number(largest)}, and those of {task}, on which the network was trained, "
                f"{number(most)}: they look unscaled"
            )
    elif _of_bytes(x):
        yield (
            f"the data are whole numbers up to {number(largest)}, as pixels in files; if the network was trained on "
            "pixels from 0 to 1, divide by 255"
        )


def _trained_up_to(model: Path) -> tuple[str, float] | None:
    """The task on which a checkpoint was trained, where it says so, and how large its inputs are."""
    with suppress(InputError, OSError):
        task = (checkpoint_info(model).get("info") or {}).get("task")
        if task in TASKS and TASKS[task].embedded:
            return task, float(load(task, "train").x.abs().max())
    return None


def _of_bytes(x: Tensor) -> bool:
    numbers = x.double()
    whole = bool((numbers == numbers.round()).all()) and not bool((numbers < 0).any())
    return whole and x.dim() >= 3 and SMALL < float(numbers.max()) <= BYTE and x.dtype is not torch.bool


def _of_the_file(given: CommandInputs, file: Path) -> Iterator[str]:
    """A result of another network or of other data, which is about to be written over."""
    held: object = None
    with suppress(OSError, ValueError):
        held = parse(file.read_bytes())
    if not isinstance(held, dict):
        return
    pairs = (("another network", "model", given.model_info), ("other data", "data", given.data_info))
    for what, key, now in pairs:
        before = held.get(key)
        before = before.get("sha256") if isinstance(before, dict) else None
        if before is not None and now.get("sha256") is not None and before != now["sha256"]:
            yield f"{file} is of {what}, and will be written over"
