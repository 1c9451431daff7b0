"""Networks of several inputs, which the library sees as one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb
from thetabox.models.several import apart, are_several, packed, unpacking


class Three(nn.Module):
    """Numbers, an image, and a mask that switches hidden units off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.dense, self.conv, self.last = nn.Linear(4, 8), nn.Conv2d(1, 2, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor, image: Tensor, mask: Tensor | None = None, power: Tensor | None = None) -> Tensor:
        h = torch.cat([self.dense(x), self.conv(image).flatten(1)], 1).relu()
        if mask is not None:
            h = h * mask.unsqueeze(1)
        if power is not None:
            h = h * power.unsqueeze(1).to(h.dtype)
        return self.last(h)


class OneTensor(nn.Module):
    """The same by hand, of one tensor."""

    def __init__(self, network: Three, masked: bool) -> None:
        super().__init__()
        self.network, self.masked = network, masked

    def forward(self, x: Tensor) -> Tensor:
        mask = (x[:, 20] > 0.5) if self.masked else None
        return self.network(x[:, :4], x[:, 4:20].reshape(-1, 1, 4, 4), mask)


RANDOM = torch.Generator().manual_seed(0)
X, IMAGE = torch.randn(6, 4, generator=RANDOM), torch.rand(6, 1, 4, 4, generator=RANDOM)
MASK, POWER = torch.tensor([1, 1, 1, 0, 1, 1]).bool(), torch.tensor([1, 2, 3, 1, 2, 1])
NETWORK = Three().eval()


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_certified_as_by_hand(masked: bool) -> None:
    several = (X, IMAGE, MASK) if masked else (X, IMAGE)
    one = torch.cat([X, IMAGE.flatten(1), MASK.float()[:, None]][: 3 if masked else 2], 1)
    by_hand = OneTensor(NETWORK, masked)
    with torch.no_grad():
        y = NETWORK(*several).argmax(1)
    mine, plain = (tb.certify(m, x, y, [0.0, 1e-3, 1e-1]) for m, x in ((NETWORK, several), (by_hand, one)))
    assert torch.equal(mine.margin, plain.margin)
    assert mine.clean_accuracy == 1.0
    assert mine.model_info["inputs"] == [[4], [1, 4, 4], []][: 3 if masked else 2]
    assert torch.equal(tb.certified_radius(NETWORK, several, y), tb.certified_radius(by_hand, one, y))
    assert torch.equal(tb.logit_bounds(NETWORK, several, 0.1).upper, tb.logit_bounds(by_hand, one, 0.1).upper)
    assert torch.equal(tb.attack(NETWORK, several, y, [0.3]).correct, tb.attack(by_hand, one, y, [0.3]).correct)


@pytest.mark.slow
@pytest.mark.parametrize(
    "several",
    [
        {"x": X, "image": IMAGE, "mask": MASK},
        {"image": IMAGE, "mask": MASK, "x": X},
        {"x": X, "x_image": IMAGE, "x_mask": MASK},
        (X.numpy(), IMAGE.double().numpy(), MASK.numpy()),
    ],
    ids=["by name", "in another order", "as in a file", "arrays"],
)
def test_however_they_are_given(several: Any) -> None:
    with torch.no_grad():
        y = NETWORK(X, IMAGE, MASK).argmax(1)
    expected = tb.certify(NETWORK, (X, IMAGE, MASK), y, [0.0, 1e-2])
    assert torch.equal(tb.certify(NETWORK, several, y, [0.0, 1e-2]).margin, expected.margin)


def test_whole_numbers_keep_their_type() -> None:
    with torch.no_grad():
        y = NETWORK(X, IMAGE, MASK, POWER).argmax(1)
    found = tb.certify(NETWORK, (X, IMAGE, MASK, POWER), y, [0.0, 1e-3])
    assert found.clean_accuracy == 1.0
    assert found.verified.all()


def test_inside_the_bounds_at_random_weights() -> None:
    bounds = tb.logit_bounds(NETWORK, (X, IMAGE, MASK, POWER), 0.05)
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        moved = {
            name: p + 0.05 * p.abs() * (torch.rand(p.shape, generator=random) * 2 - 1).sign() * (1 - 1e-6)
            for name, p in NETWORK.named_parameters()
        }
        with torch.no_grad():
            answer = torch.func.functional_call(NETWORK, moved, (X, IMAGE, MASK, POWER)).double()
        assert (answer >= bounds.lower - 1e-6).all()
        assert (answer <= bounds.upper + 1e-6).all()


def test_together_and_apart() -> None:
    large = torch.tensor([2**40 + 1, -5])
    together, parts = packed((X[:2], large, MASK[:2]))
    assert together.dtype == torch.float64  # float32 does not hold 2⁴⁰ + 1
    back = apart(together, parts)
    assert torch.equal(back[0], X[:2].to(together.dtype))
    assert torch.equal(back[1], large)
    assert torch.equal(back[2], MASK[:2])


def test_what_several_inputs_are() -> None:
    assert are_several(NETWORK, (X, IMAGE))
    assert are_several(NETWORK, {"x": X, "image": IMAGE})
    assert not are_several(NETWORK, {"x": X})
    assert not are_several(NETWORK, [X, IMAGE])
    assert not are_several(NETWORK, ((1.0, 2.0), (3.0, 4.0)))
    assert not are_several(NETWORK, X)
    # To a network of one input a tuple of arrays is its samples.
    assert not are_several(NETWORK.dense, tuple(X))
    assert not are_several(tb.models.LSNN(4, 3, 2), (X, X))


REFUSED = {
    "counts": ((X, IMAGE[:3]), "have 6, 3 samples"),
    "too few": ((X,), "missing 1 required positional argument"),
    "too many": ((X, IMAGE, MASK, POWER, X), "x holds 5 inputs, the network's forward takes 4"),
    "swapped": ((IMAGE, X), "does not take inputs"),
    "a name that it has not": ({"x": X, "hat": IMAGE}, "takes image, mask, power, x and no 'hat'"),
    "no numbers": ((X, torch.zeros(6, 0)), "an input without numbers"),
    "not finite": ((X, IMAGE / 0), "NaN or infinite"),
    "beyond 2⁵³": ((X, torch.full((6, 1, 4, 4), 2**60)), "beyond 2⁵³"),
}


@pytest.mark.parametrize(("several", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_in_one_line(several: Any, message: str) -> None:
    with pytest.raises(tb.InputError, match=message) as caught:
        tb.certify(NETWORK, several, torch.zeros(6).long(), 0.1)
    assert "\n" not in str(caught.value)
    assert len(NETWORK._forward_pre_hooks) == 0


def test_inputs_beyond_those_by_place() -> None:
    """What a call takes by name alone is no place for one without."""

    class ByName(Three):
        def forward(self, x: Tensor, image: Tensor, *, mask: Tensor | None = None) -> Tensor:
            return super().forward(x, image, mask)

    with pytest.raises(tb.InputError, match="x holds 3 inputs, the network's forward takes 2 by place"):
        tb.certify(ByName(), (X, IMAGE, MASK), torch.zeros(6).long(), 0.1)
    x = {"x": X, "image": IMAGE, "mask": MASK}
    assert tb.certify(ByName(), x, ByName()(X, IMAGE, mask=MASK).argmax(1), 0.0).verified.all()


def test_what_asks_for_more_than_numbers_is_found() -> None:
    class Asks(Three):
        def forward(self, x: Tensor, image: Tensor) -> Tensor:
            return super().forward(x, image) * (2.0 if self._forward_pre_hooks else 1.0)

    with pytest.raises(tb.InputError, match="something else once its inputs have gone through one tensor"):
        tb.certify(Asks(), (X, IMAGE), torch.zeros(6).long(), 0.1)


def test_parts_are_in_memory_of_their_own_and_in_rows() -> None:
    """As inputs are that never went through one tensor."""

    class Views(Three):
        def forward(self, x: Tensor, image: Tensor) -> Tensor:
            pixels = image.view(-1, 4).mul(2.0).view_as(image)
            return super().forward(x, pixels) + float(image.storage_offset())

    net = Views().eval()
    assert tb.certify(net, (X, IMAGE), net(X, IMAGE).argmax(1), 0.0).verified.all()


def test_the_network_beside_has_its_own_hooks() -> None:
    together, parts = packed((X, IMAGE))
    beside = unpacking(NETWORK, parts)
    with torch.no_grad():
        assert torch.equal(beside(together), NETWORK(X, IMAGE))
    assert beside.dense is NETWORK.dense
    assert not NETWORK._forward_pre_hooks
    assert list(dict(beside.named_parameters())) == list(dict(NETWORK.named_parameters()))


def test_a_file_of_several(tmp_path: Path) -> None:
    y = NETWORK(X, IMAGE, MASK).argmax(1)
    np.savez(tmp_path / "d.npz", x=X.numpy(), x_image=IMAGE.numpy(), x_mask=MASK.numpy(), y=y.numpy())
    data = tb.data.load(str(tmp_path / "d.npz"))
    assert data.x.shape == (6, 21)
    assert isinstance(data.inputs, dict)
    assert {name: t.dtype for name, t in data.inputs.items()} == {
        "x": torch.float32,
        "x_image": torch.float32,
        "x_mask": torch.bool,
    }
    expected = tb.certify(NETWORK, (X, IMAGE, MASK), y, [1e-2])
    assert torch.equal(tb.certify(NETWORK, data.inputs, data.y, [1e-2]).margin, expected.margin)
    assert data.take([1, 2]).parts == data.parts
