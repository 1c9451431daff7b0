"""Names of a model's tensors: aliases, and what they are without the wrappers around a network."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn

from thetabox.models.memory import identity


@dataclass(frozen=True)
class Name:
    """A tensor's name, and the same without the names of wrappers in it."""

    full: str
    short: str

    def matches(self, pattern: str) -> bool:
        return fnmatchcase(self.full, pattern) or fnmatchcase(self.short, pattern)


WRAPPED = ("module", "_orig_mod")
"""What wrappers of torch call the network inside of them (``DataParallel``, ``AveragedModel``; ``torch.compile``)."""


def wrapped(module: nn.Module) -> str | None:
    """The name under which a wrapper holds its network: all that it holds; ``None`` where ``module`` is no wrapper."""
    children = [name for name, _ in module.named_children()]
    only = len(children) == 1 and not any(True for _ in module.parameters(recurse=False))
    return children[0] if only and children[0] in WRAPPED else None


def wrappers(model: nn.Module) -> list[str]:
    """Dotted prefixes of ``model``'s names that end in the name of a wrapper, the longest first."""
    prefixes = []
    for name, module in model.named_modules(remove_duplicate=False):
        child = wrapped(module)
        if child is not None:
            prefixes.append(f"{name}.{child}." if name else f"{child}.")
    return sorted(prefixes, key=len, reverse=True)


def tensor_names(model: nn.Module) -> dict[str, list[Name]]:
    """All names of every parameter and buffer of floats, by its first one, as :class:`~thetabox.Box` calls it."""
    parameters = by_tensor(model, model.named_parameters(remove_duplicate=False))
    buffers = by_tensor(model, model.named_buffers(remove_duplicate=False))
    return {names[0].full: names for names in (*parameters, *buffers)}


def by_tensor(model: nn.Module, named: Iterable[tuple[str, Tensor]]) -> list[list[Name]]:
    """All names of each floating-point tensor, in order; tensors of one memory are one."""
    names: dict[Hashable, list[str]] = {}
    for name, tensor in named:
        if tensor.is_floating_point():
            names.setdefault(identity(tensor), []).append(name)
    return [seen_through(model, several) for several in names.values()]


def seen_through(model: nn.Module, names: Iterable[str]) -> list[Name]:
    """Names with what each is without the wrappers of the model."""
    prefixes, shortened = wrappers(model), []
    for name in names:
        short = name
        for prefix in prefixes:  # the longest first, so that what stands before it is still as the model has it
            if name.startswith(prefix):
                before = prefix[:-1].rpartition(".")[0]
                short = (f"{before}." if before else "") + short[len(prefix) :]
        shortened.append(Name(name, short))
    return shortened


def nearest(pattern: str, names: list[Name]) -> str:
    """For messages: the names that are most like a pattern."""
    known = list(dict.fromkeys(name.short for name in names))
    near = get_close_matches(pattern, known, n=3, cutoff=0.5)
    if near:
        return f"nearest: {', '.join(near)}"
    return f"there are {some(known)}" if known else "the model has no tensors"


def some(names: Iterable[str]) -> str:
    """For messages: the first few names."""
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
