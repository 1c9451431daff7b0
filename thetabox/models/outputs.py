"""What networks return beside logits: one of several results, probabilities, one number for two classes, spikes.

A network that returns something else than logits ``[samples, classes]`` is called through a copy that shares all its
tensors and parts and has one more forward hook, which makes logits of the output. The order of the classes is that of
the network in every case: what is done to the output is strictly increasing, or the sum of a record of spikes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from thetabox.errors import InputError
from thetabox.models.beside import beside
from thetabox.models.failure import HIDDEN
from thetabox.models.input_type import input_type
from thetabox.models.makers import PRODUCTS, Makers
from thetabox.models.quiet import quiet
from thetabox.models.recurrent import called, is_recurrent
from thetabox.models.running import Running, check_plain, running
from thetabox.models.twins import untouched

Kind = Literal["logits", "probabilities", "logit", "probability"]
Path = tuple[int | str, ...]

LOGITS: Literal["logits"] = "logits"
# How far from 1 the probabilities of all classes of a sample may add up, whatever precision they were rounded to.
WHOLE = 1e-2
ROUNDED = 1e-3
# A probability of one class of two is looked at as far from 0 and 1 as float32 tells it from them.
NEAR_CERTAIN = 2.0**-22
# Functions that end in numbers that may be anything.
ENDS = {"linear", "addmm", "matmul", "__matmul__", "add", "__add__", "mul", "__mul__", "log_softmax", "sub", "__sub__"}
# Samples by which the kind of an output is known.
SHOWN = 4
# Steps in time whose number a mean of spikes may have been divided by, and how far float32 takes it from a multiple.
MOST_STEPS, NEAR_WHOLE = 1024, 2.0**-22


@dataclass(frozen=True)
class OutputToLogits:
    """How logits are read off what a network returns; a forward hook.

    Attributes:
        path: to the tensor, through tuples, lists, dictionaries and attributes.
        results: how many there are beside each other where the path begins.
        kind: what the tensor holds: ``logits``; ``probabilities`` of all classes, whose logarithms are logits; one
            ``logit``, of which class 1 is above 0 and class 0 below; the ``probability`` of class 1 of two.
        shaped: the classes stand in one dimension of several, the others of size 1.
        least: a probability below this is taken for this, which keeps logarithms finite.
        record: the tensor holds spikes ``[time, samples, classes]``, whose sums over time are the logits.
    """

    path: Path
    results: int
    kind: Kind
    shaped: bool
    least: float
    record: bool = False

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Float[Tensor, "samples classes"]:
        """Logits of an output."""
        output = _at(output, self.path)
        held: Tensor = output.sum(0) if self.record else output
        if self.shaped or self.kind in ("logit", "probability"):
            held = held.flatten(1) if held.dim() > 1 else held.unsqueeze(1)
        if self.kind == "probabilities":
            return held.clamp(min=self.least).log()
        if self.kind == "probability":
            held = torch.logit(held, NEAR_CERTAIN)
        # Half of it on either side of 0: the difference of the two is the logit, exactly.
        return held * held.new_tensor([-0.5, 0.5]) if self.kind in ("logit", "probability") else held

    def said(self) -> str:
        """One line for people: what was read, and how."""
        which = ""
        if self.path:
            names = "".join(f"[{step!r}]" for step in self.path)
            which = f"output{names} of {self.results}" if self.results > 1 else f"output{names}"
        what = {
            "logits": "logits",
            "probabilities": "probabilities of the classes, whose order is that of the logits before",
            "logit": "one logit for two classes: class 1 above 0, class 0 below",
            "probability": "the probability of class 1 of two: class 1 above 0.5, class 0 below",
        }[self.kind]
        what = "spikes [time, samples, classes], their sums over time as logits" if self.record else what
        return f"{which}: {what}" if which else what


def _taken(output: Any, step: int | str) -> Any:
    if isinstance(step, int):
        return output[step]
    return output[step] if isinstance(output, Mapping) else getattr(output, step)


def reading(model: nn.Module, x: Shaped[Tensor, "samples ..."], *, as_classes: bool = True) -> OutputToLogits | None:
    """How a network's outputs are to be read; ``None`` where they are logits ``[samples, classes]`` as they are.

    Args:
        model: called on a few samples, and left as it was.
        x: inputs ``[samples, ...]``.
        as_classes: the numbers are asked for what they say of classes; else they are taken as they are.

    Raises:
        InputError: there are no logits in the output, or it cannot be told which part of it they are, or what they
            mean.
    """
    if is_recurrent(model):  # the protocol says what its readout returns
        output = None  # where it fails, tracing says which part of the protocol does
        with torch.no_grad(), running(model, x, wide=False) as run, suppress(InputError):
            output = run.raw(run.inputs(x[:SHOWN]))
        check_plain(output)
        return None
    if _is_plain(model, x, as_classes):
        return None
    with torch.no_grad(), running(model, x, wide=False) as run:
        some = x[:SHOWN]
        with Makers(model.parameters()) as makers:
            output = run.raw(run.inputs(some))
        if any(isinstance(t, FakeTensor) for t in pytree.tree_leaves(output)):
            raise InputError(HIDDEN)
        return _reading(output, some, run, makers if as_classes else None)


def _own(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers that can be written to."""
    return [t for t in [*model.parameters(), *model.buffers()] if not t.is_inference()]


def _is_plain(model: nn.Module, x: Tensor, as_classes: bool) -> bool:
    """Whether a run without numbers shows that logits are returned as they are; where it shows nothing, numbers do.

    It is the first run of all: what the code keeps of it in a hidden place is no tensor of numbers, by which that is
    found, instead of numbers that later runs would take for constants.
    """
    dtype, device = input_type(model, x)
    with suppress(Exception), quiet(), torch.no_grad(), untouched(model, numbers=True), Makers() as makers:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        mode.cache_enabled = False  # which would keep a part of the run for ever
        some = mode.from_tensor(torch.zeros((2, *x.shape[1:]), dtype=dtype, device=device))
        held = [(t, t._version, t.detach().clone()) for t in _own(model)]
        try:
            with mode:
                output = copy_context().run(called, model, some)
        finally:
            torch.clear_autocast_cache()  # of weights without numbers
            for tensor, version, numbers in held:
                if tensor._version != version:
                    tensor.data.copy_(numbers)
        logits = isinstance(output, Tensor) and output.dim() == 2 and output.is_floating_point()
        if logits and len(output) == 2 and not as_classes:
            return bool(output.shape[1])
        return logits and len(output) == 2 and output.shape[1] > 1 and makers.maker(output) in ENDS
    return False


def _reading(output: Any, some: Tensor, run: Running, makers: Makers | None) -> OutputToLogits | None:
    path, results = _path(output)
    held, samples = _at(output, path), len(some)
    check_plain(held)
    record = makers is not None and _is_record(held, path, some, run)
    if record:
        held = held.sum(0)
    shape = list(held.shape)
    sizes = [size for size in shape[1:] if size != 1]
    if not shape or shape[0] != samples or len(sizes) > 1 or 0 in shape:
        raise InputError(f"the network must return logits [samples, classes], not {shape}{_in_time(shape, some)}")
    if not held.is_floating_point():
        raise InputError(
            f"the network returns {str(held.dtype).removeprefix('torch.')}, whole numbers or truth values as classes "
            "are; let it return the logits that it compares"
        )
    kind = LOGITS if makers is None or record else _kind(held.double().reshape(samples, -1), makers.maker(held))
    shaped = len(shape) > 2 or (makers is None and len(shape) < 2)
    if not path and kind == LOGITS and not shaped and not record:
        return None
    least = max(torch.finfo(t.dtype).tiny for t in (held, torch.empty(0, dtype=run.dtype)))
    return OutputToLogits(path, results, kind, shaped, least, record)


def _in_time(shape: list[int], some: Tensor) -> str:
    """What else to do where the shape may be one of time steps."""
    if some.dim() > 2 and (len(shape) == 3 or shape[:1] == [some.shape[1]]):
        return (
            "; of a record [samples, time, classes] return its sum, its mean or its largest over time, and around a "
            "network that takes time in front of the samples write one with forward(x): network(x.transpose(0, 1))"
        )
    return ""


def _at(output: Any, path: Path) -> Any:
    for step in path:
        output = _taken(output, step)
    return output


def _is_record(held: Tensor, path: Path, some: Tensor, run: Running) -> bool:
    """Whether the output is ``[time, samples, classes]``, as a list of every step's spikes that is stacked.

    Raises:
        InputError: it is, but of other numbers than spikes.
    """
    if held.dim() != 3 or held.shape[0] < 2 or not held.is_floating_point():
        return False
    other = _at(run.raw(run.inputs(some[:-1] if len(some) > 1 else torch.cat([some, some]))), path)
    sizes = [(n, m) for n, m in zip(held.shape, other.shape, strict=False) if n != m]
    if other.dim() != 3 or sizes != [(len(some), other.shape[1])] or other.shape[1] == held.shape[1]:
        return False
    if not bool(((held >= 0) & (held == held.round())).all()):
        raise InputError(
            f"the network returns {list(held.shape)}, a record of {len(held)} time steps [time, samples, classes]; let "
            "it return logits [samples, classes], as the sum, the mean or the largest over time is"
        )
    return True


def _path(output: Any) -> tuple[Path, int]:
    """Where the logits stand, and how many tensors beside each other there are.

    Raises:
        InputError: there is no telling.
    """
    if isinstance(output, Tensor):
        return (), 1
    if isinstance(output, Mapping):
        tensors = [key for key, value in output.items() if isinstance(value, Tensor)]
        if isinstance(output.get(LOGITS), Tensor):
            return (LOGITS,), len(tensors)
        if len(tensors) == 1 and isinstance(tensors[0], str | int):
            return (tensors[0],), 1
        keys = ", ".join(repr(key) for key in output)
        raise InputError(
            f"the network returns a dictionary of {keys or 'nothing'}, and which of these are the logits is open; call "
            "them 'logits', or wrap the network in a module that answers them"
        )
    if isinstance(getattr(output, LOGITS, None), Tensor):
        return (LOGITS,), 1
    if isinstance(output, Sequence) and not isinstance(output, str | bytes) and len(output):
        path, _ = _path(output[0])
        return (0, *path), len(output)
    raise InputError(
        f"the network returns a {type(output).__name__}; it must return logits [samples, classes], first in a tuple or "
        "called 'logits' in a dictionary where there is more: wrap it in a module that does"
    )


def _kind(held: Float[Tensor, "samples classes"], maker: str) -> Kind:
    """What the numbers mean: by the function that made them, and by what they are.

    Raises:
        InputError: one number a sample, which may be a logit as well as a probability.
    """
    # Sums of probabilities may be rounded to a little more than 1.
    between = bool(((held >= -ROUNDED) & (held <= 1 + ROUNDED)).all())
    if held.shape[1] > 1:
        whole = between and bool(((held.sum(1) - 1.0).abs() <= WHOLE).all())
        # Numbers that spikes were counted by keep the order of the classes as they are, should they be probabilities.
        return "probabilities" if whole and (maker == "softmax" or not _are_counts(held)) else LOGITS
    if maker == "sigmoid":
        return "probability"
    if between and maker not in PRODUCTS:
        raise InputError(
            "the network returns one number for each sample, between 0 and 1, of which it is open whether it is a "
            "logit or a probability; let it return a logit, a sigmoid of one, or two logits"
        )
    return "logit"


def _are_counts(held: Float[Tensor, "samples classes"]) -> bool:
    """Whether they are whole numbers, or such numbers over one number of steps, as sums and means of spikes are."""
    steps = torch.arange(1, MOST_STEPS + 1, dtype=held.dtype, device=held.device)
    multiples = held[None] * steps[:, None, None]
    off = (multiples - multiples.round()).abs().amax((1, 2))
    return bool((off <= NEAR_WHOLE * steps).any())


def read_as(model: nn.Module, to_logits: OutputToLogits) -> nn.Module:
    """The network with its outputs made logits: another module on the same tensors and parts.

    Args:
        model: left as it was.
        to_logits: how its outputs are read.
    """
    copied = beside(model)
    copied.register_forward_hook(to_logits)
    return copied
