"""Rows through convolution stages against draws, and where the bound is exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.verify.yields.sobolev import chains
from thetabox.verify.yields.chain import Chain, ChainConvolution
from thetabox.verify.yields.sobolev.proof import passed_stages
from thetabox.verify.yields.sobolev.rules import Quantile, Rate
from thetabox.verify.yields.sobolev.walk import _through, lower_bounds
from thetabox.verify.yields.sobolev.windows import LinearForms

# Events that no draw will miss.
SURE = 1e-7


def convolutions(chain: Chain) -> Chain:
    return Chain(tuple(s for s in chain.stages if isinstance(s.layer, ChainConvolution)))


def rows_on(h: Tensor, count: int, seed: int = 0) -> LinearForms:
    """Random rows on all of a map ``[channels, height, width]``, of either sign and of both."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(1, h.shape[0], count, h[0].numel(), generator=g, dtype=torch.float64)
    a[:, :, 0], a[:, :, 1] = a[:, :, 0].abs(), -a[:, :, 1].abs()
    return LinearForms(a, torch.zeros(1, 2, dtype=torch.int64), (h.shape[1], h.shape[2]))


def on_draws(rows: LinearForms, out: Tensor) -> Tensor:
    """Rows' values, ``[draws, rows]``."""
    return torch.einsum("crl,ncl->nr", rows.coefficients[0], out.flatten(2))


@pytest.mark.parametrize("name", chains.NAMES)
@pytest.mark.parametrize("sigma", [0.02, 0.15])
def test_entropic_values_are_at_least_the_bounds(name: str, sigma: float) -> None:
    chain, x, _ = chains.samples(name, 1, seed=5)
    chain = convolutions(chain)
    passed, _, _ = passed_stages(chain, x[0], sigma, (SURE, SURE))
    g = torch.Generator().manual_seed(1)
    out = chains.draws(chain, x, sigma, 6000, g)[-1][:, 0]
    rows = rows_on(chains.forward(chain, x)[-1][0], 6)
    values = on_draws(rows, out)
    rate = 1.0 / values.std(0)
    found = lower_bounds(passed, rows, torch.zeros(1, 1, 6, dtype=torch.float64), Rate(rate[None]))[0, 0]
    weights = (-rate * (values - values.mean(0))).exp()
    true = values.mean(0) - weights.mean(0).log() / rate
    error = 6.0 * weights.std(0) / weights.mean(0) / rate / 6000**0.5
    assert bool((found <= true + error).all())
    # And no far-off bound: within a few standard deviations of one stage, more where boxes are wide.
    assert bool((found >= true - 40.0 * values.std(0)).all()) or sigma > 0.1


@pytest.mark.parametrize("name", chains.NAMES)
@pytest.mark.parametrize("probability", [0.5, 0.1, 0.01])
def test_rows_fail_no_more_often_than_they_may(name: str, probability: float) -> None:
    chain, x, _ = chains.samples(name, 1, seed=6)
    chain, sigma = convolutions(chain), 0.03
    passed, _, _ = passed_stages(chain, x[0], sigma, (SURE, SURE))
    out = chains.draws(chain, x, sigma, 4000, torch.Generator().manual_seed(2))[-1][:, 0]
    rows = rows_on(chains.forward(chain, x)[-1][0], 6)
    rule = Quantile(probability)
    found = lower_bounds(passed, rows, torch.zeros(1, 1, 6, dtype=torch.float64), rule)[0, 0]
    failed = (on_draws(rows, out) < found).double().mean(0)
    assert bool((failed <= probability + 6.0 * (probability / 4000) ** 0.5).all())


def always_on(sigma: float) -> tuple[Chain, Tensor, Tensor, Tensor]:
    """A stage whose ReLU is never off and that pools nothing: linear, so that everything is exact."""
    g = torch.Generator().manual_seed(0)
    layer = chains.convolution(g, 2, 3, (2, 2))
    layer = ChainConvolution(layer.weight, layer.bias + 50.0, layer.weight_size, layer.bias_size, (1, 1), (0, 0, 0, 0))
    chain = Chain((chains.ChainStage(layer),))
    x = torch.randn(1, 2, 4, 4, generator=g, dtype=torch.float64)
    a = torch.randn(1, 3, 4, 9, generator=g, dtype=torch.float64)
    mean = torch.einsum("crl,cl->r", a[0], chains.forward(chain, x)[0][0].flatten(1))
    columns = torch.nn.functional.unfold(x, 2)[0]
    gradient = torch.einsum("crl,tl->crt", a[0], columns)
    sizes = layer.weight_size.flatten(1)
    variance = (gradient.square() * sizes[:, None].square()).sum((0, 2))
    variance = variance + (a[0].sum(-1).square() * layer.bias_size[:, None].square()).sum(0)
    return chain, x, a, torch.stack([mean, sigma**2 * variance])


def test_a_linear_stage_is_exact() -> None:
    sigma = 0.2
    chain, x, a, exact = always_on(sigma)
    passed, _, _ = passed_stages(chain, x[0], sigma, (1e-4, 1e-4))
    rows = LinearForms(a, torch.zeros(1, 2, dtype=torch.int64), (3, 3))
    rate = torch.full((1, 4), 0.7, dtype=torch.float64)
    found = lower_bounds(passed, rows, torch.full((1, 1, 4), 0.3, dtype=torch.float64), Rate(rate))[0, 0]
    mean, variance = exact
    expected = mean - 0.35 * (variance + 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert bool((found <= expected).all())
    z = 1.959963984540054
    found = lower_bounds(passed, rows, torch.zeros(1, 1, 4, dtype=torch.float64), Quantile(0.05))[0, 0]
    torch.testing.assert_close(found, mean - z * variance.sqrt(), rtol=1e-6, atol=1e-6)
    assert bool((found <= mean - z * variance.sqrt()).all())


def test_parts_of_many_rows_are_those_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x, _ = chains.samples("two", 1)
    chain = convolutions(chain)
    passed, _, _ = passed_stages(chain, x[0], 0.05, (1e-4, 1e-4))
    rows = rows_on(chains.forward(chain, x)[-1][0], 7)
    own, rate = torch.rand(2, 1, 7, dtype=torch.float64), torch.rand(1, 7, dtype=torch.float64) + 1.0
    whole = lower_bounds(passed, rows, own, Rate(rate))
    monkeypatch.setattr("thetabox.verify.yields.sobolev.walk.NUMBERS", 500)
    torch.testing.assert_close(lower_bounds(passed, rows, own, Rate(rate)), whole, rtol=1e-9, atol=1e-9)


def test_the_rule_of_a_probability_in_literals() -> None:
    rule = Quantile(0.01)
    assert rule.z == pytest.approx(2.5758293, abs=1e-6)
    assert rule.q == pytest.approx(-math.log(0.01), rel=1e-6)
    one = torch.ones(1, dtype=torch.float64)
    assert float(rule.fixed(4.0 * one)) == pytest.approx(2 * 2.5758293, abs=1e-5)
    assert float(rule.at(one, 2.0 * one)) == pytest.approx(1.0 - math.log(0.01) / 2.0, rel=1e-6)


class _Linear:
    """A stage in front that answers the sum of a row's coefficients, less its variance."""

    def values(self, before: object, rows: LinearForms, own: Tensor, rule: object, *, quick: bool = False) -> Tensor:
        return rows.coefficients.sum((1, 3)) - own


@pytest.mark.parametrize("quick", [False, True])
def test_each_row_takes_constant_variance_and_form_of_one_function(quick: bool) -> None:
    g = torch.Generator().manual_seed(0)
    count, owns = 40, 2

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    origin = torch.zeros(1, 2, dtype=torch.int64)
    sides = [
        (random(count), random(owns, 1, count).abs(), LinearForms(random(1, 3, count, 4), origin, (2, 2)))
        for _ in range(4)
    ]
    found = _through([_Linear()], sides, Rate(torch.ones(1, count, dtype=torch.float64)), quick=quick)
    each = torch.stack([total + form.coefficients.sum((1, 3)) - own for total, own, form in sides])
    best = torch.zeros(count, dtype=torch.int64) if quick else each.sum((1, 2)).argmax(0)
    torch.testing.assert_close(found, each[best, :, :, torch.arange(count)].permute(1, 2, 0), rtol=1e-12, atol=1e-12)
