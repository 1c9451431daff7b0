"""What certify_yield and proven_sigma answer: closed forms, and what must hold of every answer."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

import thetabox as tb
from tests.verify.yields.networks import network
from thetabox.noise import Noise
from thetabox.verify.effort import Deadline
from thetabox.verify.yields.certify import certify_yield
from thetabox.verify.yields.chips import accuracy_of_chips
from thetabox.verify.yields.largest import proven_sigma

pytestmark = pytest.mark.usefixtures("traced_once")


def two_classes(bias: bool = True) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Linear(5, 2, bias=bias).double(), torch.randn(12, 5, dtype=torch.float64)
    return model.eval(), x, model(x).argmax(1)


def exact_failure(model: nn.Linear, x: Tensor, y: Tensor, sigma: float, sizes: list[Tensor] | None = None) -> Tensor:
    """Of one linear layer and two classes: the margin is Gaussian."""
    weight, bias = model.weight.detach(), model.bias.detach()
    size, size_bias = sizes or [weight.abs(), bias.abs()]
    margin = (model(x).gather(1, y[:, None]) - model(x).gather(1, 1 - y[:, None]))[:, 0].detach()
    spread = sigma * (x.square() @ size.square().sum(0) + size_bias.square().sum()).sqrt()
    return torch.as_tensor(norm.sf(margin / spread))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.5])
def test_one_linear_layer_is_proven_to_the_last_digit(sigma: float) -> None:
    model, x, y = two_classes()
    found = certify_yield(model, x, y, sigma).delta[0]
    truth = exact_failure(model, x, y, sigma)
    assert bool((found >= truth).all())
    torch.testing.assert_close(found, truth.clamp(min=1e-290), rtol=1e-5, atol=1e-290)


def test_the_largest_sigma_of_one_linear_layer() -> None:
    model, x, y = two_classes()
    found = proven_sigma(model, x, y, 0.01, rtol=1e-4, max_sigma=5.0)
    truth = exact_failure(model, x, y, 1.0)
    exact = torch.as_tensor(norm.isf(truth) / norm.isf(0.01)).clamp(max=5.0)
    assert bool((found <= exact * (1 + 1e-9)).all())
    torch.testing.assert_close(found, exact, rtol=2e-4, atol=0.0)


def test_sizes_are_those_of_the_box_and_of_the_noise() -> None:
    model, x, y = two_classes()
    weight, bias = model.weight.detach(), model.bias.detach()
    box, noise = tb.Box("absolute", scale={"bias": 0.5}), Noise(scale={"weight": 2.0})
    found = certify_yield(model, x, y, 0.1, box=box, noise=noise).delta[0]
    truth = exact_failure(model, x, y, 0.1, [torch.full_like(weight, 2.0), torch.full_like(bias, 0.5)])
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-290)
    found = certify_yield(model, x, y, 0.1, box=tb.Box("range", exclude="bias")).delta[0]
    span = weight.max() - weight.min()
    truth = exact_failure(model, x, y, 0.1, [torch.full_like(weight, float(span)), torch.zeros_like(bias)])
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-290)


def test_known_drift_shifts_the_centre_and_leaves_the_sizes() -> None:
    model, x, y = two_classes()
    drifted = nn.Linear(5, 2).double()
    with torch.no_grad():
        drifted.weight.copy_(model.weight * 0.8)
        drifted.bias.copy_(model.bias)
    y = drifted(x).argmax(1)
    right = model(x).argmax(1) == y
    found = certify_yield(model, x, y, 0.1, noise=Noise(drift={"weight": -0.2})).delta[0]
    truth = exact_failure(drifted, x, y, 0.1, [model.weight.detach().abs(), model.bias.detach().abs()])
    torch.testing.assert_close(found[right], truth[right], rtol=1e-5, atol=1e-290)


def test_unknown_drift_is_the_worst_of_its_box() -> None:
    model, x, y = two_classes()
    bound = 0.05
    found = certify_yield(model, x, y, 0.05, noise=Noise(drift_bound={"*": bound})).delta[0]
    sign = 1.0 - 2.0 * (torch.arange(2)[None] == y[:, None]).double()
    worst = torch.zeros(len(x), dtype=torch.float64)
    for n in range(len(x)):
        moved = nn.Linear(5, 2).double()
        with torch.no_grad():
            direction = sign[n][:, None] * x[n].sign()[None]
            moved.weight.copy_(model.weight + bound * model.weight.abs() * direction)
            moved.bias.copy_(model.bias + bound * model.bias.abs() * sign[n])
        sizes = [model.weight.detach().abs(), model.bias.detach().abs()]
        worst[n] = exact_failure(moved, x[n : n + 1], y[n : n + 1], 0.05, sizes)[0]
    open_ = worst < 0.5
    torch.testing.assert_close(found[open_], worst[open_], rtol=1e-4, atol=1e-280)
    assert bool((found[~open_] == 1.0).all())


@pytest.mark.parametrize("correlated", [{"chip": 1.0}, {"layer": 0.5}, {"chip": 0.5, "layer": 0.2}])
def test_common_factors_cost_and_are_not_contradicted(correlated: dict[str, float]) -> None:
    model, x, y = two_classes()
    sigma = 0.05
    alone = certify_yield(model, x, y, sigma).delta[0]
    found = certify_yield(model, x, y, sigma, noise=Noise(correlated=correlated)).delta[0]
    assert bool((found >= alone).all())
    assert bool((found < 0.01).any())
    stream, draws = torch.Generator().manual_seed(0), 20_000
    own = torch.randn(draws, 2, 6, generator=stream, dtype=torch.float64)
    chip = torch.randn(draws, 1, 1, generator=stream, dtype=torch.float64) * correlated.get("chip", 0.0)
    layers = torch.randn(draws, 1, 2, generator=stream, dtype=torch.float64) * correlated.get("layer", 0.0)
    layers = torch.cat([layers[..., :1].expand(-1, 1, 5), layers[..., 1:]], 2)
    theta = torch.cat([model.weight, model.bias[:, None]], 1).detach()
    drawn = theta + sigma * (theta.abs() * own + theta * (chip + layers))
    logits = torch.einsum("dki,ni->dnk", drawn, torch.cat([x, torch.ones(len(x), 1).double()], 1))
    wrong = (logits.argmax(2) != y).double().mean(0)
    assert bool((wrong <= found + 5.0 * (found * (1 - found) / draws).sqrt() + 1e-3).all())


@pytest.mark.slow
def test_answers_have_the_shapes_and_the_order_of_the_contract() -> None:
    model, x = network("convolutions")
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    found = certify_yield(model, x, y, [0.0, 0.01, 0.05, 0.2], 0.05)
    assert found.proven.shape == found.delta.shape == (4, 10)
    assert found.proven.dtype == torch.bool
    assert found.delta.dtype == torch.float64
    for figure in (found.proven_share, found.mean_accuracy, found.chips(), found.chips(0.5)):
        assert figure.shape == (4,)
        assert bool((figure.diff() <= 0).all())
    assert bool((found.delta.diff(dim=0) >= -1e-12).all())
    assert bool((found.delta[:, 0] == 1.0).all()), "a sample that is wrong without errors"
    assert float(found.proven_share[0]) == 0.9
    assert float(found.mean_accuracy[0]) == pytest.approx(0.9, abs=1e-12)
    assert bool((found.chips(0.999) <= found.chips(0.9)).all())
    assert found.clean_accuracy == 0.9
    assert found.proven_by[0][0] == ""
    assert set(found.proven_by[1][1:]) <= {"martingale", "log-sobolev"}


@pytest.mark.slow
def test_more_is_proven_of_less_certain_claims() -> None:
    model, x = network("max-pools")
    y = model(x).argmax(1)
    shares = [float(certify_yield(model, x, y, 0.3, delta).proven_share[0]) for delta in (1e-4, 0.01, 0.1, 0.5)]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


@pytest.mark.parametrize("delta", [5e-324, 1e-300])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_where_there_is_noise_no_failure_is_impossible(hidden: tuple[int, ...], delta: float) -> None:
    torch.manual_seed(0)
    sizes = (4, *hidden, 3)
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    model, x = nn.Sequential(*layers).double().eval(), torch.randn(5, 4, dtype=torch.float64)
    found = certify_yield(model, x, model(x).argmax(1), [1e-9, 0.0], delta)
    assert bool((found.delta[0] > 0.0).all())
    assert bool((found.proven[0] == (found.delta[0] <= delta)).all())
    assert bool((found.delta[1] < 1e-290).all())


def test_the_callers_model_and_data_stay_as_they_were() -> None:
    model, x = network("residual")
    model = model.train().float()
    x = x.float()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    certify_yield(model, x, torch.zeros(10, dtype=torch.long), 0.01)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_time_limit_keeps_what_was_proven() -> None:
    model, x = network("residual")
    found = certify_yield(model, x, model(x).argmax(1), [0.01, 0.02], timeout=0.0)
    assert not found.finished
    assert bool((found.delta == 1.0).all())
    assert found.to_json()["finished"] is False


@pytest.mark.slow
def test_the_ledger_spends_no_more_than_the_claim() -> None:
    model, x = network("four layers")
    found = certify_yield(model, x, model(x).argmax(1), [0.02, 0.05])
    for proven, failure, ledger in zip(found.proven, found.delta, found.ledger, strict=True):
        ((name, groups),) = ledger.items()
        assert name == "martingale"
        assert all(entry["events"] > 0 for entry in groups.values())
        total = sum(entry["probability"] for entry in groups.values())
        assert total <= 0.01
        assert total == pytest.approx(float(failure[proven].max()), rel=1e-6)


def test_progress_ends_at_all_samples() -> None:
    model, x = network("two layers")
    seen: list[tuple[int, int]] = []
    certify_yield(model, x, model(x).argmax(1), [0.01, 0.02], progress=lambda *n: seen.append(n))
    assert seen[-1] == (20, 20)
    assert [n for n, _ in seen] == sorted(n for n, _ in seen)


@pytest.mark.parametrize(
    ("failure", "share", "accuracy"),
    [
        ([0.0, 0.0, 0.0, 0.0], 0.99, 1.0),
        ([0.002, 0.002, 0.002, 0.002], 0.99, 1.0),  # 0.008 <= 0.01
        ([0.003, 0.003, 0.003, 0.003], 0.99, 0.75),  # three of them: 0.009
        ([0.01, 0.01, 1.0, 1.0], 0.99, 0.25),  # two with one that may fail, or one with none
        ([0.005, 0.005, 0.005, 1.0], 0.99, 0.5),
        ([1.0, 1.0, 1.0, 1.0], 0.99, 0.0),
        ([0.4, 0.4, 0.4, 0.4], 0.5, 0.25),
    ],
)
def test_accuracy_of_most_chips_by_hand(failure: list[float], share: float, accuracy: float) -> None:
    assert float(accuracy_of_chips(torch.tensor([failure], dtype=torch.float64), share)[0]) == accuracy


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan"), "0.9", True])
def test_a_share_of_chips_lies_between_none_and_all(share: object) -> None:
    with pytest.raises(tb.InputError, match="share"):
        accuracy_of_chips(torch.zeros(1, 3, dtype=torch.float64), share)  # type: ignore[arg-type]  # on purpose


@pytest.mark.slow
def test_images_that_a_network_flattens_are_numbers_to_every_proof() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)).double().eval()
    x = torch.randn(4, 2, 2, 3, dtype=torch.float64)
    y = model(x).argmax(1)
    flat = model[1:]
    for method in ("martingale", "entropic", "log-sobolev"):
        found = certify_yield(model, x, y, 0.05, method=method).delta
        assert bool((found < 1.0).any())
        assert torch.equal(found, certify_yield(flat, x.flatten(1), y, 0.05, method=method).delta)


@pytest.mark.slow
def test_a_part_whose_search_was_cut_is_searched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4)
    y = model(x).argmax(1)
    whole = certify_yield(model, x, y, [0.02, 0.05])
    with monkeypatch.context() as patched:
        asked = iter(range(1000))
        # It passes between two runs of the first proof.
        patched.setattr(Deadline, "passed", property(lambda self: next(asked) >= 1))
        cut = certify_yield(model, x, y, [0.02, 0.05], timeout=1000.0, resume=tmp_path / "kept")
    assert not cut.finished
    assert bool((cut.delta[0] < 1.0).any())
    assert bool((cut.delta >= whole.delta).all())
    again = certify_yield(model, x, y, [0.02, 0.05], resume=tmp_path / "kept")
    assert again.to_json() == whole.to_json()
    assert not (tmp_path / "kept").exists()
