"""Docstrings of the package as the site's Markdown has them: a Griffe extension, named in mkdocs.yml."""

from __future__ import annotations

import re
from typing import Any

import griffe

# :func:`~package.name` and its kin; the last part of a name with a tilde.
ROLE = re.compile(r":(?:func|meth|class|mod|attr|data|obj|exc|math):`(~?)([^`]+)`")


class Docstrings(griffe.Extension):
    """Roles of reStructuredText become code, ``Example:`` the section that Griffe knows by the name of Examples."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            text = re.sub(r"(?m)^(\s*)Example:$", r"\1Examples:", obj.docstring.value)
            obj.docstring.value = ROLE.sub(_code, text)


def _code(role: re.Match[str]) -> str:
    name = role[2].rpartition(".")[2] if role[1] else role[2]
    return f"`{name}`"
