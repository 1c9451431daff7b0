"""The same bounds on a GPU; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

import thetabox as tb

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]

NETWORKS = {
    "mlp": (lambda: tb.models.MLP([12, 16, 4]), (12,)),
    "cnn": (lambda: tb.models.ConvNet(input=[1, 8, 8], channels=[4, 8], kernel=3, hidden=[16], classes=4), (1, 8, 8)),
    "lsnn": (lambda: tb.models.LSNN(5, 16, 4), (20, 5)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_cuda_bounds_agree_with_cpu(name: str, precision: str) -> None:
    make, shape = NETWORKS[name]
    model, x = make(), torch.randn(9, *shape)
    y = model(x).argmax(1)
    epsilon = [0.0, 1e-4, 1e-2]
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        gpu = tb.certify(model, x, y, epsilon, device="cuda", precision=precision)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    cpu = tb.certify(model, x, y, epsilon, device="cpu", precision=precision)
    tolerance = 1e-9 if precision == "float64" else 1e-3
    torch.testing.assert_close(gpu.margin, cpu.margin, rtol=tolerance, atol=tolerance)
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize("name", NETWORKS)
def test_verified_on_cuda_is_never_flipped(name: str) -> None:
    make, shape = NETWORKS[name]
    model, x = make(), torch.randn(9, *shape)
    y = model(x).argmax(1)
    epsilon = [1e-4, 1e-2, 0.1]
    certificate = tb.certify(model, x, y, epsilon, device="cuda")
    attacked = tb.attack(model, x, y, epsilon=epsilon, steps=5, restarts=1, device="cuda")
    assert not bool((certificate.verified & ~attacked.correct).any())
    radius = tb.certified_radius(model, x, y, device="cuda")
    assert bool((radius > 0).any())


def test_a_model_on_the_gpu_stays_there() -> None:
    model = tb.models.MLP([6, 8, 3]).cuda()
    x = torch.randn(5, 6)
    y = model(x.cuda()).argmax(1).cpu()
    certificate = tb.certify(model, x, y, [1e-4])
    assert certificate.clean_accuracy == 1.0
    assert next(model.parameters()).is_cuda
    assert certificate.margin.device.type == "cpu"


def test_training_and_mismatch_on_cuda() -> None:
    data = tb.data.load("digits", split="train").subset(200)
    model = tb.models.ConvNet(input=[1, 8, 8], channels=[4, 8], kernel=3, hidden=[16])
    tb.train.fit(model, data, data, "weight-attack", epochs=1, device="cuda", progress=False)
    drawn = tb.mismatch(model, data.x[:20], data.y[:20], level=[0.1], samples=3, device="cuda")
    assert drawn.accuracy.shape == (1, 3)
