"""Rounds as bytes and as one flat table: nothing is lost, and what format 1 wrote is read."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fedloom.core.ids import ClientId, RoundNumber
from fedloom.runtime.record import NO_FIGURES, FigureTable, RoundRecord
from fedloom.store.documents import RECORD, write_record
from fedloom.store.rounds import decode_round, encode_round, write_metrics

FIGURES = {
    ClientId("north"): {"eval/auroc": None, "eval/accuracy": 1 / 3},
    ClientId("south"): {"eval/accuracy": 0.1 + 0.2},
}


def made(number: int = 1, clients: int = 2, **fields: Any) -> RoundRecord:
    figures = FIGURES if clients == 2 else {ClientId(f"c{n:04d}"): {"eval/auroc": n / 7} for n in range(clients)}
    return RoundRecord(
        round=RoundNumber(number),
        retry=0,
        program="train",
        status="closed",
        invited=clients,
        included=tuple(figures),
        metrics={"eval/accuracy": 2 / 3, "fit/loss": float("inf")},
        clients=FigureTable.of(figures),
        seconds=0.25,
        **fields,
    )


@pytest.mark.parametrize("clients", [2, 1000])
def test_a_round_comes_back_from_its_bytes(clients: int) -> None:
    record = made(clients=clients)
    again = decode_round(encode_round(record))
    assert again == record and again.clients.as_dict() == record.clients.as_dict()


def test_a_round_of_a_thousand_clients_takes_a_few_bytes_each() -> None:
    assert len(encode_round(made(clients=1000))) < 20_000


def test_a_round_of_format_1_is_read() -> None:
    """It held a map of maps, and no calibration."""
    tree = msgspec.to_builtins(made())
    tree["clients"] = FIGURES
    del tree["calibration"]
    assert decode_round(msgspec.msgpack.encode(tree)) == made()


@pytest.mark.parametrize("data", [b"", b"z", b"zz", b"\x81", b"\xc0", msgspec.msgpack.encode({"round": 1})])
def test_damaged_bytes_are_one_kind_of_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_round(data)


def test_the_flat_table_holds_every_figure_to_the_last_bit(tmp_path: Path) -> None:
    write_metrics(tmp_path, [made(), made(2, bytes_up=7)])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["round"], row["client"]) for row in rows] == [
        ("1", ""), ("1", "north"), ("1", "south"), ("2", ""), ("2", "north"), ("2", "south"),
    ]  # fmt: skip
    assert float(rows[0]["eval/accuracy"]) == 2 / 3 and float(rows[2]["eval/accuracy"]) == 0.1 + 0.2
    assert rows[0]["fit/loss"] == rows[1]["eval/auroc"] == rows[2]["eval/auroc"] == "", "no value is an empty cell"
    assert (rows[3]["bytes_up"], rows[3]["seconds"], rows[4]["bytes_up"]) == ("7", "0.25", "")


def test_a_client_whose_name_has_a_comma_stays_one_cell(tmp_path: Path) -> None:
    named = FigureTable.of({ClientId('St. "Mary", north'): {"eval/accuracy": 0.5}})
    write_metrics(tmp_path, [replace(made(), clients=named)])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [line["client"] for line in csv.DictReader(file)] == ["", 'St. "Mary", north']


def test_the_table_as_parquet_is_the_table(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_metrics(tmp_path, [made()])
    columns = parquet.read_table(tmp_path / "metrics.parquet").to_pydict()
    assert columns["eval/accuracy"] == [2 / 3, 1 / 3, 0.1 + 0.2]
    assert columns["client"] == ["", "north", "south"] and columns["round"] == [1, 1, 1]


def test_the_record_is_json_with_a_line_for_each_round(tmp_path: Path) -> None:
    write_record(tmp_path, run_id="r", status="completed", summary={"a": []}, records=[made(), made(2)])  # type: ignore[arg-type]
    text = (tmp_path / RECORD).read_text()
    tree = json.loads(text)
    assert [record["round"] for record in tree["records"]] == [1, 2] and "clients" not in tree["records"][0]
    assert tree["summary"] == {"a": []} and tree["records"][0]["metrics"]["fit/loss"] is None
    assert sum(line.strip().startswith('{"round"') for line in text.splitlines()) == 2
    write_record(tmp_path, run_id="r", status="completed", summary={}, records=[])  # type: ignore[arg-type]
    assert json.loads((tmp_path / RECORD).read_text())["records"] == []


def test_tables_tell_no_value_from_no_figure() -> None:
    table = FigureTable.of(FIGURES)
    assert dict(table) == table.as_dict() == FIGURES
    assert table != NO_FIGURES and not NO_FIGURES and hash(table) == hash(FigureTable.of(FIGURES))
    with pytest.raises(KeyError):
        table[ClientId("west")]
