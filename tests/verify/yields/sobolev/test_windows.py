from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.verify.yields.sobolev import chains
from thetabox.verify.yields.chain import ChainConvolution
from thetabox.verify.yields.sobolev.convolved import Convolved
from thetabox.verify.yields.sobolev.windows import Windows

NEARLY = {"rtol": 1e-12, "atol": 1e-12}


def maps(name: str) -> list[tuple[Convolved, Tensor, Tensor, Tensor]]:
    """Stages with an input, the values that a max-pool reads, and the output without a ReLU."""
    chain, x, _ = chains.samples(name, 1)
    found, h = [], x
    for stage in chain.stages:
        layer = stage.layer
        if not isinstance(layer, ChainConvolution):
            break
        convolved = Convolved.of(stage, (h.shape[1], h.shape[2], h.shape[3]), 0.1)
        z = F.conv2d(F.pad(h, layer.padding), layer.weight, layer.bias, stride=layer.stride)
        z = z if stage.average is None else F.avg_pool2d(z, stage.average.kernel, stage.average.stride)
        out = z if stage.largest is None else F.max_pool2d(z, stage.largest.kernel, stage.largest.stride)
        found.append((convolved, h[0], layer.weight, out[0]))
        h = out.relu()
    return found


@pytest.mark.parametrize("name", chains.NAMES)
def test_places_read_what_torch_reads(name: str) -> None:
    for convolved, h, weight, out in maps(name):
        windows = convolved.windows
        patches = windows.patches(h)
        values = torch.einsum("ckq,oq->cok", convolved.kernels, patches.flatten(1)) + convolved.bias[:, None, None]
        torch.testing.assert_close(values.amax(-1), out.flatten(1), **NEARLY)
        with_bias = torch.cat([weight.flatten(1), convolved.bias[:, None]], 1)
        by_tap = torch.einsum("ct,okt->cok", with_bias, windows.taps(patches))
        torch.testing.assert_close(by_tap, values, **NEARLY)
        assert convolved.outputs == tuple(out.shape)


@pytest.mark.parametrize("name", chains.NAMES)
def test_weights_of_taps_become_forms_over_patches(name: str) -> None:
    for convolved, h, weight, out in maps(name):
        windows = convolved.windows
        patches = windows.patches(h)
        force = torch.randn(len(weight), windows.count, weight[0].numel(), dtype=torch.float64)
        weights = torch.randn(len(weight), windows.count, windows.candidates, dtype=torch.float64)
        forms = windows.gather_taps(force, weights)
        found = torch.einsum("coq,oq->co", forms, patches.flatten(1))
        expected = torch.einsum("cok,cot,okt->co", weights, force, windows.taps(patches)[..., :-1])
        torch.testing.assert_close(found, expected, **NEARLY)
        assert out.shape[0] == len(forms)


def test_a_stage_in_literals() -> None:
    chain, _ = chains.chain("strides")
    windows = Windows.of(chain.stages[0], (2, 9, 7))
    # A 3x2 kernel with stride (2, 1), and a pool of 3x2 with stride (1, 2).
    assert (windows.patch, windows.stride, windows.places, windows.candidates) == ((7, 3), (2, 2), (3, 3), 6)
