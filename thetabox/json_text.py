"""JSON as it is written here, and as others wrote it: nested too deeply it is refused before a parser recurses.

The parser of the standard library stops at Python's recursion limit. Libraries raise that limit (auto_LiRPA to a
million, on import), and a file of many brackets then ends the process.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

# Brackets within brackets: more than any file that is read here has.
DEEPEST = 200
# A string, whose brackets are text, or a bracket.
_PIECES = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def json_text(content: Mapping[str, Any]) -> str:
    """Readable JSON with the keys in the order given; NaN and infinity are refused, for no parser need know them."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def finite(content: Any) -> Any:
    """The same with ``None`` for every number that JSON does not know: NaN, and infinity."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


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
