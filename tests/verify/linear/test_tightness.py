"""What the linear domain must not lose: exact cases, auto_LiRPA's CROWN-IBP, intervals; and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from tests.verify import needs
from tests.verify.linear.networks import MAKERS, SWEEP, answers, descended, linear, margins, network, spread, vertices
from thetabox.errors import InputError
from thetabox.verify.arguments import settings
from thetabox.verify.interval.domain import PlainIntervals
from thetabox.verify.linear import Linear
from thetabox.verify.linear.domain import INTERMEDIATE, margin_rows
from thetabox.verify.lirpa.bounds import lirpa_bounds
from thetabox.verify.problem import Problem
from thetabox.verify.search import bounds

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.mark.thin(quick=5)
@needs.auto_lirpa
@pytest.mark.parametrize("epsilon", [0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.5])
@pytest.mark.parametrize("sizes", [(6, 9, 3), (6, 9, 8, 3), (20, 32, 32, 16, 10)])
def test_no_looser_than_crown_ibp(sizes: tuple[int, ...], epsilon: float) -> None:
    torch.manual_seed(0)
    model = tb.models.MLP(sizes).double()
    x = torch.randn(8, sizes[0], dtype=torch.float64)
    with torch.no_grad():
        y = model(x).argmax(1)
    theirs = lirpa_bounds(model, x, epsilon, "CROWN-IBP", rows=margin_rows(y, sizes[-1]))[0].amin(1)
    ours = linear(model, x, "interval").margins(slice(None), spread([epsilon], 8), y)[0]
    assert (ours >= theirs - 1e-4 * theirs.abs().clamp(min=1)).all()
    if len(sizes) == 3:
        # No pre-activation is looser than another's here, and slopes are chosen alike.
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_exact_for_one_hidden_layer_of_certain_signs() -> None:
    """f = θ₂ relu(θ₁x + b): every coefficient keeps its sign, so a vertex reaches the bound."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].bias.fill_(4.0)
    x, y = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    noise = vertices(model, [n for n, _ in model.named_parameters()])
    for epsilon in (1e-3, 0.1):
        truth = margins(answers(model, x, noise, epsilon), y).amin(0)
        found = linear(model, x, "interval").margins(slice(None), spread([epsilon], 4), y)[0]
        assert torch.allclose(found, truth, atol=1e-9)


def test_shared_kernels_are_one_number() -> None:
    """Positions of both signs: the noise of a kernel that all of them share cancels, and a vertex reaches the bound."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.Flatten(), nn.Linear(8, 2, bias=False)).double()
    x, y = torch.randn(3, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 0])
    box = tb.Box(include="0.weight")
    noise = vertices(model, ["0.weight"])
    truth = margins(answers(model, x, noise, 0.1, box), y).amin(0)
    found = linear(model, x, "interval", box).margins(slice(None), spread([0.1], 3), y)[0]
    assert torch.allclose(found, truth, atol=1e-9)
    # Place by place the same noise costs more.
    plain = PlainIntervals(Problem(model, settings("interval", box, "real", "float64", "cpu"), x))
    apart = bounds.margins(plain, slice(None), spread([0.1], 3), y)[0]
    assert (found > apart + 0.01).all()


def test_a_shared_scale_is_one_number() -> None:
    """Batch norm's weight multiplies every position alike."""
    torch.manual_seed(3)
    model = (
        nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).double().eval()
    )
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].weight.normal_()
    x, y = torch.randn(3, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 0])
    for include in ("1.weight", "1.bias", "1.weight,1.bias"):
        box = tb.Box(include=include)
        truth = margins(answers(model, x, vertices(model, include.split(",")), 0.1, box), y).amin(0)
        found = linear(model, x, "interval", box).margins(slice(None), spread([0.1], 3), y)[0]
        assert torch.allclose(found, truth, atol=1e-9)


def test_differences_in_a_window_drop_what_is_common() -> None:
    """By hand: two places of one window, z = 2w and w, w = 1 ± 0.4; the maximum is 2w, at least 1.2, at most 2.8."""
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(1, 2, bias=False)
    )
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[3].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.tensor([[[[2.0, 1.0]]]])
    found = linear(model, x, "interval", tb.Box(include="0.weight")).logits(slice(None), spread([0.4], 1))
    assert torch.allclose(found.lower, torch.tensor([[1.2, -2.8]], dtype=torch.float64), atol=1e-6)
    assert torch.allclose(found.upper, torch.tensor([[2.8, -1.2]], dtype=torch.float64), atol=1e-6)


def test_margin_in_the_head() -> None:
    """h = 2 known, weights 3 and 1, no bias: 6 - 2 = 4, less ε (6 + 2)."""
    model = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0], [1.0]]))
    x, y = torch.tensor([[2.0]]), torch.tensor([0])
    found = linear(model, x).margins(slice(None), spread([0.0, 0.25, 0.5, 1.0, 1.5], 1), y)
    assert found.flatten().tolist() == pytest.approx([4.0, 2.0, 0.0, -4.0, -8.0], abs=1e-12)


@pytest.mark.thin(quick=5)
@pytest.mark.parametrize("name", MAKERS)
def test_backward_no_looser_than_interval_and_logits_no_looser_than_intervals(name: str) -> None:
    model, x, y = network(name)
    epsilon = spread(SWEEP, len(x))
    a, b = (linear(model, x, g) for g in INTERMEDIATE)
    low, high = a.margins(slice(None), epsilon, y), b.margins(slice(None), epsilon, y)
    assert (high >= low).all()
    plain = tb.logit_bounds(model, x, SWEEP, domain="interval")
    for domain in (a, b):
        found = domain.logits(slice(None), epsilon)
        room = 1e-12 * plain.upper.abs().flatten(0, 1)
        assert (found.lower >= plain.lower.flatten(0, 1) - room).all()
        assert (found.upper <= plain.upper.flatten(0, 1) + room).all()


@pytest.mark.parametrize("name", ["no bend", "scaled", "dense"])
def test_margins_fall_with_epsilon(name: str) -> None:
    """Where no slope is chosen anew; with the slopes of CROWN they may rise a little in passing."""
    model, x, y = network(name)
    sweep = [0.0, 1e-6, 1e-4, 1e-3, 2e-3, 5e-3, 1e-2]
    found = linear(model, x, "interval").margins(slice(None), spread(sweep, len(x)), y)
    assert (found.diff(dim=0) <= 1e-12).all()


@pytest.mark.parametrize("intermediate", INTERMEDIATE)
def test_rows_together_equal_rows_alone(intermediate: str) -> None:
    """Any ε of any sample, in one batch or by itself, in any chunks."""
    for name in ("pooled", "residual", "scaled", "deep"):
        model, x, y = network(name)
        epsilon = torch.tensor([[1e-3, 0.05, 0.1], [0.02, 1e-3, 0.4]], dtype=torch.float64)
        domain = linear(model, x, intermediate)
        together = domain.margins(slice(None), epsilon, y)
        for e in range(2):
            for n in range(3):
                alone = domain.margins(torch.tensor([n]), epsilon[e : e + 1, n : n + 1], y)
                assert torch.allclose(alone[0, 0], together[e, n], rtol=1e-9, atol=1e-9)


def test_small_chunks_answer_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pooled", "strided", "dense"):
        model, x, y = network(name)
        epsilon = spread([1e-3, 0.05], len(x))
        expected = linear(model, x).margins(slice(None), epsilon, y)
        with monkeypatch.context() as small:
            small.setattr("thetabox.verify.linear.own_rows.WALK_NUMBERS", 64)
            small.setattr("thetabox.verify.linear.rules.convolution.BLOCK", 64)
            small.setattr("thetabox.verify.linear.domain.WALK_NUMBERS", 64)
            assert torch.allclose(linear(model, x).margins(slice(None), epsilon, y), expected, rtol=1e-9, atol=1e-9)


def test_a_factor_of_zero_moves_nothing() -> None:
    model, x, y = network("pooled")
    with torch.no_grad():
        truth = margins(model(x), y)
    none = linear(model, x, box=tb.Box(include="*", scale={"*": 0.0}))
    assert torch.allclose(none.margins(slice(None), spread([0.5], 3), y)[0], truth, atol=1e-9)
    part = linear(model, x, box=tb.Box(exclude="*weight")).margins(slice(None), spread([0.1], 3), y)[0]
    whole = linear(model, x).margins(slice(None), spread([0.1], 3), y)[0]
    assert (part > whole).all()


@pytest.mark.parametrize("name", MAKERS)
def test_losses_add_up(name: str) -> None:
    """What each operation loses, together with the proven margin, is the margin of the unperturbed network."""
    model, x, y = network(name)
    with torch.no_grad():
        truth = margins(model(x), y)
    for intermediate in INTERMEDIATE:
        domain = linear(model, x, intermediate)
        names, lost = domain.losses(slice(None), spread([0.0, 0.05], 3), y)
        assert lost.shape == (2, len(names))
        assert (lost >= -1e-7).all()
        assert lost[0].sum() < 1e-6
        samples = domain.samples(
            x, torch.full((3,), 0.05, dtype=torch.float64), domain.tighten if intermediate == "backward" else None
        )
        proven = domain.walked(samples, margin_rows(y, 3)).amin(1)
        # The weakest row need not be that of the least margin, so only rows of their own add up.
        assert lost[1].sum() >= (truth - proven).mean() - 1e-6


@pytest.mark.parametrize("name", MAKERS)
def test_the_profile_shares_the_losses_out(name: str) -> None:
    model, x, y = network(name)
    for intermediate in INTERMEDIATE:
        domain = linear(model, x, intermediate)
        profile = domain.profile(slice(0, 2), spread([0.0, 0.05], 2), y)
        assert profile is not None
        assert profile.kind == "losses"
        assert len(set(profile.names)) == len(profile.names)
        names, lost = linear(model, x, "interval").losses(slice(0, 2), spread([0.0, 0.05], 2), y)
        whole = dict(zip(names, (lost[1] / lost[1].sum()).tolist(), strict=True))
        for layer, share in zip(profile.names, profile.share[1].tolist(), strict=True):
            assert share == pytest.approx(whole.pop(layer), abs=1e-6)
        assert all(share < 0.005 for share in whole.values())
        assert not profile.share[0].any()
    assert domain.profile(slice(0, 2), spread([0.0], 2), y) is None


def test_a_trained_network_is_never_both_verified_and_flipped() -> None:
    data = tb.data.load("digits", "train")
    torch.manual_seed(0)
    model = tb.models.ConvNet(input=[1, 8, 8], channels=[6, 8], kernel=3, hidden=[16])
    x, y = torch.as_tensor(data.x).float(), torch.as_tensor(data.y).long()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(150):
        part = torch.arange(step * 64, step * 64 + 64) % len(x)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[part]), y[part]).backward()
        optimiser.step()
    test = tb.data.load("digits", "test")
    x, y = torch.as_tensor(test.x)[:40], torch.as_tensor(test.y)[:40]
    sweep = [1e-3, 5e-3, 1e-2, 2e-2, 5e-2]
    attack = tb.attack(model, x, y, epsilon=sweep, steps=10, restarts=1)
    found = linear(model, x).margins(slice(None), spread(sweep, 40), y) > 0
    assert not (found & ~attack.correct).any()
    plain = tb.certify(model, x, y, sweep, domain="interval").verified
    assert found[0].sum() > 30
    assert (found >= plain).all()
    assert found.sum() > plain.sum() + 20


def test_refusals() -> None:
    recurrent = tb.models.LSNN(3, 4, 2)
    with pytest.raises(InputError, match="'histories' or 'interval'"):
        linear(recurrent, torch.zeros(1, 4, 3))
    model, x, _ = network("dense")
    with pytest.raises(InputError, match="intermediate"):
        linear(model, x, "c")
    with pytest.raises(InputError, match="no option 'slope'"):
        Linear(Problem(model, settings("interval", None, "real", "float64", "cpu"), x), {"slope": 1})


def test_descent_reaches_close_to_the_bound() -> None:
    """The oracle of the containment tests is no straw man."""
    model, x, y = network("deep")
    truth = margins(answers(model, x, descended(model, x, y, 1e-3), 1e-3), y).amin(0)
    with torch.no_grad():
        clean = margins(model(x), y)
    found = linear(model, x).margins(slice(None), spread([1e-3], 3), y)[0]
    assert ((truth - found) <= 0.3 * (clean - found)).all()


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    before = {n: p.clone() for n, p in model.named_parameters()}
    x = torch.randn(3, 2)
    labels: Tensor = torch.zeros(3, dtype=torch.long)
    linear(model, x).margins(slice(None), spread([0.1], 3), labels)
    assert model.training
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.named_parameters())


def test_the_former_name_of_the_option_is_still_taken() -> None:
    model, x, y = network("deep")
    for former, intermediate in (("a", "interval"), ("b", "backward")):
        expected = tb.certify(model, x, y, 0.05, domain="linear", options={"intermediate": intermediate})
        with pytest.warns(FutureWarning, match="is called 'intermediate' now") as told:
            found = tb.certify(model, x, y, 0.05, domain="linear", options={"grade": former})
        assert len(told) == 1
        assert torch.equal(found.margin, expected.margin)
        assert found.options == expected.options
    with pytest.raises(InputError, match="give 'intermediate' alone"):
        tb.certify(model, x, y, 0.05, domain="linear", options={"grade": "a", "intermediate": "interval"})
    for strange in ("c", ["a"]):
        with pytest.warns(FutureWarning), pytest.raises(InputError, match="intermediate"):
            tb.certify(model, x, y, 0.05, domain="linear", options={"grade": strange})
