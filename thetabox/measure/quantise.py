"""Weights of n bits at inference: accuracy over bit widths, and mismatch after quantisation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.deep_copy import deep_copy
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.measure.accuracy import accuracy
from thetabox.measure.crossbar import stored
from thetabox.measure.inputs import Levels, checked, of_box, own_precision, precise_copy, working_copy
from thetabox.measure.mismatch import MismatchResult, mismatch
from thetabox.models.fold import folded

BITS = (2, 24)


@dataclass(frozen=True)
class QuantisationResult:
    """Accuracy with weights of each bit width.

    Attributes:
        bits: [B], as given.
        accuracy: [B], accuracy over all samples.
        clean_accuracy: with the weights as they are, in float64.
        mismatch: for each bit width, the mismatch of the quantised network; only when asked for.
    """

    bits: list[int]
    accuracy: Float[Tensor, " bits"]
    clean_accuracy: float
    box: Box
    seconds: float
    mismatch: list[MismatchResult] | None = None

    def to_json(self) -> dict[str, Any]:
        """The result, for a report or a file."""
        after = [{}] * len(self.bits) if self.mismatch is None else [{"mismatch": m.to_json()} for m in self.mismatch]
        return {
            "box": self.box.describe(),
            "clean_accuracy": self.clean_accuracy,
            "bits": [
                {"bits": bits, "accuracy": float(share), **more}
                for bits, share, more in zip(self.bits, self.accuracy, after, strict=True)
            ],
            "seconds": self.seconds,
        }


def rounded(
    values: Float[Tensor, " *shape"], full: float | Float[Tensor, " *scales"], bits: int
) -> Float[Tensor, " *shape"]:
    r"""The nearest of :math:`2^{n} - 1` equally spaced levels from −full to full, 0 among them; larger values clip.

    .. math::
        \Delta = \frac{full}{2^{n-1} - 1}, \qquad
        Q(w) = \Delta\, \mathrm{clip}(\mathrm{round}(w/\Delta), -2^{n-1} + 1, 2^{n-1} - 1)

    Halves go to the even level. Where ``full`` is 0 there are no levels, and values stay as they are.

    Args:
        values: any numbers.
        full: full scale, one or broadcast against ``values``.
        bits: n, 2 to 24.
    """
    largest = 2 ** (checked_bits(bits) - 1) - 1
    scale = torch.as_tensor(full, dtype=values.dtype, device=values.device)
    step = torch.where(scale > 0, scale / largest, 1)
    return torch.where(scale > 0, (values / step).round().clamp(-largest, largest) * step, values)


def checked_bits(bits: int) -> int:
    """The bit width.

    Raises:
        InputError: not an integer from 2 to 24.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not BITS[0] <= bits <= BITS[1]:
        raise InputError(f"bits is {bits!r}; it must be an integer from {BITS[0]} to {BITS[1]}")
    return bits


@torch.no_grad()
def quantised(model: nn.Module, bits: int, *, box: Box | None = None) -> nn.Module:
    """A copy of the network with each weight tensor on 2ⁿ − 1 levels from −max|W| to max|W|, 0 among them.

    Args:
        model: any network; it stays as it is.
        bits: n, 2 to 24.
        box: its ``include``, ``exclude`` and ``fold`` choose among the weights of two dimensions or more; biases and
            batch norm stay as they are.

    Raises:
        InputError: another bit width, or nothing to quantise.
    """
    checked_bits(bits)
    twin = folded(model) if box is not None and box.fold else deep_copy(model)
    tensors = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    for name in stored(twin, box):
        weight = tensors[name]
        weight.copy_(rounded(weight, weight.abs().amax(), bits))
    return twin


@torch.no_grad()
def quantisation(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    bits: Sequence[int] = (8, 6, 5, 4, 3, 2),
    *,
    level: Levels | None = None,
    samples: int = 100,
    seed: int = 0,
    box: Box | None = None,
    device: str = "auto",
    chunk: int = 500,
    progress: Callable[[int, int], None] | None = None,
) -> QuantisationResult:
    """Accuracy with quantised weights, and under mismatch of the quantised weights.

    Args:
        model: any network; it stays as it is.
        x: inputs [N, ...].
        y: labels [N].
        bits: bit widths, see :func:`quantised`.
        level: mismatch levels to draw around the quantised weights (:func:`thetabox.measure.mismatch`, every weight
            and bias); none when omitted.
        samples: draws of it.
        seed: of the draws.
        box: which weights are quantised, as in :func:`quantised`.
        device: "auto", "cpu" or "cuda".
        chunk: samples of the data in one forward pass.
        progress: called with (done, total) bit widths.

    Raises:
        InputError: anything wrong with the arguments.
    """
    started = time.perf_counter()
    widths = [checked_bits(n) for n in bits]
    if not widths:
        raise InputError("bits is empty; give one bit width at least")
    if chunk < 1:
        raise InputError(f"chunk is {chunk}; it must be at least 1")
    model, inputs, labels = checked(model, x, y)
    where, chosen = choose_device(device), box or Box()
    of_box(model, chosen, inputs)  # :func:`quantised` folds
    precise = precise_copy(model, inputs, labels, where)
    dtype = own_precision(model)
    shares, after = [], []
    for done, width in enumerate(widths, 1):
        twin = quantised(model, width, box=chosen)
        shares.append(accuracy(working_copy(twin, where, dtype), inputs, labels, where, dtype, chunk))
        if level is not None:
            after.append(mismatch(twin, inputs, labels, level, samples, seed=seed, device=device, chunk=chunk))
        if progress is not None:
            progress(done, len(widths))
    return QuantisationResult(
        bits=widths,
        accuracy=torch.tensor(shares, dtype=torch.float64),
        clean_accuracy=accuracy(precise, inputs, labels, where, torch.float64, chunk),
        box=chosen,
        seconds=time.perf_counter() - started,
        mismatch=after if level is not None else None,
    )
