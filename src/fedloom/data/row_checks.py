"""What is wrong with a client's rows, before a round is spent on them; no message holds a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedloom.core.data import FEATURES, LABEL, TEXTS, ClientDataset, Schema
from fedloom.core.ids import ClientId
from fedloom.core.params import Vector
from fedloom.data.sheet import SHOWN, listed, unlike
from fedloom.errors import DataError

_KINDS = {
    "values are missing": "missing values",
    "without any value in": "columns without a value",
    "constant over": "constant columns",
    "training rows are of one class": "training rows of one class",
    "has no training rows": "no training rows",
}
"""What tells the sentences of one kind, and how many clients at once are said to have it."""


def check_rows(
    client: ClientId,
    data: ClientDataset,
    schema: Schema,
    *,
    columns: Sequence[str] | None = None,
    missing: Literal["refuse", "allow"] = "refuse",
) -> tuple[str, ...]:
    """Return warnings about a client's rows, one sentence for each kind; no message holds a value.

    Rows are counted from 0 over train, validation and test.

    Args:
        client: Whose rows they are.
        data: The rows.
        schema: What was agreed.
        columns: Names of the client's own columns, where they are known.
        missing: "refuse" a NaN among the features, or "allow" it where a preparation will fill it in: a warning then.

    Raises:
        DataError: When columns are not those of the schema, a feature or a label to predict is infinite, a label is
            NaN, or a feature is where that is refused.

    Example:
        >>> data = ClientDataset({"features": np.ones((3, 1)), "label": np.array([0, 1, 1])}, {"train": slice(0, 3)})
        >>> check_rows(ClientId("north"), data, Schema(("age",), "outcome", ("0", "1")))
        ('north: column `age` is constant over its 3 training rows',)
    """
    features = data.arrays[FEATURES]
    _check_width(client, features, schema, columns)
    texts = data.arrays.get(TEXTS, np.empty((len(features), 0), dtype="<U1"))
    if texts.ndim != 2 or texts.shape[1] != len(schema.texts):
        raise DataError(f"{client}: texts have shape {texts.shape}; expected (rows, {len(schema.texts)})")
    refused = np.isinf(features) if missing == "allow" else ~np.isfinite(features)
    _refuse(client, refused, data.arrays.get(LABEL), schema, missing=missing)
    absent = np.isnan(features) if missing == "allow" else refused
    return (
        *_missing(client, absent, texts == "", schema),
        *_warnings(client, data.split("train"), texts[data.rows.get("train", slice(0, 0))], schema),
    )


def grouped_notes(notes: Mapping[ClientId, Sequence[str]], *, limit: int = 10) -> tuple[str, ...]:
    """Return the warnings of many clients, at most ``limit`` of one kind; a line more counts the other clients.

    Args:
        notes: What ``check_rows`` returned, by client.
        limit: Notes of one kind to keep.

    Example:
        >>> grouped_notes(
        ...     {name: [f"{name}: column `bp` is constant over its 9 training rows"] for name in "abc"}, limit=1
        ... )
        ('a: column `bp` is constant over its 9 training rows', '2 more clients have constant columns: `b`, `c`')
    """
    kinds: dict[str, list[tuple[str, str]]] = {}
    for client, sentences in notes.items():
        for sentence in sentences:
            said = sentence.removeprefix(f"{client}: ")
            kinds.setdefault(next((kind for kind in _KINDS if kind in said), said), []).append((client, sentence))
    kept: list[str] = []
    for kind, alike in kinds.items():
        kept.extend(sentence for _, sentence in alike[:limit])
        if len(alike) > limit:
            others = listed([client for client, _ in alike[limit:]])
            kept.append(f"{len(alike) - limit} more clients have {_KINDS.get(kind, 'this note: ' + kind)}: {others}")
    return tuple(kept)


def _refuse(
    client: ClientId, refused: Vector, label: Vector | None, schema: Schema, *, missing: Literal["refuse", "allow"]
) -> None:
    what = "infinite" if missing == "allow" else "NaN or infinite"
    problems = [
        f"column `{schema.columns[place]}` is {what} {_rows(refused[:, place])}"
        for place in np.flatnonzero(refused.any(axis=0)).tolist()
    ]
    if label is not None and label.dtype.kind == "f" and not np.isfinite(label).all():
        problems.append(f"label `{schema.label or LABEL}` is NaN or infinite {_rows(~np.isfinite(label))}")
    if problems:
        more = f"; and {len(problems) - SHOWN} more columns" if len(problems) > SHOWN else ""
        raise DataError(
            f"{client}: {'; '.join(problems[:SHOWN])}{more}. Expected finite numbers: leave rows or columns out, or "
            "fill missing features by the preparation `impute`"
        )


def _missing(client: ClientId, numbers: Vector, texts: Vector, schema: Schema) -> tuple[str, ...]:
    """Return the warning about values that are not there."""
    found = [
        f"`{names[place]}` {_rows(absent[:, place])}"
        for names, absent in [(schema.columns, numbers), (schema.texts, texts)]
        for place in np.flatnonzero(absent.any(axis=0)).tolist()
    ]
    if not found:
        return ()
    more = f"; and {len(found) - SHOWN} more columns" if len(found) > SHOWN else ""
    return (f"{client}: values are missing: {'; '.join(found[:SHOWN])}{more}",)


def _warnings(client: ClientId, train: ClientDataset, texts: Vector, schema: Schema) -> tuple[str, ...]:
    features = train.arrays[FEATURES]
    label = train.arrays.get(LABEL)
    count = len(features)
    if count == 0:
        return (f"{client}: has no training rows",)
    empty = [
        *_where(np.all(np.isnan(features), axis=0), schema.columns),
        *_where(np.all(texts == "", axis=0), schema.texts),
    ]
    constant = [
        *_where(_constant(features), schema.columns),
        *_where(np.all(texts == texts[0], axis=0), schema.texts),
    ]
    constant = [name for name in constant if name not in empty] if count > 1 else []
    warnings = [
        f"{client}: {_subject(names)} {what} its {count} training rows"
        for names, what in [(empty, "without any value in"), (constant, "constant over")]
        if names
    ]
    classes = schema.classes is not None or (label is not None and label.dtype.kind not in "f")
    if label is not None and classes and bool((label == label[0]).all()):
        warnings.append(f"{client}: all of its {count} training rows are of one class")
    return tuple(warnings)


def _constant(features: Vector) -> Vector:
    """Return which columns have one value, missing ones aside."""
    # Most columns differ in their first rows: looking there first spares a pass over all of them.
    same = ~(np.fmin.reduce(features[:100]) < np.fmax.reduce(features[:100]))
    places = np.flatnonzero(same)
    same[places] = np.fmin.reduce(features[:, places]) == np.fmax.reduce(features[:, places])
    return np.asarray(same)


def _where(found: npt.ArrayLike, names: Sequence[str]) -> list[str]:
    return [names[place] for place in np.flatnonzero(found).tolist()]


def _subject(names: Sequence[str]) -> str:
    return f"column {listed(names)} is" if len(names) == 1 else f"columns {listed(names)} are"


def _check_width(client: ClientId, features: Vector, schema: Schema, columns: Sequence[str] | None) -> None:
    expected = len(schema.columns)
    if features.ndim != 2:
        raise DataError(f"{client}: features have shape {features.shape}; expected (rows, {expected})")
    problem = "" if columns is None else unlike(schema.columns, columns)
    if features.shape[1] != expected and not problem:
        problem = f"expects {expected} features, has {features.shape[1]}"
    if not problem and columns is not None and tuple(columns) != schema.columns:
        mine, theirs = next(pair for pair in zip(columns, schema.columns, strict=True) if pair[0] != pair[1])
        problem = f"has its columns in another order: `{mine}` where `{theirs}` is expected"
    if problem:
        raise DataError(f"{client}: {problem}. Give every client the same columns in the same order")


def _rows(found: Vector) -> str:
    rows = np.flatnonzero(found)
    return f"in {len(rows)} of {len(found)} rows (first: {', '.join(map(str, rows[:SHOWN].tolist()))})"
