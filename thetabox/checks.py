"""Arrays, labels and numbers as they were given, read in one way everywhere; what comes out is memory of our own."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.masked import MaskedTensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from thetabox.errors import InputError

ORDINARY = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Floating types that every operation of torch knows."""

WHOLE = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
"""Types of whole numbers that torch promotes to one that holds both."""

# Whole numbers up to here, and labels far below it, are exact in float64.
LARGEST_WHOLE = 2**53


def array(values: Any, what: str, *, copy: bool = True) -> Tensor:
    """Numbers as a dense tensor on the CPU, contiguous, without a gradient, every value as it was given.

    Args:
        values: a tensor (of any layout, stride or device), an array (of any stride or byte order), numbers, or nested
            lists of all of these. Plain numbers are read as int64 or float64.
        what: the name of it in messages.
        copy: copy, so that nothing the library does reaches the caller's memory; else only where it must.

    Raises:
        InputError: not numbers, ragged, complex, or of more digits than float64 holds.
    """
    try:
        _check_default_device()
        tensor = _read(values, what, copy)
    except InputError:
        raise
    except Exception as error:  # tensors and arrays of foreign kinds raise whatever they like
        raise InputError(f"{what} must be a tensor or an array of numbers, not {_kind(values)}") from error
    if tensor.is_complex():
        raise InputError(f"{what} must be real, not {tensor.dtype}")
    return tensor


def inputs(x: Any, what: str = "x", *, keep_indices: bool = False) -> Tensor:
    """Inputs ``[samples, ...]`` as finite floats; whole numbers of any type (pixels, counts) become float64.

    Args:
        x: see :func:`array`.
        what: the name of it in messages.
        keep_indices: leave int32 and int64 as they are, the types by which an embedding is read.

    Raises:
        InputError: no samples, NaN or infinite values, or what :func:`array` refuses.
    """
    tensor = array(x, what)
    if tensor.dim() == 0 or len(tensor) == 0:
        raise InputError(f"{what} holds no samples; its shape is {list(tensor.shape)}")
    if tensor.dim() < 2 or tensor.numel() == 0:
        raise InputError(f"{what} must hold at least one sample, [samples, ...]; its shape is {list(tensor.shape)}")
    if not tensor.is_floating_point():
        if keep_indices and tensor.dtype in (torch.int32, torch.int64):
            return tensor
        tensor = exact_double(tensor, what)
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{what} has values that are NaN or infinite")
    return tensor


def labels(y: Any, samples: int, what: str = "y") -> Tensor:
    """Class numbers, int64 ``[samples]``; whole numbers in any type.

    Raises:
        InputError: not one label a sample, not whole numbers, or what :func:`array` refuses.
    """
    tensor = array(y, what)
    if tensor.dim() != 1 or tensor.shape[0] != samples:
        raise InputError(
            f"{what} must hold one label for each of the {samples} samples, not labels of shape {list(tensor.shape)}"
        )
    wide = tensor.double()
    # NaN and infinity are not below the limit either.
    if not bool(((wide == wide.round()) & (wide.abs() < LARGEST_WHOLE)).all()):
        raise InputError(f"{what} must hold whole class numbers (integers)")
    return wide.long()


def numbers(values: Any, what: str) -> Tensor:
    """One number or several, ``[count]`` float64, finite and at least 0.

    Raises:
        InputError: anything else.
    """
    _check_default_device()
    refusal = f"{what} must be a number or a list of numbers, not "
    try:
        tensor = array(values, what)
    except InputError as error:
        raise InputError(refusal + _shown(values)) from error
    if tensor.dtype == torch.bool or _has_bool(values):
        raise InputError(refusal + "truth values")
    if tensor.numel() == 0:
        raise InputError(f"{what} is empty; give one number at least")
    if tensor.dim() > 1:
        raise InputError(f"{refusal}of shape {list(tensor.shape)}")
    tensor = tensor.double().reshape(-1) + 0.0  # no -0
    for number in tensor.tolist():
        if not (math.isfinite(number) and number >= 0):
            raise InputError(f"{what} is {number}; it must be finite and at least 0")
    return tensor


def number(value: Any, what: str) -> float:
    """One number, finite and at least 0.

    Raises:
        InputError: anything else.
    """
    tensor = numbers(value, what)
    if len(tensor) != 1:
        raise InputError(f"{what} must be one number, not {len(tensor)}")
    return float(tensor)


def exact_double(numbers: Tensor, what: str) -> Tensor:
    """The same numbers in float64.

    Raises:
        InputError: whole numbers that it does not hold.
    """
    wide = numbers.double()
    if not numbers.is_floating_point() and numbers.dtype.itemsize > 4 and bool((wide.abs() >= LARGEST_WHOLE).any()):
        raise InputError(f"{what} has whole numbers beyond 2⁵³, which no floating type holds exactly")
    return wide


def check_weights(model: nn.Module) -> None:
    """Raise unless ``model`` is a module whose parameters and buffers hold finite numbers.

    Raises:
        InputError: no module, a tensor without values (lazy, or of the meta device), one that is not plain (sparse,
            complex, a lazily negated view, a wrapper of others), NaN or infinity, but minus infinity in a buffer.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not {_kind(model)}")
    _check_default_device()
    parameters = dict(model.named_parameters())
    for name, tensor in [*parameters.items(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise InputError(f"the model's {name} has no shape yet; call the model once, so that lazy layers are made")
        if is_traceable_wrapper_subclass(tensor):
            raise InputError(f"the model's {name} is a {_kind(tensor)}, which wraps other tensors; make it a plain one")
        if tensor.is_meta:
            raise InputError(f"the model's {name} has no values, it is on the meta device; load its weights first")
        if tensor.layout != torch.strided:
            raise InputError(f"the model's {name} is a sparse tensor; make it dense, by to_dense()")
        if tensor.is_complex():
            raise InputError(f"the model's {name} is complex; hold its parts in two tensors, by torch.view_as_real()")
        if tensor.is_neg() or tensor.is_conj():
            raise InputError(
                f"the model's {name} is a negated or conjugate view; make it plain, by resolve_neg() and resolve_conj()"
            )
        if tensor.is_floating_point():
            # Detached: no history is to be kept, and a tensor of inference mode cannot have one.
            values = tensor.detach() if tensor.dtype in ORDINARY else tensor.detach().float()
            # A buffer of minus infinity is a mask that is added in front of a softmax.
            held = name in parameters or not bool(torch.isneginf(values).any())
            allowed = torch.isfinite(values) if held else torch.isfinite(values) | torch.isneginf(values)
            if not bool(allowed.all()):
                raise InputError(f"the model's {name} has values that are NaN or infinite")


def _check_default_device() -> None:
    if torch.get_default_device().type == "meta":
        raise InputError("torch makes tensors on the meta device here, where nothing has values; leave it first")


def _read(values: Any, what: str, copy: bool) -> Tensor:
    if isinstance(values, Tensor):
        return _dense(values, what, copy)
    if isinstance(values, np.generic) or not isinstance(values, list | tuple | bool | int | float):
        return _of_numpy(values, what, copy)
    if not isinstance(values, list | tuple):
        return _of_python(values, [values], what)
    leaves = list(_leaves(values))
    if not any(isinstance(leaf, Tensor | np.ndarray | np.generic) for leaf in leaves):
        return _of_python(values, leaves, what)
    if all(isinstance(leaf, np.generic | np.ndarray) for leaf in leaves) and len({leaf.dtype for leaf in leaves}) == 1:
        if any(np.ma.is_masked(leaf) for leaf in leaves):
            raise InputError(f"{what} has masked values; fill or drop them")
        return _of_numpy(values, what, copy=False)
    return _stacked([_read(part, what, copy=False) for part in values], what)


def _of_python(values: Any, leaves: list[Any], what: str) -> Tensor:
    """Plain numbers: whole ones as they are, float64 as soon as there is another among them."""
    if not any(isinstance(leaf, float) for leaf in leaves):
        return torch.tensor(values, device="cpu")
    if any(isinstance(leaf, int) and abs(leaf) > LARGEST_WHOLE for leaf in leaves):
        raise InputError(f"{what} has whole numbers beyond 2⁵³, which no floating type holds exactly")
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _stacked(parts: list[Tensor], what: str) -> Tensor:
    """Parts of any types in one that holds every number of all of them."""
    if len({part.shape for part in parts}) > 1:
        raise InputError(f"{what} is a list whose parts differ in shape")
    types = {part.dtype for part in parts}
    if any(dtype.is_complex for dtype in types):
        raise InputError(f"{what} must be real, not complex")
    if len(types) > 1:
        floating = all(dtype.is_floating_point for dtype in types)
        wide = functools.reduce(torch.promote_types, types) if floating or types <= WHOLE else torch.float64
        parts = [part.to(wide) if floating or types <= WHOLE else exact_double(part, what) for part in parts]
    return torch.stack(parts)


def _dense(tensor: Tensor, what: str, copy: bool) -> Tensor:
    if isinstance(tensor, MaskedTensor) or is_traceable_wrapper_subclass(tensor):
        raise InputError(f"{what} is a {_kind(tensor)}; give a plain tensor, masked values filled or dropped")
    if tensor.is_meta:
        raise InputError(f"{what} holds no values, it is a tensor of the meta device")
    if tensor.is_quantized:
        raise InputError(f"{what} holds codes of a quantised tensor; give the numbers, by dequantize()")
    if tensor.is_nested:
        raise InputError(f"{what} is a nested tensor, whose samples may differ in shape")
    shares = tensor.layout == torch.strided
    dense = tensor.detach().cpu() if shares else tensor.detach().to_dense().cpu()
    if dense.is_floating_point() and dense.dtype not in ORDINARY:
        return dense.float()  # the types of eight bits, which float32 holds
    dense = dense.resolve_conj().resolve_neg().contiguous()
    return dense.clone() if copy and shares and dense.data_ptr() == tensor.data_ptr() else dense


def _of_numpy(values: Any, what: str, copy: bool) -> Tensor:
    if np.ma.is_masked(values):
        raise InputError(f"{what} has masked values; fill or drop them")
    ndarray = np.asarray(values)
    if ndarray.dtype.kind not in "biufc":
        of = _kind(values) if ndarray.dtype.kind == "O" and ndarray.ndim == 0 else str(ndarray.dtype)
        raise InputError(f"{what} must be a tensor or an array of numbers, not {of}")
    if ndarray.dtype.kind == "f" and ndarray.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            narrow = ndarray.astype(np.float64)
        if not np.array_equal(narrow.astype(ndarray.dtype), ndarray, equal_nan=True):
            raise InputError(f"{what} has more digits than float64 holds; round it, by astype(numpy.float64)")
        ndarray = narrow
    native = np.require(ndarray, ndarray.dtype.newbyteorder("="), ["C", "W"])
    return torch.from_numpy(native.copy() if copy else native)


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
