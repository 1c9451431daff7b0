"""One question to a domain: a network, its box, inputs, and how they are bounded."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.checks import check_weights
from thetabox.errors import InputError
from thetabox.models.fold import folded
from thetabox.models.nir import NirNetwork
from thetabox.models.program import Program
from thetabox.models.several import Separate
from thetabox.models.twins import RUNNING
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.arithmetic.rounding import Rounding
from thetabox.verify.interpreter.tensors import Tensors
from thetabox.verify.interpreter.walk import check_rules
from thetabox.verify.network import Network, network
from thetabox.verify.network.ending import SIGMOIDS
from thetabox.version import __version__

Progress = Callable[[int, int], None]
Which = slice | Tensor

# Bytes that the values alive at once may take, and those of the largest single one: on a processor small enough to
# stay near the cache, which is worth more than longer products.
MEMORY = {"cpu": 512 << 20, "cuda": 4 << 30}
LARGEST = {"cpu": 8 << 20, "cuda": 1 << 30}


@dataclass(frozen=True)
class Settings:
    """How to bound: box, rounding, device, domain and its options."""

    box: Box
    rounding: Rounding
    device: torch.device
    domain: str
    precision: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Problem:
    """A traced model with its parameters at hand.

    Create one a call: parameter values are read when it is made.

    Attributes:
        model, settings: whose question it is, and how it is decided.
        x: inputs as floats.
        x_as_given: inputs in the type and memory layout in which the user has them, where the model takes them so and
            that is not the same call; else ``None``.
        traced: the network, where it was traced before.
    """

    model: nn.Module
    settings: Settings
    x: Tensor
    x_as_given: Tensor | Separate | None = None
    traced: InitVar[Network | None] = None

    def __post_init__(self, traced: Network | None) -> None:
        check_weights(self.model)
        check_arithmetic(self.model, self.settings.rounding)
        with torch.no_grad():
            if self.settings.box.fold:
                self.model = folded(self.model)
            self.network = network(self.model, self.x) if traced is None else traced
            if self.settings.rounding.network and self.network.ending == SIGMOIDS:
                self.network = self.network.with_ending
            for graph in self.network.with_ending.graphs.values():
                check_rules(graph)
            self.tensors = Tensors(self.model, self.settings.box, self.settings.rounding, self.settings.device)

    @property
    def with_ending(self) -> Problem:
        """The same of the network with what it does behind its logits."""
        other = copy.copy(self)
        other.network = self.network.with_ending
        return other

    @cached_property
    def nonnegative(self) -> bool:
        """Whether no input is below 0, as the brightness of a pixel."""
        return bool((self.x >= 0).all())

    def signature(self) -> str:
        """What is computed, apart from parameter values: networks of equal parameters may differ in the rest."""
        graphs = self.network.graphs
        constants = [t for graph in graphs.values() for t in graph.constants.values()]
        return repr((__version__, tensor_hash(constants), {role: graph.describe() for role, graph in graphs.items()}))

    def chunk_size(self, levels: int) -> int:
        """Samples that fit memory together."""
        kind = self.settings.device.type
        width = torch.finfo(self.settings.rounding.dtype).bits // 8
        rows = min(MEMORY[kind] // self.network.alive(), LARGEST[kind] // self.network.largest())
        return max(1, rows // width)


def check_arithmetic(model: nn.Module, rounding: Rounding) -> None:
    """Raise for a network that does not compute in float32 though the claim is for that arithmetic.

    Raises:
        InputError: a parameter or buffer in a type of fewer digits.
    """
    if not rounding.network:
        return
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if t.is_floating_point() and t.dtype.itemsize < torch.float32.itemsize:
            kind = str(t.dtype).removeprefix("torch.")
            raise InputError(
                f"the model's {name} is in {kind}, whose rounding arithmetic='float32' does not cover; "
                "convert the model with .float(), or use arithmetic='real'"
            )


def input_interval(x: Tensor, settings: Settings, *, nonnegative: bool = False) -> Interval:
    """The inputs as the network sees them: exact where the dtype holds them, else rounded outward."""
    rounding = settings.rounding
    x = x.to(settings.device)
    if rounding.network or rounding.dtype == torch.float32:
        largest = float(x.abs().max())
        if largest > torch.finfo(torch.float32).max:
            raise InputError(f"x has a value of size {largest:g}, which float32 cannot hold")
    value = x.to(rounding.dtype)
    exact = value.dtype == torch.float64 or x.dtype == value.dtype or bool((value.double() == x.double()).all())
    in_float32 = rounding.network == 0.0 or x.dtype == torch.float32 or bool((x.float().double() == x).all())
    if exact and in_float32:
        out = Interval.point(value, nonnegative=nonnegative)
    else:
        wide = value.abs() * (4.0 * (2.0**-24)) + 4.0 * rounding.subnormal
        out = Interval(value - wide, value + wide)
    out.batch = 0
    return out


def model_facts(model: nn.Module, box: Box) -> dict[str, Any]:
    """Counts for the certificate, and a hash of the parameters."""
    with RUNNING:
        return _facts(model, box)


def _facts(model: nn.Module, box: Box) -> dict[str, Any]:
    tensors = dict(model.named_parameters())
    certified = folded(model) if box.fold else model
    factors = box.factors(certified)
    held = {**dict(certified.named_buffers()), **dict(certified.named_parameters())}
    perturbed = sum(held[name].numel() for name in factors)
    return {
        "source": type(model).__name__,
        "sha256": tensor_hash([t for _, t in sorted([*tensors.items(), *model.named_buffers()])]),
        "parameters": sum(t.numel() for t in tensors.values()),
        "perturbed": perturbed,
        **({"file": model.facts} if isinstance(model, Program | NirNetwork) else {}),
    }


def tensor_hash(tensors: Sequence[Tensor]) -> str:
    """SHA-256 over dtype, shape and bytes."""
    digest = hashlib.sha256()
    for t in tensors:
        t = t.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(f"{t.dtype}{list(t.shape)}".encode())
        # The stride of a single number may be anything, and torch reads the bytes of rows without gaps alone.
        flat = t.reshape(-1).as_strided((t.numel(),), (1,))
        digest.update(flat.view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()
