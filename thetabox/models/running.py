"""A network run as its user runs it, and nothing of it changed: at its own weights or moved ones, wide or as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from thetabox.errors import InputError
from thetabox.models.calls import Call, Calls
from thetabox.models.failure import HIDDEN, failure
from thetabox.models.input_type import input_type
from thetabox.models.memory import copied, named_tensors, storage_key, write
from thetabox.models.reach import reachable
from thetabox.models.recurrent import called
from thetabox.models.several import Separate, each_of, for_each
from thetabox.models.snapshot import Snapshot
from thetabox.models.twins import Twins, untouched

MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "grad": torch.enable_grad,
    "inference": torch.inference_mode,
}


class Running:
    """A module in evaluation mode on twins of its tensors; made by :func:`running`.

    Args:
        model: called as its user calls it, hooks and all.
        x: inputs, of which the type counts.
        before: what the module holds before its first run.
        wide: in float64, whatever precision it was written for.

    Attributes:
        calls: what the last run asked of torch.
        recording: whether that is remembered.
        held: tensors that outlive a run: the module's own, and those that its code reaches.
    """

    def __init__(self, model: nn.Module, x: Tensor | None, before: Snapshot, *, wide: bool) -> None:
        self.model = model
        self.tensors = named_tensors(model)
        self.dtype, self.device = input_type(model)
        if x is not None and x.is_floating_point():
            self.dtype, self.device = input_type(model, x)
        self._takes = input_type(model, x)[0]
        self.held = [*self.tensors.values(), *(t for _, t in reachable(model, Tensor))]
        self._storage_keys = {storage_key(t) for t in self.held}
        self._before = before
        self._begin(wide)

    def _begin(self, wide: bool) -> None:
        self.wide = wide
        self.twins = Twins(self.tensors.values(), wide=wide)
        self.calls: list[Call] = []
        self.recording, self._ran = True, False
        # Whether some function takes twins only where its call is watched, which takes its time.
        self._watched = False
        self._read: dict[str, Tensor] = {}

    def widened(self) -> Running:
        """The same module beside, in double precision and at its own weights: one of the two runs at a time."""
        self.forget()
        run = copy.copy(self)
        run._begin(wide=True)
        return run

    def read(self, name: str) -> Tensor:
        """Value of a parameter or buffer, float64 where the run is wide."""
        if name not in self._read:
            self._read[name] = self.twins.twin(self.tensors[name])
        return self._read[name]

    def move(self, values: Mapping[str, Tensor]) -> None:
        """Set parameters by name, in place: whatever shares their memory moves with them.

        What the module has kept of runs at other weights is forgotten: a write would tell it that it is old.
        """
        if self._ran:
            self.forget()
        for name, value in values.items():
            if value.numel():  # what is empty has no twin
                write(self.read(name), value)

    def forget(self) -> None:
        """Put back what the code of the module, or of a copy of it, has kept of its runs."""
        self._before.restore()
        self._ran = False

    def inputs(self, x: Tensor) -> Tensor:
        """Inputs in the precision of the network, or in their own where that would round them and the run is wide."""
        held = x.to(self._takes)
        exact = not self.wide or x.dtype == held.dtype or not x.is_floating_point()
        exact = exact or bool((held.double() == x.double()).all())
        # In rows as of a new tensor: one that is contiguous may have other strides where a dimension is of one entry.
        return (held if exact else x.double()).to(self.device).clone(memory_format=torch.contiguous_format)

    def __call__(
        self, x: Shaped[Tensor, "samples ..."] | Separate, *, mode: str = "no_grad", as_given: bool = False
    ) -> Float[Tensor, "samples classes"]:
        """Logits of the module's own forward, in the precision of the run, on the CPU.

        Args:
            x: inputs.
            mode: of torch: ``no_grad``, ``grad`` or ``inference``.
            as_given: in the type and memory layout that they have, as several always are; else as :meth:`inputs`.

        Raises:
            InputError: the module fails, or does not return logits.
        """
        if isinstance(x, Separate) or as_given:
            return self.logits(for_each(x, lambda t: copied(t).to(self.device)), mode)
        return self.logits(self.inputs(x), mode)

    def logits(self, x: Any, mode: str = "no_grad") -> Float[Tensor, "samples classes"]:
        """Logits of the very object ``x``, which torch writes to no more than to the weights.

        Raises:
            InputError: as a call.
        """
        return _logits(self.raw(x, mode), len(x)).detach().cpu()

    def untwinned(self, x: Tensor | Separate, mode: str) -> Float[Tensor, "samples classes"]:
        """Logits of the module without twins, as its user runs it; what it writes to is written to.

        Raises:
            InputError: as a call.
        """
        self._ran, own = True, for_each(x, _in_its_mode)
        try:
            with MODES[mode]():
                output = copy_context().run(called, self.model, own)
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a network raises whatever it likes
            raise failure(self.model, x.shape, error) from None
        return _logits(output, len(x)).detach().cpu()

    def raw(self, x: Any, mode: str = "no_grad") -> Any:
        """Whatever the module returns to the very object ``x``.

        Raises:
            InputError: the module fails.
        """
        self._ran, calls = True, Calls(self.twins, self.held, recording=self.recording)
        watched, failed = self.recording or self._watched, False
        # What the code keeps in context variables is gone with the context.
        context = copy_context()
        try:
            with MODES[mode](), self.twins, calls if watched else nullcontext():
                output = context.run(called, self.model, x)
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a network raises whatever it likes
            if watched:
                raise failure(self.model, x.shape, error) from None
            failed = True
        finally:
            for one in each_of(x):
                if isinstance(one, Tensor) and storage_key(one) not in self._storage_keys:
                    self.twins.let_go(one)  # it is what it was, whatever this run has written to its twin
        self._watched |= calls.made_again or failed
        if failed:
            self.forget()
            return self.raw(x, mode)
        self.calls = calls.made
        return output


def _in_its_mode(x: Tensor) -> Tensor:
    """A copy, made in inference mode if that was."""
    with torch.inference_mode(x.is_inference()):
        return copied(x)


def _logits(output: object, samples: int) -> Tensor:
    if not isinstance(output, Tensor):
        raise InputError(
            f"the network returns a {type(output).__name__}; it must return one tensor of logits [samples, classes]: "
            "wrap it in a module that does"
        )
    if isinstance(output, FakeTensor):
        raise InputError(HIDDEN)
    if output.dim() != 2 or len(output) != samples or not output.shape[1]:
        raise InputError(f"the network must return logits [samples, classes], not {list(output.shape)}")
    if output.is_mkldnn:  # as inputs of that layout are answered
        return output.to_dense()
    check_plain(output)
    return output


def check_plain(output: Any) -> None:
    """Refuse a tensor whose numbers do not lie in memory, one beside the other, as numbers that torch compares.

    Raises:
        InputError: it is such a tensor.
    """
    if not isinstance(output, Tensor):
        return
    if type(output).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        what = f"a {type(output).__name__}"
    elif output.is_nested or output.is_quantized:
        what = f"a {'nested' if output.is_nested else 'quantised'} tensor"
    elif output.layout != torch.strided:
        what = f"a tensor of the layout {str(output.layout).removeprefix('torch.').strip('_')}"
    elif output.is_meta:
        what = "a tensor without numbers, of the device meta"
    elif output.is_floating_point() and torch.finfo(output.dtype).bits < 16:
        what = f"a tensor of {str(output.dtype).removeprefix('torch.')}"
    else:
        return
    raise InputError(f"the network returns {what}; let it return a plain dense tensor of its numbers")


@contextmanager
def running(model: nn.Module, x: Tensor | None = None, *, wide: bool = True) -> Iterator[Running]:
    """The network ready to run on inputs like ``x``, its mode and attributes as they were afterwards."""
    with untouched(model) as before:
        yield Running(model, x, before, wide=wide)
