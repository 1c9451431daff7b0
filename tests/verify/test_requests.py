"""Bad input is one clear line; numpy and torch inputs alike; precision of the machine's settings; boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.verify.kernels import sound_kernels
from thetabox.verify.problem import tensor_hash

Y = torch.tensor([0, 2, 1])
X = torch.linspace(-1, 1, 12).view(3, 4)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


BAD: dict[str, dict[str, Any]] = {
    "negative epsilon": {"epsilon": -1e-3},
    "NaN epsilon": {"epsilon": [0.0, float("nan")]},
    "infinite epsilon": {"epsilon": float("inf")},
    "no epsilon": {"epsilon": []},
    "text epsilon": {"epsilon": "many"},
    "nested epsilon": {"epsilon": [[0.1], [0.2]]},
    "wrong shape": {"x": X[:, :3]},
    "one dimension": {"x": X[0]},
    "no samples": {"x": X[:0], "y": Y[:0]},
    "NaN input": {"x": torch.full((3, 4), float("nan"))},
    "infinite input": {"x": torch.full((3, 4), float("inf"))},
    "complex input": {"x": X.to(torch.complex64)},
    "text input": {"x": [["a"]]},
    "labels out of range": {"y": torch.tensor([0, 1, 3])},
    "negative labels": {"y": torch.tensor([0, 1, -1])},
    "wrong number of labels": {"y": Y[:2]},
    "labels of two dimensions": {"y": Y[:, None]},
    "broken labels": {"y": torch.tensor([0.5, 1.0, 2.0])},
    "unknown domain": {"domain": "polyhedra"},
    "unknown criterion": {"criterion": "hope"},
    "unknown arithmetic": {"arithmetic": "float16"},
    "unknown precision": {"precision": "float16"},
    "unknown device": {"device": "abacus"},
    "unknown option": {"options": {"histories": 4}},
    "precision in a list": {"precision": ["float64"]},
    "arithmetic in a list": {"arithmetic": ["real"]},
    "criterion in a list": {"criterion": ["margin"]},
    "domain in a list": {"domain": ["auto"]},
    "device in a list": {"device": ["cpu"]},
    "options as a number": {"options": 3},
    "options as text": {"options": "effort"},
    "endless effort as a whole number": {"options": {"effort": 10**400}},
    "effort of many digits below 0": {"options": {"effort": -(10**5000)}},
    "endless budget as a whole number": {"options": {"budget": 10**400}},
    "endless timeout as a whole number": {"timeout": 10**400},
    "a folder as a number": {"resume": 3},
    "progress as a number": {"progress": 3},
    "facts of the model in a list": {"model_info": [1]},
    "facts of the data as text": {"data_info": "digits"},
    "not a box": {"box": "relative"},
    "empty box": {"box": tb.Box(include="nothing.*")},
    "not a model": {"model": lambda x: x},
}


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str, model: nn.Module) -> None:
    given = {"model": model, "x": X, "y": Y, "epsilon": 0.1, **BAD[name]}
    with pytest.raises(tb.InputError) as caught:
        tb.certify(given.pop("model"), given.pop("x"), given.pop("y"), given.pop("epsilon"), **given)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        (torch.arange(4.0)[::4], torch.zeros(1)),
        (torch.tensor(2.0).expand(1), torch.tensor([2.0])),
        (torch.tensor(2.0).expand(3), torch.full((3,), 2.0)),
        (torch.arange(12.0).view(3, 4)[:1, ::4], torch.zeros(1, 1)),
        (torch.arange(12.0).view(3, 4).t(), torch.arange(12.0).view(3, 4).t().contiguous()),
        ((torch.ones(3) + 2j).conj().imag, torch.full((3,), -2.0)),
        (torch.ones(0, 3)[:, ::2], torch.ones(0, 2)),
    ],
)
def test_hashes_are_of_values(odd: Tensor, plain: Tensor) -> None:
    assert tensor_hash([odd]) == tensor_hash([plain]) != tensor_hash([plain + 1, plain])


def test_a_hash_as_it_has_always_been() -> None:
    assert tensor_hash([X, Y]) == "6da01cf14376e7a45039329a36934486c0325b17daab54fa842df689ebbfc4ef"


def test_tensors_of_one_number() -> None:
    torch.manual_seed(0)
    spiking = tb.models.LSNN(4, 1, 3)
    assert tb.certify(spiking, torch.rand(2, 5, 4), [0, 1], 1e-3).margin.shape == (1, 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(bad: float) -> None:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[0, 0] = bad
    with pytest.raises(tb.InputError, match="weight"):
        tb.certify(layer, X, Y, 0.1)


def test_bad_boxes_and_radii(model: nn.Module) -> None:
    for wrong in ({"kind": "round"}, {"scale": {"*": -1.0}}, {"scale": {"*": float("nan")}}):
        with pytest.raises(tb.InputError):
            tb.Box(**wrong)
    for wrong in ({"max_epsilon": 0.0}, {"max_epsilon": float("inf")}, {"rtol": 0.0}, {"criterion": "hope"}):
        with pytest.raises(tb.InputError):
            tb.certified_radius(model, X, Y, **wrong)
    with pytest.raises(tb.InputError, match="2 values for 3 samples"):
        tb.logit_bounds(model, X, torch.tensor([0.1, 0.2]))


def test_numpy_and_other_dtypes(model: nn.Module) -> None:
    expected = tb.certify(model, X, Y, [0.0, 0.1])
    for x, y in ((X.numpy(), Y.numpy()), (X.double().numpy(), Y.numpy().astype(np.uint8)), (X, Y.float())):
        got = tb.certify(model, x, y, np.array([0.0, 0.1]))
        assert torch.equal(got.margin, expected.margin)
    assert expected.margin.dtype == torch.float64
    assert expected.verified.shape == (2, 3)
    whole = tb.logit_bounds(model, np.arange(12).reshape(3, 4), 0.0)
    torch.testing.assert_close(whole.lower.float(), model(torch.arange(12.0).view(3, 4)).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["relative", "absolute", "range"])
def test_boxes_hold_samples(model: nn.Module, kind: str) -> None:
    """include, exclude and scale: what is outside the box stays, what is inside moves as far as it may."""
    box = tb.Box(kind=kind, include="*.weight,2.bias", exclude="0.*", scale={"2.bias": 3.0})
    assert box.factors(model) == {"2.weight": 1.0, "2.bias": 3.0}
    sweep = [0.0, 1e-3, 0.1, 1.5]
    bounds = tb.logit_bounds(model, X, sweep, box=box)
    for place, epsilon in enumerate(sweep):
        for trial in range(30):
            point = {n: p.detach().double() for n, p in model.named_parameters()}
            for n, factor in box.factors(model).items():
                noise = 2 * torch.rand(point[n].shape, dtype=torch.float64) - 1
                noise = noise.sign() if trial % 2 else noise
                point[n] = point[n] + noise * epsilon * factor * box.unit_radius(point[n])
            answer = torch.func.functional_call(model, point, (X.double(),))
            assert (bounds.lower[place] - 1e-12 <= answer).all()
            assert (answer <= bounds.upper[place] + 1e-12).all()
    hidden = nn.Sequential(model[0], model[1])(X).detach().double()
    radius = epsilon * box.unit_radius(model[2].weight.detach().double())
    width = 2 * (hidden @ radius.T + 3 * epsilon * box.unit_radius(model[2].bias.detach().double()))
    torch.testing.assert_close((bounds.upper - bounds.lower)[-1], width, rtol=1e-5, atol=1e-5)


def test_float64_input_and_model_in_float32() -> None:
    """What float32 cannot hold is widened: a network in float32 sees the rounded number, a real one the exact."""
    layer = nn.Linear(1, 1, bias=False).double()
    third = torch.tensor([[1 / 3]], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(0.1)
    for precision in ("float64", "float32"):
        for x in (third, third.float()):
            bounds = tb.logit_bounds(layer, x, 0.0, arithmetic="float32", precision=precision)
            for answer in (layer(x.double()), nn.functional.linear(x.float(), layer.weight.float())):
                assert bounds.lower.item() <= answer.item() <= bounds.upper.item()
    for big in (1e39, 1e300):
        with pytest.raises(tb.InputError, match="float32"):
            tb.logit_bounds(layer, torch.full((1, 1), big, dtype=torch.float64), 0.0, arithmetic="float32")
    with torch.no_grad():
        layer.weight.fill_(1e-300)
    with pytest.raises(tb.InputError, match="float32"):
        tb.logit_bounds(layer, third, 0.0, precision="float32")


class Literals(nn.Module):
    """Numbers that float32 holds rounded, met exactly by the value 0.1 in float32."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.gain = kind, nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        h = x * self.gain
        if self.kind == "greater":
            return (x > 0.1).to(x.dtype) * h
        if self.kind == "where":
            return torch.where(x > 0.05, 0.3, h)
        if self.kind == "clamp":
            return h.clamp(0.3, 0.7)
        if self.kind == "pad":
            return nn.functional.pad(h, (1, 1), value=0.7)
        if self.kind == "full":
            return h + torch.full_like(h, 0.7)
        return h * 0 + 0.7


@pytest.mark.thin(2)
@pytest.mark.parametrize("kind", ["greater", "where", "clamp", "pad", "full", "add"])
def test_literals_as_float32_holds_them(kind: str) -> None:
    module, x = Literals(kind), torch.tensor([[0.1], [0.0], [5.0]])
    for arithmetic, precision in (
        ("real", "float64"),
        ("real", "float32"),
        ("float32", "float64"),
        ("float32", "float32"),
    ):
        bounds = tb.logit_bounds(module, x, 0.0, arithmetic=arithmetic, precision=precision)
        with torch.no_grad():
            answers = [Literals(kind).double()(x.double())]
            if arithmetic == "float32":
                answers.append(module(x).double())
        for answer in answers:
            assert (bounds.lower <= answer + 1e-15).all()
            assert (answer - 1e-15 <= bounds.upper).all()


class Large(nn.Module):
    """Overflows in float32 half-way, and returns to ordinary size."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.gain = kind, nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        h = x * self.gain
        there = {
            "twice": lambda: h * 1e30 * 1e30 * 1e-30 * 1e-30,
            "sum": lambda: (h * 3e38 + h * 3e38) * 1e-38 * 0.1,
            "literal": lambda: h * 1e-10 * 1e40 * 1e-30,
            "power": lambda: ((h * 1e20) ** 2 * 1e-20) * 1e-20,
            "mean": lambda: ((h[:, None] * 2e38).expand(-1, 4, -1).mean(1)) * 1e-38,
            "reciprocal": lambda: 1e-20 / (1 / (h.abs() * 1e-39 + 1e-42)) * 1e20,
        }
        return there[self.kind]().sigmoid()


@pytest.mark.parametrize("kind", ["twice", "sum", "literal", "power", "mean", "reciprocal"])
def test_overflow_claims_nothing_wrong(kind: str) -> None:
    module, x = Large(kind), torch.tensor([[0.7, -0.9], [1e-3, 1.0]])
    with torch.no_grad():
        real, single = Large(kind).double()(x.double()), module(x).double()
    for arithmetic, precision in (
        ("real", "float64"),
        ("real", "float32"),
        ("float32", "float64"),
        ("float32", "float32"),
    ):
        bounds = tb.logit_bounds(module, x, 0.0, arithmetic=arithmetic, precision=precision)
        for answer in [real] if arithmetic == "real" else [real, single]:
            open_ = (bounds.lower <= 0) & (bounds.upper >= 1)
            assert (((bounds.lower <= answer + 1e-14) & (answer - 1e-14 <= bounds.upper)) | open_).all()


@pytest.mark.parametrize("setting", ["high", "medium"])
def test_settings_of_the_machine_do_not_reach_the_bounds(setting: str) -> None:
    torch.manual_seed(1)
    layer, x = nn.Linear(300, 3), torch.randn(2, 300)
    expected = tb.logit_bounds(layer, x, 0.01, precision="float32")
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            got = tb.logit_bounds(layer, x, 0.01, precision="float32")
            new = tb.logit_bounds(nn.Sequential(layer), x, 0.01, precision="float32")
        assert torch.get_float32_matmul_precision() == setting
    finally:
        torch.set_float32_matmul_precision(kept)
    assert torch.equal(got.lower, expected.lower)
    assert torch.equal(new.upper, expected.upper)


def test_flush_to_zero_is_switched_off() -> None:
    layer = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        layer.weight.fill_(1e-310)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        bounds = tb.logit_bounds(layer, torch.ones(1, 1), 0.5)
        assert torch.set_flush_denormal(False)
        assert bounds.lower.item() <= 0.5e-310
        assert bounds.upper.item() >= 1.5e-310
    finally:
        torch.set_flush_denormal(False)


def test_sound_kernels_within_each_other() -> None:
    """The inner one ends nothing: what was asked for holds to the end of the outer one."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    tiny = torch.tensor([1e-310], dtype=torch.float64)
    try:
        with sound_kernels():
            with sound_kernels():
                assert float(tiny * 1.0) > 0
            assert float(tiny * 1.0) > 0
        assert float(tiny * 1.0) == 0
        with sound_kernels():
            assert float(tiny * 1.0) > 0
    finally:
        torch.set_flush_denormal(False)
