"""What networks answer beside logits: one of several results, probabilities, one number for two classes.

A network that answers something else than logits ``[samples, classes]`` is called through a copy that shares all its
tensors and parts and has one more forward hook, which makes logits of the answer. The order of the classes is that of
the network in every case: what is done to the answer is strictly increasing.
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
from thetabox.models.running import Running, running
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
# Samples by which an answer is known.
SHOWN = 4


@dataclass(frozen=True)
class Answer:
    """How logits are read off what a network answers; a forward hook.

    Attributes:
        path: to the tensor, through tuples, lists, dictionaries and attributes.
        results: how many there are beside each other where the path begins.
        kind: what the tensor holds: ``logits``; ``probabilities`` of all classes, whose logarithms are logits; one
            ``logit``, of which class 1 is above 0 and class 0 below; the ``probability`` of class 1 of two.
        shaped: the classes stand in one dimension of several, the others of size 1.
        least: a probability below this is taken for this, which keeps logarithms finite.
    """

    path: Path
    results: int
    kind: Kind
    shaped: bool
    least: float

    def __call__(self, module: nn.Module, args: Any, answer: Any) -> Float[Tensor, "samples classes"]:
        """Logits of an answer."""
        for step in self.path:
            answer = _taken(answer, step)
        held: Tensor = answer
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
        return f"{which}: {what}" if which else what


def _taken(answer: Any, step: int | str) -> Any:
    if isinstance(step, int):
        return answer[step]
    return answer[step] if isinstance(answer, Mapping) else getattr(answer, step)


def reading(model: nn.Module, x: Shaped[Tensor, "samples ..."], *, as_classes: bool = True) -> Answer | None:
    """How a network's answers are to be read; ``None`` where they are logits ``[samples, classes]`` as they are.

    Args:
        model: called on a few samples, and left as it was.
        x: inputs ``[samples, ...]``.
        as_classes: the numbers are asked for what they say of classes; else they are taken as they are.

    Raises:
        InputError: there are no logits in the answer, or it cannot be told which part of it they are, or what they
            mean.
    """
    if is_recurrent(model):
        return None  # the protocol says what its readout answers
    if _is_plain(model, x, as_classes):
        return None
    with torch.no_grad(), running(model, x, wide=False) as run:
        some = x[:SHOWN]
        with Makers(model.parameters()) as makers:
            answer = run.raw(run.inputs(some))
        if any(isinstance(t, FakeTensor) for t in pytree.tree_leaves(answer)):
            raise InputError(HIDDEN)
        return _reading(answer, len(some), run, makers if as_classes else None)


def _own(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers that can be written to."""
    return [t for t in [*model.parameters(), *model.buffers()] if not t.is_inference()]


def _is_plain(model: nn.Module, x: Tensor, as_classes: bool) -> bool:
    """Whether a run without numbers shows that logits are answered as they are; where it shows nothing, numbers do.

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
                answer = copy_context().run(called, model, some)
        finally:
            torch.clear_autocast_cache()  # of weights without numbers
            for tensor, version, numbers in held:
                if tensor._version != version:
                    tensor.data.copy_(numbers)
        logits = isinstance(answer, Tensor) and answer.dim() == 2 and answer.is_floating_point()
        if logits and len(answer) == 2 and not as_classes:
            return bool(answer.shape[1])
        return logits and len(answer) == 2 and answer.shape[1] > 1 and makers.maker(answer) in ENDS
    return False


def _reading(answer: Any, samples: int, run: Running, makers: Makers | None) -> Answer | None:
    path, results = _path(answer)
    held = answer
    for step in path:
        held = _taken(held, step)
    shape = list(held.shape)
    sizes = [size for size in shape[1:] if size != 1]
    if not shape or shape[0] != samples or len(sizes) > 1 or 0 in shape:
        raise InputError(f"the network must return logits [samples, classes], not {shape}")
    if not held.is_floating_point():
        raise InputError(
            f"the network returns {str(held.dtype).removeprefix('torch.')}, whole numbers or truth values as classes "
            "are; let it return the logits that it compares"
        )
    kind = LOGITS if makers is None else _kind(held.double().reshape(samples, -1), makers.maker(held))
    shaped = len(shape) > 2 or (makers is None and len(shape) < 2)
    if not path and kind == LOGITS and not shaped:
        return None
    least = max(torch.finfo(t.dtype).tiny for t in (held, torch.empty(0, dtype=run.dtype)))
    return Answer(path, results, kind, shaped, least)


def _path(answer: Any) -> tuple[Path, int]:
    """Where the logits stand, and how many tensors beside each other there are.

    Raises:
        InputError: there is no telling.
    """
    if isinstance(answer, Tensor):
        return (), 1
    if isinstance(answer, Mapping):
        tensors = [key for key, value in answer.items() if isinstance(value, Tensor)]
        if isinstance(answer.get(LOGITS), Tensor):
            return (LOGITS,), len(tensors)
        if len(tensors) == 1 and isinstance(tensors[0], str | int):
            return (tensors[0],), 1
        keys = ", ".join(repr(key) for key in answer)
        raise InputError(
            f"the network returns a dictionary of {keys or 'nothing'}, and which of these are the logits is open; call "
            "them 'logits', or wrap the network in a module that answers them"
        )
    if isinstance(getattr(answer, LOGITS, None), Tensor):
        return (LOGITS,), 1
    if isinstance(answer, Sequence) and not isinstance(answer, str | bytes) and len(answer):
        path, _ = _path(answer[0])
        return (0, *path), len(answer)
    raise InputError(
        f"the network returns a {type(answer).__name__}; it must return logits [samples, classes], first in a tuple or "
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
        return "probabilities" if whole else LOGITS
    if maker == "sigmoid":
        return "probability"
    if between and maker not in PRODUCTS:
        raise InputError(
            "the network returns one number for each sample, between 0 and 1, of which it is open whether it is a "
            "logit or a probability; let it return a logit, a sigmoid of one, or two logits"
        )
    return "logit"


def read_as(model: nn.Module, answer: Answer) -> nn.Module:
    """The network with its answers made logits: another module on the same tensors and parts.

    Args:
        model: left as it was.
        answer: how it is read.
    """
    copied = beside(model)
    copied.register_forward_hook(answer)
    return copied
