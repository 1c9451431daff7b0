"""Arrays, labels and numbers as they were given, read in one way everywhere; what comes out is memory of our own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thetabox.errors import InputError

ORDINARY = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Floating types that every operation of torch knows."""

# Whole numbers up to here, and labels far below it, are exact in float64.
LARGEST_WHOLE = 2**53


def array(values: Any, what: str, *, dtype: torch.dtype | None = None, own: bool = True) -> Tensor:
    """Numbers as a dense tensor on the CPU, contiguous, without a gradient, every value as it was given.

    Args:
        values: a tensor (of any layout, stride or device), an array (of any stride or byte order), numbers, or nested
            lists of all of these.
        what: the name of it in messages.
        dtype: of plain Python numbers; torch's default otherwise.
        own: copy, so that nothing the library does reaches the caller's memory; else only where it must.

    Raises:
        InputError: not numbers, ragged, complex, or of more digits than float64 holds.
    """
    try:
        found = _read(values, what, dtype, own)
    except InputError:
        raise
    except Exception as error:  # tensors and arrays of foreign kinds raise whatever they like
        raise InputError(f"{what} must be a tensor or an array of numbers, not {_kind(values)}") from error
    if found.is_complex():
        raise InputError(f"{what} must be real, not {found.dtype}")
    return found


def inputs(x: Any, what: str = "x", *, keep_indices: bool = False) -> Tensor:
    """Inputs ``[samples, ...]`` as finite floats; whole numbers of any type (pixels, counts) become float64.

    Args:
        x: see :func:`array`.
        what: the name of it in messages.
        keep_indices: leave int32 and int64 as they are, the types by which an embedding is read.

    Raises:
        InputError: no samples, NaN or infinite values, or what :func:`array` refuses.
    """
    found = array(x, what)
    if found.dim() == 0 or len(found) == 0:
        raise InputError(f"{what} holds no samples; its shape is {list(found.shape)}")
    if found.dim() < 2 or found.numel() == 0:
        raise InputError(f"{what} must hold at least one sample, [samples, ...]; its shape is {list(found.shape)}")
    if not found.is_floating_point():
        if keep_indices and found.dtype in (torch.int32, torch.int64):
            return found
        found = _exact_double(found, what)
    if not bool(torch.isfinite(found).all()):
        raise InputError(f"{what} has values that are NaN or infinite")
    return found


def labels(y: Any, samples: int, what: str = "y") -> Tensor:
    """Class numbers, int64 ``[samples]``; whole numbers in any type.

    Raises:
        InputError: not one label a sample, not whole numbers, or what :func:`array` refuses.
    """
    found = array(y, what)
    if found.dim() != 1 or found.shape[0] != samples:
        raise InputError(
            f"{what} must hold one label for each of the {samples} samples, not labels of shape {list(found.shape)}"
        )
    wide = found.double()
    # NaN and infinity are not below the limit either.
    if not bool(((wide == wide.round()) & (wide.abs() < LARGEST_WHOLE)).all()):
        raise InputError(f"{what} must hold whole class numbers (integers)")
    return wide.long()


def numbers(values: Any, what: str) -> Tensor:
    """One number or several, ``[count]`` float64, finite and at least 0.

    Raises:
        InputError: anything else.
    """
    refusal = f"{what} must be a number or a list of numbers, not "
    try:
        found = array(values, what, dtype=torch.float64)
    except InputError as error:
        raise InputError(refusal + _shown(values)) from error
    if found.dtype == torch.bool or _has_bool(values):
        raise InputError(refusal + "truth values")
    if found.numel() == 0:
        raise InputError(f"{what} is empty; give one number at least")
    if found.dim() > 1:
        raise InputError(f"{refusal}of shape {list(found.shape)}")
    found = found.double().reshape(-1) + 0.0  # no -0
    for number in found.tolist():
        if not (math.isfinite(number) and number >= 0):
            raise InputError(f"{what} is {number}; it must be finite and at least 0")
    return found


def number(value: Any, what: str) -> float:
    """One number, finite and at least 0.

    Raises:
        InputError: anything else.
    """
    found = numbers(value, what)
    if len(found) != 1:
        raise InputError(f"{what} must be one number, not {len(found)}")
    return float(found)


def check_weights(model: nn.Module) -> None:
    """Raise unless ``model`` is a module whose parameters and buffers hold finite numbers.

    Raises:
        InputError: no module, a tensor without values (lazy, or of the meta device), NaN or infinity.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not {_kind(model)}")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise InputError(f"the model's {name} has no shape yet; call the model once, so that lazy layers are made")
        if tensor.is_meta:
            raise InputError(f"the model's {name} has no values, it is on the meta device; load its weights first")
        if tensor.layout != torch.strided:
            raise InputError(f"the model's {name} is a sparse tensor; make it dense, by to_dense()")
        if tensor.is_floating_point():
            values = tensor if tensor.dtype in ORDINARY else tensor.float()
            if not bool(torch.isfinite(values).all()):
                raise InputError(f"the model's {name} has values that are NaN or infinite")


def _read(values: Any, what: str, dtype: torch.dtype | None, own: bool) -> Tensor:
    if isinstance(values, Tensor):
        return _dense(values, what, own)
    if isinstance(values, list | tuple):
        leaves = list(_leaves(values))
        if any(isinstance(leaf, Tensor) for leaf in leaves):
            parts = [_read(part, what, dtype, own=False) for part in values]
            if len({part.shape for part in parts}) > 1:
                raise InputError(f"{what} is a list whose parts differ in shape")
            return torch.stack(parts)
        if any(isinstance(leaf, np.ndarray | np.generic) for leaf in leaves):
            return _of_numpy(values, what, own=False)
        return torch.tensor(values, dtype=dtype)
    if isinstance(values, bool | int | float) and not isinstance(values, np.generic):
        return torch.tensor(values, dtype=dtype)
    return _of_numpy(values, what, own)


def _dense(tensor: Tensor, what: str, own: bool) -> Tensor:
    if tensor.is_meta:
        raise InputError(f"{what} holds no values, it is a tensor of the meta device")
    if tensor.is_quantized:
        raise InputError(f"{what} holds codes of a quantised tensor; give the numbers, by dequantize()")
    if tensor.is_nested:
        raise InputError(f"{what} is a nested tensor, whose samples may differ in shape")
    shares = tensor.layout == torch.strided
    found = tensor.detach().cpu() if shares else tensor.detach().to_dense().cpu()
    if found.is_floating_point() and found.dtype not in ORDINARY:
        return found.float()  # the types of eight bits, which float32 holds
    found = found.resolve_conj().resolve_neg().contiguous()
    return found.clone() if own and shares and found.data_ptr() == tensor.data_ptr() else found


def _of_numpy(values: Any, what: str, own: bool) -> Tensor:
    if np.ma.is_masked(values):
        raise InputError(f"{what} has masked values; fill or drop them")
    found = np.asarray(values)
    if found.dtype.kind not in "biufc":
        of = _kind(values) if found.dtype.kind == "O" and found.ndim == 0 else str(found.dtype)
        raise InputError(f"{what} must be a tensor or an array of numbers, not {of}")
    if found.dtype.kind == "f" and found.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            narrow = found.astype(np.float64)
        if not np.array_equal(narrow.astype(found.dtype), found, equal_nan=True):
            raise InputError(f"{what} has more digits than float64 holds; round it, by astype(numpy.float64)")
        found = narrow
    native = np.require(found, found.dtype.newbyteorder("="), ["C", "W"])
    return torch.from_numpy(native.copy() if own else native)


def _exact_double(whole: Tensor, what: str) -> Tensor:
    wide = whole.double()
    if whole.dtype.itemsize > 4 and bool((wide.abs() >= LARGEST_WHOLE).any()):
        raise InputError(f"{what} has whole numbers beyond 2⁵³, which no floating type holds exactly")
    return wide


def _leaves(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        else:
            yield value


def _has_bool(values: Any) -> bool:
    return isinstance(values, bool) or (isinstance(values, list | tuple) and any(map(_has_bool, values)))


def _kind(values: Any) -> str:
    return type(values).__name__


def _shown(values: Any) -> str:
    text = " ".join(repr(values).split())
    return text if len(text) <= 60 else _kind(values)
