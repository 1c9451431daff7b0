"""Networks by name: those that a checkpoint may name, and the user's own code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from thetabox.errors import InputError
from thetabox.models.contents import first_line
from thetabox.models.convnet import ConvNet
from thetabox.models.lsnn import LSNN
from thetabox.models.mlp import MLP
from thetabox.models.resnet import ResNet32
from thetabox.user_code import is_place, object_at

ARCHITECTURES: dict[str, type[nn.Module]] = {"lsnn": LSNN, "convnet": ConvNet, "mlp": MLP, "resnet32": ResNet32}
"""Networks that a checkpoint may name; add your own class (with ``config``) to have it saved and loaded."""


def build(name: str, /, **config: Any) -> nn.Module:
    """A fresh network of the registry, or of the user's own code.

    Args:
        name: of :data:`ARCHITECTURES`, or code to run: ``package.module:factory``, ``path/to/file.py:Class``.
        config: arguments of its constructor.

    Raises:
        InputError: unknown name, code that fails, or a configuration that the network does not take.
    """
    return _of_code(name, config) if is_place(name) else of_registry(name, config)


def of_registry(name: str, config: Mapping[str, Any]) -> nn.Module:
    """What a file may name: no code of it is run."""
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise InputError(f"unknown model {name!r}; choose one of {known}, or name your own, path/to/file.py:Class")
    try:
        return ARCHITECTURES[name](**config)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"model {name!r} cannot be built from {dict(config)}: {first_line(error)}") from None


def _of_code(place: str, config: Mapping[str, Any]) -> nn.Module:
    maker = object_at(place, "network")
    if isinstance(maker, nn.Module):
        if config:
            raise InputError(f"{place} is a network that is made already, with no arguments to set")
        return maker
    if not callable(maker):
        raise InputError(f"{place} is a {type(maker).__name__}, not a class or function that makes a network")
    try:
        made = maker(**config)
    except InputError:
        raise
    except Exception as error:  # the user's code raises whatever it likes
        taken = ", ".join(f"{name}={value}" for name, value in config.items()) or "no arguments"
        raise InputError(
            f"{place} makes no network of {taken} ({type(error).__name__}: {first_line(error)}); give the arguments of "
            "its constructor (--set name=value)"
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{place} makes a {type(made).__name__}, not a torch.nn.Module")
    return made


def architecture(model: nn.Module) -> str | None:
    """Name of the model's class in the registry, None for other modules."""
    return next((name for name, kind in ARCHITECTURES.items() if type(model) is kind), None)
