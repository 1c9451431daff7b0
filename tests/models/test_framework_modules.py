"""Neurons of a framework in a loop as its tutorials write it: recognised, and certified as a loop written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thetabox as tb

MODULES = Path(__file__).parents[1] / "data" / "modules"
DECAY = (0.9, 0.8)


class ByHand(nn.Module):
    """The equations of snnTorch's page for each cell; a spike resets in the step behind it, or undelayed in its own."""

    def __init__(self, name: str, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.zero, self.undelayed = name.endswith("zero"), name.endswith("undelayed")
        # By these a reset to zero takes what enters in the step behind a spike too.
        self.lost = (name.endswith(("rleaky_zero", "synaptic_zero")), name.endswith("synaptic_zero"))
        self.synapse = (0.8, 0.7) if "synaptic" in name else (0.0, 0.0)
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 3)
        self.back = nn.Linear(12, 12) if "rleaky" in name else None
        held = dict(weights)
        for part, layer in (("fc1", self.fc1), ("fc2", self.fc2), ("lif1.recurrent", self.back)):
            if layer is not None:
                layer.load_state_dict({n: held[f"{part}.{n}"] for n in ("weight", "bias")})

    def forward(self, x: Tensor) -> Tensor:
        shapes = [(x.shape[0], n) for n in (12, 3)]
        v, current, z = ([x.new_zeros(s) for s in shapes] for _ in range(3))
        total = x.new_zeros(shapes[1])
        for t in range(x.shape[1]):
            for n, layer in enumerate((self.fc1, self.fc2)):
                drive = layer(x[:, t] if n == 0 else z[0])
                if n == 0 and self.back is not None:
                    drive = drive + self.back(z[0])
                current[n] = self.synapse[n] * current[n] + drive
                reset = (v[n] > 1.0).to(x.dtype)
                if self.lost[n]:
                    v[n] = (1 - reset) * (DECAY[n] * v[n] + current[n])
                elif self.zero:
                    v[n] = DECAY[n] * (v[n] * (1 - reset)) + current[n]
                else:
                    v[n] = DECAY[n] * v[n] + current[n] - reset
                z[n] = (v[n] > 1.0).to(x.dtype)
                if self.undelayed:
                    v[n] = v[n] - (z[n] - reset)
            total = total + z[1]
        return total


@pytest.mark.slow
@pytest.mark.thin(4)
@pytest.mark.parametrize("name", sorted(path.stem for path in MODULES.glob("*.pt2")))
def test_recognised_and_certified_as_by_hand(name: str) -> None:
    with np.load(MODULES / f"{name}.npz") as held:
        x, counts = torch.from_numpy(held["x"]), torch.from_numpy(held["z"]).float().sum(1)
    model = tb.load(MODULES / f"{name}.pt2")
    with torch.no_grad():
        assert torch.equal(model(x), counts)
        twin = ByHand(name, {key: value.detach() for key, value in model.named_parameters()})
        assert torch.equal(twin(x), counts)
    y, epsilon = counts.argmax(1), [0.0, 1e-4, 1e-3, 1e-2]
    found, expected = (tb.certify(network, x, y, epsilon, domain="histories") for network in (model, twin))
    assert found.model_info["cells"].startswith("recognised")
    assert found.model_info["cells"] == expected.model_info["cells"]
    assert torch.equal(found.verified, expected.verified)
    plain = tb.certify(model, x, y, epsilon, domain="interval")
    assert found.verified.sum() >= plain.verified.sum()
