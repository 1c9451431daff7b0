"""Settings of the whole process under which torch computes ordinary IEEE sums and products."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from thetabox.models.shared_setting import Shared

# Numbers that torch gives to one thread at least (``at::internal::GRAIN_SIZE``), and how far apart those lie that show
# whether it flushes: each takes a hundred times as long as an ordinary product.
_GRAIN, _APART = 32768, 4096


@contextmanager
def plain_precision() -> Iterator[None]:
    """Products in the dtype of their operands: no autocast, no TF32 or bfloat16 inside a float32 product."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False), _ieee_products():
        yield


@contextmanager
def _make_products_ieee() -> Iterator[None]:
    parts: list[Any] = [torch.backends.cuda.matmul]
    setting: str = "fp32_precision"
    plain: Any = "ieee"
    if hasattr(parts[0], setting):
        parts += [getattr(torch.backends.mkldnn, name) for name in ("matmul", "conv", "rnn")]
    else:  # before torch 2.9
        setting, plain = "allow_tf32", False
    wanted = [getattr(part, setting) for part in parts]
    for part in parts:
        setattr(part, setting, plain)
    try:
        yield
    finally:
        for part, value in zip(parts, wanted, strict=True):
            setattr(part, setting, value)


_ieee_products = Shared(_make_products_ieee)
_ordinary_convolutions = Shared(lambda: torch.backends.cudnn.flags(enabled=False, allow_tf32=False))
_here = threading.local()


@contextmanager
def sound_kernels() -> Iterator[None]:
    """Ordinary IEEE sums only: no TF32, no Winograd or FFT convolution, no flush to zero."""
    if getattr(_here, "inside", False):  # this thread has seen to all of it
        with plain_precision():
            yield
        return
    with _subnormal_numbers(), plain_precision(), _ordinary_convolutions():
        _here.inside = True
        try:
            yield
        finally:
            _here.inside = False


@contextmanager
def _subnormal_numbers() -> Iterator[None]:
    """No flush to zero in this thread, nor in those that share its work.

    Whether a processor flushes is a state of each thread, which a new one takes over from the thread that starts it.
    Those that work for this one cannot be reached once they run: if they flush, it works alone.
    """
    flushed, threads = _flushes(1), torch.get_num_threads()
    if flushed:
        torch.set_flush_denormal(False)
    alone = threads > 1 and _flushes(threads * _GRAIN)
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if alone:
            torch.set_num_threads(threads)
        if flushed:
            torch.set_flush_denormal(True)


def _flushes(numbers: int) -> bool:
    """Whether one of the threads that share an operation on so many numbers flushes subnormal ones to zero."""
    probe = torch.ones(numbers, dtype=torch.float64)
    probe[::_APART] = 2.0**-1074
    return bool((probe * 1.0 == 0).any())
