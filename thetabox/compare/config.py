"""What a comparison trains and measures, from arguments or a TOML file."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from thetabox.errors import InputError
from thetabox.measure.pcm import TIMES
from thetabox.models import ARCHITECTURES
from thetabox.train.methods import METHODS, hyper_parameters, kind_of, method
from thetabox.train.settings import TrainingSettings
from thetabox.verify import domains

MISMATCH = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
EPSILON = (0.0, 1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
# Calls within calls that a stack has room for.
DEEPEST = 5_000
ATTACK = (0.0, 1e-3, 5e-3, 1e-2, 5e-2, 0.1)


@dataclass(frozen=True)
class Variant:
    """One row of the comparison: a training method with its hyper-parameters.

    Attributes:
        label: name in tables and figures.
        method: as for :func:`thetabox.train.fit`.
        set: hyper-parameters that differ from the task's recipe.
        fit: arguments of ``fit`` that do.
    """

    label: str
    method: str
    set: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The label in letters that every file system takes."""
        return re.sub(r"[^A-Za-z0-9._=+-]+", "-", self.label).strip("-")


@dataclass(frozen=True)
class Config:
    """A comparison. Everything that changes a number of its report stands here.

    Attributes:
        task: name of a task, or an ``.npz`` file.
        methods: training methods by name, ``a+b`` for two at once.
        seeds: networks a method, seeds 0, 1, ….
        fit: arguments of ``fit`` for all methods (``epochs``, ``lr``, …), over the task's recipe.
        set: hyper-parameters for every method that has them.
        only: method → its own ``fit`` arguments and hyper-parameters.
        sweep: hyper-parameter → values; every method that has it is trained with each value.
        train_samples: training samples, a fixed class-balanced subset, all when 0.
        samples: test samples for mismatch and landscape, all when 0.
        proof_samples: test samples that are attacked and certified.
        level, draws: of random mismatch.
        epsilon: of certificates.
        attack: ε of the worst-case attack, in addition to those of the certificates.
        attack_steps, attack_restarts: of the worst-case attack.
        shared_runs, shared_steps: of the attack on all samples by one perturbation; 0 runs for none.
        pcm_draws, pcm_times: chips of phase-change memory, and seconds since they were programmed; 0 draws for none.
        landscape, directions: size ζ and number of directions of the loss landscape; 0 directions for none.
        landscape_train_samples: training samples of a second landscape, in the same directions; 0 for none.
        domain, options: of the certificates.
        yield_sigma, yield_delta: σ of proven yield, none for none, and the share of chips that may fail on a sample;
            on the samples that are certified, with independent Gaussian errors of every parameter.
        model, model_set: another network than the recipe's own, and constructor arguments that change.
    """

    task: str
    methods: tuple[str, ...] = ("standard", "forward-noise", "weight-attack", "weight-attack+forward-noise")
    seeds: int = 2
    fit: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sweep: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    train_samples: int = 0
    samples: int = 1000
    proof_samples: int = 200
    level: tuple[float, ...] = MISMATCH
    draws: int = 100
    epsilon: tuple[float, ...] = EPSILON
    attack: tuple[float, ...] = ATTACK
    attack_steps: int = 20
    attack_restarts: int = 1
    shared_runs: int = 0
    shared_steps: int = 20
    pcm_draws: int = 0
    pcm_times: tuple[float, ...] = TIMES
    landscape: float = 0.2
    directions: int = 5
    landscape_train_samples: int = 0
    domain: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    yield_sigma: tuple[float, ...] = ()
    yield_delta: float = 0.01
    model: str = ""
    model_set: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in COUNTS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}")
        for name in ("level", "epsilon", "attack", "pcm_times", "yield_sigma"):
            values = getattr(self, name)
            if not (values or name == "yield_sigma") or not all(_plain(v) and 0 <= v < math.inf for v in values):
                raise InputError(f"{name} must be a list of finite numbers of at least 0, not {values!r}")
        if not (_plain(self.yield_delta) and 0 < self.yield_delta < 1):
            raise InputError(f"yield_delta is {self.yield_delta!r}; it must be a number above 0 and below 1")
        if not isinstance(self.model, str) or (self.model and self.model not in ARCHITECTURES):
            raise InputError(f"model is {self.model!r}; choose one of {', '.join(ARCHITECTURES)}")
        if not self.methods:
            raise InputError("no training method is named")
        # As they are read: seconds of a budget, which go, become an effort once and for all.
        object.__setattr__(self, "options", domains.check(self.domain, self.options))
        self.variants()

    def variants(self) -> list[Variant]:
        """Rows of the comparison: every method, or every method with every value of the sweep.

        Raises:
            InputError: an unknown method or hyper-parameter, or two rows of one name.
        """
        rows = []
        for name in self.methods:
            hyper = {f"{part}.{p}": p for part in _parts(name) for p in hyper_parameters(kind_of(part))}
            swept = {p: v for p, v in self.sweep.items() if p in hyper or p in hyper.values() or p in FIT}
            for values in itertools.product(*swept.values()):
                chosen = dict(zip(swept, values, strict=True))
                settings = {p: v for p, v in self.set.items() if p in hyper or p in hyper.values()}
                settings |= {p: v for p, v in self.only.get(name, {}).items() if p not in FIT}
                settings |= {p: v for p, v in chosen.items() if p not in FIT}
                arguments = dict(self.fit) | {p: v for p, v in self.only.get(name, {}).items() if p in FIT}
                arguments |= {p: v for p, v in chosen.items() if p in FIT}
                label = " ".join([name, *(f"{p}={v}" for p, v in chosen.items())])
                method(name, settings)
                rows.append(Variant(label, name, settings, arguments))
        if len({row.folder for row in rows}) < len(rows):
            raise InputError("two rows of the comparison have the same name")
        strange = [p for p in self.sweep if not any(f"{p}=" in row.label for row in rows)]
        if strange:
            raise InputError(f"no method of this comparison has the hyper-parameter {strange[0]!r}")
        self._check_names()
        return rows

    def _check_names(self) -> None:
        """A table may serve other methods than those of this comparison; what no method has is a slip.

        Raises:
            InputError: a hyper-parameter or a method that does not exist.
        """
        kinds = [*METHODS, *(part for name in self.methods for part in _parts(name))]
        names = {name for kind in kinds for p in hyper_parameters(kind_of(kind)) for name in (p, f"{kind}.{p}")}
        for name in self.set:
            if name not in names:
                near = get_close_matches(name, sorted(names), n=1)
                raise InputError(
                    f"set: no training method has the hyper-parameter {name!r}"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
        for name in self.only:
            _parts(name)

    def to_toml(self) -> str:
        """The whole configuration, defaults included, as a file that :func:`read_config` takes."""
        plain, tables = [], []
        for name, value in dataclasses.asdict(self).items():
            if not isinstance(value, Mapping):
                plain.append(f"{name} = {_toml(value)}")
            elif name == "only":
                tables += [_table(f'only."{key}"', inner) for key, inner in value.items()]
            elif value:
                tables.append(_table(name, value))
        return "\n".join([*plain, *tables]) + "\n"


COUNTS = {
    "seeds": 1, "train_samples": 0, "samples": 0, "proof_samples": 1, "draws": 1, "attack_steps": 1,
    "attack_restarts": 1, "shared_runs": 0, "shared_steps": 1, "pcm_draws": 0, "directions": 0,
    "landscape_train_samples": 0,
}  # a table  # fmt: skip
# Arguments of ``fit`` that a configuration may set.
FIT = {f.name for f in dataclasses.fields(TrainingSettings)} - {"seed"}


@contextmanager
def _limited_depth() -> Iterator[None]:
    """Calls within calls end in an error before the stack does, though another library lets them go deeper."""
    before = sys.getrecursionlimit()
    if before <= DEEPEST:
        yield
        return
    sys.setrecursionlimit(DEEPEST)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def read_config(path: Path | None, **changes: Any) -> Config:
    """A configuration from a TOML file, with arguments over it.

    Args:
        path: the file, whose keys are the attributes of :class:`Config`; ``None`` for none.
        changes: attributes that are not ``None`` replace those of the file.

    Raises:
        InputError: no such file, not TOML, an unknown key, or a value that does not fit.
    """
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
            with _limited_depth():
                settings = tomllib.loads(text)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a TOML file: {error}") from None
        except RecursionError:
            raise InputError(f"{path} is not a configuration: it is nested too deeply") from None
    fields = {f.name: f for f in dataclasses.fields(Config)}
    for key in settings:
        if key not in fields:
            raise InputError(f"{path}: unknown key {key!r}; there are {', '.join(fields)}")
    settings |= {key: value for key, value in changes.items() if value is not None}
    if not settings.get("task"):
        raise InputError("no task is named: give --task, or task = … in the configuration")
    for key, value in settings.items():
        if fields[key].type.startswith("tuple"):
            if not isinstance(value, list | tuple):
                raise InputError(f"{key} must be a list, not {value!r}")
            settings[key] = tuple(value)
        elif fields[key].type.startswith("Mapping"):
            settings[key] = _mapping(key, value)
    return Config(**settings)


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{key} must be a table of names and values, not {value!r}")
    inner = dict(value)
    if key == "fit" and (strange := sorted(set(inner) - FIT)):
        raise InputError(f"fit has no argument {strange[0]!r}; there are {', '.join(sorted(FIT))}")
    if key == "sweep":
        for name, values in inner.items():
            if not isinstance(values, list | tuple) or not values:
                raise InputError(f"sweep.{name} must be a list of values")
        return {name: tuple(values) for name, values in inner.items()}
    if key == "only":
        return {name: _mapping(f"only.{name}", settings) for name, settings in inner.items()}
    return inner


def _plain(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parts(name: str) -> list[str]:
    method(name)  # raises for an unknown one
    return [part.strip() for part in name.split("+")]


def _table(name: str, values: Mapping[str, Any]) -> str:
    return "\n".join([f"\n[{name}]", *(f'"{key}" = {_toml(value)}' for key, value in values.items())])


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
