"""ADC and DAC: by hand on one layer, the same layer in every spelling, and converters of many bits change nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thetabox.measure.converters import Converters
from thetabox.measure.crossbar import Array
from thetabox.models import LSNN, ConvNet, run_steps


def around(
    tensors: dict[str, Tensor], network: Callable[[Tensor], Tensor], x: Tensor, dac: int, adc: int, tile: int = 256
) -> Converters:
    converters = Converters({n: Array(t, tile) for n, t in tensors.items()}, tensors, dac, adc)
    with torch.no_grad(), converters.calibrating():
        assert torch.allclose(network(x), network(x), rtol=1e-5)
    return converters


def rounded(values: np.ndarray, full: float | np.ndarray, bits: int) -> np.ndarray:
    largest = 2 ** (bits - 1) - 1
    return np.clip(np.rint(values / full * largest), -largest, largest) * full / largest


def by_hand(x: np.ndarray, w: np.ndarray, tile: int, dac: int, adc: int, ranges: np.ndarray) -> np.ndarray:
    """y = Σ over tiles of inputs of Q(W Q(x)), each output tile with its own range; w [out, in], even tiles."""
    xq = rounded(x, np.abs(ranges).max(), dac)
    y = np.zeros((len(x), len(w)))
    for i in range(0, w.shape[1], tile):
        for o in range(0, w.shape[0], tile):
            part = w[o : o + tile, i : i + tile]
            full = np.abs(ranges[:, i : i + tile] @ part.T).max()
            y[:, o : o + tile] += rounded(xq[:, i : i + tile] @ part.T, full, adc)
    return y


@pytest.mark.parametrize("form", ["linear", "matmul", "mm", "addmm", "masked"])
def test_one_product_by_hand(form: str) -> None:
    weight = torch.randn(6, 4, dtype=torch.float64)  # [out, in]
    stored = nn.Parameter(weight if form == "linear" else weight.t().contiguous())
    mask, bias = torch.ones_like(stored), torch.randn(6, dtype=torch.float64)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "linear": lambda x: nn.functional.linear(x, stored, bias),
        "matmul": lambda x: x @ stored + bias,
        "mm": lambda x: torch.mm(x, stored) + bias,
        "addmm": lambda x: torch.addmm(bias, x, stored),
        "masked": lambda x: x @ (stored * mask) + bias,
    }
    x = torch.randn(30, 4, dtype=torch.float64)
    converters = around({"w": stored}, forms[form], x[:10], 4, 5, tile=2)
    assert converters.converted == ["w"]
    with torch.no_grad(), converters:
        found = forms[form](x)
    expected = by_hand(x.numpy(), weight.numpy(), 2, 4, 5, x[:10].numpy()) + bias.numpy()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert float((found - forms[form](x).detach()).abs().max()) > 0.05  # and that is not the exact product


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_is_its_patches_times_the_matrix(groups: int, stride: int) -> None:
    layer = nn.Conv2d(8, 6, 3, stride, padding=1, groups=groups).double()
    x = torch.randn(3, 8, 5, 5, dtype=torch.float64)
    tile = 18  # two channels of 3×3
    converters = around({"w": layer.weight}, layer, x, 6, 6, tile)
    with torch.no_grad(), converters:
        found = layer(x)
    xq = rounded(x.numpy(), float(x.abs().max()), 6)
    patches, exact = (
        nn.functional.unfold(torch.as_tensor(v), 3, padding=1, stride=stride).transpose(1, 2).numpy() for v in (xq, x)
    )
    width = 72 // groups
    expected = np.zeros((3, patches.shape[1], 6))
    w = layer.weight.detach().flatten(1).numpy()
    for i in range(0, width, tile):
        parts, ranges = np.zeros_like(expected), np.zeros_like(expected)
        for o in range(6):
            place = slice(width * (o * groups // 6) + i, width * (o * groups // 6) + i + tile)
            parts[..., o] = patches[..., place] @ w[o, i : i + tile]
            ranges[..., o] = exact[..., place] @ w[o, i : i + tile]
        expected += rounded(parts, np.abs(ranges).max(), 6)
    expected = expected.transpose(0, 2, 1).reshape(found.shape) + layer.bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    with torch.no_grad(), converters:
        assert torch.allclose(layer(x[0]), found[0])  # without a batch


def test_correction_stands_behind_the_converter() -> None:
    """Currents that faded to a third use a third of the levels: Q(Wx/3)·3, not Q(Wx)."""
    weight = nn.Parameter(torch.tensor([[1.0, 0.25]]))
    x = torch.tensor([[0.5, 1.0]])
    converters = around({"w": weight}, lambda v: nn.functional.linear(v, weight), torch.tensor([[1.0, 1.0]]), 0, 4)
    converters.gain["w"] = torch.tensor([[3.0]])  # the weights that stand there are corrected ones
    with torch.no_grad(), converters:
        found = float(nn.functional.linear(x, weight))
    assert found == pytest.approx(3 * float(rounded(np.array(0.75 / 3), 1.25, 4)))


def test_values_beyond_the_range_saturate() -> None:
    weight = nn.Parameter(torch.tensor([[1.0]]))
    converters = around({"w": weight}, lambda v: v @ weight, torch.tensor([[2.0]]), 0, 8)
    with torch.no_grad(), converters:
        assert float(torch.tensor([[5.0]]) @ weight) == 2.0


@pytest.mark.parametrize("kind", ["cnn", "lsnn"])
def test_converters_of_many_bits_change_nothing(kind: str) -> None:
    if kind == "cnn":
        model, x = ConvNet.small(), torch.randn(20, 1, 8, 8)
        network: Callable[[Tensor], Tensor] = model
    else:
        model = LSNN(5, 24, 4)
        x, network = torch.randn(20, 15, 5), lambda v: model.readout(run_steps(model, v))
    tensors = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    converters = around(tensors, network, x, 24, 24, tile=16)
    assert converters.converted == list(tensors)
    with torch.no_grad(), converters:
        fine = network(x)
    assert torch.allclose(fine, network(x), atol=1e-4)
    converters.adc_bits = converters.dac_bits = 3
    with torch.no_grad(), converters:
        assert not torch.allclose(network(x), fine, atol=1e-2)


def test_spikes_pass_the_dac_unchanged() -> None:
    """Zeros and ones are levels of every DAC: of the recurrent products only the partial sums are rounded."""
    model = LSNN(5, 24, 4)
    x = torch.randn(10, 15, 5)
    tensors: dict[str, Tensor] = {"W_rec": model.W_rec}
    converters = around(tensors, lambda v: model.readout(run_steps(model, v)), x, 2, 0)
    with torch.no_grad(), converters:
        found = model.readout(run_steps(model, x))
    assert float(converters.inputs["W_rec"]) == 1
    assert torch.allclose(found, model(x), atol=1e-6)


def test_other_operations_and_weights_are_left_alone() -> None:
    weight, other = nn.Parameter(torch.randn(3, 3)), torch.randn(3, 3)
    x = torch.randn(4, 3)
    converters = around({"w": weight}, lambda v: v @ weight, x, 2, 2)
    with torch.no_grad(), converters:
        assert torch.equal(x @ other, torch.matmul(x, other))
        assert torch.equal(weight * 2.0, 2.0 * weight)
        product = weight * other
        assert torch.equal(x @ product, x.matmul(product))
    exact = x @ product
    with torch.no_grad(), converters:
        assert torch.equal(x @ product, exact)


def test_masked_weights_are_those_of_the_moment() -> None:
    weight, mask = nn.Parameter(torch.ones(2, 2)), 1 - torch.eye(2)
    x = torch.tensor([[1.0, 2.0]])
    converters = around({"w": weight}, lambda v: v @ (weight * mask), x, 0, 24)
    with torch.no_grad():
        weight.mul_(0.5)  # as another chip's weights are put in place
        with converters:
            found = x @ (weight * mask)
    assert found[0].tolist() == pytest.approx([1.0, 0.5], rel=1e-5)
