"""The auto_LiRPA adapter: its bounds hold sampled truth, and the interval domain gives the same numbers as its IBP."""

from __future__ import annotations

import importlib.util
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.errors import InputError
from thetabox.models import MLP, ConvNet
from thetabox.verify import lirpa
from thetabox.verify.lirpa import METHODS, lirpa_bounds

installed = pytest.mark.skipif(
    importlib.util.find_spec("auto_LiRPA") is None, reason="auto_LiRPA is not installed (make test installs it)"
)


def network(sizes: tuple[int, ...] = (6, 9, 8, 3), dtype: torch.dtype = torch.float32) -> tuple[MLP, Tensor]:
    torch.manual_seed(0)
    model = MLP(sizes).to(dtype)
    return model, torch.randn(5, sizes[0], dtype=dtype)


@installed
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_hold_sampled_weights(method: str, dtype: torch.dtype) -> None:
    model, x = network(dtype=dtype)
    lower, upper = lirpa_bounds(model, x, 0.05, method)
    assert lower.dtype == dtype
    assert lower.shape == (5, 3)
    rng = torch.Generator().manual_seed(1)
    for _ in range(300):
        weights = {}
        for name, p in model.named_parameters():
            noise = (2 * torch.rand(p.shape, generator=rng, dtype=dtype) - 1).mul(3).clamp(-1, 1)
            weights[name] = p.detach() * (1 + 0.05 * noise)
        with torch.no_grad():
            logits = torch.func.functional_call(model, weights, (x,))
        assert (logits >= lower - 1e-5).all()
        assert (logits <= upper + 1e-5).all()


@installed
@pytest.mark.parametrize("epsilon", [0.0, 1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("sizes", [(6, 9, 8, 3), (20, 32, 32, 10)])
def test_interval_domain_equals_ibp(epsilon: float, sizes: tuple[int, ...]) -> None:
    model, x = network(sizes)
    lower, upper = lirpa_bounds(model.double(), x.double(), epsilon, "IBP")
    ours = tb.logit_bounds(model, x.double(), epsilon, domain="interval")
    scale = upper.abs().max().clamp(min=1)
    assert (ours.lower - lower).abs().max() <= 1e-5 * scale
    assert (ours.upper - upper).abs().max() <= 1e-5 * scale


@installed
@pytest.mark.parametrize("kind", ["absolute", "range"])
def test_other_boxes_hold_ibp_and_are_nearly_as_tight(kind: str) -> None:
    """These boxes have no two-product form that is exact, so equality is not asked for."""
    model, x = network(dtype=torch.float64)
    box = tb.Box(kind=kind, exclude="*.bias", scale={"dense2*": 0.5})
    lower, upper = lirpa_bounds(model, x, 0.01, "IBP", box=box)
    ours = tb.logit_bounds(model, x, 0.01, domain="interval", box=box)
    assert (ours.lower <= lower + 1e-12).all()
    assert (ours.upper >= upper - 1e-12).all()
    assert ((ours.upper - ours.lower) <= 1.1 * (upper - lower)).all()


@installed
def test_crown_is_tighter_than_ibp_and_zero_width_is_the_output() -> None:
    model, x = network(dtype=torch.float64)
    ibp, crown = lirpa_bounds(model, x, 0.02, "IBP"), lirpa_bounds(model, x, 0.02, "CROWN")
    assert (crown[1] - crown[0]).mean() < (ibp[1] - ibp[0]).mean()
    lower, upper = lirpa_bounds(model, x, 0.0, "CROWN")
    with torch.no_grad():
        assert torch.allclose(model(x), lower, atol=1e-9)
    assert torch.allclose(lower, upper, atol=1e-9)


@installed
def test_rows_bound_margins() -> None:
    model, x = network(dtype=torch.float64)
    rows = (torch.eye(3, dtype=torch.float64)[0] - torch.eye(3, dtype=torch.float64)[1]).expand(5, 1, 3)
    lower, _ = lirpa_bounds(model, x, 0.02, "CROWN", rows=rows)
    apart = lirpa_bounds(model, x, 0.02, "CROWN")
    assert lower.shape == (5, 1)
    assert (lower[:, 0] >= apart[0][:, 0] - apart[1][:, 1] - 1e-9).all()


@installed
def test_nothing_outside_is_changed() -> None:
    model, x = network()
    model.train()
    before = {n: p.clone() for n, p in model.named_parameters()}
    dtype, filters = torch.get_default_dtype(), list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lirpa_bounds(model, x, 0.1, "CROWN")
    assert model.training
    assert all(type(p) is nn.Parameter and torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert torch.get_default_dtype() == dtype
    assert warnings.filters == filters
    if np.__version__ >= "2":
        assert "numpy.lib.arraysetops" not in sys.modules
    assert not hasattr(torch._C.Node, "__getitem__")


def test_other_networks_are_refused_in_one_line() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.dense(self.dense(x))

    with pytest.raises(InputError, match="conv1 is a Conv2d"):
        lirpa_bounds(ConvNet.small(), torch.randn(1, 1, 8, 8), 0.1)
    with pytest.raises(InputError, match="more than that"):
        lirpa_bounds(Doubled(), torch.randn(2, 3), 0.1)
    with pytest.raises(InputError, match="choose one of IBP"):
        lirpa_bounds(nn.Linear(2, 2), torch.randn(1, 2), 0.1, "MAGIC")


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network()
    monkeypatch.setitem(sys.modules, "auto_LiRPA", None)
    with pytest.raises(InputError, match="pip install --no-deps") as error:
        lirpa.lirpa_bounds(model, x, 0.1)
    assert "\n" not in str(error.value)
