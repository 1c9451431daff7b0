"""Accuracy on phase-change memory over time: many chips, each programmed once and read again and again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.device import choose_device
from thetabox.errors import InputError
from thetabox.measure.accuracy import accuracy
from thetabox.measure.converters import Converters
from thetabox.measure.crossbar import Array, stored
from thetabox.measure.inputs import (
    Levels,
    checked,
    levels,
    numbers_for,
    of_box,
    own_precision,
    precise_copy,
    working_copy,
)
from thetabox.measure.quantise import checked_bits
from thetabox.measure.spread import Spread
from thetabox.models.precision import computing_in
from thetabox.models.recurrent import is_recurrent, run_steps
from thetabox.workers import OnlyFields, Pool, check_executor

TIMES = (25.0, 3600.0, 86400.0, 2592000.0, 31536000.0)
"""25 s, 1 hour, 1 day, 30 days, 1 year after programming."""
CALIBRATION = 256
"""Samples of the data, evenly spread, that set the converters' full scales."""


@dataclass(frozen=True)
class PCMResult(Spread):
    """Accuracy of each chip at each time.

    Attributes:
        times: [T], seconds since the end of programming, as given.
        accuracy: [T, S], accuracy over all samples of chip s at time t.
        clean_accuracy: of the network itself, in float64.
        stored: names of the tensors on devices.
        converted: those of them whose products passed the converters; empty with ideal converters.
    """

    times: Float[Tensor, " time"]
    accuracy: Float[Tensor, "time draw"]
    clean_accuracy: float
    stored: list[str]
    converted: list[str]
    compensation: bool
    adc_bits: int
    dac_bits: int
    tile: int
    seed: int
    box: Box
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The result, for a report or a file."""
        rows = zip(self.times, self.mean, self.std, self.min, strict=True)
        return {
            "samples": self.accuracy.shape[1],
            "seed": self.seed,
            "include": self.box.include,
            "exclude": self.box.exclude,
            "fold": self.box.fold,
            "compensation": self.compensation,
            "adc_bits": self.adc_bits,
            "dac_bits": self.dac_bits,
            "tile": self.tile,
            "stored": self.stored,
            "converted": self.converted,
            "clean_accuracy": self.clean_accuracy,
            "times": [
                {"time": float(at), "mean": float(mean), "std": float(std), "min": float(least)}
                for at, mean, std, least in rows
            ],
            "accuracy": self.accuracy.tolist(),
            "seconds": self.seconds,
        }


@torch.no_grad()
def pcm(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    times: Levels = TIMES,
    samples: int = 10,
    *,
    seed: int = 0,
    compensation: bool = True,
    adc_bits: int = 8,
    dac_bits: int = 8,
    tile: int = 256,
    box: Box | None = None,
    device: str = "auto",
    chunk: int = 500,
    progress: Callable[[int, int], None] | None = None,
    executor: Executor | None = None,
) -> PCMResult:
    r"""Store the weights on pairs of phase-change memory devices, many times, and measure accuracy as they age.

    A chip is one draw of programming noise and drift exponents for all devices; at each time it is read with fresh
    read noise (:mod:`thetabox.measure.devices`). Weights of two dimensions or more (dense, convolutional, ``W_in``,
    ``W_rec``, ``W_out``) stand on tiles with a scale of their own (:class:`thetabox.measure.crossbar.Array`); biases,
    batch norm and neuron values are digital and exact. Products with the stored matrices pass DAC and ADC
    (:class:`thetabox.measure.converters.Converters`); a recurrent network is then run step by step by its protocol,
    so each time step's products are converted. Evaluated in the network's own precision.

    Args:
        model: any network; it stays as it is.
        x: inputs [N, ...].
        y: labels [N].
        times: seconds since the end of programming, one or several, each at least 0.
        samples: chips S.
        seed: of the chips; chip s is the same at whatever times it is read.
        compensation: correct each tile's mean size by two readings (global drift compensation).
        adc_bits, dac_bits: bit widths of the converters, 2 to 24; 0 for ideal ones.
        tile: rows and columns of a tile at most.
        box: its ``include``, ``exclude`` and ``fold`` choose what stands on devices; all weight matrices when omitted.
        device: "auto", "cpu" or "cuda".
        chunk: samples of the data in one forward pass.
        progress: called with (done, total) readings.
        executor: whose workers take the chips (:mod:`thetabox.workers`); this process where ``None``.

    Raises:
        InputError: anything wrong with the arguments.

    Source: Joshi et al., Accurate deep neural network inference using computational phase-change memory, Nature
    Communications 11, 2473 (2020); the constants as documented by aihwkit (IBM).
    """
    started = time.perf_counter()
    check_executor(executor)
    moments = levels(times, "times")
    if samples < 1 or chunk < 1 or tile < 1:
        raise InputError(f"samples is {samples}, chunk is {chunk} and tile is {tile}; all must be at least 1")
    for bits in (adc_bits, dac_bits):
        if bits != 0:
            checked_bits(bits)
    model, inputs, labels = checked(model, x, y)
    where, chosen = choose_device(device), box or Box()
    model = of_box(model, chosen, inputs, executor)
    precise = precise_copy(model, inputs, labels, where)
    bench = _Bench(model, inputs, labels, moments, seed, compensation, adc_bits, dac_bits, tile, chosen, where, chunk)
    shares = torch.empty(len(moments), samples, dtype=torch.float64)
    with Pool(executor, bench) as pool:
        chips = {pool.add(_chip, draw): draw for draw in range(samples)}
        for done, (number, accuracies) in enumerate(pool.answers(), 1):
            shares[:, chips[number]] = accuracies
            if progress is not None:
                progress(done * len(moments), samples * len(moments))
    return PCMResult(
        times=torch.tensor(moments, dtype=torch.float64),
        accuracy=shares,
        clean_accuracy=accuracy(precise, inputs, labels, where, torch.float64, chunk),
        stored=list(bench.arrays),
        converted=[] if bench.converters is None else bench.converters.converted,
        compensation=compensation,
        adc_bits=adc_bits,
        dac_bits=dac_bits,
        tile=tile,
        seed=seed,
        box=chosen,
        seconds=time.perf_counter() - started,
    )


@dataclass
class _Bench(OnlyFields):
    """A network whose stored weights are replaced by readings of chips, and the data it is measured on."""

    model: nn.Module
    x: Tensor
    y: Tensor
    moments: Sequence[float]
    seed: int
    compensation: bool
    adc_bits: int
    dac_bits: int
    tile: int
    box: Box
    device: torch.device
    chunk: int

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of the network."""
        return own_precision(self.model)

    @cached_property
    def drawn(self) -> Any:
        """The copy that is worked on."""
        return working_copy(self.model, self.device, self.dtype)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Those of the copy that stand on devices."""
        named = {**dict(self.drawn.network.named_parameters()), **dict(self.drawn.network.named_buffers())}
        return {name: named[name] for name in stored(self.model, self.box)}

    @cached_property
    def arrays(self) -> dict[str, Array]:
        """Their tiles; made before the first chip is read."""
        return {name: Array(tensor, self.tile) for name, tensor in self.tensors.items()}

    @cached_property
    def network(self) -> nn.Module:
        """The copy as it is called: step by step where products are converted."""
        converted = self.adc_bits or self.dac_bits
        if converted and is_recurrent(self.drawn.network):
            return _Stepwise(self.drawn.network, self.dtype)
        network: nn.Module = self.drawn
        return network

    @cached_property
    def converters(self) -> Converters | None:
        """With ranges set by inputs from all over the data; ``None`` for ideal ones."""
        if not (self.adc_bits or self.dac_bits):
            return None
        converters = Converters(self.arrays, self.tensors, self.dac_bits, self.adc_bits)
        spread = torch.linspace(0, len(self.x) - 1, min(CALIBRATION, len(self.x))).long()
        with torch.no_grad(), converters.calibrating():
            self.network(numbers_for(self.x[spread], self.device, self.dtype))
        return converters

    @torch.no_grad()
    def read(self, draw: int) -> Float[Tensor, " time"]:
        """Accuracy with one chip, programmed once, read at all moments with fresh noise."""
        converters = self.converters
        stream = _stream(f"{self.seed} {draw}")
        chips = {name: array.program(stream) for name, array in self.arrays.items()}
        shares = []
        for moment in self.moments:
            stream = _stream(f"{self.seed} {draw} {moment}")
            for name, chip in chips.items():
                weight, gain = chip.read(moment, self.compensation, stream)
                self.tensors[name].copy_(weight)
                if converters is not None:
                    converters.gain[name] = gain
            with converters or nullcontext():
                shares.append(accuracy(self.network, self.x, self.y, self.device, self.dtype, self.chunk))
        return torch.tensor(shares, dtype=torch.float64)


def _chip(bench: _Bench, draw: int) -> Tensor:
    return bench.read(draw)


class _Stepwise(nn.Module):
    """A recurrent network by its protocol alone, so that each step's products can be told apart."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor) -> Tensor:
        with computing_in(self.dtype):
            outputs = run_steps(self.network, x)  # type: ignore[arg-type]  # is_recurrent was asked
            logits: Tensor = self.network.readout(outputs)  # type: ignore[operator]  # the protocol
            return logits


def _stream(key: str) -> torch.Generator:
    """Random numbers of their own for every chip and every reading, whatever else is asked for."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
