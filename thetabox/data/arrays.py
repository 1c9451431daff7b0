"""Your own data: arrays in memory or in a ``.npz`` file, checked before anything is computed with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thetabox import checks
from thetabox.data.dataset import SPLITS, Dataset, fixed_order
from thetabox.errors import InputError
from thetabox.models.several import PREFIX, packed

VALIDATION_SHARE = 0.2


def _numbers(value: Any, what: str) -> torch.Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
        raise InputError(f"{what} must hold numbers, not {value.dtype}")
    return checks.array(value, what)


def _narrow(values: torch.Tensor, what: str) -> torch.Tensor:
    """float32 where that holds every number, else float64."""
    wide = values if values.is_floating_point() else checks.exact_double(values, what)
    narrow = wide.float()
    return narrow if torch.equal(narrow.to(wide.dtype), wide) else wide


def from_arrays(
    x: Any,
    y: Any,
    *,
    name: str = "arrays",
    split: str = "test",
    classes: list[str] | None = None,
    groups: list[str] | None = None,
) -> Dataset:
    """Checks arrays and makes a data set of them.

    Args:
        x: real numbers ``[N, ...]``, finite; stored as float32 where that holds every one, else as float64. Several
            inputs of a network in a mapping by name, each with N rows.
        y: integer labels ``[N]``, from 0.
        name: what to call the data in reports and in error messages.
        split: which split this is.
        classes: class names; by default ``"0"`` to the largest label.
        groups: patient or speaker of every sample, if there is such a thing.

    Raises:
        InputError: no samples, different lengths, NaN or infinity, whole numbers beyond what float64 holds, labels
            that are not integers from 0.
    """
    parts = None
    if isinstance(x, Mapping):
        x, parts = packed({key: _numbers(value, f"{key} of {name}") for key, value in x.items()}, f"x of {name}")
    inputs, labels = _numbers(x, f"x of {name}"), _numbers(y, f"y of {name}")
    if inputs.ndim < 2:
        raise InputError(f"x of {name} must have shape [samples, ...], not {list(inputs.shape)}")
    if labels.ndim != 1:
        raise InputError(f"y of {name} must have shape [samples], not {list(labels.shape)}")
    if len(inputs) != len(labels):
        raise InputError(f"x of {name} has {len(inputs)} samples, y has {len(labels)}: they must be as many")
    if inputs.numel() == 0:
        raise InputError(f"{name} is empty: x has shape {list(inputs.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"y of {name} must hold integer labels, not {str(labels.dtype).removeprefix('torch.')}")
    smallest, largest = int(labels.numpy().min()), int(labels.numpy().max())
    if smallest < 0:
        raise InputError(f"labels of {name} must count from 0; the smallest is {smallest}")
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        first = int((~inputs.isfinite()).nonzero()[0][0])
        raise InputError(f"x of {name} holds NaN or infinity (first in sample {first})")
    if classes is None:
        # Names for more classes than any data set has mean that y is no label at all.
        if largest >= 1_000_000:
            raise InputError(f"the largest label of {name} is {largest}: labels are class numbers from 0")
        classes = [str(label) for label in range(largest + 1)]
    elif largest >= len(classes):
        raise InputError(f"the largest label of {name} is {largest}, but only {len(classes)} classes are named")
    if groups is not None and len(groups) != len(labels):
        raise InputError(f"groups of {name} has {len(groups)} entries for {len(labels)} samples")
    return Dataset(
        name=name,
        split=split,
        x=_narrow(inputs, f"x of {name}"),
        y=labels.long(),
        classes=list(classes),
        groups=None if groups is None else list(groups),
        parts=parts,
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.is_dir():
        raise InputError(f"{path} is a folder; a .npz file with x and y is needed")
    if not path.exists():
        raise InputError(f"no such data file: {path}")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError(f"{path} is a single array; a .npz file with x and y is needed")
        with archive:
            names = archive.files
            missing = [key for key in ("x", "y") if key not in names]
            if missing:
                raise InputError(f"{path} has no array {' and no '.join(missing)}; it holds {', '.join(names) or '-'}")
            known = [name for name in names if name in ("x", "y", "classes", "groups") or name.startswith(PREFIX)]
            return {key: archive[key] for key in known}
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path} may not be read: {error.strerror}") from error
    except Exception as error:  # zipfile and the array reader raise all kinds of errors on damaged bytes
        if isinstance(error, ValueError) and "pickle" in str(error).lower():
            raise InputError(f"{path} holds pickled objects or is no .npz file; save plain arrays x and y") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not a complete .npz file ({reason})") from error


def load_arrays(path: str | Path, split: str = "test") -> Dataset:
    """Reads a ``.npz`` file with ``x`` ``[N, ...]`` and ``y`` ``[N]``; nothing in it is ever executed.

    ``classes`` (names) and ``groups`` (patient or speaker of every sample) may be in it too, and further inputs of a
    network that takes several, as ``x_mask`` for an argument ``mask`` of its forward. As ``test`` the whole
    file is the data set. For training it is divided, always in the same way: ``validation`` is a fifth of it, by
    whole groups where there are groups, ``train`` the rest.

    Raises:
        InputError: the file is missing, damaged, or fails the checks of ``from_arrays``.
    """
    path = Path(path)
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    arrays = _read(path)
    names = {key: arrays[key].astype(str).tolist() if key in arrays else None for key in ("classes", "groups")}
    for key, value in names.items():
        if value is not None and arrays[key].ndim != 1:
            raise InputError(f"{key} of {path.name} must be a plain list, not of shape {list(arrays[key].shape)}")
    several = {key: value for key, value in arrays.items() if key == "x" or key.startswith(PREFIX)}
    inputs = several if len(several) > 1 else arrays["x"]
    data = from_arrays(inputs, arrays["y"], name=path.name, split=split, **names)
    data = replace(data, path=str(path))
    if split == "test":
        return data
    units = np.asarray(data.groups if data.groups is not None else np.arange(len(data)))
    _, unit_of = np.unique(units, return_inverse=True)
    count = int(unit_of.max()) + 1
    if count < 2:
        raise InputError(f"{path.name} cannot be divided into train and validation: it holds a single sample or group")
    held_out = fixed_order(count, 0, "validation")[: max(1, round(count * VALIDATION_SHARE))]
    in_validation = np.isin(unit_of, held_out)
    return data.take(np.flatnonzero(in_validation if split == "validation" else ~in_validation))
