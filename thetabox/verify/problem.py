"""Bounds of many samples and many ε, in chunks that fit memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from thetabox.errors import OneEpsilonAtATime
from thetabox.models.fold import folded
from thetabox.verify.arguments import Settings, check_arithmetic, check_weights, input_interval, tensor_hash
from thetabox.verify.arithmetic.interval import Interval
from thetabox.verify.interpreter.context import Context, Memo, Sweep
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.network.network import Final, Network, StepObserver, Tensors, network
from thetabox.version import __version__

Progress = Callable[[int, int], None]
Which = slice | Tensor
# Samples, their ε [E, samples], and what other calls for the same samples share → a tensor [E, samples, ...].
Bounds = Callable[[Which, Tensor, Memo | None], Tensor]

# Bytes that the values alive at once may take, and those of the largest single one: on a processor small enough to
# stay near the cache, which is worth more than longer products.
MEMORY = {"cpu": 512 << 20, "cuda": 4 << 30}
LARGEST = {"cpu": 8 << 20, "cuda": 1 << 30}


@dataclass
class Problem:
    """A traced model with its parameters at hand.

    Create one a call: parameter values are read when it is made.
    """

    model: nn.Module
    settings: Settings
    x: Tensor

    def __post_init__(self) -> None:
        check_weights(self.model)
        check_arithmetic(self.model, self.settings.rounding)
        with torch.no_grad():
            if self.settings.box.fold:
                self.model = folded(self.model)
            self.network: Network = network(self.model, self.x)
            self.tensors = Tensors(self.model, self.settings.box, self.settings.rounding, self.settings.device)

    @cached_property
    def nonnegative(self) -> bool:
        """Whether no input is below 0, as the brightness of a pixel."""
        return bool((self.x >= 0).all())

    def signature(self) -> str:
        """What is computed, apart from parameter values: networks of equal parameters may differ in the rest."""
        graphs = self.network.graphs
        constants = [t for graph in graphs.values() for t in graph.constants.values()]
        return repr((__version__, tensor_hash(constants), {role: graph.describe() for role, graph in graphs.items()}))

    def chunk_size(self, sweeps: int) -> int:
        """Samples that fit memory together."""
        kind = self.settings.device.type
        width = torch.finfo(self.settings.rounding.dtype).bits // 8
        rows = min(MEMORY[kind] // self.network.alive(), LARGEST[kind] // self.network.largest())
        return max(1, rows // width)

    def evaluate(
        self, which: Which, epsilon: Tensor, observe: StepObserver | None = None, memo: Memo | None = None
    ) -> Final:
        """The samples ``which`` (a range or places) at ``epsilon [E, samples]``; called inside ``sound_kernels``."""
        values = epsilon.to(self.settings.device, torch.float64)
        context = Context(Sweep(values), self.settings.rounding, memo=memo, few_layers=self.network.few_layers)
        x = input_interval(self.x[which], self.settings, nonnegative=self.nonnegative)
        return self.network.run(context, self.tensors, x, observe)

    def margins(self, which: Which, epsilon: Tensor, y: Tensor, criterion: str = "margin") -> Tensor:
        """Proven margins ``[E, samples]``, float64 on the CPU."""

        def bounds(rows: Which, values: Tensor, memo: Memo | None) -> Tensor:
            final = self.evaluate(rows, values, memo=memo)
            return final.margins(y[rows].to(self.settings.device), criterion).double().cpu()

        return self._shared(bounds, which, epsilon)

    def logits(self, which: Which, epsilon: Tensor) -> Interval:
        """Bounds of the logits, rows ``[E samples, K]``."""

        def bounds(rows: Which, values: Tensor, memo: Memo | None) -> Tensor:
            found = self.evaluate(rows, values, memo=memo).logits().settled(self.settings.rounding.own)
            ends = torch.stack([found.lower, found.upper], -1).double().cpu()
            return ends.view(*values.shape, *ends.shape[1:])

        lower, upper = self._shared(bounds, which, epsilon).flatten(0, 1).unbind(-1)
        lower = torch.where(lower.isnan() | (lower == torch.inf), -torch.inf, lower)
        return Interval(lower, torch.where(upper.isnan() | (upper == -torch.inf), torch.inf, upper))

    def _shared(self, bounds: Bounds, which: Which, epsilon: Tensor) -> Tensor:
        """``bounds`` of all rows, one ε after the other, or one number where the network asks for that."""
        together = self._together(epsilon)
        memo = Memo() if together < len(epsilon) else None
        with torch.no_grad(), sound_kernels():
            try:
                return torch.cat([bounds(which, part, memo) for part in epsilon.split(together)])
            except OneEpsilonAtATime:
                if len(epsilon.unique()) == 1:
                    raise
            places = torch.arange(len(self.x))[which]
            found: Tensor | None = None
            for sweep, values in enumerate(epsilon):
                for value in values.unique():
                    members = (values == value).nonzero().squeeze(1)
                    part = bounds(places[members], value.expand(1, len(members)), None)[0]
                    if found is None:
                        found = part.new_empty(*epsilon.shape, *part.shape[1:])
                    found[sweep, members] = part
        assert found is not None
        return found

    def _together(self, epsilon: Tensor) -> int:
        """How many ε of a sweep go through the network as rows of one batch: one.

        Rows of one batch share numbers of their rounding and order of summation, so an ε would be answered a little
        differently beside others than alone. What is known without ε is shared all the same.
        """
        return 1

    def chunks(self, samples: int, sweeps: int) -> Iterator[tuple[int, int]]:
        """Ranges of samples."""
        size = self.chunk_size(sweeps)
        for start in range(0, samples, size):
            yield start, min(start + size, samples)
