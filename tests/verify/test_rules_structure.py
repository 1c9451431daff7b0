"""Operators of structure, put through the contract of rules: convolutions, resampling, padding, movement, einsum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.verify.contract import Case, RuleContract

pytestmark = pytest.mark.usefixtures("traced_once")

SIGNAL, IMAGE, VOLUME = (2, 5), (2, 3, 4), (2, 2, 3, 3)


def seeded(layer: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(6)
    return layer()


class Held(nn.Module):
    """A function of a value and parameters ``w``, ``b`` of given shapes."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.function = function
        self.held = nn.ParameterList(nn.Parameter(torch.randn(s, generator=generator)) for s in shapes)

    def forward(self, h: Tensor) -> Tensor:
        return self.function(h, *self.held)


def einsum(equation: str, *shapes: tuple[int, ...]) -> Held:
    """A value and parameters."""
    return Held(lambda h, *held: torch.einsum(equation, h, *held), *shapes)


class TestConvolutions(RuleContract):
    cases: ClassVar = {
        "conv3d": Case(seeded(lambda: nn.Conv3d(2, 3, 2, padding=1, stride=(1, 2, 1))), VOLUME),
        "conv3d same": Case(seeded(lambda: nn.Conv3d(2, 2, (2, 3, 2), padding="same", groups=2)), VOLUME),
        "transposed 1d": Case(
            seeded(lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1)), SIGNAL
        ),
        "transposed 2d": Case(
            seeded(lambda: nn.ConvTranspose2d(2, 4, (3, 2), stride=(2, 3), padding=(2, 0), groups=2, dilation=(1, 2))),
            IMAGE,
        ),
        "transposed 2d without bias": Case(seeded(lambda: nn.ConvTranspose2d(2, 3, 2, stride=2, bias=False)), IMAGE),
        "transposed 3d": Case(seeded(lambda: nn.ConvTranspose3d(2, 2, 2, stride=(1, 2, 1), padding=1)), VOLUME),
        "convolution": Case(
            Held(lambda h, w, b: torch.ops.aten.convolution(h, w, b, [1, 2], [1, 1], [1, 1], False, [0, 0], 1),
                 (3, 2, 2, 3), (3,)), IMAGE),
        "convolution transposed": Case(
            Held(lambda h, w: torch.ops.aten.convolution(h, w, None, [2], [1], [1], True, [1], 2), (2, 2, 3)), SIGNAL),
        "reflect": Case(seeded(lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), IMAGE),
        "replicate": Case(seeded(lambda: nn.Conv1d(2, 2, 3, padding=1, padding_mode="replicate")), SIGNAL),
        "circular": Case(seeded(lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")), IMAGE),
    }  # one case a line  # fmt: skip


class TestResampling(RuleContract):
    cases: ClassVar = {
        "nearest 1d": Case(nn.Upsample(scale_factor=2), SIGNAL, tight=True),
        "nearest 2d": Case(lambda h, g: F.interpolate(h, scale_factor=(1.5, 0.6)), IMAGE, tight=True),
        "nearest 3d": Case(lambda h, g: F.interpolate(h, size=(3, 2, 5)), VOLUME, tight=True),
        "nearest exact": Case(lambda h, g: F.interpolate(h, size=(5, 3), mode="nearest-exact"), IMAGE, tight=True),
        "linear": Case(nn.Upsample(scale_factor=2, mode="linear"), SIGNAL),
        "bilinear": Case(lambda h, g: F.interpolate(h, scale_factor=(1.7, 0.6), mode="bilinear"), IMAGE),
        "bilinear by size": Case(lambda h, g: F.interpolate(h, size=(7, 3), mode="bilinear"), IMAGE),
        "bilinear aligned": Case(nn.UpsamplingBilinear2d(scale_factor=2), IMAGE),
        "trilinear": Case(lambda h, g: F.interpolate(h, size=(3, 4, 2), mode="trilinear"), VOLUME),
        "area": Case(lambda h, g: F.interpolate(h, size=(2, 3), mode="area"), IMAGE),
        "average pool 3d": Case(nn.AvgPool3d(2, 1, 1, ceil_mode=True, count_include_pad=False), VOLUME),
        "adaptive average pool 3d": Case(nn.AdaptiveAvgPool3d((1, 2, 2)), VOLUME),
        "max pool 3d": Case(nn.MaxPool3d(2, 1, 1), VOLUME),
        "adaptive max pool 3d": Case(nn.AdaptiveMaxPool3d((1, 2, 2)), VOLUME),
        "power pool": Case(nn.LPPool2d(2, 2), IMAGE, smooth=False),
    }  # one case a line  # fmt: skip


class TestRearrangement(RuleContract):
    cases: ClassVar = {
        "pad reflecting": Case(nn.ReflectionPad2d((1, 2, 0, 1)), IMAGE, tight=True),
        "pad repeating": Case(nn.ReplicationPad3d(1), VOLUME, tight=True),
        "pad around": Case(nn.CircularPad1d((2, 1)), SIGNAL, tight=True),
        "decomposed reflecting": Case(lambda h, g: torch.ops.aten.reflection_pad1d(h, [1, 1]), SIGNAL, tight=True),
        "pixel shuffle": Case(nn.PixelShuffle(2), (4, 1, 2), tight=True),
        "pixel unshuffle": Case(nn.PixelUnshuffle(2), (1, 2, 4), tight=True),
        "channel shuffle": Case(nn.ChannelShuffle(2), (4, 1, 2), tight=True),
        "unfold": Case(nn.Unfold(2, padding=1), IMAGE, tight=True),
        "fold": Case(nn.Fold((3, 4), 2), (8, 6)),
        "windows": Case(lambda h, g: h.unfold(2, 3, 2), SIGNAL, tight=True),
        "roll": Case(lambda h, g: h.roll((1, -1), (1, 2)), SIGNAL, tight=True),
        "flip": Case(lambda h, g: h.flip(-1), SIGNAL, tight=True),
        "turn": Case(lambda h, g: torch.rot90(h, 1, (2, 3)), IMAGE, tight=True),
        "repeat": Case(lambda h, g: h.repeat(1, 2, 3), SIGNAL, tight=True),
        "tile": Case(lambda h, g: h.tile((2,)), SIGNAL, tight=True),
        "repeat each": Case(lambda h, g: h.repeat_interleave(2, 1), SIGNAL, tight=True),
        "narrow": Case(lambda h, g: h.narrow(2, 1, 3), SIGNAL, tight=True),
        "gather": Case(
            lambda h, g: h.gather(2, torch.tensor([[[1, 0]]]).expand(h.shape[0], 2, 2)), SIGNAL, tight=True),
        "triangles": Case(lambda h, g: torch.stack([h.tril(), h.triu(1)], 1), SIGNAL, tight=True),
        "diagonals": Case(lambda h, g: h.diagonal(0, 1, 2).diag_embed(), SIGNAL, tight=True),
        "stacked in rows": Case(
            lambda h, g: torch.cat([torch.hstack([h, g]), torch.dstack([h, g])[..., :5]], 1), SIGNAL),
        "write a part": Case(lambda h, g: torch.slice_scatter(h, g[:, :, :2], 2, 1, 3), SIGNAL, tight=True),
        "write in place": Case(lambda h, g: overwritten(h, g[:, 1], slice(None), 0), SIGNAL, tight=True),
        "write by a mask": Case(lambda h, g: overwritten(h, 0.25, h > 0.1), SIGNAL, smooth=False),
        "write rows by a mask": Case(
            lambda h, g: overwritten(h, torch.arange(5).to(h), h.sum(-1) > 0.1), SIGNAL, smooth=False),
        "write at places": Case(
            lambda h, g: overwritten(h, 0.5, slice(None), slice(None), [1, -1]), SIGNAL, tight=True),
        "write rows at places": Case(
            lambda h, g: overwritten(h, torch.arange(5).to(h), slice(None), torch.tensor([-1])), SIGNAL, tight=True),
        "write along a mask": Case(
            lambda h, g: overwritten(h, -0.5, slice(None), torch.tensor([True, False])), SIGNAL, tight=True),
        "fill places": Case(lambda h, g: h.index_fill(-1, torch.tensor([0, -2]), 0.7), SIGNAL, tight=True),
        "repeat as there are samples": Case(
            Held(lambda h, v, w: h + v.repeat(h.shape[0], 1, 1) + w.repeat(h.shape[0], 1, 5)
                 + w.tile(h.shape[0], 1, 1), (2, 5), (2, 1)), SIGNAL),
        "repeat two for each sample": Case(
            Held(lambda h, w: h + w.repeat(h.shape[0], 1).reshape(h.shape[0], 2, 5), (2, 5)), SIGNAL),
        "repeat each as there are samples": Case(
            Held(lambda h, w: h + w[None].repeat_interleave(h.shape[0], 0), (2, 5)), SIGNAL),
        "ones on a diagonal": Case(
            Held(lambda h, w: h * (w * (1 - torch.eye(2, 5).to(w)))[:, :5] + torch.eye(5).to(w)[:2], (2, 5)), SIGNAL),
        "without its diagonal": Case(Held(lambda h, w: h[..., :2] * (w - torch.diag(torch.diag(w))), (2, 2)), SIGNAL),
        "sorted": Case(lambda h, g: h.sort(-1).values, SIGNAL, smooth=False),
        "largest three": Case(
            lambda h, g: h.topk(3, -1).values + h.median(-1, keepdim=True).values, SIGNAL, smooth=False),
        "running maximum": Case(lambda h, g: h.cummax(-1).values - g.cummin(-1).values, SIGNAL, smooth=False),
    }  # one case a line  # fmt: skip


def overwritten(h: Tensor, value: Tensor | float, *places: Any) -> Tensor:
    """A part written over, as user code does it."""
    out = h.clone()
    out[places if len(places) > 1 else places[0]] = value
    return out


class TestStatistics(RuleContract):
    cases: ClassVar = {
        "cumulative sum": Case(lambda h, g: h.cumsum(-1), SIGNAL),
        "length": Case(lambda h, g: torch.linalg.vector_norm(h, dim=1) + g.norm(dim=-1).sum(-1, True), SIGNAL),
        "sum of sizes": Case(lambda h, g: torch.linalg.vector_norm(h, 1, -1), SIGNAL),
        "largest size": Case(
            lambda h, g: torch.linalg.vector_norm(h, float("inf"), -1) - torch.linalg.vector_norm(g, -float("inf"), -1),
            SIGNAL, smooth=False),
        "normalised": Case(lambda h, g: F.normalize(h + 3, dim=1), SIGNAL, largest=1.0),
        "distance": Case(lambda h, g: F.pairwise_distance(h, g), SIGNAL),
        "product": Case(lambda h, g: h.prod(1) + g.relu().prod(-1, keepdim=True).sum(1), SIGNAL),
        "variance": Case(
            lambda h, g: h.var(-1) + g.var((1, 2), unbiased=False, keepdim=True)[..., 0], SIGNAL, largest=1.0),
        "deviation": Case(lambda h, g: (h * torch.arange(5) + 3).std(-1), SIGNAL, smooth=False),
        "variance and mean": Case(lambda h, g: torch.var_mean(h, -1)[0] + torch.std_mean(g, -1)[1], SIGNAL),
    }  # one case a line  # fmt: skip


class TestEinsum(RuleContract):
    cases: ClassVar = {
        "layer": Case(einsum("bcl,lk->bck", (5, 3)), SIGNAL),
        "weight first": Case(Held(lambda h, w: torch.einsum("ok,bck->bco", w, h), (3, 5)), SIGNAL),
        "channels": Case(einsum("nchw,oc->nohw", (3, 2)), IMAGE),
        "graphs": Case(einsum("nctv,kvw->nkctw", (2, 4, 2)), IMAGE),
        "heads": Case(einsum("bnd,hdk->bhnk", (2, 5, 2)), SIGNAL),
        "stack": Case(einsum("bcl,clk->bck", (2, 5, 3)), SIGNAL),
        "scaled": Case(einsum("bcl,c->bcl", (2,)), SIGNAL),
        "summed before": Case(einsum("bcl,c->bc", (2,)), SIGNAL),
        "implicit": Case(einsum("bcl,lk", (5, 3)), SIGNAL),
        "dots": Case(einsum("...l,lk->...k", (5, 3)), SIGNAL),
        "two values": Case(lambda h, g: torch.einsum("bcl,bdl->bcd", h, g), SIGNAL),
        "inner": Case(lambda h, g: torch.einsum("bcl,bcl->b", h, g)[:, None], SIGNAL),
        "each with each": Case(lambda h, g: torch.einsum("bci,bcj->bcij", h, g), (2, 3)),
        "transposed": Case(lambda h, g: torch.einsum("bcl->blc", h), SIGNAL, tight=True),
        "sum": Case(lambda h, g: torch.einsum("bcl->bl", h), SIGNAL),
        "diagonal": Case(lambda h, g: torch.einsum("bii->bi", h), (3, 3), tight=True),
    }  # one case a line  # fmt: skip


class TestOtherProducts(RuleContract):
    cases: ClassVar = {
        "bilinear layer": Case(Held(lambda h, w, b: F.bilinear(h, h.relu(), w, b), (2, 5, 5), (2,)), SIGNAL),
        "stack of products": Case(Held(lambda h, b: torch.baddbmm(b, h, h.transpose(1, 2)), (1, 2, 2)), SIGNAL),
        "matrix times vector": Case(Held(lambda h, w: torch.mv(h[:, 0], w)[:, None] * w[:2], (5,)), SIGNAL),
        "vector plus product": Case(
            Held(lambda h, b, w: torch.addmv(b.expand(h.shape[0]), h[:, 0], w)[:, None] * w[:2], (1,), (5,)), SIGNAL),
        "outer product": Case(Held(lambda h, w: h * torch.outer(w[:2], w), (5,)), SIGNAL),
        "plus product": Case(Held(lambda h, w: torch.addcmul(h, h.relu(), w, value=-1.5), (5,)), SIGNAL),
        "plus product of parameters": Case(Held(lambda h, w: torch.addcmul(w, h, w.exp()), (5,)), SIGNAL),
        "plus quotient": Case(
            Held(lambda h, w: torch.addcdiv(w, h, h.square() + 1.0, value=0.75), (5,)), SIGNAL),
        "tensordot": Case(Held(lambda h, w: torch.tensordot(h, w, dims=1), (5, 2)), SIGNAL),
    }  # one case a line  # fmt: skip


# Weights that are computed from parameters differ from ε to ε: one at a time.
ALONE = {
    "weight summed": Case(einsum("bcl,cz->bcl", (2, 2)), SIGNAL),
    "inner product": Case(Held(lambda h, w: h * torch.dot(w, w), (5,)), SIGNAL),
    "blocks": Case(Held(lambda h, w: h @ torch.block_diag(w, w)[:5], (3, 2)), SIGNAL),
}


@pytest.mark.parametrize("case", ALONE.values(), ids=ALONE.keys())
def test_weights_computed_from_parameters(case: Case) -> None:
    contract = RuleContract()
    for epsilon in (0.0, 1e-3, 0.1, 1.5):
        contract.sweep = lambda case, e=epsilon: [e]  # type: ignore[method-assign]  # of this case alone
        for arithmetic in ("real", "float32"):
            contract.test_holds_vertices_and_samples(case, arithmetic, "float64")
