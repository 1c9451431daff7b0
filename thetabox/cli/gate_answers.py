"""What a gate found of each model, and where it says so: the terminal, one JSON document, JUnit, a summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thetabox import report
from thetabox.cli.console import print_json, show
from thetabox.cli.group import explained
from thetabox.errors import InputError
from thetabox.verify import Certificate, YieldCertificate

SUITE = "thetabox.gate"
PASSES, FAILS = 0, 1
# Where something is wrong with the run itself, and with no model.
THE_RUN = Path("the run")


@dataclass(frozen=True)
class Judged:
    """One model: its cases, one a claim, whether its proof went to its end, and the exit status that it earns."""

    model: Path
    cases: Sequence[report.Case]
    status: int
    finished: bool = True
    seconds: float = 0.0

    @classmethod
    def by(cls, model: Path, certificate: Certificate | YieldCertificate, cases: Sequence[report.Case]) -> Judged:
        """As a certificate says."""
        status = PASSES if all(case.failure is None for case in cases) else FAILS
        return cls(model, cases, status, certificate.finished, certificate.seconds)

    @classmethod
    def without_answer(cls, model: Path, why: str, status: int) -> Judged:
        """Where none could be found."""
        return cls(model, [no_answer(why)], status, finished=False)

    @property
    def document(self) -> dict[str, Any]:
        """What it has to say as JSON: its claims, or the error that stands in their place."""
        claims = [
            {"claim": case.name, "pass": case.failure is None, "found": case.output}
            for case in self.cases
            if case.error is None
        ]
        document = {"pass": self.status == PASSES, "finished": self.finished, "claims": claims}
        errors = [case.error for case in self.cases if case.error is not None]
        return document | {"error": errors[0]} if errors else document

    def lines(self, named: bool) -> list[str]:
        """One line a claim; an error has its line on standard error."""
        name = f"{self.model}: " if named else ""
        return [f"{self._verdict(case)}  {name}{case.output}" for case in self.cases if case.error is None]

    def suite(self, named: bool) -> report.Suite:
        """Its cases as JUnit shows them."""
        return report.Suite(f"{SUITE} {self.model}" if named else SUITE, self.cases, self.seconds)

    def _verdict(self, case: report.Case) -> str:
        return "pass" if case.failure is None else "FAIL" if self.finished else "not finished"


@dataclass
class Answers:
    """The answers of one run of the gate; of one model as ever, of several each under its name.

    Args:
        junit: file that says at any time what is known, also of a run that is killed; none of it is a pass before
            its model was judged.
        summary: file to append to, once, at the end.
        models: to be judged, in this order; empty where the command line could not be read.
    """

    junit: Path | None
    summary: Path | None
    models: Sequence[Path] = ()
    judged: list[Judged] = field(default_factory=list)

    @property
    def named(self) -> bool:
        """Whether each answer must say of which model it is."""
        return len(self.models) > 1

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Write what is known whatever happens: a gate that ended with no answer is reported as just that.

        Raises:
            InputError: the file of an option is a folder, or cannot be written.
        """
        try:
            for option, path in (("--junit", self.junit), ("--summary", self.summary)):
                if path is not None and path.is_dir():
                    raise InputError(f"cannot write {path}: it is a folder; name a file after {option}")
            self._write_junit()
            yield
        except BaseException as error:
            self._add_missing(explained(error)[0])
            with suppress(InputError):
                self._write_junit()
            with suppress(InputError):
                self._append_summary()
            raise

    def add(self, judged: Judged) -> None:
        """Tell what was found of a model, at once: the next one may take hours."""
        self.judged.append(judged)
        self._write_junit()
        if self.named:
            show(*judged.lines(named=True))

    def end(self) -> int:
        """Tell the rest; the exit status, which is the gravest of all models."""
        self._append_summary()
        status = max(judged.status for judged in self.judged)
        if self.named:
            finished = all(judged.finished for judged in self.judged)
            models = [{"model": str(judged.model), **judged.document} for judged in self.judged]
            print_json({"pass": status == PASSES, "finished": finished, "models": models})
        else:
            (one,) = self.judged
            print_json(one.document)
            show(*one.lines(named=False))
        return status

    def _add_missing(self, why: str) -> None:
        """No answer for what was not judged; where all was, for the run, whose verdicts did not reach their files."""
        missing = [Judged.without_answer(model, why, FAILS) for model in self.models[len(self.judged) :]]
        if not self.named:
            self.judged.clear()
        self.judged += missing or [Judged.without_answer(THE_RUN, why, FAILS)]

    def _write_junit(self) -> None:
        if self.junit is not None:
            unknown = [Judged.without_answer(model, "the gate did not end", FAILS) for model in self._rest()]
            suites = [judged.suite(self.named) for judged in (*self.judged, *unknown)]
            report.write_suites(self.junit, SUITE, suites)

    def _rest(self) -> Sequence[Path]:
        """Of which nothing is known yet."""
        return (self.models or [THE_RUN])[len(self.judged) :]

    def _append_summary(self) -> None:
        if self.summary is None:
            return
        rows = [(case, str(judged.model)) for judged in self.judged for case in judged.cases]
        models = [model for _, model in rows] if self.named else []
        report.append_summary(self.summary, SUITE, [case for case, _ in rows], models)


def no_answer(why: str) -> report.Case:
    """In place of the claims of a model of which nothing is known."""
    return report.Case("the gate ends", error=why)
