"""How results show themselves: a line, a table in a notebook, one sample's record, a data frame."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from torch import Tensor

from thetabox.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Columns:
    """The numbers of a result, by name.

    Attributes:
        samples: what a sample is, ``[N]`` each.
        levels: what a level is, as ε, ``[L]`` each; none where a sample has but one record.
        cells: what a sample has at a level, ``[L, N]`` each.
    """

    samples: Mapping[str, Sequence[Any]]
    levels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    cells: Mapping[str, Sequence[Sequence[Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, samples: Mapping[str, Any], levels: Mapping[str, Tensor] | None = None, cells: Any = None) -> Columns:
        """The same of tensors, as plain numbers."""
        return cls(
            *({name: _plain(column) for name, column in (part or {}).items()} for part in (samples, levels, cells))
        )


def _plain(column: Any) -> Any:
    return column.tolist() if isinstance(column, Tensor) else column


def about(data: Mapping[str, Any], samples: int, clean_accuracy: float) -> str:
    """What a claim speaks of: the data by name, how many, and how many the network itself gets right."""
    name = f"{data['name']}, " if data.get("name") else ""
    return f"{name}{samples} samples, clean accuracy {clean_accuracy:.3f}"


class Headed(ABC):
    """Base of results that show themselves as a line and a short table."""

    @abstractmethod
    def headline(self) -> str:
        """What the result is about, without its numbers."""

    @abstractmethod
    def summary(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Names and cells of a short table."""

    def __repr__(self) -> str:
        names, cells = self.summary()
        rows = ("; ".join(f"{name} {cell}" for name, cell in zip(names, row, strict=True)) for row in cells)
        return "\n".join((f"{type(self).__name__}: {self.headline()}", *(f"  {row}" for row in rows)))

    def _repr_html_(self) -> str:
        names, cells = self.summary()
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
        return f"<p>{escape(self.headline())}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Shown(Headed):
    """Base of results about samples: a sequence of their records, ``result[7]`` that of the eighth."""

    @abstractmethod
    def columns(self) -> Columns:
        """Everything that is known of every sample."""

    @abstractmethod
    def __len__(self) -> int: ...

    def __getitem__(self, sample: int) -> dict[str, Any]:
        """What is known of one sample: by name a number, or a list of one for each level.

        Raises:
            IndexError: there is no such sample.
        """
        at, count = operator.index(sample), len(self)
        if not -count <= at < count:
            raise IndexError(f"there are {count} samples, none of number {at}")
        at %= count
        table = self.columns()
        columns = {name: column[at] for name, column in table.samples.items()}
        cells = {name: [row[at] for row in rows] for name, rows in table.cells.items()}
        return {"sample": at, **columns, **{name: list(column) for name, column in table.levels.items()}, **cells}

    def to_pandas(self) -> pd.DataFrame:
        """One row a sample and level, in the order and with the columns of the CSV file.

        Raises:
            InputError: pandas is not installed.
        """
        library = pandas()
        table, count = self.columns(), len(self)
        times = len(next(iter(table.levels.values()))) if table.levels else 1
        frame: pd.DataFrame = library.DataFrame(
            {
                "sample": [*range(count)] * times,
                **{name: [*column] * times for name, column in table.samples.items()},
                **{name: [v for v in column for _ in range(count)] for name, column in table.levels.items()},
                **{name: [v for row in rows for v in row] for name, rows in table.cells.items()},
            }
        )
        return frame


def pandas() -> Any:
    """The library of data frames.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise InputError("to_pandas needs pandas: pip install 'thetabox[notebook]'") from error
    return pd
