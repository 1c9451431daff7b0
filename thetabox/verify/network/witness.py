"""What a module's code does, operator by operator: by this a trace that was kept is known to be of the code as it is.

A trace burns in whatever the Python code reads: attributes, globals, closures, class attributes, hooks. No list of
those is complete, so the code is run again, on a few zeros, and every operator that it calls is compared with what it
called when it was traced: which one, on which values, with which numbers beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.models.memory import storage_key
from thetabox.models.twins import Twins


@dataclass(frozen=True)
class Witness:
    """A record of one run.

    Attributes:
        calls: of every operator, its name and operands: earlier results by number, tensors of the module by name and
            layout, others by their place in ``constants``, everything else as it is written.
        constants: tensors that are neither results nor the module's.
    """

    calls: list[Any]
    constants: list[Tensor]

    def agrees(self, other: Witness) -> bool:
        """Whether two runs did the same."""
        if self.calls != other.calls or len(self.constants) != len(other.constants):
            return False
        pairs = zip(self.constants, other.constants, strict=True)
        return all(a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in pairs)


def witness(model: nn.Module, module: nn.Module, inputs: Sequence[Tensor]) -> Witness:
    """Run ``module`` (the model itself or a part of it) on inputs, and record what it does."""
    named = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    with torch.enable_grad(), _Recorder(named) as recorder:
        results = module(*inputs)
    leaves = torch.utils._pytree.tree_leaves(results)
    recorder.calls.append(("output", tuple(recorder.operand(leaf) for leaf in leaves)))
    return Witness(recorder.calls, recorder.constants)


class _Recorder(Twins):
    def __init__(self, named: dict[str, Tensor]) -> None:
        super().__init__(named.values(), wide=False)
        self.calls: list[Any] = []
        self.constants: list[Tensor] = []
        self._names = {at: name for name, t in named.items() if (at := storage_key(t)) is not None}
        # Results are kept, so that no later tensor has the identity of an earlier one.
        self._results: list[Tensor] = []
        self._number: dict[int, Any] = {}

    def operand(self, value: Any) -> Any:
        """What is recorded of an operand."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, tuple | list):
            return tuple(self.operand(v) for v in value)
        return type(value).__name__, repr(value)

    def _tensor(self, value: Tensor) -> Any:
        number = self._number.get(id(value))
        if number is not None:
            return number
        at = storage_key(value)
        name = None if at is None else self._names.get(at)
        if name is not None:
            return name, tuple(value.shape), value.stride(), value.storage_offset()
        self.constants.append(value.detach().clone())
        return self._remember(value, ("constant", len(self.constants)))

    def _remember(self, value: Tensor, number: Any) -> Any:
        self._results.append(value)
        self._number[id(value)] = number
        return number

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = tuple((k, self.operand(v)) for k, v in (kwargs or {}).items())
        self.calls.append((str(func), self.operand(args), named))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for part, t in enumerate(torch.utils._pytree.tree_leaves(result)):
            if isinstance(t, Tensor):
                self._remember(t, (len(self.calls), part))
        return result
