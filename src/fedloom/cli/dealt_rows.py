"""The rows of an experiment, one client to a site: what `fedloom up` gives each of the sites of one host."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedloom.core.component import ComponentSpec, Json, spec_of
from fedloom.core.data import FederatedDataset
from fedloom.core.ids import ClientId
from fedloom.engines.owned_files import write_owned
from fedloom.errors import ComponentError, DataError
from fedloom.experiment.registry import resolve
from fedloom.experiment.spec import Experiment
from fedloom.experiment.tree import file_form

MOST = 16
"""Sites of one host that nobody asked for by number: each is two processes."""


def clients_of(experiment: Experiment, base: Path, *, count: int | None) -> tuple[ClientId, ...]:
    """Return the clients of an experiment that become sites, in the order of their names.

    Args:
        experiment: With data of its own.
        base: Folder that relative paths start from.
        count: How many; None: all, if they are few.

    Raises:
        DataError: When there are not as many, or too many to be started unasked.
    """
    data: Any = experiment.data
    built: FederatedDataset = resolve(data, base=base) if isinstance(data, ComponentSpec) else data
    population = built.population()
    found = len(population)
    if count is None and found > MOST:
        raise DataError(f"the experiment has {found} clients: say how many become sites, --sites N")
    if count is not None and count > found:
        raise DataError(f"--sites {count}: the experiment has {found} clients, and each site is one of them")
    return tuple(population.id(place) for place in range(found if count is None else count))


def source_for(experiment: Experiment, base: Path, client: ClientId, *, place: Path) -> dict[str, Json]:
    """Return the source of one site, as its policy has it; a CSV with a column of clients is cut into theirs.

    Args:
        experiment: Whose data are dealt.
        base: Folder that relative paths start from.
        client: Whose rows.
        place: Folder of the site, where a file of its own may be written.

    Raises:
        ComponentError: When the data were made in Python.
    """
    spec = spec_of(experiment.data)
    if spec is None:
        raise ComponentError("the data of the experiment were made in Python: name them in a file")
    given = {key: value for key, value in spec.arguments.items() if value is not None}
    column = given.get("client")
    if spec.name == "csv" and isinstance(column, str):
        path = place / "rows.csv"
        write_owned(path, _rows_of(base / str(given["path"]), column, client))
        return {"name": "csv", "path": str(path.resolve())}
    for key, value in given.items():
        if key in ("path", "folder") and isinstance(value, str):
            given[key] = str((base / value).resolve())
    form: dict[str, Json] = _plain(file_form({"group": spec.group, "name": spec.name, "arguments": given}))
    return form


def _rows_of(path: Path, column: str, client: ClientId) -> bytes:
    """Return the lines of a CSV that are of one client, with its header."""
    reader = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = next(reader)
    writer.writerow(names)
    at = [name.strip() for name in names].index(column)
    writer.writerows(record for record in reader if record and record[at].strip() == client)
    return out.getvalue().encode()


def _plain(tree: Json) -> Any:
    """Return a tree without what TOML has not: None."""
    if isinstance(tree, Mapping):
        return {key: _plain(value) for key, value in tree.items() if value is not None}
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return [_plain(value) for value in tree]
    return tree
