"""Copies of a network to work on: other weights are put into them, by vmap and gradients if need be.

A weight is the same weight by whatever way the code reads it: registered, in a list, in a closure, as a view made
earlier. ``torch.func.functional_call`` replaces what is registered; the other ways are followed by the memory.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from thetabox import checks
from thetabox.deep_copy import deep_copy
from thetabox.errors import InputError
from thetabox.models.compiled import nothing_compiled
from thetabox.models.memory import identity, named_tensors, storage_key
from thetabox.models.precision import computing_in
from thetabox.models.reach import reachable
from thetabox.models.recurrent import logits
from thetabox.models.twins import NARROW, RUNNING
from thetabox.models.views import View, view_on


class Logits(nn.Module):
    """Any network behind a plain ``forward(x) -> logits``, so that ``functional_call`` reaches the protocol's loop."""

    def __init__(self, network: nn.Module, dtype: torch.dtype | None = None, original: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype or torch.get_default_dtype()
        self._original = (original,)  # in a tuple: it is no part of this module
        self._detours: _Detours | None = None
        # Whether the weights are read by name alone, as far as a run with others in their place and one without told.
        self._straight: dict[bool, bool] = {}

    def forward(self, x: Tensor) -> Tensor:
        with ExitStack() as stack:
            stack.enter_context(nothing_compiled())
            stack.enter_context(computing_in(self.dtype))
            detours = self._ways()
            if not self._straight.get(detours.replaced, False):
                stack.enter_context(detours)
            try:
                output = logits(self.network, x)
            except RuntimeError as error:
                if "mutate a captured Tensor" not in str(error):
                    raise
                raise InputError(
                    "the network's forward writes to a tensor that it keeps between calls, by which gradients cannot "
                    "be taken; let it compute a new one"
                ) from error
        self._straight[detours.replaced] = not detours.taken
        if not isinstance(output, Tensor):
            raise InputError(
                f"the network returns a {type(output).__name__}; it must return one tensor of logits [samples, "
                "classes]: wrap it in a module that does"
            )
        return output

    def under(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        """The logits with other weights, by the network's names, in the place of its own."""
        named = {f"network.{name}": value for name, value in weights.items()}
        output: Tensor = functional_call(self, named, (x,))
        return output

    def prepare(self) -> Logits:
        """Learn where the tensors of the network lie, once they are where they stay."""
        self._detours = _Detours(self.network, self._original[0], self.dtype)
        return self

    def _ways(self) -> _Detours:
        if self._detours is None:
            self.prepare()
        assert self._detours is not None
        self._detours.begin(self.network)
        return self._detours


def not_followed(error: Exception) -> InputError:
    """What is reported of a network that fails once other weights stand in the place of its own."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return InputError(
        "the network cannot be run with other weights in the place of its own "
        f"({type(error).__name__}{': ' * bool(reason)}{reason[:200]})"
    )


class _Detours(TorchFunctionMode):
    """Tensors that are a network's by their memory, but were not read by name, become what stands under the name."""

    def __init__(self, network: nn.Module, original: nn.Module | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.taken = dtype, False
        self.now: dict[str, Tensor] = {}
        self._held = [*network.named_parameters(), *network.named_buffers()]
        self._owners: dict[tuple[int, torch.dtype], list[tuple[str, Tensor]]] = {}
        for module in (network, original):
            for name, t in [] if module is None else [*module.named_parameters(), *module.named_buffers()]:
                if (at := storage_key(t)) is not None:
                    self._owners.setdefault(at, []).append((name, t))
        self._views: dict[Any, View | None] = {}
        self.replaced = False

    def begin(self, network: nn.Module) -> None:
        """Look at what stands under the names now."""
        self.now = named_tensors(network)
        self.replaced = any(self.now[name] is not t for name, t in self._held)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*self._followed(args), **{k: self._followed(v) for k, v in (kwargs or {}).items()})

    def _followed(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, tuple | list):
            return type(value)(self._followed(v) for v in value)
        return value

    def _tensor(self, t: Tensor) -> Tensor:
        at = storage_key(t)
        owners = () if at is None else self._owners.get(at, ())
        for name, original in owners:
            now = self.now[name]
            if now is t:
                return t
            view = self._view(t, name, original)
            if view is not None:
                self.taken = self.taken or now is not original
                return view.of(now)
        if at is not None and self.dtype is torch.float64 and t.dtype in NARROW and not t.requires_grad:
            self.taken = True
            return t.double()
        return t

    def _view(self, t: Tensor, name: str, original: Tensor) -> View | None:
        key = name, tuple(t.shape), t.stride(), t.storage_offset()
        if key not in self._views:
            self._views[key] = view_on(name, original, t)
        return self._views[key]


def working_copy(model: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> Logits:
    """A copy in evaluation mode, so that the user's network stays as it is.

    Raises:
        InputError: no module, weights that are no finite numbers, or the network cannot be copied.
    """
    with RUNNING:
        checks.check_weights(model)
        twin = Logits(duplicate(model), dtype, model).to(device=device, dtype=dtype).eval()
    return twin.requires_grad_(False).prepare()


def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy; results that the module keeps of an earlier call are copied without their history.

    Views of its weights that the module keeps stay views of the original's, and are followed by their memory.

    Raises:
        InputError: some part of it cannot be copied.
    """
    with RUNNING:
        return _copied(model)


def _copied(model: nn.Module) -> nn.Module:
    registered = {id(t) for t in [*model.parameters(), *model.buffers()]}
    owned = {storage_key(t) for t in [*model.parameters(), *model.buffers()]} - {None}
    memo: dict[int, Any] = {}
    first: dict[Hashable, Tensor] = {}
    for t in [*model.parameters(), *model.buffers()]:
        one = first.setdefault(identity(t), t)
        if one is not t:  # two tensors on one memory become one
            memo[id(t)] = copy.deepcopy(one, memo)
    for _, t in reachable(model, Tensor):
        if storage_key(t) in owned and id(t) not in registered:
            memo[id(t)] = t
        elif not t.is_leaf:
            memo[id(t)] = t.detach().clone()
    try:
        return deep_copy(model, memo)
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"the network cannot be copied ({reason}); take what is not part of it out of it") from error
