"""Write the ONNX files of ``tests/models/test_onnx.py``: ``python tests/models/onnx/make.py [folder]``.

Needs onnxscript and skl2onnx, which the test suite itself does not. Written with torch 2.13.0, onnxscript 0.7.2,
skl2onnx 1.20.0, scikit-learn 1.9.1.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn

from thetabox.models import LSNN

HERE = Path(__file__).parent


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = torch.relu(h + self.second(h))
        return self.head(h.mean((2, 3)))


class Views(nn.Module):
    """Sizes in the graph: views, a state of zeros, slices, a literal beside a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.again = nn.Linear(16, 8), nn.Linear(8, 8)
        self.shift = nn.Parameter(torch.linspace(-1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(x.size(0), 4, 16)
        state = torch.zeros(x.size(0), 8)
        for t in range(4):
            state = torch.tanh(self.layer(rows[:, t]) + 0.5 * self.again(state))
        return torch.cat([state.reshape(x.size(0), -1) + self.shift, state[:, :2].clamp(-0.5, 0.75)], 1)


class Sequence(nn.Module):
    """Three rows of an image, one a time step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells, self.head = kind(8, 4, batch_first=True), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x[:, 0, ::3])[0][:, -1])


class Spiking(nn.Module):
    """The rows of an image, one a time step of a recurrent spiking network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = LSNN(8, 6, 10, dt=0.5)
        nn.init.normal_(self.net.b_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, 0, ::2])


NETS = {
    "spiking": Spiking,
    "lstm": lambda: Sequence(nn.LSTM),
    "gru": lambda: Sequence(nn.GRU),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)),
    "cnn": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(6, 10),
    ),
    "residual": Residual,
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Hardtanh(0, 6), nn.Conv2d(4, 4, 3, groups=4, stride=2), nn.LeakyReLU(0.1),
        nn.Conv2d(4, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ),
    "views": Views,
}  # a table  # fmt: skip


def network(name: str) -> nn.Module:
    """Weights from a seed, statistics of batch norms that are not their defaults."""
    torch.manual_seed(sum(map(ord, name)))
    made = NETS[name]()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    return made.eval()


def write(name: str, folder: Path, *, dynamo: bool, free: bool, kept: bool = False) -> None:
    """One network by one of torch's exporters, with a batch of any size or one of 1."""
    made = network(name)
    x = torch.from_numpy(load_digits().images[:8].astype(np.float32) / 16)[:, None]
    stem = f"{name}_{'new' if dynamo else 'old'}_{'free' if free else 'one'}{'_kept' if kept else ''}"
    options: dict = {"input_names": ["x"], "output_names": ["logits"], "dynamo": dynamo}
    if dynamo:
        options |= (
            {"dynamic_shapes": {"input" if isinstance(made, nn.Sequential) else "x": {0: torch.export.Dim("b")}}}
            if free
            else {}
        )
        options |= {"optimize": not kept, "verbose": False, "external_data": False}
    else:
        options |= {"dynamic_axes": {"x": {0: "b"}, "logits": {0: "b"}}} if free else {}
        # With the training flag kept the old exporter leaves batch norms alone.
        options |= {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False} if kept else {}
    torch.onnx.export(made, (x[:1] if not free else x[:3],), folder / f"{stem}.onnx", **options)
    strip(folder / f"{stem}.onnx")


def strip(path: Path) -> None:
    """Leave out where in the code each node came from, which is most of a file."""
    model = onnx.load(path)
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    del model.graph.value_info[:]
    onnx.save(model, path)


def write_sklearn(folder: Path) -> None:
    """Classifiers of scikit-learn; their scores before Softmax and Logistic."""
    from skl2onnx import to_onnx

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    for name, labels, model in (
        ("mlp", y, MLPClassifier((8,), max_iter=60, random_state=0)),
        ("mlp_binary", y % 2, MLPClassifier((8,), max_iter=60, random_state=0)),
        ("mlp_words", np.array(["even", "odd", "none"])[y % 3], MLPClassifier((8,), max_iter=60, random_state=0)),
        ("logistic", y, LogisticRegression(max_iter=200)),
        ("logistic_binary", y % 2, LogisticRegression(max_iter=200)),
    ):
        model.fit(x, labels)
        for zipmap in (True, False):
            made = to_onnx(model, x[:1], options={"zipmap": zipmap} if not zipmap else None)
            stem = f"sk_{name}{'' if zipmap else '_plain'}"
            (folder / f"{stem}.onnx").write_bytes(made.SerializeToString())


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    warnings.simplefilter("ignore")  # of the older exporter, which is meant
    for name in NETS:
        for dynamo in (False, True):
            for free in (True, False):
                if name in ("lstm", "gru") and dynamo != free:  # walked a step at a time, of which two will do
                    continue
                write(name, folder, dynamo=dynamo, free=free)
    for name in ("cnn", "residual"):
        for dynamo in (False, True):
            write(name, folder, dynamo=dynamo, free=True, kept=True)
    write_sklearn(folder)


if __name__ == "__main__":
    main()
