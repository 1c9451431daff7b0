"""LSTM, GRU and RNN, a step at a time, with ONNX's order of gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.onnx.table import onnx_operator

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State, Tensor, Tensor | None], State]
USUAL = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def _lstm(drive: Tensor, state: State, r: Tensor, rb: Tensor | None) -> State:
    h, c = state
    i, o, f, g = (drive + F.linear(h, r, rb)).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(linear_before_reset: int) -> Cell:
    def cell(drive: Tensor, state: State, r: Tensor, rb: Tensor | None) -> State:
        (h,) = state
        xz, xr, xh = drive.chunk(3, 1)
        if linear_before_reset:
            hz, hr, hh = F.linear(h, r, rb).chunk(3, 1)
            z, reset = torch.sigmoid(xz + hz), torch.sigmoid(xr + hr)
            new = torch.tanh(xh + reset * hh)
        else:
            rz, rr, rh = r.chunk(3, 0)
            bz, br, bh = rb.chunk(3, 0) if rb is not None else (None, None, None)
            z, reset = torch.sigmoid(xz + F.linear(h, rz, bz)), torch.sigmoid(xr + F.linear(h, rr, br))
            new = torch.tanh(xh + F.linear(reset * h, rh, bh))
        return ((1 - z) * new + z * h,)

    return cell


def _rnn(drive: Tensor, state: State, r: Tensor, rb: Tensor | None) -> State:
    return (torch.tanh(drive + F.linear(state[0], r, rb)),)


def _walked(x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, starts: list[Any], cell: Cell, direction: str) -> Any:
    """Outputs ``[time, directions, batch, hidden]`` and last states of all directions."""
    outputs, lasts = [], []
    for d in range(2 if direction == "bidirectional" else 1):
        backwards = direction == "reverse" or d == 1
        wb, rb = b[d].chunk(2, 0) if b is not None else (None, None)
        state = tuple(x.new_zeros(x.shape[1], r.shape[2]) if s is None else s[d] for s in starts)
        steps = []
        for x_t in reversed(x.unbind(0)) if backwards else x.unbind(0):
            state = cell(F.linear(x_t, w[d], wb), state, r[d], rb)
            steps.append(state[0])
        outputs.append(torch.stack(steps[::-1] if backwards else steps, 0))
        lasts.append(state)
    return torch.stack(outputs, 1), *(torch.stack(parts, 0) for parts in zip(*lasts, strict=True))


def _run(
    kind: str, cell: Cell, x: Tensor, w: Tensor, r: Tensor, b: Any, lengths: Any, starts: list[Any], activations: Any,
    clip: float, direction: str, hidden_size: int, layout: int, outputs: int,
) -> Any:  # a signature, several arguments to a line  # fmt: skip
    if lengths is not None or clip:
        raise InputError(f"an {kind} of sequences of several lengths, or with clipped gates, is not read")
    if activations is not None and list(activations) != USUAL[kind] * (len(activations) // len(USUAL[kind])):
        raise InputError(f"an {kind} with activations {activations} is not read")
    if hidden_size not in (0, r.shape[2]):
        raise InputError(f"its hidden_size {hidden_size} is not that of its weights, {r.shape[2]}")
    if layout:
        x, starts = x.transpose(0, 1), [None if s is None else s.transpose(0, 1) for s in starts]
    every, *last = _walked(x, w, r, b, starts, cell, direction)
    if layout:
        every, last = every.permute(2, 0, 1, 3), [t.transpose(0, 1) for t in last]
    return (every, *last)[:outputs] if outputs > 1 else every


@onnx_operator("LSTM", weights=(1, 2, 3))
def lstm(
    x: Tensor, w: Tensor, r: Tensor, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None,
    peepholes: Any = None, *, activations: Any = None, clip: float = 0.0, direction: str = "forward",
    hidden_size: int = 0, input_forget: int = 0, layout: int = 0, outputs: int = 1,
) -> Any:  # a signature, several arguments to a line  # fmt: skip
    """Gates i, o, f, c; without peepholes."""
    if peepholes is not None or input_forget:
        raise InputError("an LSTM with peepholes, or whose input gate is its forget gate, is not read")
    return _run("LSTM", _lstm, x, w, r, b, lengths, [h, c], activations, clip, direction, hidden_size, layout, outputs)


@onnx_operator("GRU", weights=(1, 2, 3))
def gru(
    x: Tensor, w: Tensor, r: Tensor, b: Any = None, lengths: Any = None, h: Any = None, *, activations: Any = None,
    clip: float = 0.0, direction: str = "forward", hidden_size: int = 0, layout: int = 0, linear_before_reset: int = 0,
    outputs: int = 1,
) -> Any:  # a signature, several arguments to a line  # fmt: skip
    """Gates z, r, h."""
    cell = _gru(linear_before_reset)
    return _run("GRU", cell, x, w, r, b, lengths, [h], activations, clip, direction, hidden_size, layout, outputs)


@onnx_operator("RNN", weights=(1, 2, 3))
def rnn(
    x: Tensor, w: Tensor, r: Tensor, b: Any = None, lengths: Any = None, h: Any = None, *, activations: Any = None,
    clip: float = 0.0, direction: str = "forward", hidden_size: int = 0, layout: int = 0, outputs: int = 1,
) -> Any:  # a signature, several arguments to a line  # fmt: skip
    """One layer with tanh."""
    return _run("RNN", _rnn, x, w, r, b, lengths, [h], activations, clip, direction, hidden_size, layout, outputs)
