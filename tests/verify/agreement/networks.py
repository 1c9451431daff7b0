"""Networks whose weights are read by other ways than by name, and networks that are not the function they trace to."""

from __future__ import annotations

import functools
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

FEATURES, HIDDEN, CLASSES = 6, 8, 3


def samples(count: int = 12) -> Tensor:
    """Inputs."""
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(1))


class Plain(nn.Module):
    """Two weights read by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.v = nn.Parameter(torch.randn(FEATURES, HIDDEN)), nn.Parameter(torch.randn(HIDDEN, CLASSES))

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.w, self.v

    def forward(self, x: Tensor) -> Tensor:
        w, v = self.weights()
        return torch.relu(x @ w) @ v


class InList(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.kept = [self.w, self.v]

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.kept[0], self.kept[1]


class InTuple(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.kept = ((self.w,), self.v)

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.kept[0][0], self.kept[1]


class InDict(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.kept = {"first": self.w, "second": self.v}

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.kept["first"], self.kept["second"]


class InNamespace(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.kept = types.SimpleNamespace(w=self.w, v=self.v)

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.kept.w, self.kept.v


class InClosure(Plain):
    def __init__(self) -> None:
        super().__init__()
        w, v = self.w, self.v
        self.answer = lambda x: torch.relu(x @ w) @ v

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


class InPartial(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.answer = functools.partial(_two_layers, v=self.v, w=self.w)

    def forward(self, x: Tensor) -> Tensor:
        return self.answer(x)


def _two_layers(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return torch.relu(x @ w) @ v


class KeptCall(Plain):
    """``functional_call`` with the weights as they were when it was made."""

    def __init__(self) -> None:
        super().__init__()
        inner = Plain()
        self.kept = {"w": self.w, "v": self.v}
        self.inner = (inner,)

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(self.inner[0], self.kept, (x,))


class MadeViews(Plain):
    """A transposed view and a flat one, made once."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = [self.w.detach().t(), self.v.data.view(-1)]

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.kept[0].t(), self.kept[1].view(HIDDEN, CLASSES)


class OneOwner(Plain):
    """Slices of one parameter that holds all weights."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Parameter(torch.cat([self.w.detach().reshape(-1), self.v.detach().reshape(-1)]))
        size = self.w.numel()
        del self.w, self.v
        self.parts = (self.flat.data[:size].view(FEATURES, HIDDEN), self.flat.data[size:].view(HIDDEN, CLASSES))

    def weights(self) -> tuple[Tensor, Tensor]:
        return self.parts


class _Cell:
    """A layer written by hand, no module."""

    __slots__ = ("weight",)

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight


class HandWritten(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.cells = [_Cell(self.w), torch.relu, _Cell(self.v)]

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            x = cell(x)
        return x


OTHER_WAYS: list[type[nn.Module]] = [
    InList, InTuple, InDict, InNamespace, InClosure, InPartial, KeptCall, MadeViews, OneOwner, HandWritten,
]  # a list of classes  # fmt: skip

Change = Callable[["Changed", Tensor, Tensor], Tensor]


class Changed(nn.Module):
    """A network whose answer passes one more function: ``(module, x, answer) → answer``."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.net, self.change, self.calls = Plain(), change, 0

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self, x, self.net(x))


def _when(condition: Callable[[Any, Tensor], bool]) -> Change:
    return lambda module, x, answer: -2 * answer if condition(module, x) else answer


def _counted(condition: Callable[[int], bool]) -> Change:
    def change(module: Changed, x: Tensor, answer: Tensor) -> Tensor:
        module.calls += 1
        return -2 * answer if condition(module.calls) else answer

    return change


# What a trace burns in: name → the network's last function. Named in no order of likelihood.
BURNED_IN: dict[str, Change] = {
    "a batch of one": _when(lambda m, x: x.shape[0] == 1),
    "small batches": _when(lambda m, x: x.shape[0] <= 3),
    "large batches": _when(lambda m, x: x.shape[0] > 8),
    "very large batches": _when(lambda m, x: len(x) >= 700),
    "numbers in the batch": _when(lambda m, x: x.numel() > 24),
    "even batches": _when(lambda m, x: x.size(0) % 2 == 0),
    "elements of the answer": lambda m, x, a: -a if a.nelement() > 40 else a,
    "grad mode": _when(lambda m, x: torch.is_grad_enabled()),
    "no grad mode": _when(lambda m, x: not torch.is_grad_enabled()),
    "exporting": _when(lambda m, x: torch.compiler.is_exporting()),
    "compiling": _when(lambda m, x: torch.compiler.is_compiling()),
    "not exporting": _when(lambda m, x: not torch.compiler.is_exporting()),
    "kind of tensor": _when(lambda m, x: type(x) is not Tensor),
    "python randomness": lambda m, x, a: a * random.random(),
    "rare python randomness": _when(lambda m, x: random.random() < 0.3),
    "numpy randomness": lambda m, x, a: a * float(np.random.default_rng().random()),
    "numpy's global state": lambda m, x, a: a + float(np.random.rand()),  # noqa: NPY002 - what such a network does
    "a few calls": _counted(lambda n: n > 4),
    "every other call": _counted(lambda n: n % 2 == 0),
    "the first call": _counted(lambda n: n == 1),
}


class Gain:
    """A callable object with a setting."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def __call__(self, t: Tensor) -> Tensor:
        return self.gain * torch.relu(t)


class Slots:
    """The same without a ``__dict__``."""

    __slots__ = ("gain",)

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def __call__(self, t: Tensor) -> Tensor:
        return self.gain * torch.relu(t)


GLOBAL_LIMIT = 10**7
GLOBAL_GAIN = 1.0


class Settings(nn.Module):
    """A network that reads a number from many places."""

    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(FEATURES, 16), nn.Linear(16, CLASSES)
        self.object, self.slots, self.listed = Gain(1.0), Slots(1.0), [Gain(1.0)]
        self.partial = functools.partial(torch.mul, other=1.0)
        box = [1.0]
        self.closure = lambda t: t * box[0]
        self.box = box
        self.mask = torch.ones(16)
        self.table = {"deep": {"deeper": [types.SimpleNamespace(value=1.0)]}}

    def extra(self, t: Tensor) -> Tensor:
        return t

    def forward(self, x: Tensor) -> Tensor:
        t = self.closure(self.partial(self.listed[0](self.slots(self.object(self.a(x))))))
        t = t * self.scale * GLOBAL_GAIN * self.mask * self.table["deep"]["deeper"][0].value
        return self.b(self.extra(t))
