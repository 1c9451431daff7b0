"""IEEE binary32 sums in any order, with and without fused multiply-add: what a float32 claim must cover."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

Float32 = np.ndarray[Any, np.dtype[np.float32]]


def fused_multiply_add(a: Any, b: Any, c: Any) -> Any:
    """a·b + c of float32 numbers rounded once (to nearest, ties to even), elementwise.

    The product is exact in float64; the sum is rounded to odd there (Boldo and Melquiond 2008), after which rounding
    to float32 is the correct rounding of the exact value.
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    shadow = total - product
    error = (product - (total - shadow)) + (addend - shadow)
    even = (total.view(np.int64) & 1) == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    odd = np.where((error != 0) & even, np.nextafter(total, toward), total)
    with np.errstate(over="ignore"):
        return odd.astype(np.float32)


def all_dots(w: Any, x: Any, bias: float | None = None) -> set[float]:
    """Every float32 value that Σ w_i x_i (+ bias) can take: all orders, all bracketings, fused or not.

    Exhaustive over subsets, so at most 8 terms or so. The bias is one more leaf of the sum.
    """
    w, x = np.asarray(w, np.float32), np.asarray(x, np.float32)
    count = len(w) + (bias is not None)
    leaves = [np.float32(a * b) for a, b in zip(w, x, strict=True)]
    if bias is not None:
        leaves.append(np.float32(bias))
    reach: dict[int, set[np.float32]] = {}
    for part in range(1, 1 << count):
        values: set[np.float32] = set()
        if part & (part - 1) == 0:
            values.add(leaves[part.bit_length() - 1])
        left = (part - 1) & part
        while left:
            right = part ^ left
            if left > right:
                values |= {np.float32(a + b) for a in reach[left] for b in reach[right]}
            left = (left - 1) & part
        for i in range(len(w)):
            rest = part ^ (1 << i)
            if part >> i & 1 and rest:
                values |= {np.float32(fused_multiply_add(w[i], x[i], a)) for a in reach[rest]}
        reach[part] = values
    return {float(v) for v in reach[(1 << count) - 1]}


def sample_dots(w: Any, x: Any, bias: Any = None, *, rng: random.Random) -> Float32:
    """One float32 evaluation of Σ_i w[..., i] x[..., i] (+ bias [...]) in a random order, the same for all outputs.

    The order is drawn: a permutation; then one running sum, several lanes, or a random binary tree; products are
    fused or rounded first; the bias comes first, last, or is a leaf.
    """
    w, x = np.broadcast_arrays(np.asarray(w, np.float32), np.asarray(x, np.float32))
    count = w.shape[-1]
    order = list(range(count))
    rng.shuffle(order)
    zero = np.zeros(w.shape[:-1], np.float32)
    offset = None if bias is None else np.broadcast_to(np.asarray(bias, np.float32), w.shape[:-1])
    when = rng.choice(("first", "last"))
    lanes = min(rng.choice((1, 1, 2, 4, 8, max(count // 2, 1), count)), count) or 1
    fused = rng.random() < 0.5
    sums = [zero.copy() for _ in range(lanes)]
    if offset is not None and when == "first":
        sums[0] = offset.copy()
    for place, i in enumerate(order):
        lane = place % lanes
        if fused:
            sums[lane] = fused_multiply_add(w[..., i], x[..., i], sums[lane])
        else:
            sums[lane] = sums[lane] + w[..., i] * x[..., i]
    while len(sums) > 1:
        a = sums.pop(rng.randrange(len(sums)))
        j = rng.randrange(len(sums))
        sums[j] = sums[j] + a
    return sums[0] + offset if offset is not None and when == "last" else sums[0]


def sample_forward(model: nn.Sequential, x: Any, *, rng: random.Random) -> Float32:
    """One float32 evaluation of a batch x, each sum in a random order: Linear, Conv, ReLU, MaxPool, Flatten."""
    value = np.asarray(x, np.float32)
    for module in model:
        if isinstance(module, nn.Sequential):
            value = sample_forward(module, value, rng=rng)
        elif isinstance(module, nn.Linear):
            weight, bias = _float32(module.weight), _float32(module.bias)
            value = sample_dots(weight, value[..., None, :], bias, rng=rng)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            patches = _unfold(module, value)
            weight = _float32(module.weight)
            assert weight is not None
            flat = weight.reshape(len(weight), *[1] * (value.ndim - 2), -1)
            bias = _float32(module.bias)
            shaped = None if bias is None else bias.reshape(-1, *[1] * (value.ndim - 2))
            value = sample_dots(flat, patches, shaped, rng=rng)
        elif isinstance(module, nn.ReLU | nn.MaxPool1d | nn.MaxPool2d | nn.Flatten):
            value = module(torch.from_numpy(np.ascontiguousarray(value))).numpy()
        else:
            raise TypeError(f"no float32 sampler for {type(module).__name__}")
    return value


def sample_lsnn(x: Any, values: dict[str, Any], *, rng: random.Random, refractory: int = 2, dt: float = 1.0) -> Float32:
    """One float32 evaluation of an LSNN's logits for a sample x [T, inputs], parameters as in ``tests.oracles.lsnn``.

    Dot products run in random orders; α, ρ come from the double-precision exponential, rounded; each multiply-add of
    the state may be fused or not, and (1 − α) is applied before or after the sums, as the step and the fast path do.
    """
    inputs = np.asarray(x, np.float64).astype(np.float32)
    p = {name: np.asarray(value, np.float64).astype(np.float32) for name, value in values.items()}
    step, one = np.float32(dt), np.float32(1)
    fused = rng.random() < 0.5

    def multiply_add(a: Any, b: Any, c: Any) -> Any:
        return fused_multiply_add(a, b, c) if fused else a * b + c

    def dot(row: Any, weight: Any) -> Any:
        return sample_dots(weight.T, row[None], rng=rng)

    alpha, rho = (np.exp((-step / p[name]).astype(np.float64)).astype(np.float32) for name in ("tau", "tau_adapt"))
    recurrent = p["W_rec"] * (1 - np.eye(len(alpha), dtype=np.float32)) if "W_rec" in p else None
    early = rng.random() < 0.5
    if early and recurrent is not None:
        recurrent = recurrent * (one - alpha)
    v, b, z, r = (np.zeros_like(alpha) for _ in range(4))
    total = np.zeros_like(alpha)
    for row in inputs:
        b = multiply_add(rho, b, (one - rho) * z)
        threshold = multiply_add(p["beta"], b, p["threshold"])
        drive = dot(row, p["W_in"])
        drive = drive * (one - alpha) if early else drive
        if recurrent is not None:
            drive = drive + dot(z, recurrent)
        drive = drive if early else drive * (one - alpha)
        v = multiply_add(alpha, v, drive)
        v = v - z * threshold * step
        z = ((r <= np.float32(0.1)) & (v > threshold)).astype(np.float32)
        r = np.clip(r + np.float32(refractory) * z - one, 0, refractory).astype(np.float32)
        total = total + z
    rate = total / np.float32(len(inputs)) if rng.random() < 0.5 else total * np.float32(one / np.float32(len(inputs)))
    return sample_dots(p["W_out"].T, rate[None], p["b_out"], rng=rng)


def _float32(tensor: Any) -> Float32 | None:
    return None if tensor is None else tensor.detach().float().numpy()


def _unfold(module: Any, x: Float32) -> Float32:
    """Patches [N, O, *spatial, C / groups · prod K]."""
    dims = x.ndim - 2
    value = torch.from_numpy(np.ascontiguousarray(x))
    if module.padding == "same":
        pad = []
        for k, g in zip(reversed(module.kernel_size), reversed(module.dilation), strict=True):
            total = g * (k - 1)
            pad += [total // 2, total - total // 2]
        value = functional.pad(value, pad)
    elif module.padding != "valid":
        value = functional.pad(value, [p for p in reversed(module.padding) for _ in range(2)])
    spatial = [
        (n - g * (k - 1) - 1) // s + 1
        for n, k, s, g in zip(value.shape[2:], module.kernel_size, module.stride, module.dilation, strict=True)
    ]
    padded = value.numpy()
    per_group = module.in_channels // module.groups
    out_group = module.out_channels // module.groups
    size = int(np.prod(module.kernel_size))
    out = np.empty((len(x), module.out_channels, *spatial, per_group * size), np.float32)
    for index in np.ndindex(*spatial):
        window = tuple(
            slice(i * s, i * s + g * (k - 1) + 1, g)
            for i, s, k, g in zip(index, module.stride, module.kernel_size, module.dilation, strict=True)
        )
        for group in range(module.groups):
            part = padded[(slice(None), slice(group * per_group, (group + 1) * per_group), *window)]
            channels = slice(group * out_group, (group + 1) * out_group)
            out[(slice(None), channels, *index)] = part.reshape(len(x), 1, -1)
    assert dims == len(spatial)
    return out
