"""Files that hold a network as a graph, by their suffix or content."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from thetabox.errors import InputError
from thetabox.models import pt2
from thetabox.models.contents import one_line

ONNX, NIR = ".onnx", ".nir"
GRAPHS = (".pt2", ONNX, NIR)
"""Suffixes of files that hold a network, not only its weights."""


def is_graph(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds a network as a graph: by its suffix, or as an archive of ``torch.export.save``."""
    path = Path(path)
    return path.suffix.lower() in GRAPHS or pt2.is_archive(path)


def read_graph(path: Path, config: Mapping[str, Any] | None, dynamics: str | None = None) -> nn.Module:
    """The network of a graph file.

    Raises:
        InputError: as :func:`load`.
    """
    try:
        if path.suffix.lower() == NIR:
            from thetabox.models import nir  # here, as below

            if config:
                raise InputError(f"{path}: of a NIR file its dynamics are chosen (--dynamics), nothing else")
            return nir.read(path, dynamics)
        check_dynamics(path, dynamics)
        if path.suffix.lower() == ONNX:
            from thetabox.models import onnx  # here, for most commands need none of its table

            return onnx.read(path, config)
        return pt2.read(path, config)
    except InputError as error:
        raise InputError(one_line(str(error))) from error.__cause__


def check_dynamics(path: Path, dynamics: str | None) -> None:
    """Raise InputError where dynamics are chosen of a file that says itself what is computed."""
    if dynamics is not None:
        raise InputError(f"{path}: dynamics are chosen of a NIR file; leave --dynamics (dynamics= in Python) out")


def data_files(path: Path) -> list[Path]:
    """Files beside a graph file in which its weights lie.

    Raises:
        InputError: the graph file is damaged, or they are not where they may be.
    """
    if path.suffix.lower() != ONNX:
        return []
    from thetabox.models import onnx

    return onnx.data_files(path)
