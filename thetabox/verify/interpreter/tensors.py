"""Parameters, buffers and constants of a network as the interpreter reads them."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.models.memory import identity, named_tensors
from thetabox.models.twins import RUNNING
from thetabox.verify.arithmetic.parameter import Parameter, stored
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.walk import Value
from thetabox.verify.network.graph import Graph


class Tensors:
    """Parameters, buffers and constants of a model in the dtype and on the device of the bounds.

    Args:
        model, box, rounding, device: whose, which of them move, and how they are held.
        instead: values by name that stand in for the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        box: Box,
        rounding: Rounding,
        device: torch.device,
        instead: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.box, self.rounding, self.device = model, box, rounding, device
        with RUNNING:
            self.values: dict[str, Tensor] = {**named_tensors(model), **(instead or {})}
            factors = box.factors(model)
        self._hold(factors)

    def _hold(self, factors: Mapping[str, float]) -> None:
        # Two tensors on one memory are one, in the box under all its names.
        first: dict[Hashable, Tensor] = {}
        self.values = {name: first.setdefault(identity(t), t) for name, t in self.values.items()}
        self.factors = {id(self.values[name]): factor for name, factor in factors.items()}
        self.cache: dict[int, Parameter] = {}

    def around(self, values: Mapping[str, Tensor], rounding: Rounding) -> Tensors:
        """The same box around other values, held in another way."""
        other = copy.copy(self)
        other.values, other.rounding = {**self.values, **values}, rounding
        other._hold(self._by_name())
        return other

    def _by_name(self) -> dict[str, float]:
        return {name: self.factors[id(t)] for name, t in self.values.items() if id(t) in self.factors}

    # Which tensors move is known by their identity, and a copy's tensors are others: it takes the names along.
    def __getstate__(self) -> dict[str, Any]:
        kept = ("model", "box", "rounding", "device", "values")
        return {**{name: getattr(self, name) for name in kept}, "factors": self._by_name()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        factors = state.pop("factors")
        self.__dict__.update(state)
        self._hold(factors)

    @property
    def boxed(self) -> list[str]:
        """Names of the tensors that move, each under all its names."""
        return [name for name, value in self.values.items() if id(value) in self.factors]

    def of(self, graph: Graph) -> dict[int, Value]:
        """Position → parameter, for every tensor of the graph."""
        values: dict[int, Value] = {i: self.parameter(name) for i, name in graph.tensors.items()}
        for i, view in graph.views.items():
            values[i] = self.parameter(view.name).moved(view.of)
        for i, constant in graph.constants.items():
            values[i] = stored("a constant of the graph", constant.detach().to(self.device), self.rounding)
        return values

    def parameter(self, name: str) -> Parameter:
        """A tensor of the model by name, with its box."""
        value = self.values[name]
        if id(value) not in self.cache:
            factor = self.factors.get(id(value), 0.0)
            held = value.to(self.device)
            if not torch.is_grad_enabled():
                held = held.detach()
            absolute = None
            if factor and self.box.kind != "relative":
                absolute = self.box.unit_radius(held.to(torch.float64))
                if self.box.kind == "range":
                    absolute = torch.nextafter(absolute, torch.full_like(absolute, torch.inf))
                if self.rounding.dtype == torch.float32:
                    absolute = torch.nextafter(absolute.float(), torch.full_like(absolute.float(), torch.inf))
            self.cache[id(value)] = stored(name, held, self.rounding, factor, absolute)
        return self.cache[id(value)]

    def check_reach(self, epsilon: Tensor) -> None:
        """Refuse boxes so narrow that float32 has fewer digits for their ends than the bounds allow for.

        Raises:
            InputError: a float64 tensor moves by less than the normal numbers of float32.
        """
        least = float(epsilon[epsilon > 0].amin()) if bool((epsilon > 0).any()) else 0.0
        if not self.rounding.network or self.box.kind == "relative" or not least:
            return
        for name, value in self.values.items():
            factor = self.factors.get(id(value), 0.0)
            if factor and value.dtype == torch.float64:
                absolute = self.box.unit_radius(value.detach())
                radius = absolute[absolute > 0] * (factor * least)
                if radius.numel() and float(radius.amin()) < torch.finfo(torch.float32).smallest_normal:
                    raise InputError(
                        f"at ε = {least:g} {name} moves by less than float32 can tell; use real arithmetic"
                    )
