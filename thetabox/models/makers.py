"""Which function of torch made the numbers of a tensor, whatever else was computed in between."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from thetabox.models.memory import storage_key

# Functions that may copy the numbers of their first operand, and change none of them.
COPIES = {
    "clone",
    "contiguous",
    "reshape",
    "flatten",
    "ravel",
    "to",
    "float",
    "double",
    "cpu",
    "cuda",
    "type",
    "unflatten",
}
# Products with weights, whose result may be any number.
PRODUCTS = {"linear", "addmm", "matmul", "__matmul__", "__rmatmul__", "mm"}


class Makers(TorchFunctionMode):
    """Remembers for each memory the last function that wrote to it, views of it aside.

    The order of calls tells nothing of one of several results: a network that returns ``(logit, sigmoid(logit))`` has
    called sigmoid last.

    Args:
        weights: of the network. A product of which no operand is a weight, or computed of weights alone, has no name:
            a mean of probabilities by a product is one.
    """

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._weights = {_memory(t) for t in weights}
        self._made: dict[Any, str] = {}
        self._alive: list[Any] = []  # so that no memory is used twice

    def maker(self, tensor: Tensor) -> str:
        """Name of the function that made a tensor; ``""`` where that is not known."""
        return self._made.get(_memory(tensor), "")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operands = _tensors((args, kwargs))
        versions = [_version(t) for t in operands]
        result = func(*args, **kwargs)
        self._alive.append((operands, result))
        name = getattr(func, "__name__", "")
        held = {_memory(t) for t in operands}
        weighs = bool(held) and held <= self._weights
        if name in PRODUCTS and not held & self._weights:
            name = ""
        elif name in COPIES and operands:
            name = self.maker(operands[0])
        written = [t for t, version in zip(operands, versions, strict=True) if _version(t) != version]
        new = [t for t in _tensors(result) if _memory(t) not in held]
        for t in (*written, *new):
            self._made[_memory(t)] = name
            if weighs:
                self._weights.add(_memory(t))
        return result


def _version(tensor: Tensor) -> int:
    """How often it was written to, which a tensor of inference mode does not count."""
    return 0 if tensor.is_inference() else tensor._version


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor)]


def _memory(tensor: Tensor) -> Any:
    at = None if isinstance(tensor, FakeTensor) else storage_key(tensor)
    return id(tensor) if at is None else at[0]
