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

ONNX = ".onnx"
GRAPHS = (".pt2", ONNX)
"""Suffixes of files that hold a network, not only its weights."""


def is_graph(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds a network as a graph: by its suffix, or as an archive of ``torch.export.save``."""
    path = Path(path)
    return path.suffix.lower() in GRAPHS or pt2.is_archive(path)


def read_graph(path: Path, config: Mapping[str, Any] | None) -> nn.Module:
    """The network of a graph file.

    Raises:
        InputError: as :func:`load`.
    """
    try:
        if path.suffix.lower() == ONNX:
            from thetabox.models import onnx  # here, for most commands need none of its table

            return onnx.read(path, config)
        return pt2.read(path, config)
    except InputError as error:
        raise InputError(one_line(str(error))) from error.__cause__


def data_files(path: Path) -> list[Path]:
    """Files beside a graph file in which its weights lie.

    Raises:
        InputError: the graph file is damaged, or they are not where they may be.
    """
    if path.suffix.lower() != ONNX:
        return []
    from thetabox.models import onnx

    return onnx.data_files(path)
