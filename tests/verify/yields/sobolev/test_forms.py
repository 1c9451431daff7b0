"""Rows on parts of a stage's output as rows on parts of its input."""

from __future__ import annotations

import pytest
import torch

from tests.verify.yields.sobolev import chains
from thetabox.verify.yields.chain import ChainConvolution
from thetabox.verify.yields.sobolev.forms import Forms
from thetabox.verify.yields.sobolev.windows import LinearForms, Windows

SIDES = 4


@pytest.mark.parametrize("origin", [(0, 0), (-1, 1)])
@pytest.mark.parametrize("name", chains.NAMES)
def test_forms_of_every_function_are_worth_what_the_rows_are(name: str, origin: tuple[int, int]) -> None:
    chain, x, _ = chains.samples(name, 1)
    g = torch.Generator().manual_seed(0)
    for n, stage in enumerate(chain.stages):
        if not isinstance(stage.layer, ChainConvolution):
            break
        h = x[0] if n == 0 else chains.forward(chain, x)[n - 1][0]
        windows, channels = Windows.of(stage, (h.shape[0], h.shape[1], h.shape[2])), len(stage.layer.bias)
        patches = windows.patches(h).flatten(1)
        above, first = torch.randn(2, channels, *patches.shape, generator=g, dtype=torch.float64)
        alive = torch.rand(channels, windows.count + 1, generator=g) < 0.7
        alive[:, -1] = False
        # Each function differs from the one before at some outputs only.
        below = [first * alive[:, :-1, None]]
        for _ in range(SIDES - 1):
            change = (torch.rand(channels, windows.count, 1, generator=g) < 0.3) & alive[:, :-1, None]
            below.append(torch.where(change, torch.randn(first.shape, generator=g, dtype=torch.float64), below[-1]))
        rows = LinearForms(
            torch.randn(1, channels, 5, 6, generator=g, dtype=torch.float64), torch.tensor([list(origin)]), (2, 3)
        )
        a, index = rows.coefficients[0], windows.index(rows)[0]
        found = Forms(windows, above * alive[:, :-1, None], below).of(a, rows, index, alive, SIDES)
        assert len(found) == SIDES
        place = Windows(windows.inputs, windows.padding, (1, 1), (1, 1), (h.shape[1], h.shape[2]), windows.select)
        read = torch.cat([h.flatten(1), torch.zeros_like(h.flatten(1)[:, :1])], 1)
        for slopes, form in zip(below, found, strict=True):
            falling, rising = (
                torch.nn.functional.pad(torch.einsum("coq,oq->co", t * alive[:, :-1, None], patches), (0, 1))
                for t in (above, slopes)
            )
            expected = torch.einsum("crl,cl->r", a.clamp(min=0.0), rising[:, index])
            expected = expected + torch.einsum("crl,cl->r", a.clamp(max=0.0), falling[:, index])
            worth = torch.einsum("crl,cl->r", form.coefficients[0], read[:, place.index(form)[0]])
            torch.testing.assert_close(worth, expected, rtol=1e-11, atol=1e-11)
