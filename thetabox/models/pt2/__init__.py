"""``.pt2`` files (``torch.export.save``), read without torch's own reader, which runs what it finds there."""

from thetabox.models.pt2.archive import is_archive
from thetabox.models.pt2.graph import read

__all__ = ["is_archive", "read"]
