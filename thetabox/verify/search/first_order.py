r"""Where to start the search of a radius: the ε at which the margin would vanish if it were linear in the parameters.

With the margin :math:`m` of the nearest wrong class, unit radii :math:`r` and factors :math:`f` of the box,

.. math:: \varepsilon_1 = m / \sum_i f_i r_i |\partial m / \partial \theta_i| .

No proof rests on it. Through the surrogate gradient of a spiking network it is a start and no more.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from thetabox.box import Box
from thetabox.models.copies import working_copy

# Bytes that the gradients of the samples of one batch may take.
MEMORY = 256 << 20


def first_order_radius(
    model: nn.Module, x: Float[Tensor, "samples ..."], y: Int[Tensor, " samples"], box: Box
) -> Float[Tensor, " samples"]:
    """The first-order estimate of each sample's radius; NaN where it is of no use (no gradient, or none at all).

    Args:
        model: stays as it is.
        x: inputs.
        y: labels.
        box: what may move, and how far.
    """
    nothing = torch.full((len(x),), torch.nan, dtype=torch.float64)
    exact = working_copy(model, torch.device("cpu"), torch.float64)
    tensors = {**dict(exact.named_parameters()), **dict(exact.named_buffers())}
    units = {
        f"network.{name}": factor * box.unit_radius(tensors[f"network.{name}"].detach())
        for name, factor in box.factors(exact.network).items()
    }
    moving = {name: tensors[name].detach() for name in units}
    rest = {name: t.detach() for name, t in tensors.items() if name not in units}
    if not moving:
        return nothing

    def margin(point: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(exact, {**rest, **point}, (sample[None],))[0]
        wrong = logits.detach().clone().scatter(0, label[None], -torch.inf).argmax()
        return logits.gather(0, label[None])[0] - logits.gather(0, wrong[None])[0]

    numbers = sum(t.numel() for t in moving.values())
    at_once = max(1, min(len(x), MEMORY // (8 * numbers)))
    with torch.enable_grad():
        try:
            slopes, values = [], []
            for part, label in zip(x.double().split(at_once), y.split(at_once), strict=True):
                gradient = vmap(grad(margin), in_dims=(None, 0, 0))(moving, part, label)
                slopes.append(sum((g.abs() * units[n]).reshape(len(g), -1).sum(1) for n, g in gradient.items()))
                with torch.no_grad():
                    logits = exact(part)
                others = logits.scatter(1, label[:, None], -torch.inf).amax(1)
                values.append(logits.gather(1, label[:, None]).squeeze(1) - others)
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            # A network that torch.func cannot take: the search starts anywhere then.
            return nothing
    radius = torch.cat(values) / torch.cat(slopes)
    return torch.where(radius.isfinite() & (radius > 0), radius, torch.nan).detach()
