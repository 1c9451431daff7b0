"""Attacked accuracy against epochs, while a network trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.measure.attack import attack
from thetabox.measure.inputs import levels
from thetabox.measure.shared_attack import shared_attack

KINDS = ("shared", "sample")


class Numbered(Protocol):
    """A training's record of one epoch, such as ``thetabox.train.Epoch``."""

    @property
    def epoch(self) -> int: ...


@dataclass
class AttackedDuring:
    """What to pass as ``on_epoch``; the curve grows as the training goes on.

    Attributes:
        epoch: epochs measured.
        clean: accuracy of the unperturbed network.
        attacked: accuracy that the attack left.
    """

    model: nn.Module
    x: Tensor | np.ndarray
    y: Tensor | np.ndarray
    epsilon: float
    every: int
    kind: str
    settings: dict[str, Any]
    epoch: list[int] = field(default_factory=list)
    clean: list[float] = field(default_factory=list)
    attacked: list[float] = field(default_factory=list)

    def __call__(self, record: Numbered) -> None:
        """Measure the network as it is now, in every ``every``-th epoch."""
        if record.epoch % self.every:
            return
        search = shared_attack if self.kind == "shared" else attack
        result = search(self.model, self.x, self.y, self.epsilon, **self.settings)
        self.epoch.append(record.epoch)
        self.clean.append(result.clean_accuracy)
        self.attacked.append(float(result.accuracy[0]))

    def to_json(self) -> dict[str, Any]:
        """The curve, for a report or a file."""
        rows = zip(self.epoch, self.clean, self.attacked, strict=True)
        return {
            "epsilon": self.epsilon,
            "kind": self.kind,
            "curve": [{"epoch": e, "clean": c, "attacked": a} for e, c, a in rows],
        }


def attacked_during(
    model: nn.Module,
    data: Any,
    epsilon: float,
    every: int = 1,
    *,
    kind: str = "shared",
    steps: int = 10,
    restarts: int = 1,
    box: Box | None = None,
    seed: int = 0,
    device: str = "auto",
) -> AttackedDuring:
    """A callback for ``thetabox.train.fit(on_epoch=…)`` that attacks the network while it trains.

    Training goes on as if it were not there: it uses random streams of its own and works on a copy.

    Args:
        model: the network that is being trained.
        data: object with ``x`` and ``y``, or a pair (x, y): a few hundred samples suffice.
        epsilon: size of the attack.
        every: epochs from one attack to the next.
        kind: "shared", one perturbation for all samples (:func:`shared_attack`, cross entropy), or "sample", one for
            each (:func:`thetabox.attack`).
        steps, restarts, box, seed, device: of the attack.

    Raises:
        InputError: anything wrong with the arguments.

    Source: Fig. S5 of Büchel, Faber, Muir (ICLR 2022).
    """
    if every < 1:
        raise InputError(f"every is {every}; it must be at least 1")
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r} of attack; choose {' or '.join(KINDS)}")
    (size,) = levels([epsilon], "epsilon")
    x, y = data if isinstance(data, tuple) else (data.x, data.y)
    settings = {"steps": steps, "restarts": restarts, "box": box, "seed": seed, "device": device}
    return AttackedDuring(model, x, y, size, every, kind, settings)
