"""Stored claims, read as strictly as they were written; those of a yield are read in ``yields/stored``."""

from thetabox.verify.stored.certificate import COLUMNS, SCHEMA, facts, samples

__all__ = ["COLUMNS", "SCHEMA", "facts", "samples"]
