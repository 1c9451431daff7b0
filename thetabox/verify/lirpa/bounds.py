"""A second opinion from auto_LiRPA: bounds of dense networks under weight noise. No certificate rests on it."""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.models.precision import default_dtype
from thetabox.verify.lirpa.lowering import FlatLayer, lowered

METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized")
# Layers that it is given, as they are or written out as matrices.
TAKEN = (nn.Linear, nn.ReLU, nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d)
LAYERS = "Linear, ReLU, Conv2d, AvgPool2d and MaxPool2d"
HOW_TO_INSTALL = (
    "auto_LiRPA is not installed; run: pip install --no-deps auto_LiRPA==0.3 && "
    "pip install appdirs tqdm packaging ninja pyyaml"
)
PASSIVE = (nn.Identity, nn.Dropout, nn.Flatten)


def lirpa_bounds(
    model: nn.Module,
    x: Float[Tensor, "batch ..."],
    epsilon: float,
    method: str = "IBP",
    *,
    box: Box | None = None,
    rows: Float[Tensor, "batch row classes"] | None = None,
) -> tuple[Float[Tensor, "batch row"], Float[Tensor, "batch row"]]:
    r"""Lower and upper bounds of the logits for all weights in the box, by auto_LiRPA.

    Each weight and bias :math:`\theta` is an interval :math:`\theta \pm \varepsilon f r` (by default
    :math:`\varepsilon|\theta|`) to auto_LiRPA. Nothing is rounded outward: the bounds may miss the truth by a few
    units in the last place, and are for comparison only. The network's precision is used.

    Args:
        model: a chain of Linear, ReLU, Conv2d, AvgPool2d and MaxPool2d (Flatten, Identity and Dropout are passed over);
            it stays as it is. A convolution is written out as a matrix, each entry of which gets a noise of its own:
            the box is larger than the true one, where the copies of a weight move together.
        x: inputs [N, ...].
        epsilon: one number ≥ 0.
        method: "IBP", "CROWN-IBP", "CROWN" or "CROWN-Optimized" (slopes by gradient descent).
        box: which tensors move and how far; every weight and bias by relative error when omitted.
        rows: bound these combinations of the logits instead, [N, R, K], for instance margins.

    Raises:
        InputError: auto_LiRPA is not installed, an unknown method, or a network of other layers.

    Source: Xu et al., Automatic Perturbation Analysis for Scalable Certified Robustness and Beyond (NeurIPS 2020).
    """
    if method not in METHODS:
        raise InputError(f"unknown auto_LiRPA method {method!r}; choose one of {', '.join(METHODS)}")
    installed = library()
    parameters, radii = dict(model.named_parameters()), {}
    for name, factor in (box or Box()).factors(model).items():
        if name in parameters:
            radii[name] = (box or Box()).unit_radius(parameters[name].detach()) * factor * epsilon
    layers = _chain(model, x, radii)
    for layer in layers:
        for kind, radius in layer.radii.items():
            theta = getattr(layer.module, kind).detach().clone()
            setattr(layer.module, kind, installed.BoundedParameter(theta, _noise(installed, radius)))
    network = nn.Sequential(*(layer.module for layer in layers)).eval()
    inputs = _like_parameters(model, x).flatten(1)
    options = {
        "sparse_intermediate_bounds": False,
        "sparse_conv_intermediate_bounds": False,
        "sparse_intermediate_bounds_with_ibp": False,
        "sparse_features_alpha": False,
        "sparse_spec_alpha": False,
    }
    optimised = method == "CROWN-Optimized"
    with torch.set_grad_enabled(optimised), _shims(), _quiet(), default_dtype(inputs.dtype):
        try:
            bounded = installed.BoundedModule(network, inputs, bound_opts=options, device=inputs.device)
            # Release 0.3 asks for its parameters' dtype through a listing that newer releases of torch cannot call.
            bounded.parameters = lambda recurse=True: network.parameters(recurse)
            lower, upper = bounded.compute_bounds(x=(inputs,), C=rows, method=method)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AssertionError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"auto_LiRPA cannot bound this network by {method}: {reason}") from error
    return lower.detach(), upper.detach()


def _chain(model: nn.Module, x: Tensor, radii: dict[str, Tensor]) -> list[FlatLayer]:
    """The network's layers in order, on flat inputs, with their boxes; that they are all of it is tried on ``x``."""
    copies: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if any(True for _ in module.children()):
            continue
        if isinstance(module, TAKEN):
            copies.append((name, copy.deepcopy(module)))
        elif not isinstance(module, PASSIVE):
            raise InputError(f"auto_LiRPA bounds take {LAYERS} layers; {name} is a {type(module).__name__}")
    training = {m: m.training for m in model.modules()}
    example, layers = _like_parameters(model, x[:8]), []
    try:
        model.eval()
        with torch.no_grad(), default_dtype(example.dtype):
            expected, output, shape = model(example), example.flatten(1), example.shape[1:]
            for name, module in copies:
                layer_radii = {k: radii[n] for k in ("weight", "bias") if (n := f"{name}.{k}" if name else k) in radii}
                layer, shape = lowered(module, layer_radii, shape)
                output = layer.module(output)
                layers.append(layer)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"auto_LiRPA bounds take a plain chain of {LAYERS}: {reason}") from error
    finally:
        for module, mode in training.items():
            module.training = mode
    if output.shape != expected.shape or not torch.allclose(output, expected, rtol=1e-4, atol=1e-5):
        raise InputError(f"auto_LiRPA bounds take a plain chain of {LAYERS}; this network does more than that")
    return layers


def _like_parameters(model: nn.Module, x: Tensor) -> Tensor:
    first = next(model.parameters())
    return x.detach().to(device=first.device, dtype=first.dtype)


def library() -> Any:
    """auto_LiRPA, imported with what it misses in newer torch and numpy.

    Raises:
        InputError: it is not installed.
    """
    # Its import lets recursion go as deep as a million calls, where a process ends for want of stack.
    depth = sys.getrecursionlimit()
    with _shims(), _quiet():
        try:
            return importlib.import_module("auto_LiRPA")
        except ImportError as error:
            hint = HOW_TO_INSTALL if error.name == "auto_LiRPA" else f"auto_LiRPA cannot be imported: {error}"
            raise InputError(hint) from error
        finally:
            sys.setrecursionlimit(depth)


def _noise(library: Any, radius: Tensor) -> Any:
    """An ℓ∞ perturbation with a radius of its own for every number."""

    class Elementwise(library.PerturbationLpNorm):
        def get_input_bounds(self, x: Tensor, A: Any) -> tuple[Tensor, Tensor]:
            shaped = radius.reshape(x.shape) if x.numel() == radius.numel() else radius
            return x - shaped, x + shaped

        def init(self, x: Tensor, aux: Any = None, forward: bool = False) -> Any:
            low, high = self.get_input_bounds(x, None)
            bound = importlib.import_module("auto_LiRPA.linear_bound").LinearBound
            return bound(None, None, None, None, low, high), x, None

    return Elementwise(norm=np.inf, eps=float(radius.max()))


@contextlib.contextmanager
def _shims() -> Iterator[None]:
    """Names that auto_LiRPA 0.3 imports and that newer releases of numpy and torch no longer have, while it runs."""
    symbolic_helper: Any = importlib.import_module("torch.onnx.symbolic_helper")
    with contextlib.ExitStack() as undo:
        if not hasattr(np.lib, "arraysetops") and "numpy.lib.arraysetops" not in sys.modules:
            stand_in = types.ModuleType("numpy.lib.arraysetops")
            stand_in.isin = np.isin  # type: ignore[attr-defined]  # a stand-in for what the library imports
            sys.modules["numpy.lib.arraysetops"] = stand_in
            undo.callback(sys.modules.pop, "numpy.lib.arraysetops", None)
        if not hasattr(symbolic_helper, "_set_opset_version"):
            symbolic_helper._set_opset_version = _set_opset_version
            undo.callback(delattr, symbolic_helper, "_set_opset_version")
            undo.callback(_set_opset_version, _opset_globals().export_onnx_opset_version)
        node: Any = torch._C.Node
        if not hasattr(node, "__getitem__"):
            node.__getitem__ = _attribute
            undo.callback(delattr, node, "__getitem__")
        yield


def _opset_globals() -> Any:
    return importlib.import_module("torch.onnx._internal.torchscript_exporter._globals").GLOBALS


def _set_opset_version(version: int) -> None:
    _opset_globals().export_onnx_opset_version = version


def _attribute(node: Any, key: str) -> Any:
    """Item access on a graph node: the attribute by the getter its kind names ("i", "f", "s", "is", "t", …)."""
    return getattr(node, node.kindOf(key))(key)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow warnings, and leave their filters and the logging level as they were; auto_LiRPA changes both."""
    level = logging.getLogger().level
    try:
        with warnings.catch_warnings(record=True):
            yield
    finally:
        logging.getLogger().setLevel(level)
