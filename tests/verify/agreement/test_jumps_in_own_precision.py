"""Where a network in float32 takes a jump that real numbers do not: nothing is verified that it answers wrongly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import thetabox as tb

# In float32 the product is rounded up to the threshold, in real numbers it lies below it.
BELOW, FACTOR, THRESHOLD = 0.1, 3.0, float(torch.tensor(0.3))
BOX = tb.Box(exclude="factor")


class Jumps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(FACTOR))
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0], [-1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x * self.factor >= THRESHOLD).to(x.dtype) * 2 - 1)


def test_the_network_itself_must_be_right() -> None:
    model = Jumps()
    x = torch.tensor([[BELOW], [1.0], [-1.0]])
    answered = model(x).argmax(1)
    assert answered.tolist() == [0, 0, 1]
    assert Jumps().double()(x.double()).argmax(1).tolist() == [1, 0, 1]
    for domain in ("interval", "linear", "auto"):
        of_real = tb.certify(model, x, [1, 0, 1], [0.0, 0.1], domain=domain, box=BOX)
        assert of_real.verified.tolist() == [[False, True, True]] * 2
        assert of_real.predicted.tolist() == [0, 0, 1]
        # Nor is it verified for the class that real numbers do not give.
        of_runs = tb.certify(model, x, answered, [0.0, 0.1], domain=domain, box=BOX)
        assert of_runs.verified.tolist() == [[False, True, True]] * 2
    radii = tb.certified_radius(model, x, [1, 0, 1], box=BOX, details=True)
    assert radii.status == ["misclassified", "certified", "certified"]
    assert radii.radius[0] == 0


class Cancels(nn.Module):
    """In real numbers the sum is what is left of x; float32 loses it, and adds a little of the other sign."""

    def __init__(self) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(1e9))
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0], [-1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.size) - self.size - 0.25)


def test_nor_where_its_own_precision_cancels() -> None:
    model, x = Cancels(), torch.tensor([[1.0], [100.0]])
    assert model(x).argmax(1).tolist() == [1, 0]
    found = tb.certify(model, x, [0, 0], 0.0)
    assert found.verified[0].tolist() == [False, True]
    assert found.predicted.tolist() == [1, 0]
    assert tb.certified_radius(model, x, [0, 0], box=tb.Box(exclude="size"))[0] == 0


def test_rounding_that_takes_no_jump_changes_nothing() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(20, 4)
    wide = nn.Sequential(*model).double()(x.double())
    y = wide.argmax(1)
    found = tb.certify(wide_model := nn.Sequential(*model).double(), x.double(), y, [0.0, 1e-3])
    assert found.verified[0].all()
    again = tb.certify(wide_model.float(), x, y, [0.0, 1e-3])
    torch.testing.assert_close(again.margin, found.margin, rtol=0, atol=1e-12)
