"""What a site begins with: a policy to be read and changed by its operator."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from fedloom.core.component import Json
from fedloom.core.own_version import FROM_SOURCES, own_version
from fedloom.errors import DataError
from fedloom.experiment.tree import toml_value

SOURCES: Mapping[str, str] = {
    ".csv": "csv",
    ".npz": "npz",
    ".parquet": "parquet",
}
"""Data sets by the end of a file's name."""
Protection = Literal["secure-aggregation", "none"]
Mode = Literal["manual", "auto-if-allowed"]
Kind = Literal["private", "public", "synthetic"]


def starter_policy(
    name: str,
    *,
    federation: str,
    source: Mapping[str, Json],
    protection: Protection = "secure-aggregation",
    mode: Mode = "manual",
    kind: Kind = "private",
    packages: Sequence[str] = (),
    min_rows: int = 50,
) -> str:
    """Return the text of a policy: strict, short, and with a word on each line that an operator may want to change.

    Args:
        name: Of the site, as the roster has it.
        federation: Whose coordinator may ask.
        source: A data set and its arguments, as ``[data."rows"]`` has them.
        protection: What every run must have.
        mode: Whether the operator looks at every run.
        kind: Of the rows; other than private ones may be rehearsed with.
        packages: Whose components may run; none: fedloom's own.
        min_rows: With fewer rows the site declines.

    Example:
        >>> text = starter_policy("north", federation="trial", source={"name": "csv", "path": "/data/rows.csv"})
        >>> print(text.splitlines()[3])
        name = "north"
    """
    allowed = toml_value(list(packages) or [f"fedloom=={_installed()}"])
    given = ", ".join(f"{key} = {toml_value(value)}" for key, value in source.items())
    protected = protection == "secure-aggregation"
    open_ = "" if protected else "     # the coordinator reads each update of this site"
    by_hand = "     # each run waits for `fedloom site approve`" if mode == "manual" else ""
    rehearsal = "" if kind == "private" else f'kind = "{kind}"\nallow_rehearsal = true\n'
    text = f"""\
        # What this site lets a federation do. `fedloom site policy` checks it; the next run is judged by it.

        [site]
        name = {toml_value(name)}
        errors = "class"               # of code that fails here, its class and line leave; "full": its message too

        [allow]
        packages = {allowed}     # whose components may run here; nothing else does
        coordinators = ["spiffe://{federation}/coordinator"]

        [data."rows"]
        source = {{ {given} }}
        min_rows = {min_rows}                 # with fewer rows the site declines
        """
    rest = f"""\
        [privacy]
        require = {'["secure-aggregation"]' if protected else "[]"}{open_}
        min_sites_in_aggregate = {3 if protected else 1}     # in every sum that is opened
        metrics = "{"aggregate-only" if protected else "any"}"

        [approval]
        mode = "{mode}"{by_hand}
        """
    return textwrap.dedent(text) + rehearsal + "\n" + textwrap.dedent(rest)


def source_of(path: Path) -> dict[str, Json]:
    """Return the data set that a file of rows is, by its name.

    Raises:
        DataError: When the file is not there, or its name does not say what it is.
    """
    if not path.exists():
        raise DataError(f"{path} is not there: name the file with this site's rows")
    if path.is_dir():
        return {"name": "folder", "path": str(path.resolve())}
    kind = SOURCES.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"{path}: expected a folder, or a name that ends in {', '.join(SOURCES)}. Other data sets, such as a query "
            "of a database, are written into site.toml by hand"
        )
    return {"name": kind, "path": str(path.resolve())}


def _installed() -> str:
    found = own_version()
    return "*" if found == FROM_SOURCES else ".".join(found.split(".")[:2]) + ".*"
