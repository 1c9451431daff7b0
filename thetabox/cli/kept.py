"""What an interrupted run leaves behind, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = "partial"


@contextmanager
def nothing_kept(why: str) -> Iterator[None]:
    """Say of an interrupt inside that it leaves nothing, and why."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; nothing was kept, for {why}") from None


@contextmanager
def part_kept(partial: Path, why_not: str) -> Iterator[None]:
    """Say of an interrupt inside that the finished part is kept in a folder, or that none was finished."""
    try:
        yield
    except BaseException as error:
        kept = tidied(partial)
        if isinstance(error, KeyboardInterrupt) and kept:
            raise KeyboardInterrupt(
                f"interrupted; the finished part is kept in {partial}, and the same command goes on from there"
            ) from None
        with nothing_kept(why_not):
            raise
    tidied(partial)


def cut(timeout: float | None, proof: bool, **others: bool) -> list[str]:
    """A line on what the time did not suffice for, if anything.

    Args:
        timeout: seconds.
        proof: whether part of the proof was left out.
        others: what else may have been, as ``the_draws``.
    """
    parts = {"all of the proof (what is proven stands; the same command with more time goes on)": proof, **others}
    left = [name.replace("_", " ") for name, missing in parts.items() if missing]
    return [f"not finished: {timeout:g} s were over before {', '.join(left)}"] if left else []


def tidied(partial: Path) -> bool:
    """Whether finished parts lie in the folder; empty folders are removed."""
    for path in sorted(partial.rglob("*"), reverse=True):
        with suppress(OSError):
            path.rmdir()
    with suppress(OSError):
        partial.rmdir()
    return partial.exists()
