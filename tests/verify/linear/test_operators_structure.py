"""Backward rules of convolutions, resampling, movement, joins and windows: contained, and as tight as a matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thetabox as tb
from tests.verify.linear.test_operators import Buffer, Case, check, made, problem_of
from thetabox.box import Box
from thetabox.verify.linear import BACKWARD

pytestmark = pytest.mark.usefixtures("traced_once")

SIGNAL, IMAGE, VOLUME = (2, 6), (2, 4, 5), (2, 2, 3, 3)


def layer(module: nn.Module, shape: tuple[int, ...]) -> Case:
    return Case(lambda m, h: m.layer(h), shape, {"layer": module})


def overwritten(h: Tensor) -> Tensor:
    out = h.clone()
    out[:, 0] = h[:, 1]
    return out


MASK = torch.tensor([True, False, True, True, False, True])

# Linear maps without parameters: exact, whatever the numbers.
FIXED: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "nearest": (lambda h: F.interpolate(h, size=(7, 3)), IMAGE),
    "nearest 1d": (lambda h: F.interpolate(h, scale_factor=1.5), SIGNAL),
    "nearest 3d": (lambda h: F.interpolate(h, scale_factor=2), VOLUME),
    "nearest exact": (lambda h: F.interpolate(h, size=(7, 3), mode="nearest-exact"), IMAGE),
    "nearest exact 1d": (lambda h: F.interpolate(h, size=4, mode="nearest-exact"), SIGNAL),
    "nearest exact 3d": (lambda h: F.interpolate(h, size=(3, 2, 4), mode="nearest-exact"), VOLUME),
    "linear": (lambda h: F.interpolate(h, scale_factor=1.7, mode="linear"), SIGNAL),
    "bilinear": (lambda h: F.interpolate(h, scale_factor=(2, 0.6), mode="bilinear"), IMAGE),
    "bilinear aligned": (lambda h: F.interpolate(h, size=(7, 3), mode="bilinear", align_corners=True), IMAGE),
    "trilinear": (lambda h: F.interpolate(h, size=(3, 4, 2), mode="trilinear"), VOLUME),
    "reflect": (lambda h: F.pad(h, (2, 1, 1, 0), mode="reflect"), IMAGE),
    "replicate": (lambda h: F.pad(h, (1, 2), mode="replicate"), SIGNAL),
    "circular": (lambda h: F.pad(h, (1, 2, 0, 1), mode="circular"), IMAGE),
    "reflection_pad1d": (lambda h: torch.ops.aten.reflection_pad1d(h, [1, 2]), SIGNAL),
    "replication_pad3d": (lambda h: torch.ops.aten.replication_pad3d(h, [1, 2, 0, 1, 1, 1]), VOLUME),
    "avg_pool3d": (lambda h: F.avg_pool3d(h, 2, 1, 1, False, False), VOLUME),
    "adaptive_avg_pool3d": (lambda h: F.adaptive_avg_pool3d(h, (1, 2, 2)), VOLUME),
    "pixel_shuffle": (lambda h: F.pixel_shuffle(h, 2), (4, 2, 1)),
    "pixel_unshuffle": (lambda h: F.pixel_unshuffle(h, 2), (1, 2, 4)),
    "channel_shuffle": (lambda h: torch.channel_shuffle(h, 2), (4, 1, 2)),
    "im2col": (lambda h: F.unfold(h, 2, padding=1, stride=2), IMAGE),
    "col2im": (lambda h: F.fold(h, (3, 3), 2), (4, 4)),
    "unfold": (lambda h: h.unfold(2, 3, 1), SIGNAL),
    "roll": (lambda h: h.roll((1, -2), (1, 2)), SIGNAL),
    "flip": (lambda h: h.flip(1, 2), SIGNAL),
    "repeat": (lambda h: h.repeat(1, 2, 1), SIGNAL),
    "repeat each": (lambda h: h.repeat_interleave(2, 2), SIGNAL),
    "t": (lambda h: h.reshape(-1, 12).t().t(), SIGNAL),
    "tril": (lambda h: h.tril(-1), (3, 4)),
    "triu": (lambda h: h.triu(1), (3, 4)),
    "diagonal": (lambda h: h.diagonal(1, 1, 2), (3, 4)),
    "diagonal copy": (lambda h: torch.diagonal_copy(h, -1, 1, 2), (3, 4)),
    "diag_embed": (lambda h: h.diag_embed(), (2, 3)),
    "cumsum": (lambda h: h.cumsum(2), SIGNAL),
    "cat": (lambda h: torch.cat([h, h[:, :1], h.flip(1)], 1), IMAGE),
    "stack": (lambda h: torch.stack([h, h.flip(2)], 2), SIGNAL),
    "split": (lambda h: torch.cat(h.split(2, 2)[::-1], 2), SIGNAL),
    "split sizes": (lambda h: h.split([1, 2, 3], 2)[1], SIGNAL),
    "chunk": (lambda h: torch.ops.aten.chunk(h, 2, 1)[1], SIGNAL),
    "unbind": (lambda h: h.unbind(2)[3] + h.unbind(1)[1][:, :2], SIGNAL),
    "index": (lambda h: h[:, [1, 1, 0]], SIGNAL),
    "index two": (lambda h: h[:, [0, 1, 1], [2, 3, 3]], IMAGE),
    "index_select": (lambda h: h.index_select(2, torch.tensor([5, 0, 5])), SIGNAL),
    "gather": (lambda h: h.gather(2, torch.tensor([[[1, 1], [0, 3]]]).expand(h.shape[0], 2, 2)), SIGNAL),
    "where": (lambda h: torch.where(MASK, h, h.flip(2)), SIGNAL),
    "where zero": (lambda h: torch.where(MASK, torch.zeros(()), h), SIGNAL),
    "select_scatter": (lambda h: torch.select_scatter(h, h[:, 1], 1, 0), SIGNAL),
    "slice_scatter": (lambda h: torch.slice_scatter(h, h[:, :, 2:4], 2, 1, 5, 2), SIGNAL),
    "in place": (overwritten, SIGNAL),
    "einsum of one": (lambda h: torch.einsum("bcl->bl", h), SIGNAL),
}

CASES: dict[str, Case] = {
    **{name: Case(lambda m, h, f=function: f(h), shape) for name, (function, shape) in FIXED.items()},
    "conv3d": layer(nn.Conv3d(2, 2, (2, 1, 3), padding=1, stride=(1, 2, 1), dilation=(1, 2, 1)), VOLUME),
    "conv3d same": layer(nn.Conv3d(2, 4, 2, padding="same", groups=2), VOLUME),
    "conv3d valid": layer(nn.Conv3d(2, 2, 2, padding="valid", bias=False), VOLUME),
    "transposed 1d": layer(nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1), SIGNAL),
    "transposed 2d": layer(nn.ConvTranspose2d(2, 4, (3, 2), 2, (0, 1), (1, 0), groups=2, dilation=(1, 2)), IMAGE),
    "transposed 2d of exact weights": Case(
        lambda m, h: F.conv_transpose2d(h, m.w, m.b, 2), IMAGE, {"w": Buffer((2, 2, 2, 2)), "b": (2,)}
    ),
    "transposed 3d": layer(nn.ConvTranspose3d(2, 2, 2, stride=2, bias=False), VOLUME),
    "convolution": Case(
        lambda m, h: torch.ops.aten.convolution(h, m.w, m.b, [1, 2], [1, 0], [1, 1], False, [0, 0], 1),
        IMAGE,
        {"w": (2, 2, 2, 2), "b": (2,)},
    ),
    "transposed, of computed weights": Case(
        lambda m, h: F.conv_transpose1d(h, m.w * m.s), SIGNAL, {"w": (2, 2, 2), "s": (2, 1, 1)}
    ),
    "max_pool1d": Case(lambda m, h: F.max_pool1d(h, 3, 2, 1), SIGNAL),
    "max_pool1d in tiles": Case(lambda m, h: F.max_pool1d(h, 2), SIGNAL),
    "max_pool2d padded": Case(lambda m, h: F.max_pool2d(h, 3, 2, 1), IMAGE),
    "max_pool2d dilated": Case(lambda m, h: F.max_pool2d(h, 2, 1, 0, 2), IMAGE),
    "max_pool2d up": Case(lambda m, h: F.max_pool2d(h, 2, 2, ceil_mode=True), IMAGE),
    "max_pool3d": Case(lambda m, h: F.max_pool3d(h, 2, 1, 1), VOLUME),
    "max_pool3d with places": Case(lambda m, h: F.max_pool3d(h, 2, return_indices=True)[0], VOLUME),
    "adaptive_max_pool1d": Case(lambda m, h: F.adaptive_max_pool1d(h, 4), SIGNAL),
    "adaptive_max_pool2d": Case(lambda m, h: F.adaptive_max_pool2d(h, (3, 2)), IMAGE),
    "adaptive_max_pool3d": Case(lambda m, h: F.adaptive_max_pool3d(h, (2, 1, 2)), VOLUME),
    "einsum": Case(lambda m, h: torch.einsum("bcl,lk->bck", h, m.w), SIGNAL, {"w": (6, 3)}),
    "einsum of heads": Case(lambda m, h: torch.einsum("bnd,hdk->bhnk", h, m.w), SIGNAL, {"w": (2, 6, 2)}),
    "einsum summed": Case(lambda m, h: torch.einsum("cz,bcl->bz", m.w, h), SIGNAL, {"w": (2, 2)}),
    "einsum of a stack": Case(lambda m, h: torch.einsum("bcl,cl->bcl", h, m.w), SIGNAL, {"w": (2, 6)}),
    "einsum of exact weights": Case(lambda m, h: torch.einsum("bcl,lk", h, m.w), SIGNAL, {"w": Buffer((6, 3))}),
    "einsum of two": Case(lambda m, h: torch.einsum("bcl,bdl->bcd", h, h), SIGNAL),
    "where computed": Case(lambda m, h: torch.where(h > 0, h, h * 0.5), SIGNAL),
    "where a parameter": Case(lambda m, h: torch.where(MASK, h, m.p), SIGNAL, {"p": (6,)}),
    "where a buffer": Case(lambda m, h: torch.where(MASK, h, m.p), SIGNAL, {"p": Buffer((6,))}),
}

# Every backward rule of these families, and a case whose trace holds it.
OPERATORS = {
    "aten.conv3d.default": "conv3d",
    "aten.conv3d.padding": "conv3d same",
    "aten.conv_transpose1d.default": "transposed 1d",
    "aten.conv_transpose2d.input": "transposed 2d",
    "aten.conv_transpose3d.input": "transposed 3d",
    "aten.max_pool1d.default": "max_pool1d",
    "aten.max_pool3d.default": "max_pool3d",
    "aten.max_pool3d_with_indices.default": "max_pool3d with places",
    "aten.adaptive_max_pool1d.default": "adaptive_max_pool1d",
    "aten.adaptive_max_pool2d.default": "adaptive_max_pool2d",
    "aten.adaptive_max_pool3d.default": "adaptive_max_pool3d",
    "aten.einsum.default": "einsum",
    "aten.cat.default": "cat",
    "aten.stack.default": "stack",
    "aten.where.self": "where",
    "aten.select_scatter.default": "select_scatter",
    "aten.slice_scatter.default": "slice_scatter",
    "aten.copy.default": "in place",
    "aten.gather.default": "gather",
    "aten.index.Tensor": "index",
    "aten.index_select.default": "index_select",
    "aten.avg_pool3d.default": "avg_pool3d",
    "aten.adaptive_avg_pool3d.default": "adaptive_avg_pool3d",
    "aten.cumsum.default": "cumsum",
    "aten.col2im.default": "col2im",
    "aten.im2col.default": "im2col",
    "aten.unfold.default": "unfold",
    "aten.t.default": "t",
    "aten.flip.default": "flip",
    "aten.roll.default": "roll",
    "aten.tril.default": "tril",
    "aten.triu.default": "triu",
    "aten.diagonal.default": "diagonal",
    "aten.diagonal_copy.default": "diagonal copy",
    "aten.diag_embed.default": "diag_embed",
    "aten.pixel_shuffle.default": "pixel_shuffle",
    "aten.pixel_unshuffle.default": "pixel_unshuffle",
    "aten.channel_shuffle.default": "channel_shuffle",
    "aten.repeat.default": "repeat",
    "aten.repeat_interleave.self_int": "repeat each",
    "aten.reflection_pad1d.default": "reflection_pad1d",
    "aten.replication_pad3d.default": "replication_pad3d",
    "aten.upsample_nearest1d.vec": "nearest 1d",
    "aten.upsample_nearest2d.vec": "nearest",
    "aten.upsample_nearest3d.vec": "nearest 3d",
    "aten._upsample_nearest_exact1d.vec": "nearest exact 1d",
    "aten._upsample_nearest_exact2d.vec": "nearest exact",
    "aten._upsample_nearest_exact3d.vec": "nearest exact 3d",
    "aten.upsample_linear1d.vec": "linear",
    "aten.upsample_bilinear2d.vec": "bilinear",
    "aten.upsample_trilinear3d.vec": "trilinear",
}
# Other names of the same rules, which these traces do not show.
SAME = {
    name
    for name in BACKWARD
    if name.startswith(
        ("aten.reflection_pad", "aten.replication_pad", "aten.where.Scalar", "aten._adaptive_avg_pool3d")
    )
    or (name.startswith(("aten.upsample", "aten._upsample")) and name.endswith(".default"))
} | {"aten.native_channel_shuffle.default", "aten._pad_circular.default", "aten._unsafe_index.Tensor"}


@pytest.mark.thin(quick=23)
@pytest.mark.parametrize("name", CASES)
def test_contained(name: str) -> None:
    case = CASES[name]
    module, x = made(case, True)
    boxes = [Box(), Box(kind="absolute")]
    for place, arithmetic in enumerate(("real", "float32")):
        assert check(module, x, arithmetic, boxes[(len(name) + place) % 2]) == "held"
    met = {o.operator for o in problem_of(module, x, Box(), "real").network.main.operations}
    assert {o for o, where in OPERATORS.items() if where == name} <= met


class Around(nn.Module):
    """A layer, a linear map or its matrix, and another layer."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...], dense: bool, bent: bool = False
    ) -> None:
        super().__init__()
        self.bend: Callable[[Tensor], Tensor] = (lambda h: torch.relu(h - 0.3)) if bent else torch.clone
        torch.manual_seed(5)
        count = torch.Size(shape).numel()
        # Two layers, so that the values that the operator reads share their noise.
        self.front = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, count)) if bent else nn.Linear(3, count)
        self.function, self.shape, self.dense = function, shape, dense
        one = function(torch.eye(count, dtype=torch.float64).view(count, *shape)).flatten(1)
        self.last = nn.Linear(one.shape[1], 3)
        self.register_buffer("matrix", one.T.float().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.front(x))
        if self.dense:
            return self.last(self.bend(F.linear(h, self.matrix)))
        return self.last(self.bend(self.function(h.view(-1, *self.shape))).flatten(1))


BENT = ("nearest", "nearest exact", "bilinear", "reflect", "circular", "pixel_shuffle", "channel_shuffle", "cat")


@pytest.mark.thin(3, quick=11)
@pytest.mark.parametrize(("name", "bent"), [*((n, False) for n in FIXED), *((n, True) for n in BENT)])
def test_as_tight_as_its_matrix(name: str, bent: bool) -> None:
    """One product with an exact matrix is passed exactly: the operator must be too, in both directions.

    With a ReLU behind it, its values are bounded from each position of the image, and as tightly as from each number.
    """
    function, shape = FIXED[name]
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    plain, dense = Around(function, shape, False, bent), Around(function, shape, True, bent)
    rounded = (
        dense.matrix.double()
        - function(torch.eye(dense.matrix.shape[1], dtype=torch.float64).view(-1, *shape)).flatten(1).T
    )
    room = 1e-9 + 20 * float(rounded.abs().max())
    for epsilon in (0.0, 1e-3, 0.1):
        a, b = (tb.logit_bounds(m, x, epsilon, domain="linear") for m in (plain, dense))
        size = 1.0 + b.upper.abs().max()
        assert ((a.lower - b.lower) >= -room * size).all()
        assert ((b.upper - a.upper) >= -room * size).all()


class Lifted(nn.Module):
    """A convolution in two dimensions, or in three of which one is a single place."""

    def __init__(self, deep: bool, stride: int, padding: int, groups: int) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.front, self.deep = nn.Linear(3, 2 * 4 * 5), deep
        self.conv = nn.Conv2d(2, 4, 3, stride, padding, groups=groups)
        self.last = nn.Linear(self.conv(torch.zeros(1, 2, 4, 5)).numel(), 3)
        self.settings = (stride, padding, groups)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.front(x)).view(-1, 2, 4, 5)
        if not self.deep:
            return self.last(self.conv(h).flatten(1))
        stride, padding, groups = self.settings
        w = self.conv.weight[:, :, None]
        out = F.conv3d(h[:, :, None], w, self.conv.bias, (1, stride, stride), (0, padding, padding), 1, groups)
        return self.last(out.flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 0, 1), (2, 1, 2), (3, 2, 1)])
def test_volumes_are_passed_like_images(stride: int, padding: int, groups: int) -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    for epsilon in (1e-3, 0.1, 1.5):
        flat, deep = (
            tb.logit_bounds(Lifted(d, stride, padding, groups), x, epsilon, domain="linear",
                            options={"intermediate": "interval"})
            for d in (False, True)
        )  # a call, its options in a line  # fmt: skip
        torch.testing.assert_close(flat.lower, deep.lower, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(flat.upper, deep.upper, rtol=1e-9, atol=1e-9)


class Turned(nn.Module):
    """A transposed convolution, or the convolution of its input with zeros in between."""

    def __init__(self, turned: bool, stride: int, padding: int) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.front, self.turned, self.stride, self.padding = nn.Linear(3, 2 * 3 * 4), turned, stride, padding
        self.conv = nn.ConvTranspose2d(2, 3, 3, stride, padding)
        self.last = nn.Linear(self.conv(torch.zeros(1, 2, 3, 4)).numel(), 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.front(x)).view(-1, 2, 3, 4)
        if self.turned:
            return self.last(self.conv(h).flatten(1))
        more = self.stride - 1
        for _ in range(2):
            h = F.pad(h.unsqueeze(-1), (0, more)).flatten(-2)
            h = h[..., : h.shape[-1] - more].transpose(2, 3)
        out = F.conv2d(h, self.conv.weight.transpose(0, 1).flip((2, 3)), self.conv.bias, padding=2 - self.padding)
        return self.last(out.flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), (3, 2)])
def test_transposed_as_tight_as_a_convolution(stride: int, padding: int) -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    turned, plain = Turned(True, stride, padding), Turned(False, stride, padding)
    torch.testing.assert_close(turned(x), plain(x))
    for epsilon, domain in ((1e-3, "linear"), (0.1, "linear"), (1.5, "linear"), (0.1, "interval")):
        way = {"options": {"intermediate": "interval"}} if domain == "linear" else {}
        a, b = (tb.logit_bounds(m, x, epsilon, domain=domain, **way) for m in (turned, plain))
        torch.testing.assert_close(a.lower, b.lower, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(a.upper, b.upper, rtol=1e-9, atol=1e-9)


TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    rank=st.integers(1, 3),
    groups=st.integers(1, 2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    more=st.integers(0, 2),
    seed=st.integers(0, 100),
)
def test_grid_of_transposed(
    rank: int, groups: int, kernel: int, stride: int, padding: int, dilation: int, more: int, seed: int
) -> None:
    """On a known input the answer is linear in the weights, so the worst corner is known: bounds reach it."""
    assume(more < max(stride, dilation))
    size = {1: 4, 2: 3, 3: 2}[rank]
    assume((size - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1 > 0)
    torch.manual_seed(seed)
    conv = TRANSPOSED[rank](2, 2 * groups, kernel, stride, padding, more, groups=groups, dilation=dilation)
    x = torch.randn(2, 2, *[size] * rank)
    module = nn.Sequential(conv, nn.Flatten(), nn.Linear(conv(x)[0].numel(), 2))
    box, epsilon = Box(include="0.*"), 0.1
    wide = nn.Sequential(conv, nn.Flatten(), module[2]).double()
    reached = []
    for n in range(2):
        for k in range(2):
            wide.zero_grad()
            answer = wide(x[n : n + 1].double())[0, k]
            answer.backward()
            noise = sum((p.detach() * p.grad).abs().sum() for p in conv.parameters())
            reached.append((answer.detach() - epsilon * noise, answer.detach() + epsilon * noise))
    low, high = (torch.stack(t).view(2, 2) for t in zip(*reached, strict=True))
    wide.float()
    bounds = tb.logit_bounds(wide, x, epsilon, domain="linear", box=box)
    torch.testing.assert_close(bounds.lower, low, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(bounds.upper, high, rtol=1e-9, atol=1e-9)
    assert (bounds.lower <= low + 1e-13).all()
    assert (bounds.upper >= high - 1e-13).all()
