"""What was found of one method of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thetabox.compare.config import Variant


@dataclass(frozen=True)
class Row:
    """What was found of one variant.

    Attributes:
        variant: the method with its settings.
        results: stage → what it found, one entry a seed.
        seconds: stage → time of each seed.
    """

    variant: Variant
    results: dict[str, list[dict[str, Any]]]
    seconds: dict[str, list[float]]
