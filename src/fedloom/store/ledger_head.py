"""Head of a ledger: how many rows it has and the digest of the last, kept where the ledger itself is not.

A chain of digests shows that a row was changed, removed or moved, but not that the last rows are gone. A head
remembered elsewhere shows it: in the file beside the ledger, in a run folder, or on paper. It shows a ledger restored
from a backup, one cut short, and one rewritten from some row on. It does not show what happened after it was written,
nor a ledger that was put back together with every head that is compared.
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fedloom.errors import StoreError
from fedloom.store.faults import explained


@dataclass(frozen=True, slots=True)
class Head:
    """Number of rows, and the digest of the last one in hexadecimal."""

    rows: int
    sha256: str

    def __str__(self) -> str:
        """Return the head as ``parse_head`` reads it.

        Example:
            >>> str(Head(7, "0f" * 32))[:12]
            '7:0f0f0f0f0f'
        """
        return f"{self.rows}:{self.sha256}"


def parse_head(text: str) -> Head:
    """Return the head that a text names.

    Raises:
        StoreError: When it names none.

    Example:
        >>> parse_head("7:" + "0f" * 32).rows
        7
    """
    found = re.fullmatch(r"([1-9][0-9]{0,17}):([0-9a-f]{64})", text.strip())
    if found is None:
        raise StoreError(f"head {text!r}: expected ROWS:SHA256 as `fedloom ledger verify` prints it")
    return Head(int(found[1]), found[2])


def head_path(ledger: Path) -> Path:
    """Return where the head of a ledger is kept beside it."""
    return ledger.with_name(f"{ledger.name}.head")


def write_head(ledger: Path, head: Head, *, name: str) -> None:
    """Write the head beside a ledger, whole or not at all; ``name`` is the ledger's.

    A power cut may bring the one before it back. It counts fewer rows than there are, which is no loss.

    Raises:
        StoreError: When the file cannot be written.
    """
    path = head_path(ledger)
    data = msgspec.json.encode(_File(name, head.rows, head.sha256)) + b"\n"
    with explained(path, needs=len(data)):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def read_head(ledger: Path) -> tuple[str, Head] | None:
    """Return the ledger's name and its head as the file beside it has them, or None where there is no file.

    Raises:
        StoreError: When the file cannot be read or is not one.
    """
    path = head_path(ledger)
    with explained(path):
        if not path.exists():
            return None
        data = path.read_bytes()
    try:
        found = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreError(
            f"{path} is damaged ({error}), so a ledger cut short would not be noticed. Compare {ledger} with a head "
            "noted elsewhere: fedloom ledger verify --head ROWS:SHA256, then --accept"
        ) from error
    return found.ledger, Head(found.rows, found.sha256)


@dataclass(frozen=True, slots=True)
class _File:
    ledger: str
    rows: int
    sha256: str
