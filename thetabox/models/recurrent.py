"""The protocol by which a recurrent network, ours or a user's own, is run and certified one time step at a time."""

from __future__ import annotations

from inspect import signature
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.errors import InputError

State = Any
"""Pytree of tensors whose first dimension is the batch: a tensor, or a tuple, list or dict of them."""


@runtime_checkable
class Recurrent(Protocol):
    """What a recurrent network offers; certification walks the graph of one ``step``, once a time step.

    ``initial_state(batch)`` returns the state before the first step, ``step(x_t, state)`` takes ``x_t [N, inputs]`` and
    returns (output ``[N, units]``, next state), ``readout(outputs)`` takes ``[N, T, units]`` and returns logits.
    """

    def initial_state(self, batch: int) -> State: ...

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]: ...

    def readout(self, outputs: Tensor) -> Tensor: ...


class RecurrentModule(nn.Module):
    """Base class of recurrent networks: subclasses define the three methods of :class:`Recurrent`."""

    def initial_state(self, batch: int) -> State:
        raise NotImplementedError

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        raise NotImplementedError

    def readout(self, outputs: Tensor) -> Tensor:
        raise NotImplementedError

    def outputs(self, x: Float[Tensor, "batch time inputs"]) -> Float[Tensor, "batch time units"]:
        """Output of every time step (the spikes of a spiking network)."""
        return run_steps(self, x)

    def forward(
        self, x: Float[Tensor, "batch time inputs"], return_outputs: bool = False
    ) -> Float[Tensor, "batch classes"] | tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch time units"]]:
        """Logits; with ``return_outputs`` also the output of every step, for regularisers."""
        outputs = self.outputs(x)
        logits = self.readout(outputs)
        return (logits, outputs) if return_outputs else logits


def is_recurrent(model: object) -> bool:
    """Whether ``model`` implements the protocol: it has its methods, and they can be called as the protocol does.

    A network with a forward of its own may have helpers of the same names.
    """
    if not hasattr(model, "initial_state") or not isinstance(model, Recurrent):  # the first is the quicker one
        return False
    return all(_takes(m, count) for m, count in ((model.initial_state, 1), (model.step, 2), (model.readout, 1)))


def _takes(method: Any, count: int) -> bool:
    """Whether a method can be called with so many arguments by place."""
    try:
        signature(method).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # compiled code has no signature
        return True
    return True


def run_steps(model: Recurrent, x: Float[Tensor, "batch time inputs"]) -> Float[Tensor, "batch time units"]:
    """Outputs of all time steps, by the protocol alone.

    Raises:
        InputError: ``x`` is not [batch, time, inputs] with at least one time step.
    """
    check_sequence(x)
    state = model.initial_state(x.shape[0])
    outputs = []
    for x_t in x.unbind(1):
        output, state = model.step(x_t, state)
        outputs.append(output)
    return torch.stack(outputs, 1)


def check_sequence(x: Tensor, inputs: int | None = None) -> None:
    """Raise InputError unless ``x`` is [batch, time, inputs] with time ≥ 1."""
    if x.ndim != 3 or x.shape[1] < 1 or (inputs is not None and x.shape[2] != inputs):
        want = "inputs" if inputs is None else str(inputs)
        raise InputError(f"a recurrent network takes x of shape [batch, time, {want}], not {list(x.shape)}")


def logits(model: nn.Module, x: Tensor) -> Float[Tensor, "batch classes"]:
    """Logits of any model, which gets a copy of ``x``: a first layer in place writes to what it is given."""
    return called(model, x.clone())


def called(model: nn.Module, x: Tensor) -> Float[Tensor, "batch classes"]:
    """The model's forward, or the protocol's loop where a recurrent module has no forward of its own."""
    if is_recurrent(model) and type(model).forward is nn.Module.forward:
        return model.readout(run_steps(model, x))  # type: ignore[operator, arg-type]  # the protocol
    return model(x)
