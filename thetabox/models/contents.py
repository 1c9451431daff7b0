"""What a checkpoint holds, brought into a module: which state_dict, by which names, every number as it stands there."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from thetabox.errors import InputError, Notice
from thetabox.models.leaky import Leaky, LeakyCells
from thetabox.models.lsnn import LSNN
from thetabox.models.memory import identity, named_tensors

State = Mapping[str, Tensor]
Held = Mapping[str, State]
"""The state_dicts of a file, by where they stand in it."""

USUAL = "state_dict"
"""Where trainers keep the weights that count, whatever else there is (averages, other parts)."""
WRAPPED = ("module", "_orig_mod")
"""Parts of names that wrappers of torch put in (``DataParallel``, ``AveragedModel``; ``torch.compile``)."""
DEPTH = 4


def state_dicts(content: Any, where: str = "", depth: int = DEPTH) -> dict[str, State]:
    """Every dictionary of names to tensors in what a file holds, by where it stands."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        inner = content.items() if isinstance(content, Mapping) else ()
    elif all(isinstance(value, Tensor) for value in content.values()):
        return {where: {key: value.detach() for key, value in content.items()}}
    else:
        inner = content.items()
    states: dict[str, State] = {}
    for key, value in inner:
        if depth and isinstance(value, Mapping):
            states |= state_dicts(value, f"{where}.{key}" if where else str(key), depth - 1)
    return states


def readings(state: State) -> Iterator[State]:
    """The tensors by their names, without the parts that wrappers put in, without what all names begin with."""
    yield state
    short = {unwrapped(name): value for name, value in state.items()}
    if len(short) == len(state):
        if short.keys() != state.keys():
            yield short
        state = short
    while len({name.partition(".")[0] for name in state}) == 1 and all("." in name for name in state):
        state = {name.partition(".")[2]: value for name, value in state.items()}
        yield state


def unwrapped(name: str) -> str:
    """A dotted name less what wrappers put in."""
    return ".".join(part for part in name.split(".") if part not in WRAPPED) or name


def fill(path: Path, model: nn.Module, held: Held, *, any_type: bool = False) -> None:
    """Put the weights of a file into ``model``, each number as it stands there.

    Args:
        path: for messages.
        model: filled in place; widened where its type does not hold the numbers.
        held: what the file holds.
        any_type: let ``model`` take the file's type (it was made for the file), not only a wider one.

    Raises:
        InputError: no state_dict of the file fits, or several do; numbers that the module cannot hold as they are.
    """
    expected = model.state_dict()
    for name, value in expected.items():
        if not isinstance(value, Tensor):  # what get_extra_state returns
            raise InputError(
                f"{path}: {name} of the {type(model).__name__} to fill is no tensor; fill it by load_state_dict"
            )
        if is_lazy(value) or value.is_meta:
            raise InputError(f"{path}: {name} of the {type(model).__name__} to fill has no shape or no memory yet")
    state = {name: _plain(path, name, value) for name, value in _chosen(path, model, expected, held).items()}
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise InputError(
                f"{path}: {name} has shape {list(value.shape)}, not {list(expected[name].shape)} as in "
                f"{type(model).__name__}"
            )
        if expected[name].is_floating_point() and not value.is_floating_point():
            kind = "complex numbers" if value.is_complex() else f"{str(value.dtype).removeprefix('torch.')} codes"
            raise InputError(f"{path}: {name} holds {kind}, not weights; write the real numbers that they stand for")
    _widen(model, expected, state, any_type)
    try:
        model.load_state_dict(state, strict=False)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except RuntimeError as error:
        raise InputError(f"{path}: does not fit {type(model).__name__}: {first_line(error)}") from None
    for name, value in model.state_dict().items():
        if name in state and not _equal(value.detach().cpu(), state[name]):
            raise InputError(
                f"{path}: {name} is not held by {type(model).__name__} as it stands in the file "
                f"({str(state[name].dtype).removeprefix('torch.')} into {str(value.dtype).removeprefix('torch.')}, or "
                "two names of one tensor)"
            )
    _check_cells(path, model)


def _chosen(path: Path, model: nn.Module, expected: State, held: Held) -> State:
    """The state_dict of the file that fits, by the names of the module."""
    fitting: dict[str, State] = {}
    names: dict[str, tuple[str, str]] = {}
    for where, state in held.items():
        for reading in readings(state):
            named = _named(model, expected, reading)
            if named is not None:
                fitting[where] = named
                names[where] = next(iter(state), ""), next(iter(named), "")
                break
    if USUAL in fitting or len(fitting) == 1:
        where = USUAL if USUAL in fitting else next(iter(fitting))
        _tell(path, where, *names[where], [name for name in expected if name not in fitting[where]])
        return fitting[where]
    if fitting:
        raise InputError(
            f"{path}: holds several state_dicts that fit, {shown(fitting)}; save the one that is meant by itself"
        )
    tried = [reading for state in held.values() for reading in readings(state)]
    nearest = max(tried, key=lambda reading: len(reading.keys() & expected.keys()))
    missing, unexpected = _missing(model, expected, nearest), [name for name in nearest if name not in expected]
    parts = [f"lacks {shown(missing)}"] * bool(missing) + [f"has unknown {shown(unexpected)}"] * bool(unexpected)
    raise InputError(f"{path}: does not fit {type(model).__name__}: {', '.join(parts)}")


def fits(model: nn.Module, state: State) -> bool:
    """Whether a state_dict has the names that a module needs, and no others."""
    return _named(model, model.state_dict(), state) is not None


def _named(model: nn.Module, expected: State, reading: State) -> State | None:
    """The reading by the names of a module, which may be wrapped itself; ``None`` where it does not fit."""
    short = {unwrapped(name): name for name in expected}
    for full in ({name: name for name in expected}, short if len(short) == len(expected) else {}):
        if all(name in full for name in reading):
            named = {full[name]: value for name, value in reading.items()}
            if not _missing(model, expected, named):
                return named
    return None


def _missing(model: nn.Module, expected: State, state: State) -> list[str]:
    # Neuron values of a spiking network may be absent from a foreign file: the constructor's stand then.
    may = dict(model.named_buffers()) if isinstance(model, LSNN) else {}
    tensors = named_tensors(model)
    # A tensor of several names is often saved once.
    there = {identity(tensors[name]) for name in state if name in tensors}
    return [
        name
        for name in expected
        if not (name in state or name in may or _counts(name) or (name in tensors and identity(tensors[name]) in there))
    ]


def _counts(name: str) -> bool:
    """Whether it counts the batches of a batch norm, which evaluation does not ask for; old files lack it."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def _tell(path: Path, where: str, name: str, read: str, absent: list[str]) -> None:
    """Say what a file holds in another way than the module does, if it does."""
    said = [f"the weights under {where!r}"] * bool(where)
    said += [f"{name} as {read}"] * (name not in (read, unwrapped(read)))
    said += [f"without {shown(absent)}, which it does not hold"] * bool(absent)
    if said:
        warnings.warn(f"{path}: read {', '.join(said)}", Notice, stacklevel=4)


def _plain(path: Path, name: str, value: Tensor) -> Tensor:
    """A tensor of the file as a dense one, of a type that can be computed with; the numbers are the same."""
    if value.is_meta:
        raise InputError(f"{path}: {name} was saved without its values (it was on the meta device)")
    if value.is_quantized:
        raise InputError(f"{path}: {name} holds codes of a quantised tensor, not weights; save it by dequantize()")
    if value.is_nested:
        raise InputError(f"{path}: {name} is a nested tensor, not weights")
    try:
        value = value if value.layout == torch.strided else value.to_dense()
        if value.is_floating_point() and value.dtype.itemsize == 1:
            value = value.float()
        finite = bool(torch.isfinite(value).all())
    except (RuntimeError, NotImplementedError):
        kind = str(value.dtype).removeprefix("torch.")
        raise InputError(f"{path}: {name} is of type {kind}, which cannot be read as numbers") from None
    if not finite:
        raise InputError(f"{path}: {name} holds NaN or infinite values")
    return value


def _widen(model: nn.Module, expected: State, state: State, any_type: bool) -> None:
    """Give the module a floating type that holds every number of the file, unless it has one."""
    dtypes = [value.dtype for value in state.values() if value.is_floating_point()]
    if not dtypes:
        return
    needed = functools.reduce(torch.promote_types, dtypes)
    if any_type:
        if needed in (torch.float32, torch.float64):
            model.to(needed)
        return
    floating = {name: value.dtype for name, value in expected.items() if value.is_floating_point()}
    held = [torch.promote_types(floating[n], v.dtype) == floating[n] for n, v in state.items() if n in floating]
    if not all(held):
        # As wide as the widest of its own, too: what is not in the file is not to be rounded.
        others = [t.dtype for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()]
        model.to(functools.reduce(torch.promote_types, others, needed))


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.dtype == other.dtype:
        return torch.equal(one, other)
    unsigned = (torch.uint16, torch.uint32, torch.uint64)  # torch promotes these to nothing
    small = one.dtype in unsigned or other.dtype in unsigned
    wide = torch.float64 if small else torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(wide), other.to(wide))


def _check_cells(path: Path, model: nn.Module) -> None:
    """Refuse time constants by which a cell would not leak."""
    for module in model.modules():
        if not isinstance(module, Leaky):
            continue
        try:
            cells = module.leaky_cells()
        except NotImplementedError:
            continue
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        tensors = {**dict(module.named_buffers()), **dict(module.named_parameters())}
        for layer in [cells] if isinstance(cells, LeakyCells) else cells:
            for name in (layer.tau, layer.tau_adapt):
                if name in tensors and not bool((tensors[name] > 0).all()):
                    raise InputError(f"{path}: {name} has values that are not above 0; a time constant must be")


def shown(names: Any) -> str:
    """For messages: the first names of several."""
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def one_line(text: str) -> str:
    """For messages: text in which names from a file stand, without what moves a terminal's cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def first_line(error: BaseException) -> str:
    """For messages: what an error says, cut to a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
