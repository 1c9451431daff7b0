"""Converters at the edges of crossbar tiles: inputs and partial sums of n bits, wherever a network multiplies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from thetabox.measure.crossbar import Array, repeated
from thetabox.measure.quantise import rounded

CONVOLUTIONS: Mapping[str, Callable[..., Tensor]] = {
    "conv1d": functional.conv1d,
    "conv2d": functional.conv2d,
    "conv3d": functional.conv3d,
}


class Converters(TorchFunctionMode):
    r"""Inside ``with converters:`` every product with a stored weight matrix passes DAC, tiles, ADC and a sum.

    With the matrix cut into tiles :math:`W_{ij}` (i over inputs, j over outputs) of correction α,

    .. math:: y_j = \sum_i \alpha_{ij}\, Q_{ADC}\big(W_{ij}\, Q_{DAC}(x_i)\big) + b_j

    with Q of :func:`thetabox.measure.quantise.rounded`. Products are recognised by the weight tensor itself in
    ``F.linear``, ``F.conv1d/2d/3d``, ``x @ W``, ``torch.mm`` and ``torch.addmm(b, x, W)``, also after ``W * mask`` with
    a mask of zeros and ones. Other uses of a weight (fused recurrent layers, einsum) see no converter.

    Full scales are fixed by one pass of the unperturbed network under :meth:`calibrating`: the largest input of each
    matrix, the largest partial sum of each tile. They stay the same for all chips and times, as the gain of a
    converter does, so later values may saturate, and drifted currents use fewer of the ADC's levels.

    Args:
        arrays: the stored tensors by name.
        tensors: the network's own tensors of these names, whose values change from chip to chip in place.
        dac_bits, adc_bits: bit widths; 0 for an ideal converter.
    """

    def __init__(
        self, arrays: Mapping[str, Array], tensors: Mapping[str, Tensor], dac_bits: int, adc_bits: int
    ) -> None:
        super().__init__()
        self.arrays, self.dac_bits, self.adc_bits = arrays, dac_bits, adc_bits
        self.gain = {name: torch.ones_like(array.scale) for name, array in arrays.items()}
        self.names = {id(tensors[name]): name for name in arrays}
        self.inputs: dict[str, Tensor] = {}
        self.sums: dict[tuple[str, int], Tensor] = {}
        self._observing = False
        self._masked: dict[tuple[int, int], tuple[str, Tensor, Tensor]] = {}

    @property
    def converted(self) -> list[str]:
        """Names of the matrices whose products were seen in calibration."""
        return [name for name in self.arrays if name in self.inputs]

    @contextmanager
    def calibrating(self) -> Iterator[None]:
        """Inside, products are exact and their ranges are noted."""
        self._observing = True
        try:
            with self:
                yield
        finally:
            self._observing = False

    def __exit__(self, *error: Any) -> None:
        self._masked.clear()  # weights change between passes
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in CONVOLUTIONS:
            return self._convolution(CONVOLUTIONS[name], *args, **kwargs)
        if name == "linear":
            return self._linear(*args, **kwargs)
        plain = () if kwargs else args
        if name in ("matmul", "mm") and len(plain) == 2 and (stored := self._name(args[1])) and args[1].ndim == 2:
            return self._matmul(stored, *args)
        if name == "addmm" and len(plain) == 3 and (stored := self._name(args[2])):
            return args[0] + self._matmul(stored, *args[1:])
        if name == "mul" and len(plain) == 2:
            return self._multiply(func, *args)
        return func(*args, **kwargs)

    def _name(self, tensor: Any) -> str | None:
        known = self.names.get(id(tensor))
        if known is None:
            return next((name for name, _, product in self._masked.values() if product is tensor), None)
        return known

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        name = self._name(weight)
        if name is None:
            return functional.linear(input, weight, bias)
        array = self.arrays[name]
        parts = zip(self._dac(name, input).split(array.columns, -1), weight.split(array.columns, 1), strict=True)
        total = self._summed(name, (functional.linear(x, w) for x, w in parts), array.rows, -1)
        return total if bias is None else total + bias

    def _matmul(self, name: str, input: Tensor, weight: Tensor) -> Tensor:
        array = self.arrays[name]
        parts = zip(self._dac(name, input).split(array.rows, -1), weight.split(array.rows, 0), strict=True)
        return self._summed(name, (x @ w for x, w in parts), array.columns, -1, inputs_first=True)

    def _convolution(
        self,
        convolve: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        name = self._name(weight)
        if name is None:
            return convolve(input, weight, bias, stride, padding, dilation, groups)
        array = self.arrays[name]
        channels = [size // array.kernel for size in array.columns]
        batched = input.ndim == weight.ndim
        x = self._dac(name, input if batched else input[None])
        grouped = x.unflatten(1, (groups, -1)).split(channels, 2)
        parts = zip(grouped, weight.split(channels, 1), strict=True)
        sums = (convolve(part.flatten(1, 2), w, None, stride, padding, dilation, groups) for part, w in parts)
        total = self._summed(name, sums, array.rows, 1)
        if bias is not None:
            total = total + bias.reshape(-1, *[1] * (weight.ndim - 2))
        return total if batched else total[0]

    def _multiply(self, func: Callable[..., Any], left: Any, right: Any) -> Any:
        """``W * mask`` is still the stored matrix, only with devices left out."""
        for weight, mask in ((left, right), (right, left)):
            name = self.names.get(id(weight))
            if name is None or not isinstance(mask, Tensor) or mask.shape != weight.shape:
                continue
            key = (id(weight), id(mask))
            if key not in self._masked:
                if not ((mask == 0) | (mask == 1)).all():
                    break
                self._masked[key] = (name, mask, func(left, right))  # the mask is kept so that its id stays its own
            return self._masked[key][2]
        return func(left, right)

    def _dac(self, name: str, x: Tensor) -> Tensor:
        if self._observing:
            self.inputs[name] = torch.maximum(x.abs().amax(), self.inputs.get(name, x.new_zeros(())))
            return x
        if not self.dac_bits or name not in self.inputs:
            return x
        return rounded(x, self.inputs[name], self.dac_bits)

    def _summed(
        self, name: str, sums: Iterator[Tensor], sizes: Sequence[int], dimension: int, inputs_first: bool = False
    ) -> Tensor:
        """Partial sums of the tiles, each through its own ADC, added up."""
        converted = [self._adc(name, block, part, sizes, dimension, inputs_first) for block, part in enumerate(sums)]
        return torch.stack(converted).sum(0) if len(converted) > 1 else converted[0]

    def _adc(
        self, name: str, block: int, part: Tensor, sizes: Sequence[int], dimension: int, inputs_first: bool
    ) -> Tensor:
        key = (name, block)
        if self._observing:
            others = [d for d in range(part.ndim) if d != dimension % part.ndim]
            most = (part.abs().amax(others) if others else part.abs()).split(list(sizes))
            peaks = torch.stack([piece.amax() for piece in most])
            self.sums[key] = torch.maximum(peaks, self.sums.get(key, torch.zeros_like(peaks)))
            return part
        if not self.adc_bits or key not in self.sums:
            return part
        # The weights hold the correction α already: Q(Wx; full)·α = Q(αWx; α·full).
        gain = self.gain[name][block] if inputs_first else self.gain[name][:, block]
        full = repeated(self.sums[key] * gain, sizes, 0)
        after = part.ndim - 1 - dimension % part.ndim
        return rounded(part, full.reshape(-1, *[1] * after), self.adc_bits)
