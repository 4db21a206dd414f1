"""Times at which clients are away, read from a CSV file, for a simulation."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from fedloom.errors import DataError

HEADER = ("client", "from_round", "to_round")


def read_absences(path: str | Path) -> dict[str, list[list[int]]]:
    r"""Return the absences that a CSV file lists: by client, the first and the last round of each time it is away.

    Args:
        path: A UTF-8 file with the header ``client,from_round,to_round`` and a line for each time, rounds from 1 on.

    Raises:
        DataError: When the file cannot be read as described; it names path and line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trace = Path(folder, "away.csv")
        ...     _ = trace.write_text("client,from_round,to_round\nnorth,3,5\nnorth,9,9\n")
        ...     read_absences(trace)
        {'north': [[3, 5], [9, 9]]}
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save the file as CSV UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    found: dict[str, list[list[int]]] = {}
    for number, record in enumerate(reader):
        cells = [cell.strip() for cell in record]
        if number == 0:
            if tuple(cells) != HEADER:
                raise DataError(f"{path}: line 1: columns are {', '.join(cells)}; expected {','.join(HEADER)}")
        elif any(cells):
            found.setdefault(cells[0], []).append(_span(path, reader.line_num, cells))
    if not found:
        raise DataError(f"{path}: lists no absences; expected {','.join(HEADER)} and a line for each")
    return found


def _span(path: str | Path, line: int, cells: list[str]) -> list[int]:
    if len(cells) != len(HEADER) or not cells[0]:
        raise DataError(f"{path}: line {line}: {len(cells)} fields; expected a client and two rounds")
    try:
        first, last = int(cells[1]), int(cells[2])
    except ValueError as error:
        raise DataError(f"{path}: line {line}: rounds are {cells[1]!r} and {cells[2]!r}; expected numbers") from error
    if not 1 <= first <= last:
        raise DataError(f"{path}: line {line}: away from round {first} to {last}; expected 1 or more, in this order")
    return [first, last]
