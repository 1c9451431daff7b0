"""The version of thetabox, read by the build as well."""

__version__ = "0.1.0"
