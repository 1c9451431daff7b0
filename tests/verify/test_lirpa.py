"""The auto_LiRPA adapter: its bounds hold sampled truth, and the interval domain gives the same numbers as its IBP."""

from __future__ import annotations

import importlib
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify import needs
from thetabox.errors import InputError
from thetabox.models import MLP
from thetabox.verify.lirpa import bounds as lirpa
from thetabox.verify.lirpa.bounds import METHODS, library, lirpa_bounds

pytestmark = pytest.mark.usefixtures("traced_once")


def network(sizes: tuple[int, ...] = (6, 9, 8, 3), dtype: torch.dtype = torch.float32) -> tuple[MLP, Tensor]:
    torch.manual_seed(0)
    model = MLP(sizes).to(dtype)
    return model, torch.randn(5, sizes[0], dtype=dtype)


@needs.auto_lirpa
@pytest.mark.parametrize("method", METHODS[:3])
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


@needs.auto_lirpa
@pytest.mark.parametrize("epsilon", [0.0, 1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("sizes", [(6, 9, 8, 3), (20, 32, 32, 10)])
def test_interval_domain_equals_ibp(epsilon: float, sizes: tuple[int, ...]) -> None:
    model, x = network(sizes)
    lower, upper = lirpa_bounds(model.double(), x.double(), epsilon, "IBP")
    ours = tb.logit_bounds(model, x.double(), epsilon, domain="interval")
    scale = upper.abs().max().clamp(min=1)
    assert (ours.lower - lower).abs().max() <= 1e-5 * scale
    assert (ours.upper - upper).abs().max() <= 1e-5 * scale


@needs.auto_lirpa
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


@needs.auto_lirpa
def test_crown_is_tighter_than_ibp_and_zero_width_is_the_output() -> None:
    model, x = network(dtype=torch.float64)
    ibp, crown = lirpa_bounds(model, x, 0.02, "IBP"), lirpa_bounds(model, x, 0.02, "CROWN")
    assert (crown[1] - crown[0]).mean() < (ibp[1] - ibp[0]).mean()
    lower, upper = lirpa_bounds(model, x, 0.0, "CROWN")
    with torch.no_grad():
        assert torch.allclose(model(x), lower, atol=1e-9)
    assert torch.allclose(lower, upper, atol=1e-9)


@needs.auto_lirpa
def test_rows_bound_margins() -> None:
    model, x = network(dtype=torch.float64)
    rows = (torch.eye(3, dtype=torch.float64)[0] - torch.eye(3, dtype=torch.float64)[1]).expand(5, 1, 3)
    lower, _ = lirpa_bounds(model, x, 0.02, "CROWN", rows=rows)
    apart = lirpa_bounds(model, x, 0.02, "CROWN")
    assert lower.shape == (5, 1)
    assert (lower[:, 0] >= apart[0][:, 0] - apart[1][:, 1] - 1e-9).all()


@needs.auto_lirpa
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


def convolutions() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(2)
    layers = (
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 2, padding="same", bias=False),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(3, 3),
    )
    return nn.Sequential(*layers).double(), torch.randn(4, 2, 8, 8, dtype=torch.float64)


@needs.auto_lirpa
@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_convolutions_are_written_out(kind: str) -> None:
    """By IBP the noise of tied weights adds up as that of free ones, so its numbers are those of our intervals."""
    model, x = convolutions()
    box = tb.Box(kind=kind, scale={"0.*": 0.5})
    ours = tb.logit_bounds(model, x, 1e-2, domain="interval", box=box)
    lower, upper = lirpa_bounds(model, x, 1e-2, "IBP", box=box)
    scale = (upper - lower).max()
    if kind == "relative":
        assert (ours.lower - lower).abs().max() <= 1e-9 * scale
        assert (ours.upper - upper).abs().max() <= 1e-9 * scale
    for method in ("IBP", "CROWN-IBP", "CROWN"):
        lower, upper = lirpa_bounds(model, x, 1e-2, method, box=box)
        rng = torch.Generator().manual_seed(1)
        for _ in range(100):
            weights = {}
            for name, p in model.named_parameters():
                noise = (2 * torch.rand(p.shape, generator=rng, dtype=p.dtype) - 1).mul(3).clamp(-1, 1)
                weights[name] = p.detach() + box.factors(model)[name] * 0.01 * noise * box.unit_radius(p.detach())
            with torch.no_grad():
                logits = torch.func.functional_call(model, weights, (x,))
            assert (logits >= lower - 1e-9).all()
            assert (logits <= upper + 1e-9).all()


@needs.auto_lirpa
def test_optimised_slopes_are_no_looser() -> None:
    model, x = network(dtype=torch.float64)
    fixed, best = (lirpa_bounds(model, x[:2], 0.05, method) for method in ("CROWN", "CROWN-Optimized"))
    assert (best[0] >= fixed[0] - 1e-9).all()
    assert (best[1] - best[0]).mean() < (fixed[1] - fixed[0]).mean()


@needs.auto_lirpa
def test_the_domain_is_a_second_opinion() -> None:
    """Its margins are rows of their own, of all ε and both entry points, and it is never called a proof."""
    model, x = network(dtype=torch.float64)
    y = model(x).argmax(1)
    sweep = [1e-3, 0.02]
    found = tb.certify(model, x, y, sweep, domain="lirpa", options={"method": "CROWN"})
    assert not found.sound
    assert found.to_json()["sound"] is False
    for margin, epsilon in zip(found.margin, sweep, strict=True):
        for n, label in enumerate(y.tolist()):
            one = torch.eye(3, dtype=torch.float64)
            rows = torch.stack([one[label] - one[k] for k in range(3) if k != label])
            lower, _ = lirpa_bounds(model, x[n : n + 1], epsilon, "CROWN", rows=rows[None])
            assert margin[n].item() == pytest.approx(lower.min().item(), abs=1e-9)
    bounds = tb.logit_bounds(model, x, torch.tensor([0.01, 0.02, 0.01, 0.03, 0.02]), domain="lirpa")
    lower, upper = lirpa_bounds(model, x[3:4], 0.03, "CROWN-IBP")
    torch.testing.assert_close(bounds.lower[3:4], lower)
    torch.testing.assert_close(bounds.upper[3:4], upper)
    radius = tb.certified_radius(model, x[:2], y[:2], domain="lirpa", rtol=0.2)
    assert (radius > tb.certified_radius(model, x[:2], y[:2], domain="interval") / 1.2).all()
    assert "lirpa" not in str(tb.certify(model, x, y, sweep).options)


@needs.auto_lirpa
def test_the_domain_refuses_what_it_is_not_given() -> None:
    model, x = network(dtype=torch.float64)
    y = torch.zeros(5, dtype=torch.long)
    for settings, message in (
        ({"options": {"method": "MAGIC"}}, "it has IBP, CROWN-IBP"),
        ({"arithmetic": "float32"}, "interval for float32"),
    ):
        with pytest.raises(InputError, match=message):
            tb.certify(model, x, y, 0.1, domain="lirpa", **settings)
    with pytest.raises(InputError, match="Tanh; the domain interval takes this network"):
        tb.certify(nn.Sequential(model, nn.Tanh()), x, y, 0.1, domain="lirpa")


def test_other_networks_are_refused_in_one_line() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.dense(self.dense(x))

    normed = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(InputError, match="1 is a BatchNorm1d"):
        lirpa_bounds(normed, torch.randn(1, 3), 0.1)
    with pytest.raises(InputError, match="too large"):
        lirpa_bounds(nn.Conv2d(1, 64, 3, padding=1), torch.randn(1, 1, 40, 40), 0.1)
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


def test_its_import_leaves_the_limit_of_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which it sets to a million, and with which a file of brackets ends the process."""
    before, real = sys.getrecursionlimit(), importlib.import_module

    def imported(name: str) -> object:
        if name != "auto_LiRPA":
            return real(name)
        sys.setrecursionlimit(1_000_000)
        return torch

    monkeypatch.setattr(importlib, "import_module", imported)
    assert library() is torch
    assert sys.getrecursionlimit() == before
