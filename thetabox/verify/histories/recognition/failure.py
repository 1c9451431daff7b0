"""Why a network is not taken for one of leaky cells."""

from __future__ import annotations


class NotRecognised(Exception):
    """The network is not one of leaky cells, or cannot be seen to be one; the text says in a line where they part."""
