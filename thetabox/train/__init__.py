"""Training: one loop, one file a method, and recipes that say how each task is trained."""

from thetabox.train.history import Epoch, TrainResult
from thetabox.train.loop import fit
from thetabox.train.methods import METHODS, Method, hyper_parameters, method
from thetabox.train.recipes import Recipe, recipe
from thetabox.train.training import evaluate

__all__ = [
    "METHODS",
    "Epoch",
    "Method",
    "Recipe",
    "TrainResult",
    "evaluate",
    "fit",
    "hyper_parameters",
    "method",
    "recipe",
]
