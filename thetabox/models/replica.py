"""A copy of a network in double precision, whose own weights are written to.

A run on twins (:mod:`.twins`) sees what the code hands to operators. What a cache compares (the version of a tensor) or
another thread computes lies outside of it; in a copy the weights are really other ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.models.memory import named_tensors, place, whole, write
from thetabox.models.reach import reachable
from thetabox.models.recurrent import called
from thetabox.models.twins import NARROW, Twins


class Unfaithful(Exception):
    """The copy is another program: it reads what is no part of the network, or cannot be made or run."""


class Replica:
    """A deep copy in evaluation mode; tensors that share memory in the network share it in the copy.

    Args:
        model: stays as it is.

    Raises:
        Unfaithful: some part of it cannot be copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        if torch.is_inference_mode_enabled() or any(t.is_inference() for t in named_tensors(model).values()):
            raise Unfaithful  # such tensors have no version
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            raise Unfaithful  # compiled code keeps its weights to itself, and runs in no other thread
        stores: dict[tuple[int, torch.dtype], Tensor] = {}
        memo: dict[int, Any] = {}
        for t in [*model.parameters(), *model.buffers(), *(t for _, t in reachable(model, Tensor))]:
            at = place(t)
            if at is None or t.is_neg() or t.is_conj():
                continue
            if at not in stores:
                stores[at] = whole(t).double() if t.dtype in NARROW else whole(t).clone()
            own = stores[at].as_strided(t.shape, t.stride(), t.storage_offset())
            memo[id(t)] = nn.Parameter(own, t.requires_grad) if isinstance(t, nn.Parameter) else own
        self._originals = {at[0] for at in stores}
        try:
            self.copy: nn.Module = copy.deepcopy(model, memo)
        except Exception as error:  # whatever cannot be copied says so in its own way
            raise Unfaithful from error
        for module in self.copy.modules():
            if getattr(module, "training", False):
                module.training = False
        # The memo keeps what it was given alive.
        self._memo = memo

    def move(self, values: Mapping[str, Tensor]) -> None:
        """Write parameters by name, so often that their versions are above those of the network's own."""
        own, held = named_tensors(self._model), named_tensors(self.copy)
        for name, value in values.items():
            write(held[name], value)
            while held[name]._version <= own[name]._version:
                write(held[name], value)

    def __call__(self, x: Float[Tensor, "samples ..."]) -> Tensor:
        """What the copy answers, in float64 on the CPU.

        Raises:
            Unfaithful: it reads a tensor of the network itself, or fails.
        """
        with torch.no_grad(), _Watch(self._originals):
            try:
                answer = called(self.copy, x.clone())
            except Exception as error:  # a network raises whatever it likes
                raise Unfaithful from error
        if not isinstance(answer, Tensor):
            raise Unfaithful
        return answer.double().cpu()


class _Watch(Twins):
    """Double precision, and no operand that lies in the memory of the original."""

    def __init__(self, originals: set[int]) -> None:
        super().__init__(())
        self._originals = originals

    def twin(self, t: Tensor) -> Tensor:
        at = place(t)
        if at is not None and at[0] in self._originals:
            raise Unfaithful
        return super().twin(t)
