"""How each task is trained by default: network, epochs, rates, and the methods' strengths for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from thetabox.errors import InputError
from thetabox.models import build
from thetabox.train.methods import METHODS, hyper_parameters


@dataclass(frozen=True)
class Recipe:
    """Defaults of a task; ``fit(model, train, validation, name, seed=s, **recipe.options(name))`` uses them.

    Attributes:
        architecture, config: network, as in :data:`thetabox.models.ARCHITECTURES`.
        epochs, batch_size, lr: of :func:`thetabox.train.fit`.
        fit: further arguments of it.
        methods: method → its hyper-parameters for this task, where they differ from the method's own defaults.
        epochs_by_method: method → epochs, where they differ.
        fit_by_method: method → further arguments of ``fit``, where they differ.
    """

    architecture: str
    config: Mapping[str, Any]
    epochs: int
    batch_size: int = 64
    lr: float = 1e-3
    fit: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    epochs_by_method: Mapping[str, int] = field(default_factory=dict)
    fit_by_method: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def model(self, seed: int = 0) -> nn.Module:
        """A fresh network whose initial weights follow from the seed; torch's global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(self.architecture, **self.config)

    def with_network(self, architecture: str | None, config: Mapping[str, Any]) -> Recipe:
        """The recipe for another network, or for its own with other constructor arguments.

        Args:
            architecture: as in :data:`thetabox.models.ARCHITECTURES`; ``None`` or its own name for the recipe's own.
            config: constructor arguments: all of another network's, those that change of its own.

        Raises:
            InputError: no such network, or arguments that it does not take.
        """
        if architecture is None and not config:
            return self
        if architecture is None or architecture == self.architecture:
            changed = replace(self, config={**self.config, **config})
        else:
            changed = replace(self, architecture=architecture, config=dict(config))
        changed.model()
        return changed

    def options(self, method: str = "standard", set: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Keyword arguments of ``fit`` for a method; ``set`` overrides the method's hyper-parameters."""
        settings: dict[str, Any] = {}
        for part in (p.strip() for p in method.split("+")):
            for name, value in self.methods.get(part, {}).items():
                if part in METHODS and name in hyper_parameters(METHODS[part]):
                    settings[f"{part}.{name}"] = value
        for name, value in (set or {}).items():
            for key in [k for k in settings if k.endswith(f".{name}")]:
                del settings[key]
            settings[name] = value
        return {
            "epochs": self.epochs_by_method.get(method, self.epochs),
            "batch_size": self.batch_size,
            "lr": self.lr,
            "set": settings,
            **self.fit,
            **self.fit_by_method.get(method, {}),
        }


PROVEN = ("small-boxes", "forward-noise+small-boxes")
"""Methods that train for the proof of a large box, and need more epochs for it."""

RECIPES: dict[str, Recipe] = {
    "digits": Recipe(
        "convnet",
        {"input": [1, 8, 8], "channels": [16, 32], "kernel": 3, "hidden": [64], "classes": 10},
        epochs=50,
        batch_size=64,
        lr=5e-3,
        fit={"schedule": "cosine"},
        methods={
            "weight-attack": {"zeta": 0.1, "beta_rob": 0.25, "steps": 3},
            "forward-noise": {"noise": 0.2},
        },
        epochs_by_method=dict.fromkeys(PROVEN, 150),
        fit_by_method={name: {"schedule": "late-cosine", "warp": 0.6} for name in PROVEN},
    ),
    # The rate penalty keeps spikes few: it costs no accuracy here (it gains two points), and each spike that is not
    # fired is one less that can become uncertain.
    "vowels": Recipe(
        "lsnn",
        {"inputs": 12, "units": 128, "classes": 9},
        epochs=30,
        batch_size=32,
        lr=1e-2,
        fit={"schedule": "cosine", "clip_norm": 1.0, "rate_penalty": 0.03},
        methods={
            "weight-attack": {"zeta": 0.1, "beta_rob": 0.25, "steps": 3},
            "forward-noise": {"noise": 0.2},
        },
    ),
    "fashion-mnist": Recipe(
        "convnet",
        {"input": [1, 28, 28], "channels": [64, 64], "kernel": 4, "hidden": [256, 64], "classes": 10},
        epochs=10,
        batch_size=100,
        lr=1e-3,
        fit={"schedule": "cosine"},
        methods={
            "weight-attack": {"zeta": 0.1, "beta_rob": 0.25, "steps": 10},
            "ibp": {"epsilon": 0.05, "growth": "linear"},
        },
        epochs_by_method={"ibp": 15},
        fit_by_method={"ibp": {"lr": 3e-3, "schedule": "late-cosine"}},
    ),
    # As He et al. 2015 train it, with the rates of arXiv 2106.05009; for an accelerator.
    "cifar10": Recipe(
        "resnet32",
        {"classes": 10},
        epochs=300,
        batch_size=256,
        lr=1e-3,
        fit={"optimizer": "sgd", "schedule": "steps", "weight_decay": 5e-4},
        methods={"weight-attack": {"zeta": 0.1, "beta_rob": 0.25, "steps": 10}},
    ),
    "ecg": Recipe(
        "lsnn",
        {"inputs": 7, "units": 128, "classes": 5},
        epochs=12,
        batch_size=64,
        lr=5e-3,
        fit={"schedule": "cosine", "clip_norm": 1.0, "repeat_rare": 2},
        methods={"weight-attack": {"zeta": 0.1, "beta_rob": 0.25, "steps": 5}},
    ),
    "ecg-beats": Recipe(
        "lsnn",
        {"inputs": 2, "units": 128, "classes": 4},
        epochs=12,
        batch_size=50,
        lr=1e-2,
        fit={"schedule": "cosine", "clip_norm": 1.0},
        methods={"weight-attack": {"zeta": 0.1, "beta_rob": 0.25, "steps": 5}},
    ),
    "speech": Recipe(
        "lsnn",
        {"inputs": 40, "units": 128, "classes": 4},
        epochs=12,
        batch_size=32,
        lr=5e-3,
        fit={"schedule": "cosine", "clip_norm": 1.0, "input_noise": 0.3},
        methods={"weight-attack": {"zeta": 0.1, "beta_rob": 0.25, "steps": 5}},
    ),
}


def recipe(task: str, shape: Sequence[int] | None = None, classes: int | None = None) -> Recipe:
    """Recipe of a task; a network that fits is chosen for data of one's own.

    Args:
        task: a name of ``RECIPES``, or anything else together with ``shape`` and ``classes``.
        shape: shape of one sample: [features] → MLP, [time, inputs] → LSNN, [channels, height, width] → ConvNet.
        classes: number of classes.

    Raises:
        InputError: unknown task without a shape, or a shape that no default network takes.
    """
    if task in RECIPES:
        return _sized(RECIPES[task], shape, classes)
    if shape is None or classes is None:
        raise InputError(f"unknown task {task!r}; choose one of {', '.join(RECIPES)}, or an .npz file")
    shape = [int(n) for n in shape]
    cosine = {"schedule": "cosine"}
    if len(shape) == 3 and min(shape[1:]) >= 8:
        channels = [16, 32] if max(shape[1:]) <= 16 else [64, 64]
        kernel = 3 if max(shape[1:]) <= 16 else 4
        config = {"input": shape, "channels": channels, "kernel": kernel, "hidden": [64], "classes": classes}
        return Recipe("convnet", config, epochs=20, fit=cosine)
    if len(shape) == 2:
        config = {"inputs": shape[1], "units": 128, "classes": classes}
        return Recipe("lsnn", config, epochs=60, lr=2e-3, fit={**cosine, "clip_norm": 1.0})
    if not shape:
        raise InputError("each sample is a single number; x must have shape [N, features] at least")
    return Recipe("mlp", {"sizes": [math.prod(shape), 128, 128, classes]}, epochs=30, fit=cosine)


def _sized(known: Recipe, shape: Sequence[int] | None, classes: int | None) -> Recipe:
    """The recipe with input and class counts of the data at hand, where these are given."""
    config = dict(known.config)
    if shape is not None:
        if known.architecture == "lsnn":
            config["inputs"] = int(shape[-1])
        elif known.architecture == "convnet":
            config["input"] = [int(n) for n in shape]
    if classes is not None:
        config["classes"] = classes
    return replace(known, config=config)
