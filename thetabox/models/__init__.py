"""The networks, the recurrent protocol, and checkpoints."""

from thetabox.models.checkpoint import checkpoint_info, load, save, sha256
from thetabox.models.convnet import ConvNet
from thetabox.models.graphs import is_graph
from thetabox.models.leaky import Leaky, LeakyCells
from thetabox.models.lsnn import LSNN, LSNNState
from thetabox.models.mlp import MLP
from thetabox.models.recurrent import Recurrent, RecurrentModule, is_recurrent, logits, run_steps
from thetabox.models.registry import ARCHITECTURES, architecture, build
from thetabox.models.resnet import ResNet32

__all__ = [
    "ARCHITECTURES",
    "LSNN",
    "MLP",
    "ConvNet",
    "LSNNState",
    "Leaky",
    "LeakyCells",
    "Recurrent",
    "RecurrentModule",
    "ResNet32",
    "architecture",
    "build",
    "checkpoint_info",
    "is_graph",
    "is_recurrent",
    "load",
    "logits",
    "run_steps",
    "save",
    "sha256",
]
