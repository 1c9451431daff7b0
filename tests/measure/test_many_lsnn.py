"""Many draws of an LSNN in one call give what each draw gives by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from thetabox.measure.batched_draws import ManyWeights
from thetabox.measure.many_lsnn import many_logits
from thetabox.models import LSNN


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("refractory", [0, 2, 5])
@pytest.mark.parametrize("drawn", ["weights", "all", "W_in", "neurons"])
def test_equals_one_draw_after_the_other(dtype: torch.dtype, recurrent: bool, refractory: int, drawn: str) -> None:
    torch.manual_seed(0)
    model = LSNN(3, 12, 4, tau=[15.0 + i for i in range(12)], beta=3.0, refractory=refractory, recurrent=recurrent)
    model = model.to(dtype).eval()
    with torch.no_grad():
        model.b_out.normal_()
    x = 2 * torch.randn(7, 25, 3, dtype=dtype)
    weights, neurons = list(dict(model.named_parameters())), ["threshold", "tau", "tau_adapt", "beta"]
    names = {"weights": weights, "all": weights + neurons, "W_in": ["W_in"], "neurons": neurons}[drawn]
    theta = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    draws = {name: theta[name].detach() * (1 + 0.2 * torch.randn(5, *theta[name].shape, dtype=dtype)) for name in names}
    draws |= {name: value.abs() for name, value in draws.items() if name in neurons}
    with torch.no_grad():
        alone = [functional_call(model, {name: value[d] for name, value in draws.items()}, (x,)) for d in range(5)]
        spikes = model.outputs(x)
    found = many_logits(model, draws, x)
    # A spike more or less is 1/25 of an output weight; products of stacks may round in another order.
    near = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-13, "atol": 1e-14}
    assert torch.allclose(found, torch.stack(alone), **near)
    assert not torch.equal(found[0], found[1])
    assert 0.02 < spikes.mean() < 0.9


def test_sizes_of_real_networks_give_the_same_bits() -> None:
    """Otherwise the trial of ``ManyWeights`` would refuse the batched way."""
    torch.manual_seed(0)
    model, x = LSNN(12, 32, 9).eval(), torch.randn(64, 30, 12)
    draws = {name: p.detach() * (1 + 0.3 * torch.randn(8, *p.shape)) for name, p in model.named_parameters()}
    many = ManyWeights(model, x, torch.zeros(64, dtype=torch.long), torch.device("cpu"), 64)
    drawn = [{name: value[d] for name, value in draws.items()} for d in range(8)]
    with torch.no_grad():
        assert many._same(drawn, [[functional_call(model, one, (x,))] for one in drawn])


def test_a_network_of_ones_own_is_not_taken_for_an_lsnn() -> None:
    class Doubled(LSNN):
        def readout(self, outputs: Tensor) -> Tensor:
            return 2 * super().readout(outputs)

    torch.manual_seed(0)
    model, x = Doubled(3, 8, 2).eval(), torch.randn(6, 12, 3)
    many = ManyWeights(model, x, torch.zeros(6, dtype=torch.long), torch.device("cpu"), 6)
    drawn = [{name: p.detach().clone() for name, p in model.named_parameters()} for _ in range(2)]
    with torch.no_grad():
        assert torch.allclose(many._batched(drawn)[0][1], model(x))
