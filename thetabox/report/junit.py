"""JUnit XML, the format in which CI systems show test results."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from xml.etree import ElementTree

from thetabox.report.folder import write_file

# Everything but the characters of XML 1.0, section 2.2.
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One check: its name, why it failed (None when it holds), what was measured, and why it could not be made."""

    name: str
    failure: str | None = None
    output: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Suite:
    """The checks of one thing, and the seconds that they took together."""

    name: str
    cases: Sequence[Case]
    seconds: float = 0.0


def write_junit(path: str | os.PathLike[str], suite: str, cases: Sequence[Case], seconds: float = 0.0) -> None:
    """Write the cases as one JUnit test suite, all or nothing.

    Raises:
        InputError: the file cannot be written.
    """
    write_suites(path, suite, [Suite(suite, cases, seconds)])


def write_suites(path: str | os.PathLike[str], name: str, suites: Sequence[Suite]) -> None:
    """Write a JUnit file of several test suites, all or nothing; the root counts what they hold together.

    Args:
        path: the file.
        name: of all suites together.
        suites: each with a name of its own, under which a CI system lists its cases.

    Raises:
        InputError: the file cannot be written.
    """
    root = ElementTree.Element("testsuites", _counts(Suite(name, [*chain(*(suite.cases for suite in suites))])))
    root.set("time", f"{sum(suite.seconds for suite in suites):.3f}")
    for suite in suites:
        element = ElementTree.SubElement(root, "testsuite", _counts(suite))
        for case in suite.cases:
            _add(element, suite.name, case)
    ElementTree.indent(root)
    write_file(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _counts(suite: Suite) -> dict[str, str]:
    return {
        "name": _held(suite.name),
        "tests": str(len(suite.cases)),
        "failures": str(sum(case.failure is not None for case in suite.cases)),
        "errors": str(sum(case.error is not None for case in suite.cases)),
        "skipped": "0",
        "time": f"{suite.seconds:.3f}",
    }


def _add(suite: ElementTree.Element, classname: str, case: Case) -> None:
    one = ElementTree.SubElement(
        suite, "testcase", {"name": _held(case.name), "classname": _held(classname), "time": "0"}
    )
    for kind, message in (("failure", case.failure), ("error", case.error)):
        if message is not None:
            text = _held(message)
            ElementTree.SubElement(one, kind, {"message": text, "type": "gate"}).text = text
    if case.output:
        ElementTree.SubElement(one, "system-out").text = _held(case.output)


def _held(text: str) -> str:
    """The text, with a sign for each character that no XML file may hold, as the name of a file may."""
    return _NOT_XML.sub("\ufffd", text)
