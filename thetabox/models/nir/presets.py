"""The dynamics of a NIR file's neurons, chosen by name: the order of their update is not in the file.

Two networks of one framework that differ in their reset give the same file. So a preset is never guessed, and it
refuses constants that its framework would not have written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from thetabox.errors import InputError
from thetabox.models.nir.cells import Builder, NirNeurons
from thetabox.models.nir.constants import Stored
from thetabox.models.nir.frameworks import euler, norse, rockpool, sinabs, snntorch, spikingjelly

EULER = "euler:"


@dataclass(frozen=True)
class Preset:
    """The dynamics of one framework.

    Attributes:
        name: by which they are chosen.
        framework: whose they are, with the version that they were compared with spike by spike.
        says: in a line, what sets them apart.
        builders: of each primitive that the framework writes.
        dt: length of a step in the unit of the file's delays; ``None`` where that is not known.
    """

    name: str
    framework: str
    says: str
    builders: Mapping[str, Builder]
    dt: float | None = None

    def cell(self, stored: Stored) -> NirNeurons:
        """The neurons of a node.

        Raises:
            InputError: the framework writes no such node, or not with these constants.
        """
        builder = self.builders.get(stored.node.kind)
        if builder is None:
            others = [name for name, preset in PRESETS.items() if stored.node.kind in preset.builders]
            hint = ", ".join([*others, f"{EULER}DT"])
            raise InputError(
                f"the dynamics {self.name!r} have no update for {stored.node.where}, which {self.framework} does not "
                f"write with them; {hint} have one"
            )
        return builder(stored)


PRESETS: dict[str, Preset] = {
    name: Preset(name, framework, says, builders, dt)
    for framework, dt, presets in (
        (snntorch.FRAMEWORK, snntorch.DT, snntorch.PRESETS),
        (norse.FRAMEWORK, None, norse.PRESETS),
        (spikingjelly.FRAMEWORK, spikingjelly.DT, spikingjelly.PRESETS),
        (sinabs.FRAMEWORK, sinabs.DT, sinabs.PRESETS),
        (rockpool.FRAMEWORK, None, rockpool.PRESETS),
    )
    for name, (says, builders) in presets.items()
}
"""Dynamics by name, each but Rockpool's compared with its framework's own run, spike by spike, in the tests."""


def preset_of(dynamics: str | None) -> Preset:
    """The dynamics of a name; ``euler:DT`` for NIR's own equations in steps of DT.

    Raises:
        InputError: none is named, or no such name.
    """
    known = ", ".join([*PRESETS, f"{EULER}DT"])
    if dynamics is None:
        raise InputError(
            "a NIR file does not say how its neurons are updated; choose with --dynamics (dynamics= in Python) what it "
            f"was written for: {known}"
        )
    if not isinstance(dynamics, str) or (dynamics not in PRESETS and not dynamics.startswith(EULER)):
        raise InputError(f"unknown dynamics {dynamics!r}; known are {known}")
    return PRESETS[dynamics] if dynamics in PRESETS else _euler(dynamics)


def _euler(dynamics: str) -> Preset:
    try:
        dt = float(dynamics.removeprefix(EULER))
    except ValueError:
        dt = math.nan
    if not (math.isfinite(dt) and dt > 0):
        raise InputError(f"the dynamics {dynamics!r} need a time step above 0, such as {EULER}1e-4")
    return Preset(dynamics, f"NIR's own equations, dt = {dt:g}", euler.SAYS, euler.builders(dt), dt)
