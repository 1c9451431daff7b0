"""The ``thetabox`` command: parses, calls the library, prints."""

from thetabox.cli.group import main, thetabox

__all__ = ["main", "thetabox"]
