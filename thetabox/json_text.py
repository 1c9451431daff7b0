"""JSON as others wrote it: what is nested too deeply is refused before a parser recurses into it.

The parser of the standard library stops at Python's recursion limit. Libraries raise that limit (auto_LiRPA to a
million, on import), and a file of many brackets then ends the process.
"""

from __future__ import annotations

import json
import re
from typing import Any

# Brackets within brackets: more than any file that is read here has.
DEEPEST = 200
# A string, whose brackets are text, or a bracket.
_PIECES = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def parse(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is no JSON, or is nested deeper than ``DEEPEST``.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    depth = 0
    for piece in _PIECES.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(piece[0], 0)
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")
    return json.loads(text)
