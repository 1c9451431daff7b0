"""Training as usual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thetabox.train.methods.method import Method


@dataclass(frozen=True)
class Standard(Method):
    """The task loss at the weights as they are."""

    name: ClassVar[str] = "standard"
    summary: ClassVar[str] = "the task loss alone"
