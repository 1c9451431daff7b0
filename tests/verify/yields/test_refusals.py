"""Networks whose noise the proof does not cover are refused by name, and so is bad input."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.noise import Noise
from thetabox.verify.yields.certify import certify_yield
from thetabox.verify.yields.largest import proven_sigma


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.layer(x).relu()).relu())


class TiedByMemory(nn.Module):
    """Two names for the same numbers, one of them a part of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 6, bias=False), nn.Linear(4, 2)
        self.second = nn.Parameter(self.first.weight.detach()[:4])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.linear(self.first(x).relu()[:, :4], self.second).relu())


class Repeated(nn.Module):
    """One row of weights stands at all outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.head = nn.Parameter(torch.randn(1, 4)), nn.Linear(9, 2)
        self.wide = self.row.detach().expand(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.linear(x, self.wide).relu())


class Expanded(nn.Module):
    """A parameter whose entries are one number in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.head = nn.Parameter(torch.randn(1, 4).expand(9, 4)), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.linear(x, self.row).relu())


class Squared(nn.Module):
    """Computes its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.root, self.head = nn.Parameter(torch.rand(4, 4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x @ self.root.abs()).relu())


class TurnedTwice(nn.Module):
    """Reads a parameter once, and what was made of it twice."""

    def __init__(self, part: bool) -> None:
        super().__init__()
        self.weight, self.head, self.part = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 2), part

    def forward(self, x: Tensor) -> Tensor:
        turned = self.weight.split([4, 0])[0] if self.part else self.weight.t()
        return self.head(((x @ turned).relu() @ turned).relu())


class WholeAndPart(nn.Module):
    """Reads a weight as a whole, and again a part of it, turned or not."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.one, self.head, self.turned = nn.Linear(4, 4), nn.Linear(4, 2), turned

    def forward(self, x: Tensor) -> Tensor:
        h, weight = self.one(x).relu(), self.one.weight
        again = h @ weight.t() if self.turned else h[:, :3] @ weight[:, :3].t()
        return self.head(again.relu())


class TwoFactors(nn.Module):
    """Noise that multiplies noise."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.one @ self.two)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "two names of one memory": (TiedByMemory, "share memory"),
    "a row that stands at all outputs": (Repeated, "read more than once"),
    "entries that are one number": (Expanded, "read more than once"),
    "computed weights": (Squared, "does not know how the noise"),
    "a weight turned once and read twice": (lambda: TurnedTwice(False), "does not know how the noise"),
    "a part of a weight read twice": (lambda: TurnedTwice(True), "does not know how the noise"),
    "a weight read whole and turned": (lambda: WholeAndPart(True), "does not know how the noise"),
    "a weight read whole and in part": (lambda: WholeAndPart(False), "does not know how the noise"),
    "noise that multiplies noise": (TwoFactors, "does not know how the noise"),
    "an LSTM": (lambda: _Last(nn.LSTM(4, 3, batch_first=True), 3), "does not know how the noise"),
}


class _Last(nn.Module):
    def __init__(self, layer: nn.Module, units: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(units, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_whose_noise_is_not_covered_is_refused(name: str) -> None:
    make, words = REFUSED[name]
    torch.manual_seed(0)
    model = make().eval()
    x = torch.rand(2, 3, 4) if name == "an LSTM" else torch.rand(2, 4)
    with pytest.raises(tb.InputError, match=words):
        certify_yield(model, x, torch.tensor([0, 1]), 0.05)


@pytest.mark.parametrize("pattern", ["*running_mean*", "*running_var*", "*running_mean*,*"])
def test_noise_of_statistics_is_refused(pattern: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    model[1].running_mean += 1.0
    with pytest.raises(tb.InputError, match="does not know how the noise"):
        certify_yield(model, torch.rand(2, 4), torch.tensor([0, 1]), 0.05, box=tb.Box(include=pattern))


def test_what_is_not_noisy_may_be_read_as_often_as_it_likes() -> None:
    torch.manual_seed(0)
    model = Tied().eval()
    x = torch.rand(5, 4)
    found = certify_yield(model, x, model(x).argmax(1), 1e-4, box=tb.Box(exclude="layer.*"))
    assert bool(found.proven.any())


@pytest.mark.parametrize("noise", [Noise("subgaussian"), Noise(correlated={"layer": 0.5})])
def test_a_layer_called_twice_is_refused_for_noise_that_needs_other_proofs(noise: Noise) -> None:
    with pytest.raises(tb.InputError, match="read more than once"):
        certify_yield(Tied().eval(), torch.rand(2, 4), torch.tensor([0, 1]), 0.05, noise=noise)


MODEL = nn.Sequential(nn.Linear(3, 2))
X, Y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sigma": []}, "sigma is empty"),
        ({"sigma": -0.1}, "sigma is -0.1"),
        ({"sigma": float("nan")}, "sigma is nan"),
        ({"delta": 0.0}, "delta is 0"),
        ({"delta": 1.0}, "delta is 1"),
        ({"delta": "x"}, "delta must be"),
        ({"noise": "gaussian"}, "must be a thetabox.Noise"),
        ({"noise": Noise(scale={"nothing": 2.0})}, "matches none"),
        ({"box": "all"}, "must be a thetabox.Box"),
        ({"box": tb.Box(scale={"*": 0.0})}, "no parameter is in the box"),
        ({"noise": Noise(scale={"*": 0.0})}, "nothing that is off"),
        ({"method": "guess"}, "unknown method"),
        ({"device": "abacus"}, "device"),
        ({"progress": 3}, "progress"),
        ({"timeout": -1.0}, "timeout"),
        ({"y": torch.tensor([0, 1, 0, 2])}, "label"),
        ({"x": torch.full((4, 3), torch.nan)}, "NaN"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: dict[str, object], words: str) -> None:
    given = {"x": X, "y": Y, "sigma": 0.05} | arguments
    with pytest.raises(tb.InputError, match=words) as error:
        certify_yield(MODEL, **given)  # type: ignore[arg-type]  # on purpose
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"max_sigma": 0.0}, "max_sigma"), ({"rtol": 2.0}, "rtol"), ({"delta": 2.0}, "delta")],
)
def test_bad_input_of_the_search_too(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(tb.InputError, match=words):
        proven_sigma(MODEL, X, Y, **arguments)  # type: ignore[arg-type]  # on purpose
