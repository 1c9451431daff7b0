"""Margins of samples that have weights of their own each, and the slopes of these margins by the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from thetabox.box import Box
from thetabox.errors import InputError
from thetabox.measure.box_points import Weights, inward_ends, placed
from thetabox.measure.inputs import Logits, numbers_for
from thetabox.measure.two_precisions import TwoPrecisions
from thetabox.models.copies import not_followed
from thetabox.models.failure import needs_gradient

MEMORY = 512 * 2**20
LARGEST_CHUNK = 64


class OwnWeights(TwoPrecisions):
    """Margins of samples that have weights of their own, one set a sample."""

    def __init__(self, model: nn.Module, box: Box, device: torch.device) -> None:
        super().__init__(model, box, device)
        self.batched = True

    def chunk(self) -> int:
        """Samples at once: about six copies of the boxed tensors for each."""
        numbers = sum(theta.numel() for theta, _ in self.tensors.values())
        memory = MEMORY if self.device.type == "cpu" else torch.cuda.mem_get_info(self.device)[0] // 4
        return max(1, min(LARGEST_CHUNK if self.device.type == "cpu" else 512, memory // (32 * numbers)))

    def weights(self, delta: Weights, epsilon: float, dtype: torch.dtype) -> Weights:
        """Weights of every sample at its δ."""
        return placed(inward_ends(self.tensors, epsilon), delta, dtype)

    def margins(self, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        """Margins in float64, each sample with its own weights."""
        return self._each(lambda *one: _margin(self.precise, *one), weights, numbers_for(x, x.device, torch.float64), y)

    def slopes(self, weights: Weights, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Weights]:
        """Margins, and gradients of the margins over ``target`` (−1: over the closest class), by each sample's weights.

        In the network's precision.
        """
        x = numbers_for(x, x.device, self.dtype)

        def one(w: Weights, a: Tensor, b: Tensor, k: Tensor) -> tuple[Weights, Tensor]:
            if self.batched:
                gradient, (_, margin) = grad_and_value(lambda v: _margins(self.fast, v, a, b, k), has_aux=True)(w)
                return gradient, margin
            with torch.enable_grad(), needs_gradient():
                leaves = {name: value.detach().requires_grad_() for name, value in w.items()}
                aimed, margin = _margins(self.fast, leaves, a, b, k)
                # Of comparisons alone there is none: as in a batch, every direction is as good.
                derivatives = tuple(torch.zeros_like(leaf) for leaf in leaves.values())
                if aimed.requires_grad:
                    derivatives = torch.autograd.grad(
                        aimed, list(leaves.values()), allow_unused=True, materialize_grads=True
                    )
            return dict(zip(leaves, derivatives, strict=True)), margin.detach()

        gradients, margins = self._each(one, weights, x, y, target)
        return margins, gradients

    def _each(self, function: Callable[..., Any], weights: Weights, *rows_of: Tensor) -> Any:
        """``function`` of every sample: batched by vmap, in a loop where the network has parts that vmap refuses."""
        if self.batched:
            try:
                return vmap(function)(weights, *rows_of)
            except (InputError, torch.OutOfMemoryError):
                raise
            except Exception:  # whatever torch, or the network, cannot do in a batch of weights
                self.batched = False
        count = len(rows_of[0])
        try:
            rows = [function({n: w[i] for n, w in weights.items()}, *(r[i] for r in rows_of)) for i in range(count)]
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a network raises whatever it likes
            raise not_followed(error) from error
        leaves = [torch.utils._pytree.tree_flatten(row) for row in rows]
        stacked = [torch.stack(column) for column in zip(*(leaf for leaf, _ in leaves), strict=True)]
        return torch.utils._pytree.tree_unflatten(stacked, leaves[0][1])


def _margin(model: Logits, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    """Min over k ≠ y of logit_y − logit_k of one sample."""
    return _margins(model, weights, x, y, torch.full_like(y, -1))[1]


def _margins(model: Logits, weights: Weights, x: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """logit_y − logit_target of one sample (−1: the least such difference), and the least one."""
    logits = model.under(weights, x[None])[0]
    classes = torch.arange(len(logits), device=logits.device)
    right = torch.where(classes == y, logits, 0).sum()
    least = right - torch.where(classes == y, -torch.inf, logits).amax()
    aimed = right - torch.where(classes == target, logits, 0).sum()
    return torch.where(target < 0, least, aimed), least
