"""Functions of steps that no single operator of the table is: at the end of a network, and around every other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thetabox.errors import InputError
from thetabox.models.contents import first_line
from thetabox.models.onnx.file import OnnxNode
from thetabox.models.onnx.numbers import boxed


def scaled(x: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    """What ONNX calls a scaler."""
    return (x - offset) * scale


def two_logits(score: Tensor) -> Tensor:
    """Logits of two classes, of which the second is likelier where its score is above 0.

    Raises:
        InputError: there are several scores.
    """
    if score.dim() != 2 or score.shape[1] != 1:
        raise InputError(f"its sigmoid is of scores of sizes {list(score.shape[1:])}, not of one for two classes")
    return torch.cat([torch.zeros_like(score), score], 1)


class CheckedScores:
    """A function that makes the scores, which must be ``[samples, classes]``: else a softmax goes by something else."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        score = self.function(*args, **kwargs)
        if isinstance(score, Tensor) and score.dim() != 2:
            raise InputError(
                f"what decides is of scores of sizes {list(score.shape[1:])}, not [classes]; name the value that is "
                'the logits with config={"output": NAME} (--set output=NAME)'
            )
        return score


def explained(function: Any, node: OnnxNode) -> Any:
    """A function whose errors name the node."""
    return _Explained(function, node.describe())


class _Explained:
    def __init__(self, function: Any, where: str) -> None:
        self.function, self.where = function, where

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return boxed(self.function(*args, **kwargs))
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from error.__cause__
        except (TypeError, AttributeError, IndexError, KeyError, ValueError, OverflowError) as error:
            raise InputError(f"{self.where} does not take what it is given: {first_line(error)}") from error
