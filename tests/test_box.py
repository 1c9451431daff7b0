"""The box: patterns that name what is there, wrappers seen through, and something that moves."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.measure import landscape, pcm, quantisation, random_attack, shared_attack
from thetabox.models import LSNN

X, Y = torch.rand(4, 6), torch.tensor([0, 1, 2, 0])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def refused(call: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(tb.InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


PUBLIC: dict[str, Callable[..., Any]] = {
    "certify": lambda m, box: tb.certify(m, X, Y, 0.1, box=box),
    "certified_radius": lambda m, box: tb.certified_radius(m, X, Y, box=box),
    "logit_bounds": lambda m, box: tb.logit_bounds(m, X, 0.1, box=box),
    "attack": lambda m, box: tb.attack(m, X, Y, 0.1, steps=2, box=box),
    "shared attack": lambda m, box: shared_attack(m, X, Y, 0.1, steps=2, box=box),
    "random attack": lambda m, box: random_attack(m, X, Y, 0.1, draws=2, box=box),
    "mismatch": lambda m, box: tb.mismatch(m, X, Y, 0.1, samples=2, box=box),
    "landscape": lambda m, box: landscape(m, X, Y, box=box),
}


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ({"include": "0.weight,2.wieght"}, ("'2.wieght'", "2.weight")),
        ({"exclude": "2.wieght"}, ("'2.wieght'", "2.weight")),
        ({"scale": {"2.wieght": 0.0}}, ("'2.wieght'", "2.weight")),
        ({"scale": {"0.bias,2.bias": 2.0}}, ("'0.bias,2.bias'",)),
        ({"include": "conv*"}, ("conv*", "0.weight")),
        ({"include": "?,0.weight"}, ("'?'", "0.weight")),
        ({"include": "0.weight,?*?????????"}, ("matches no",)),
        ({"exclude": "?"}, ("'?'", "0.weight")),
    ],
)
def test_patterns_that_match_nothing(name: str, patterns: dict[str, Any], said: tuple[str, ...]) -> None:
    refused(lambda: PUBLIC[name](network(), tb.Box(**patterns)), *said)


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize(
    "box",
    [
        {"include": ""},
        {"scale": {"*": 0}},
        {"exclude": "*"},
        {"include": "0.*", "exclude": "*.weight,*.bias"},
        {"include": " , "},
    ],
    ids=str,
)
def test_an_empty_box(name: str, box: dict[str, Any]) -> None:
    refused(lambda: PUBLIC[name](network(), tb.Box(**box)), "no parameter is in the box")


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", PUBLIC)
def test_a_box_without_extent(name: str) -> None:
    model = network()
    with torch.no_grad():
        model[0].bias.zero_()
        model[2].bias.fill_(0.5)
    refused(lambda: PUBLIC[name](model, tb.Box(include="0.bias")), "nothing moves")
    refused(lambda: PUBLIC[name](model, tb.Box(kind="range", include="*.bias")), "nothing moves")
    PUBLIC[name](model, tb.Box(include="*.bias"))
    PUBLIC[name](model, tb.Box(kind="absolute", include="0.bias"))


def test_a_model_without_parameters() -> None:
    refused(lambda: tb.certify(nn.Sequential(nn.Flatten(), nn.ReLU()), X, Y, 0.1), "no parameter is in the box")
    refused(lambda: tb.certify(nn.Sequential(nn.ReLU()), X, Y, 0.1, box=tb.Box(include="weight")), "no tensors")


def test_devices_and_quantisation_by_pattern() -> None:
    refused(lambda: pcm(network(), X, Y, 25.0, samples=1, box=tb.Box(exclude="3.*")), "'3.*'")
    refused(lambda: quantisation(network(), X, Y, [4], box=tb.Box(exclude="3.*")), "'3.*'")


def test_small_numbers_move_though_they_are_flushed() -> None:
    layer = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.fill_(5e-324)
    torch.set_flush_denormal(True)
    try:
        tb.Box().check(layer)
    finally:
        torch.set_flush_denormal(False)
    layer = nn.Linear(1, 2).double()
    with torch.no_grad():
        layer.weight.fill_(-0.0)
        layer.bias.fill_(1.0)
    refused(lambda: tb.Box(include="weight").check(layer), "nothing moves")


def test_a_network_of_zeros_is_certified() -> None:
    """Nothing of it can move, whatever the box: that is no mistake of the box."""
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([-0.0, 0.0]))
    margin = tb.certify(layer, torch.ones(1, 2), [0], 0.5).margin
    assert -1e-290 < float(margin) <= 0.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"include": ["0.weight"]}, "include"),
        ({"include": None}, "include"),
        ({"exclude": None}, "exclude"),
        ({"exclude": ("0.weight",)}, "exclude"),
        ({"exclude": b"0.weight"}, "exclude"),
        ({"scale": 2.0}, "scale"),
        ({"scale": [("0.*", 2.0)]}, "scale"),
        ({"scale": None}, "scale"),
        ({"scale": {"0.*": "wide"}}, "'0.*'"),
        ({"scale": {"0.*": None}}, "'0.*'"),
        ({"scale": {"0.*": True}}, "'0.*'"),
        ({"scale": {"0.*": 1j}}, "'0.*'"),
        ({"scale": {"0.*": float("nan")}}, "finite"),
        ({"scale": {"0.*": float("inf")}}, "finite"),
        ({"scale": {"0.*": -1}}, "at least 0"),
        ({"scale": {"0.*": 10**400}}, "finite"),
        ({"scale": {"0.*": -(10**5000)}}, "finite"),
        ({"scale": {"0.*": Fraction(10**400, 3)}}, "finite"),
        ({"scale": {0: 1.0}}, "patterns"),
        ({"kind": None}, "kind"),
        ({"kind": True}, "kind"),
        ({"kind": ["relative"]}, "kind"),
        ({"fold": "no"}, "fold"),
        ({"fold": 1}, "fold"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else v,
)
def test_wrong_types(given: dict[str, Any], said: str) -> None:
    refused(lambda: tb.Box(**given), said)


def test_numbers_of_numpy_as_factors(tmp_path: Any) -> None:
    scale = {"0.*": np.float32(2.0), "2.*": np.int64(3)}
    box = tb.Box(scale=scale)
    scale["0.*"] = 7.0
    assert box.factors(network())["0.weight"] == 2.0
    tb.certify(network(), X, Y, 0.1, box=box).save(tmp_path / "out")
    assert tb.Certificate.load(tmp_path / "out").box == box


class Outer(nn.Module):
    """A user's own wrapper around a part that is one already."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda m: torch.compile(m, backend="eager"),
    "data parallel": nn.DataParallel,
    "both": lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "own": Outer,
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize(
    "box",
    [{"exclude": "2.*"}, {"include": "0.weight"}, {"scale": {"0.bias": 0.0, "2.*": 3.0}}, {"exclude": "*.bias"}],
    ids=str,
)
def test_wrappers_are_seen_through(name: str, box: dict[str, Any]) -> None:
    model, chosen = network(), tb.Box(**box)
    around = WRAPPERS[name](model)
    found, expected = chosen.factors(around), chosen.factors(model)
    own = dict(around.named_parameters())
    plain = {n: p.shape for n, p in model.named_parameters()}
    assert [(own[n].shape, f) for n, f in found.items()] == [(plain[n], f) for n, f in expected.items()]


def test_a_wrapped_part_and_a_full_name() -> None:
    model = nn.Sequential(nn.Linear(6, 5), Outer(nn.DataParallel(nn.Linear(5, 3))))
    for pattern in ("1.weight", "1.module.module.weight", "1.module.module.*t"):
        assert list(tb.Box(include=pattern).factors(model)) == ["1.module.module.weight"]
    two = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    refused(lambda: tb.Box(include="weight").factors(two), "module.weight")


@pytest.mark.slow
def test_wrapped_certificates_are_those_of_the_network() -> None:
    model, box = network(), tb.Box(exclude="2.*")
    expected = tb.certify(model, X, Y, [0.0, 0.3], box=box)
    for name in ("compiled", "data parallel", "own"):
        found = tb.certify(WRAPPERS[name](model), X, Y, [0.0, 0.3], box=box)
        assert torch.equal(found.margin, expected.margin)
        assert found.model_info["perturbed"] == expected.model_info["perturbed"] == 112


def test_neuron_parameters_only_when_they_are_named_wrapped_or_not() -> None:
    model = LSNN(3, 4, 2)
    for around in (model, Outer(model)):
        assert {n.rsplit(".")[-1] for n in tb.Box().factors(around)} == {"W_in", "W_rec", "W_out", "b_out"}
        assert any(n.endswith("tau") for n in tb.Box(include="*,tau").factors(around))
    tb.Box(exclude="threshold").check(model)


def test_what_is_left_out_may_be_whole_numbers() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    assert len(tb.Box(exclude="1.num_batches_tracked").factors(model)) == 4
    refused(lambda: tb.Box(include="1.num_batches_tracked").factors(model), "num_batches_tracked")
    assert "1.running_var" in tb.Box(include="*,1.running_var").factors(model)


def test_patterns_of_a_folded_network() -> None:
    """Folding makes a bias where there was none, and takes batch norm away: patterns are those of what is certified."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).eval()
    x = torch.rand(4, 1, 4, 4)
    found = tb.certify(model, x, Y, 0.01, box=tb.Box(fold=True, include="0.bias,3.*"))
    assert found.model_info["perturbed"] == 2 + 27
    refused(lambda: tb.certify(model, x, Y, 0.01, box=tb.Box(fold=True, exclude="1.*")), "'1.*'")
