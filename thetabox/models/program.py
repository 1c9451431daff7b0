"""A network read from a graph file (``.pt2``, ``.onnx``): a module that runs a list of steps, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thetabox.errors import InputError

Sized = Literal["", "view", "unflatten", "expand", "create"]
"""What a step does with the list of sizes among its arguments, where it has one."""


@dataclass(frozen=True)
class Reference:
    """Stands in the arguments of a step for a value that is known by name: an input, a tensor, an earlier result."""

    name: str


@dataclass(frozen=True)
class Batch:
    """Stands in a list of sizes for ``times`` the number of samples of the call."""

    times: int = 1


@dataclass(frozen=True)
class Device:
    """Stands in the arguments of a step for the device of the network's input."""


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        function: called with the arguments, in which :class:`Reference` and the like are replaced.
        args, kwargs: numbers, text, and lists of them.
        results: names of what it returns; ``None`` for a result that nothing reads.
        where: for messages: the operator and its node.
        sized: what it does with its list of sizes, which is then argument ``sizes``.
        sizes: place of that list.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[str | None, ...]
    where: str
    sized: Sized = ""
    sizes: int = 1

    @property
    def reads(self) -> list[str]:
        """Names of the values that it reads."""
        return list(_names([*self.args, *self.kwargs.values()]))


class Group(nn.Module):
    """Holds tensors whose names have a part in common."""


class Program(nn.Module):
    """A network read from a graph file, in evaluation mode, whose parameters have the names that they have there.

    Args:
        source: input of the network, by name.
        parameters: weights and biases, by the names that steps read them by.
        buffers: all other tensors of the file.
        steps: in an order in which each reads what is known before it.
        output: value that is returned.
        facts: what is known of the file, for the certificate.
        names: names in the file, where steps know a tensor by another.
        also: further names in the file of one tensor, with that which steps know it by.

    Example:
        >>> step = Step(torch.relu, (Reference("x"),), {}, ("y",), "relu")
        >>> Program("x", {}, {}, [step], "y")(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def __init__(
        self,
        source: str,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        steps: Sequence[Step],
        output: str,
        facts: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
        also: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.source, self.output, self.facts = source, output, dict(facts or {})
        self.steps, kept = _needed(steps, output)
        kept.add(output)
        names = names or {}
        held = {n: t for n, t in {**parameters, **buffers}.items() if n in kept}
        self._where = self._place({n: names.get(n, n) for n in held}, held, parameters.keys())
        for name, known in (also or {}).items():
            if known in self._where:
                self._keep(name, self._held(known))
        self._done = _last_reads(self.steps, output)
        self.eval()

    def _place(self, named: dict[str, str], held: dict[str, Tensor], parameters: Iterable[str]) -> dict[str, str]:
        """Where each tensor is kept: at its own name wherever a module can keep one there."""
        of, where = set(parameters), {}
        made: dict[int, nn.Parameter] = {}
        for name, wanted in named.items():
            tensor = held[name]
            if name in of:
                tensor = made.setdefault(id(tensor), nn.Parameter(tensor.detach(), tensor.is_floating_point()))
            where[name] = self._keep(wanted, tensor)
        return where

    def _keep(self, wanted: str, tensor: Tensor) -> str:
        *groups, last = _parts(wanted)
        while (owner := self._group(groups, last)) is None:
            groups, last = [], "_".join([*groups, last, ""])
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(last, tensor)
        else:
            owner.register_buffer(last, tensor)
        return ".".join([*groups, last])

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers, by the names that steps read them by."""
        return {name: self._held(name) for name in self._where}

    def names(self) -> dict[str, str]:
        """Where each of them is kept."""
        return dict(self._where)

    def _held(self, name: str) -> Any:
        owner: Any = self
        for part in self._where[name].split("."):
            owner = getattr(owner, part)
        return owner

    def _group(self, groups: list[str], last: str) -> nn.Module | None:
        """The module that can keep a tensor under this name; ``None`` where something else stands in its way."""
        owner: nn.Module = self
        for part in groups:
            if part not in owner._modules:
                if hasattr(owner, part):
                    return None
                owner.add_module(part, Group())
            owner = owner.get_submodule(part)
        return None if hasattr(owner, last) else owner

    def forward(self, x: Tensor) -> Tensor:
        """The output of the file's graph."""
        held: dict[str, Any] = {self.source: x}
        for name in self._where:
            held[name] = self._held(name)
        for step, done in zip(self.steps, self._done, strict=True):
            args, kwargs = _filled(step.args, held, x), _filled(dict(step.kwargs), held, x)
            result = step.function(*args, **kwargs)
            results = (result,) if len(step.results) == 1 else result
            held.update((n, r) for n, r in zip(step.results, results, strict=True) if n is not None)
            for name in done:
                held.pop(name, None)
        output: Tensor = held[self.output]
        return output

    def with_steps(self, steps: Sequence[Step]) -> Program:
        """This very module, with steps of which some are called with other arguments."""
        self.steps = list(steps)
        self._done = _last_reads(self.steps, self.output)
        return self

    def extra_repr(self) -> str:
        return f"{len(self.steps)} steps from {self.source!r} to {self.output!r}"


def changed(step: Step, index: int, value: Any) -> Step:
    """A step with one argument replaced."""
    args = list(step.args)
    args[index] = value
    return replace(step, args=tuple(args))


def check_finite(path: Any, name: str, tensor: Tensor) -> None:
    """Raise InputError for NaN and infinite weights."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{path}: {name} holds NaN or infinite values")


def _parts(name: str) -> list[str]:
    parts = name.split(".")
    return parts if all(parts) else [name.replace(".", "_") or "tensor"]


def _names(tree: Any) -> Iterable[str]:
    if isinstance(tree, Reference):
        yield tree.name
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from _names(part)


def _filled(tree: Any, held: Mapping[str, Any], x: Tensor) -> Any:
    if isinstance(tree, Reference):
        return held[tree.name]
    if isinstance(tree, Batch):
        return tree.times * x.shape[0]
    if isinstance(tree, Device):
        return x.device
    if isinstance(tree, list | tuple):
        return type(tree)(_filled(part, held, x) for part in tree)
    if isinstance(tree, dict):
        return {key: _filled(part, held, x) for key, part in tree.items()}
    return tree


def _needed(steps: Sequence[Step], output: str) -> tuple[list[Step], set[str]]:
    """The steps without which there is no output, and the names that they read.

    A step that writes to a value counts wherever that value does: it returns what it has written to, under a new name.
    """
    needed, kept = {output}, list[Step]()
    for step in reversed(steps):
        if _writes(step) or needed.intersection(step.results):
            kept.append(step)
            needed.update(step.reads)
    return kept[::-1], needed


def _writes(step: Step) -> bool:
    schema = getattr(step.function, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _last_reads(steps: Sequence[Step], output: str) -> list[list[str]]:
    """For each step, the values that nothing reads after it."""
    done: list[list[str]] = []
    later = {output}
    for step in reversed(steps):
        here = {*step.reads, *(r for r in step.results if r is not None)}
        done.append(sorted(here - later))
        later |= here
    return done[::-1]
