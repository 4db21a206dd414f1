"""Rounds of a run as bytes of its state file, and as one flat table for people and other programs."""

from __future__ import annotations

import csv
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fedloom.runtime.record import FigureTable, RoundRecord
from fedloom.store.files import write_whole

METRICS = "metrics.csv"
METRICS_PARQUET = "metrics.parquet"
KEYS = ("program", "round", "retry", "client")
"""What a row of the table is about; an empty client: all of them."""
_LARGE_BYTES = 4096
_PACKED = b"z"
"""First byte of a round that is compressed; a map of msgpack begins with another."""
COUNTS = ("invited", "included", "bytes_up", "bytes_down", "seconds")
"""Filled in rows over all clients."""


def encode_round(record: RoundRecord) -> bytes:
    """Return a round as msgpack, because JSON has no numbers that are not finite and a loss may be one.

    Figures of many clients repeat few values (an accuracy is a fraction of some rows), and names repeat themselves.
    """
    data = msgspec.msgpack.encode(record)
    return data if len(data) < _LARGE_BYTES else _PACKED + zlib.compress(data, 1)


def decode_round(data: bytes) -> RoundRecord:
    """Return the round that ``data`` encodes, in today's form or in that of format 1, a map of maps for the clients.

    Raises:
        msgspec.DecodeError: When it encodes none.
    """
    try:
        data = zlib.decompress(data[len(_PACKED) :]) if data.startswith(_PACKED) else data
    except zlib.error as error:
        raise msgspec.DecodeError(str(error)) from error
    tree: Any = msgspec.msgpack.decode(data)
    if isinstance(tree, dict) and isinstance(tree.get("clients"), dict) and "cells" not in tree["clients"]:
        tree["clients"] = msgspec.to_builtins(FigureTable.of(tree["clients"]), builtin_types=(bytes,))
    return msgspec.convert(tree, type=RoundRecord, builtin_types=(bytes,))


def write_metrics(folder: Path, records: Sequence[RoundRecord]) -> None:
    """Write ``metrics.csv``, and ``metrics.parquet`` where pyarrow is installed: a row a round, and a row a client.

    Numbers are written as Python prints them: read back, they are the same.

    Raises:
        StoreError: When a file cannot be written.
    """
    names = sorted({name for record in records for name in (*record.metrics, *record.clients.names)})
    header = (*KEYS, *COUNTS, *names)
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(header)
    for record in records:
        out.writerows(_lines(record, names))
    data = text.getvalue().encode()
    write_whole(folder / METRICS, lambda file: file.write(data), size=len(data))
    _write_parquet(folder / METRICS_PARQUET, data)


def _lines(record: RoundRecord, names: Sequence[str]) -> Iterator[list[str]]:
    about = [record.program, str(record.round), str(record.retry)]
    counts = [record.invited, len(record.included), record.bytes_up, record.bytes_down, record.seconds]
    yield [*about, "", *map(repr, counts), *(_cell(record.metrics, name) for name in names)]
    if not record.clients:
        return
    empty = [""] * len(COUNTS)
    place = {name: index for index, name in enumerate(record.clients.names)}
    places = [place.get(name) for name in names]
    rows = record.clients.values_by_client.tolist()
    for client, row in zip(record.clients.clients, rows, strict=True):
        cells = ["" if at is None or not math.isfinite(row[at]) else repr(row[at]) for at in places]
        yield [*about, client, *empty, *cells]


def _cell(metrics: Mapping[str, float | None], name: str) -> str:
    value = metrics.get(name)
    return "" if value is None or not math.isfinite(value) else repr(float(value))


def _write_parquet(path: Path, data: bytes) -> None:
    try:
        from pyarrow import csv as arrow_csv  # type: ignore[import-not-found, unused-ignore]
        from pyarrow import parquet  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return
    # Columns are typed by name, because a metric without any value would be read as text.
    import pyarrow  # type: ignore[import-not-found, unused-ignore]

    header = data.split(b"\n", 1)[0].decode().split(",")
    texts = {"program", "client"}
    whole = {"round", "retry", "invited", "included", "bytes_up", "bytes_down"}
    types = {
        name: pyarrow.string() if name in texts else pyarrow.int64() if name in whole else pyarrow.float64()
        for name in header
    }
    convert = arrow_csv.ConvertOptions(column_types=types, strings_can_be_null=False)
    table = arrow_csv.read_csv(io.BytesIO(data), convert_options=convert)
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    write_whole(path, lambda file: file.write(sink.getvalue()), size=len(data))
