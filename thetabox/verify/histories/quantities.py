"""Where the quantities of a history stand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from thetabox.verify.histories.cells import Cells


@dataclass(frozen=True)
class Quantities:
    """Where each quantity of a history stands; the output traces come first.

    Attributes:
        names: of the others, in their order.
        traces: how many there are.
    """

    names: tuple[str, ...]
    traces: int

    @classmethod
    def of(cls, cells: Cells) -> Quantities:
        """The quantities that these cells have."""
        asked = {
            "reset": cells.resets,
            "adaptation": cells.adaptation is not None,
            "spike": True,
            "silent": not cells.never_silent,
            "count": True,
            "potential": cells.value is not None,
            "pending": cells.keeps_pending,
        }
        return cls(tuple(name for name, there in asked.items() if there), len(cells.traces))

    @cached_property
    def count(self) -> int:
        """Of all quantities."""
        return self.traces + len(self.names)

    @cached_property
    def index(self) -> dict[str, int]:
        """Of each by name."""
        return {name: self.traces + i for i, name in enumerate(self.names)}
