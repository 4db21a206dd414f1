"""The rows of one site as the data set of a run: what an experiment says of rows, over the site's own source.

An experiment names a source of its own (a file of all clients, in a simulation). Of it only what the columns mean is
taken: label, classes, split, seed. Where rows lie (a path, a query) comes from the policy of the site and never from a
message.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedloom.core.component import ComponentSpec, Json, spec_of
from fedloom.core.data import FEATURES, LABEL, SPLITS, TEXTS, ClientDataset, FederatedDataset, Population, Schema, Split
from fedloom.core.ids import ClientId
from fedloom.core.labels import label_text
from fedloom.core.params import Vector
from fedloom.data.csv_rows import names_in_csv
from fedloom.data.npz_file import names_in_npz
from fedloom.data.one_client import one_client
from fedloom.data.parquet_file import names_in_parquet
from fedloom.data.sheet import Roles, listed, unlike
from fedloom.data.sqlite_table import names_in_sqlite
from fedloom.errors import ComponentError, DataError, NoRows
from fedloom.experiment import catalogue
from fedloom.experiment.construct import Construction
from fedloom.experiment.remote import RemotePopulation
from fedloom.experiment.schema import Parameter, is_path, parameters
from fedloom.experiment.spec import Experiment
from fedloom.experiment.tree import dotted, shown

_NAMES: Mapping[str, Callable[[Mapping[str, Any]], Sequence[str]]] = {
    "csv": lambda given: names_in_csv(given["path"]),
    "npz": lambda given: names_in_npz(given["path"], Roles(label=LABEL, client="client")),
    "parquet": lambda given: names_in_parquet(given["path"]),
    "sqlite": lambda given: names_in_sqlite(given["path"], given["query"]),
}
"""Sources that tell the names of their columns before rows are read."""
_MEANING = frozenset(
    {"label", "group", "columns", "categories", "classes", "fold", "test", "validation", "seed", "task"}
)
"""Arguments that say what rows mean: of what is received, a source that opens something takes these and no other."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SiteData:
    """A federated data set of which one client's rows are here."""

    me: ClientId
    rows: ClientDataset
    columns: Schema
    clients: Population
    spec: ComponentSpec | None
    """Of the experiment's data: the digest of the experiment stays what it is."""
    fingerprint: str | None = None

    def population(self) -> Population:
        """Return all clients."""
        return self.clients

    def schema(self) -> Schema:
        """Return what the columns mean."""
        return self.columns

    def client(self, client: ClientId) -> ClientDataset:
        """Return the rows of this site.

        Raises:
            DataError: When another client's are asked for.
        """
        if client != self.me:
            raise DataError(f"this is the site of {self.me!r}: the rows of {client!r} are not here")
        return self.rows

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have rows here."""
        return tuple(split for split in SPLITS if self.rows.count(split))


def opens(name: str, takes: Mapping[str, Parameter]) -> bool:
    """Return whether a data set reads what one of its arguments names: all but those that fedloom itself makes up."""
    who = catalogue.provider("fedloom.datasets", name)
    mine = who is not None and who.distribution == "fedloom"
    return not mine or any(is_path(parameter.shape) for parameter in takes.values())


def site_dataset(
    experiment: Experiment,
    source: ComponentSpec,
    *,
    client: ClientId,
    base: Path,
    columns: Sequence[str] | None = None,
    schema: Schema | None = None,
    population: Population | None = None,
) -> SiteData:
    """Return this client's rows as the experiment's own data set would give them in a simulation.

    Args:
        experiment: Its ``data`` say what rows mean; nothing that they name is opened.
        source: Of ``fedloom.datasets``, with the arguments that the policy of the site gives.
        client: Name of the site.
        base: Folder that relative paths of the source start from.
        columns: Columns that the site opens, the label among them; None: all that are there.
        schema: What the sites have agreed on; None: not yet.
        population: All clients; None: this one.

    Raises:
        ComponentError: When source and experiment say different things about rows.
        NoRows: When the source has no rows of this client.
        DataError: When rows, columns or labels are not as they must be.
    """
    asked = spec_of(experiment.data)
    if asked is None:
        raise ComponentError("the data of the experiment were made in Python: a site cannot tell what its rows mean")
    if columns is not None and schema is not None:
        _check_opened((*schema.columns, *schema.texts), columns)
    built = _built(asked, source, client=client, base=base, columns=columns, schema=schema)
    rows, held = _mine(built, client), _as_asked(built.schema(), asked)
    if columns is not None and held.label is not None:
        _check_opened([held.label], columns)
    if schema is None and columns is not None:
        declared = asked.arguments.get("columns")
        if declared is not None:
            _check_opened(declared, columns)
        kept = tuple(name for name in held.columns if name in columns)
        texts = tuple(name for name in held.texts if name in columns)
        wanted = replace(held, columns=kept, texts=texts)
    else:
        wanted = held if schema is None else schema
    rows, held = _with_classes(rows, held, asked)
    wanted = replace(wanted, classes=held.classes) if schema is None else wanted
    if not len(rows):
        raise NoRows(f"there are no rows of {client!r}")
    return SiteData(
        me=client,
        rows=arranged(rows, held, wanted),
        columns=wanted,
        clients=RemotePopulation((client,)) if population is None else population,
        spec=asked,
    )


def missing_columns(experiment: Experiment, source: ComponentSpec, *, base: Path) -> tuple[str, ...]:
    """Return which of the columns that an experiment names the source has not, where it tells before rows are read.

    The experiment has named them, so that it may be told.

    Args:
        experiment: Its ``data`` name columns.
        source: Of the policy.
        base: Folder that relative paths of the source start from.
    """
    asked = spec_of(experiment.data)
    if asked is None or source.name not in _NAMES or source.name == "npz":  # an archive has arrays under fixed names
        return ()
    given = {**source.arguments, "path": base / str(source.arguments.get("path", ""))}
    meant = [asked.arguments.get(role) for role in ("label", "group", "fold")]
    wanted = [*(asked.arguments.get("columns") or ()), *(asked.arguments.get("categories") or ()), *filter(None, meant)]
    try:
        names = _NAMES[source.name](given)
    except DataError:  # what is wrong with the file is told when its rows are read
        return ()
    return tuple(name for name in dict.fromkeys(wanted) if name not in names)


def arranged(rows: ClientDataset, held: Schema, wanted: Schema) -> ClientDataset:
    """Return rows with columns and classes in the order that was agreed on.

    Raises:
        DataError: When a column is missing or of another kind, or labels are named otherwise.

    Example:
        >>> rows = ClientDataset({"features": np.array([[1.0, 2.0]])}, {"train": slice(0, 1)})
        >>> arranged(rows, Schema(("bp", "age")), Schema(("age", "bp"))).arrays["features"].tolist()
        [[2.0, 1.0]]
    """
    problem = mismatch(held, wanted)
    if problem:
        raise DataError(problem)
    arrays = dict(rows.arrays)
    if held.columns != wanted.columns:
        arrays[FEATURES] = arrays[FEATURES][:, [held.columns.index(name) for name in wanted.columns]]
    if held.texts != wanted.texts:
        arrays[TEXTS] = arrays[TEXTS][:, [held.texts.index(name) for name in wanted.texts]]
        if not wanted.texts:
            del arrays[TEXTS]
    if held.classes != wanted.classes and held.classes is not None and wanted.classes is not None:
        places = np.array([wanted.classes.index(name) for name in held.classes], dtype=np.int64)
        arrays[LABEL] = places[arrays[LABEL]]
    return ClientDataset(arrays, rows.rows)


def mismatch(held: Schema, wanted: Schema) -> str:
    """Return in words why rows of one schema cannot be those of another; empty where they can.

    Example:
        >>> mismatch(Schema(("bp",), "ill"), Schema(("age", "bp"), "ill"))
        'expects 2 features, has 1; missing `age`'
    """
    have, want = (*held.columns, *held.texts), (*wanted.columns, *wanted.texts)
    missing = [name for name in want if name not in have]
    if missing:
        return unlike(want, have)
    kinds = [name for name in want if (name in held.texts) != (name in wanted.texts)]
    if kinds:
        has, expected = ("text", "numbers") if kinds[0] in held.texts else ("numbers", "text")
        return f"{listed(kinds)}: expected {expected}, has {has}; `categories` of the experiment's data name the texts"
    if held.label != wanted.label:
        return f"expects the label `{wanted.label}`, has `{held.label}`"
    if (held.classes is None) != (wanted.classes is None):
        has, expected = ("no", "") if held.classes is None else ("", "no ")
        return f"expects {expected}names of classes, has {has or 'them'}; give `classes` in the experiment's data"
    strange = [name for name in held.classes or () if name not in (wanted.classes or ())]
    return f"has the classes {listed(strange)}, which were not agreed on" if strange else ""


def _check_opened(asked: Sequence[str], opened: Sequence[str]) -> None:
    closed = [name for name in asked if name not in opened]
    if closed:
        raise DataError(f"{listed(closed)}: not among the columns that the policy of this site opens")


def _built(
    asked: ComponentSpec,
    source: ComponentSpec,
    *,
    client: ClientId,
    base: Path,
    columns: Sequence[str] | None,
    schema: Schema | None,
) -> FederatedDataset:
    """Build the source with what the experiment says of rows."""
    builder = catalogue.builder("fedloom.datasets", source.name)
    takes = parameters(builder)
    given = _merged(asked, source, takes)
    features = _features(asked, given, columns=columns, schema=schema)
    if "columns" in takes and features is not None:
        given["columns"] = features
    walk = Construction(base=base)
    made = walk.arguments(source.name, given, trail=("source",), takes=takes, group="fedloom.datasets")
    if walk.problems:
        raise ComponentError("; ".join(f"{dotted(each.trail)}: {each.message}" for each in walk.problems))
    values = {key: each.value for key, each in made.items()}
    if "partition" in takes and values.get("partition") is None and values.get("client") is None:
        values |= _owner(source.name, asked, values, takes=takes, client=client)
    _bind(builder, source.name, values)
    built: FederatedDataset = builder(**values)
    return built


def _merged(asked: ComponentSpec, source: ComponentSpec, takes: Mapping[str, Parameter]) -> dict[str, Json]:
    """Return the arguments of the source: what rows mean from the experiment, where they lie from the site.

    Raises:
        ComponentError: When both say what rows mean, and differ.
    """
    known = _MEANING if opens(source.name, takes) or source.name != asked.name else asked.arguments.keys()
    meant = {key: value for key, value in asked.arguments.items() if key in takes and key in known}
    for key, value in source.arguments.items():
        if key in meant and not _alike(meant[key], value):
            raise ComponentError(
                f"source.{key} = {shown(value)} in the policy; the experiment says {shown(meant[key])}. Leave it out "
                "of the policy: what rows mean is the same at all sites"
            )
    return {**meant, **source.arguments}


def _alike(one: Json, other: Json) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _features(
    asked: ComponentSpec, given: Mapping[str, Json], *, columns: Sequence[str] | None, schema: Schema | None
) -> list[str] | None:
    """Return the features to read; None: all that are there."""
    if schema is not None:
        return [*schema.columns, *schema.texts]
    if asked.arguments.get("columns") is not None:
        return list(asked.arguments["columns"])
    if columns is None:
        return None
    words = {given.get(role) for role in ("label", "client", "group", "fold")}
    return [name for name in columns if name not in words]


def _owner(
    name: str,
    asked: ComponentSpec,
    values: Mapping[str, Any],
    *,
    takes: Mapping[str, Parameter],
    client: ClientId,
) -> dict[str, Any]:
    """Return the argument that says whose the rows are: a column where the file has it, else this client's, all."""
    column = "client" if name == "npz" else asked.arguments.get("client")
    if column is not None and name in _NAMES and column in _NAMES[name](values):
        return {"client": column} if "client" in takes else {}
    return {"partition": one_client(client)}


def _bind(builder: Callable[..., Any], name: str, values: Mapping[str, Any]) -> None:
    try:
        inspect.signature(builder).bind(**values)
    except TypeError as error:
        raise ComponentError(f"source {name}: {error}") from error


def _mine(built: FederatedDataset, client: ClientId) -> ClientDataset:
    try:
        return built.client(client)
    except DataError as error:
        raise NoRows(f"the source has no rows of {client!r}: {error}") from error


def _as_asked(held: Schema, asked: ComponentSpec) -> Schema:
    """Return the schema with the label as the experiment calls it: an archive calls it otherwise."""
    label = asked.arguments.get("label")
    return held if not isinstance(label, str) or held.label is None else replace(held, label=label)


def _with_classes(rows: ClientDataset, held: Schema, asked: ComponentSpec) -> tuple[ClientDataset, Schema]:
    """Return rows with labels as indices of the declared classes, where the source has not made them so.

    Raises:
        DataError: When a label is none of them; it counts rows and shows no label.
    """
    declared = asked.arguments.get("classes")
    if not isinstance(declared, list | tuple) or held.classes is not None or LABEL not in rows.arrays:
        return rows, held
    places = {name: place for place, name in enumerate(declared)}
    index: Vector = np.array([places.get(label_text(value), -1) for value in rows.arrays[LABEL].tolist()], np.int64)
    if (index < 0).any():
        raise DataError(
            f"{np.count_nonzero(index < 0)} of {len(index)} rows have a label that is not among the classes "
            f"{listed(declared)}"
        )
    return ClientDataset({**rows.arrays, LABEL: index}, rows.rows), replace(held, classes=tuple(declared))
