"""Views of a tensor, told by the memory they lie in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class View:
    """A view of a parameter or buffer.

    Attributes:
        name: of the tensor.
        entries: which of its entries, flattened, stands at each place of the view; ``None`` for the tensor as it is.
    """

    name: str
    entries: Int[Tensor, "*shape"] | None

    def of(self, value: Tensor) -> Tensor:
        """The view of the tensor's value, or of anything of its shape."""
        return value if self.entries is None else value.reshape(-1)[self.entries.to(value.device)]


def view_on(name: str, whole: Tensor, part: Tensor) -> View | None:
    """How ``part`` is a view of ``whole``, in whose storage it lies; ``None`` where it reaches beyond."""
    if (part.shape, part.stride(), part.storage_offset()) == (whole.shape, whole.stride(), whole.storage_offset()):
        return View(name, None)
    entries = places_in(whole, part)
    return View(name, entries) if bool((entries >= 0).all()) else None


def places_in(whole: Tensor, part: Tensor) -> Int[Tensor, "*shape"]:
    """Where in ``whole`` (flattened) each entry of ``part`` lies, -1 for nowhere; both in one storage."""
    memory = torch.arange(len(whole.untyped_storage()) // whole.itemsize)
    inverse = torch.full((len(memory),), -1)
    taken = memory.as_strided(whole.shape, whole.stride(), whole.storage_offset()).reshape(-1)
    inverse[taken] = torch.arange(whole.numel())
    return inverse[memory.as_strided(part.shape, part.stride(), part.storage_offset())]
