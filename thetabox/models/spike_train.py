"""All time steps of an LSNN at once: the loop over its steps, with and without a gradient through time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thetabox.models.spike import surrogate

REFRACTORY_LEVEL = 0.1


class SpikeTrain(torch.autograd.Function):
    r"""All time steps of an LSNN at once, with the gradient through time written out.

    Equal to the loop over :meth:`LSNN.step`, several times faster: nothing is recorded step by step, and whatever
    does not run through time is computed for all steps together. Backward, with G the gradient at the spikes and
    s the surrogate slope :math:`\partial z/\partial v`:

    .. math::
        \bar z_t &= G_t + \bar v_{t+1} W^T - dt\,A_{t+1} \bar v_{t+1} + (1-\rho)\bar b_{t+1} \\
        \bar v_t &= s_t \bar z_t + \alpha \bar v_{t+1}, \quad
        \bar A_t = -s_t \bar z_t v_t / A_t - dt\,z_{t-1} \bar v_t, \quad
        \bar b_t = \beta \bar A_t + \rho \bar b_{t+1}

    Inputs: drive [T, N, U] (already times 1 − α), recurrent weights [U, U] (times 1 − α, diagonal zero) or None,
    α, ρ, threshold, β [U], n_refr, dt. Outputs: z, v, b, free [T, N, U]; only z is differentiable.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        drive: Tensor,
        weights: Tensor | None,
        alpha: Tensor,
        rho: Tensor,
        resting: Tensor,
        beta: Tensor,
        refractory: int,
        dt: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        v = drive[0]
        b = torch.zeros_like(v)
        free = torch.ones_like(v)
        counter = torch.zeros_like(v)
        z = (v > resting).to(v.dtype)
        record = [(z, v, b, free)]
        kept = 1 - rho
        for driven in drive[1:]:
            counter = (counter + refractory * z - 1).clamp(0, refractory)
            free = (counter <= REFRACTORY_LEVEL).to(v.dtype)
            b = torch.addcmul(kept * z, rho, b)
            threshold = torch.addcmul(resting, beta, b)
            if weights is not None:
                driven = torch.addmm(driven, z, weights)
            v = torch.addcmul(torch.addcmul(driven, alpha, v), z, threshold, value=-dt)
            z = free * (v > threshold)
            record.append((z, v, b, free))
        spikes, potentials, adaptations, may = (torch.stack(part) for part in zip(*record, strict=True))
        return spikes, potentials, adaptations, may

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, weights, alpha, rho, resting, beta, _, dt = inputs
        ctx.dt, ctx.has_weights = dt, weights is not None
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output, alpha, rho, resting, beta, *([weights] if weights is not None else []))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        z, v, b, free, alpha, rho, resting, beta, *weights = ctx.saved_tensors
        dt = ctx.dt
        threshold = torch.addcmul(resting, beta, b)
        ratio = v / threshold
        slope = surrogate(ratio) / threshold * free
        before = torch.cat([torch.zeros_like(z[:1]), z[:-1]])
        back = weights[0].t() if weights else None
        reset, pull = dt * threshold, -slope * ratio * beta
        keep, leak = -dt * beta * before, 1 - rho
        grad_v, grad_b = [], []
        later_v = later_b = None
        for t in range(len(z) - 1, -1, -1):
            grad_z = grad_outputs[0][t]
            if later_v is None or later_b is None:
                now_v = slope[t] * grad_z
                now_b = torch.addcmul(pull[t] * grad_z, keep[t], now_v)
            else:
                grad_z = torch.addcmul(grad_z, reset[t + 1], later_v, value=-1)
                grad_z = torch.addcmul(grad_z, leak, later_b)
                if back is not None:
                    grad_z = torch.addmm(grad_z, later_v, back)
                now_v = torch.addcmul(slope[t] * grad_z, alpha, later_v)
                now_b = torch.addcmul(torch.addcmul(rho * later_b, pull[t], grad_z), keep[t], now_v)
            grad_v.append(now_v)
            grad_b.append(now_b)
            later_v, later_b = now_v, now_b
        by_v, by_b = torch.stack(grad_v[::-1]), torch.stack(grad_b[::-1])
        by_weights = None
        if ctx.has_weights:
            by_weights = before.flatten(0, 1).t() @ by_v.flatten(0, 1)
        by_neuron: list[Tensor | None] = [None] * 4
        if any(ctx.needs_input_grad[2:6]):
            # s z̄ = v̄ − α v̄[next]: formed anew, since grad_b / β fails where β is 0.
            last_v, last_b = torch.zeros_like(v[:1]), torch.zeros_like(b[:1])
            next_v = torch.cat([by_v[1:], last_v])
            sloped = by_v - alpha * next_v
            by_threshold = -sloped * ratio - dt * before * by_v
            v_before, b_before = torch.cat([last_v, v[:-1]]), torch.cat([last_b, b[:-1]])
            by_neuron = [
                (by_v * v_before).sum((0, 1)),
                (by_b * (b_before - before)).sum((0, 1)),
                by_threshold.sum((0, 1)),
                (by_threshold * b).sum((0, 1)),
            ]
        return by_v, by_weights, *by_neuron, None, None


def spikes_alone(
    drive: Tensor,
    weights: Tensor | None,
    alpha: Tensor,
    rho: Tensor,
    resting: Tensor,
    beta: Tensor,
    refractory: int,
    dt: float,
) -> Tensor:
    """Spikes of :class:`SpikeTrain`, the same bit for bit, without what only its gradient needs."""
    v = drive[0]
    b = counter = torch.zeros_like(v)
    z = (v > resting).to(v.dtype)
    spikes = [z]
    kept = 1 - rho
    for driven in drive[1:]:
        counter = (torch.add(counter, z, alpha=refractory) - 1).clamp(0, refractory)
        b = torch.addcmul(kept * z, rho, b)
        threshold = torch.addcmul(resting, beta, b)
        if weights is not None:
            driven = torch.addmm(driven, z, weights)
        v = torch.addcmul(torch.addcmul(driven, alpha, v), z, threshold, value=-dt)
        # v > A and counter = 0 (a whole number), without bools: turning those into floats takes longer than the rest.
        z = torch.minimum((v - threshold).sign(), 1 - counter).clamp(min=0)
        spikes.append(z)
    return torch.stack(spikes)
