"""Training: one loop, one file a method, and recipes that say how each task is trained."""

from thetabox.train.history import Epoch, TrainResult
from thetabox.train.loop import evaluate, fit
from thetabox.train.methods import METHODS, Method, hyper_parameters, method
from thetabox.train.recipes import Recipe, recipe

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
