"""JUnit XML, the format in which CI systems show test results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from thetabox.report.folder import write_file


@dataclass(frozen=True)
class Case:
    """One check: its name, why it failed (None when it holds), what was measured, and why it could not be made."""

    name: str
    failure: str | None = None
    output: str = ""
    error: str | None = None


def write_junit(path: str | os.PathLike[str], suite: str, cases: Sequence[Case], seconds: float = 0.0) -> None:
    """Write the cases as one JUnit test suite, all or nothing.

    Raises:
        InputError: the file cannot be written.
    """
    failures = sum(case.failure is not None for case in cases)
    errors = sum(case.error is not None for case in cases)
    counts = {"name": suite, "tests": str(len(cases)), "failures": str(failures), "errors": str(errors), "skipped": "0"}
    root = ElementTree.Element("testsuites", counts | {"time": f"{seconds:.3f}"})
    element = ElementTree.SubElement(root, "testsuite", counts | {"time": f"{seconds:.3f}"})
    for case in cases:
        one = ElementTree.SubElement(element, "testcase", {"name": case.name, "classname": suite, "time": "0"})
        if case.failure is not None:
            ElementTree.SubElement(one, "failure", {"message": case.failure, "type": "gate"}).text = case.failure
        if case.error is not None:
            ElementTree.SubElement(one, "error", {"message": case.error, "type": "gate"}).text = case.error
        if case.output:
            ElementTree.SubElement(one, "system-out").text = case.output
    ElementTree.indent(root)
    write_file(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
