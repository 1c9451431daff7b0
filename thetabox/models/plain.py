"""Any network as one that returns logits ``[samples, classes]`` to one tensor of inputs."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from thetabox import checks
from thetabox.errors import InputError, Notice
from thetabox.models.failure import failure
from thetabox.models.fakes import forget_fakes
from thetabox.models.input_type import input_type
from thetabox.models.outputs import OutputToLogits, read_as, reading
from thetabox.models.running import running
from thetabox.models.several import Separate, Several, are_several, packed, unpacking
from thetabox.models.twins import untouched

# Whole numbers below this are what they are in every type of numbers with 64 digits.
LARGEST = 2**53
# Samples by which two ways of calling a network are compared.
FEW = 4


@dataclass(frozen=True)
class Plain:
    """A network, or one beside it on the same tensors, that returns logits for one tensor of inputs.

    Attributes:
        model: the network that was given where it is one.
        x: inputs ``[samples, ...]``, finite.
        x_as_given: the same as the user has them, each by itself where they are several.
        facts: for the certificate: ``answer``, ``inputs``, where something was read in another way than it stands.
    """

    model: nn.Module
    x: Shaped[Tensor, "samples ..."]
    x_as_given: Any = None
    facts: dict[str, Any] = field(default_factory=dict)


def plain(
    model: nn.Module, x: Any, *, keep_indices: bool = False, as_classes: bool = True, stacklevel: int = 3
) -> Plain:
    """The network as the rest of the library takes it, said in a :class:`~thetabox.errors.Notice` if it is another one.

    Args:
        model: returns logits, beside other things or in a dictionary; probabilities; or one number for two classes.
        x: inputs ``[samples, ...]``, or several of them in a tuple or by name.
        keep_indices: leave whole numbers as they are, see :func:`thetabox.checks.inputs`; else they become real ones,
            unless the network takes whole ones alone, as an embedding does.
        as_classes: make logits of probabilities, and two of one number; else the tensor is returned as it is.
        stacklevel: of the warning.

    Raises:
        InputError: weights or inputs that are no finite numbers, a network that fails on them, or returns no logits.

    Example:
        >>> import warnings
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Softmax(1))
        >>> with warnings.catch_warnings(action="ignore"):
        ...     plain(model, torch.zeros(1, 2)).facts
        {'answer': 'probabilities of the classes, whose order is that of the logits before'}
    """
    checks.check_weights(model)
    facts: dict[str, Any] = {}
    given = x
    if are_several(model, x):
        together, parts = packed(x)
        beside = unpacking(model, parts)
        _check_same(model, beside, x, checks.inputs(together))
        given = Separate(tuple(x.values()) if isinstance(x, Mapping) else tuple(x))
        model, x = beside, together
        facts["inputs"] = [list(part.shape) for part in parts]
    # A network that was made in inference mode is run in it.
    frozen = any(t.is_inference() for t in [*model.parameters(), *model.buffers()])
    try:
        with torch.inference_mode(frozen), same_draws():
            inputs, to_logits = _read(model, x, keep_indices, as_classes)
    except InputError:
        forget_fakes()  # he would compute with them
        raise
    if to_logits is not None:
        facts["answer"] = to_logits.said()
        warnings.warn(f"the network's answer is read as {to_logits.said()}", Notice, stacklevel=stacklevel)
        other = read_as(model, to_logits)
        _check_read(model, other, to_logits, inputs)
        model = other
    return Plain(model, inputs, given, facts)


def _read(model: nn.Module, x: Any, keep_indices: bool, as_classes: bool) -> tuple[Tensor, OutputToLogits | None]:
    """Inputs as the network takes them, and how its output for them is read."""
    inputs = checks.inputs(x, keep_indices=keep_indices)
    try:
        return inputs, reading(model, inputs, as_classes=as_classes)
    except InputError:
        # An embedding takes whole numbers alone, which a file or a list may hold as real ones.
        whole = inputs.long() if bool((inputs == inputs.trunc()).all() & (inputs.abs() < LARGEST).all()) else inputs
        if whole is inputs or not inputs.is_floating_point():
            raise
        try:
            return whole, reading(model, whole, as_classes=as_classes)
        except InputError:
            if not checks.inputs(x, keep_indices=True).is_floating_point():
                raise  # as they were given
        raise


def _check_same(model: nn.Module, beside: nn.Module, x: Several, together: Tensor) -> None:
    """A few samples as the user hands them to the network, and as the network beside it does.

    Raises:
        InputError: it returns something else for them.
    """
    few = slice(0, FEW)
    dtype, device = input_type(model)

    def given(part: Any) -> Tensor:
        held = checks.array(part, "x")[few].to(device)
        return held.to(dtype) if held.is_floating_point() else held

    by_name = {name: given(part) for name, part in x.items()} if isinstance(x, Mapping) else {}
    positional = () if isinstance(x, Mapping) else tuple(given(part) for part in x)
    with torch.no_grad(), running(beside, together, wide=False) as run:
        output = run.raw(run.inputs(together[few]))
    with torch.no_grad(), same_draws(), untouched(model):
        try:
            direct = model(*positional, **by_name)
        except Exception as error:  # a network raises whatever it likes
            if by_name:
                return  # names of a file, which the network beside translates
            raise failure(model, together[few].shape, error) from None
    one, other = (pytree.tree_leaves(tree) for tree in (output, direct))
    same = len(one) == len(other) and all(_are_same(a, b) for a, b in zip(one, other, strict=False))
    if not same:
        raise InputError(
            "the network returns something else once its inputs have gone through one tensor: its code asks for more "
            "than their numbers, shapes and types"
        )


def _check_read(model: nn.Module, other: nn.Module, to_logits: OutputToLogits, x: Tensor) -> None:
    """A few outputs that are read, and those of the network that reads them.

    Raises:
        InputError: they differ: a class calls itself in a way of its own, around the hooks.
    """
    with torch.no_grad():
        with running(model, x, wide=False) as run:
            few = run.inputs(x[:FEW])
            wanted, again = (to_logits(model, None, run.raw(few)) for _ in range(2))
        with running(other, x, wide=False) as run:
            hooked = run.raw(few)
    if not _are_same(hooked, wanted):
        if not _are_same(again, wanted):
            raise InputError(
                f"{type(model).__name__} returns something else in every call, as one that draws at random; a "
                "certificate speaks of one function of inputs and weights"
            )
        raise InputError(
            f"{type(model).__name__} returns something else where its answer is read by a hook, as one whose __call__ "
            "does more than its forward; do it in forward, or let it return logits"
        )


def _are_same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other)
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-6)


@contextmanager
def same_draws() -> Iterator[None]:
    """Generators go on afterwards from where they were, whatever a network draws while it is looked at."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  # the one that code uses
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002  # the one that code uses
