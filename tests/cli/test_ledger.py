"""``fedloom ledger``: budgets are given and shown, a ledger is verified, exported and, if lost in part, accepted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fedloom.core.events import GaussianDpEvent
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_entries import Budget, Reservation
from fedloom.store.ledger_price import ORDERS

Run = Callable[..., tuple[int, str, str]]
FLAGS = ("--epsilon", 8, "--delta", 1e-5, "--unit", "record", "--adjacency", "add_remove", "--composition")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of two data sets and two runs, the first of them finished."""
    one = tuple(order / 8 for order in ORDERS)
    worst = Reservation(epsilon=3.0, delta=1e-6, releases=3, rdp=tuple(3 * each for each in one))
    path = tmp_path / "runs" / "ledger.sqlite"
    with Ledger.create(path) as ledger:
        for name, composition, shares in (("ward-a", "basic", ()), ("ward-b", "rdp", ("ward-a",))):
            ledger.register(
                Budget(
                    data_set=name,
                    unit="record",
                    adjacency="add_remove",
                    epsilon=8.0,
                    delta=1e-5,
                    composition=composition,  # type: ignore[arg-type]
                    shares_units_with=shares,
                )
            )
        for run in ("r1", "r2"):
            account = ledger.reserve(run, "ward-a", worst)
            account.commit((1, 1, 0), GaussianDpEvent(2.0), one)
        ledger.finish("r1")
    return path


@pytest.mark.usefixtures("path")
def test_show_lists_data_sets_and_runs(command: Run) -> None:
    code, out, err = command("ledger", "show")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["ward-a", "record", "basic", "8", "3", "6", "1e-05", "2", "2"] in rows
    assert ["r1", "ward-a", "finished", "3", "1e-06", "1", "of", "3"] in rows
    assert ["r2", "ward-a", "open", "3", "1e-06", "1", "of", "3"] in rows
    found = json.loads(command("ledger", "show", "--json")[1])
    assert [each["data_set"] for each in found["data_sets"]] == ["ward-a", "ward-b"]
    assert found["data_sets"][0]["spent"] == {"epsilon": 3.0, "delta": 1e-6}
    assert found["data_sets"][0]["promised"]["epsilon"] == 6.0
    assert found["data_sets"][1]["shares_units_with"] == ["ward-a"]
    assert found["runs"][1] == {
        "run": "r2", "data_set": "ward-a", "finished": False, "reserved": {"epsilon": 3.0, "delta": 1e-6},
        "releases": 1, "releases_reserved": 3, "overspent": False, "fingerprint": None,
    }  # fmt: skip


@pytest.mark.usefixtures("path")
def test_budget_says_what_is_left(command: Run) -> None:
    code, out, _ = command("ledger", "budget", "ward-a")
    assert code == 0
    assert "adjacency add_remove\nshares units with ward-b\nopen runs: r2\n" in out
    assert "left for new runs: epsilon 2, delta 8e-06" in out
    assert "decided order by order" in command("ledger", "budget", "ward-b")[1]
    code, _, err = command("ledger", "budget", "ward-c")
    assert code == 2
    assert "'ward-c' has no budget; registered are ward-a, ward-b" in err


def test_a_budget_is_given_once(tmp_path: Path, command: Run) -> None:
    given = ("ledger", "budget", "ward-a", *FLAGS, "rdp", "--shares-units-with", "ward-b")
    for _ in range(2):
        assert command(*given)[0] == 0
    assert json.loads(command("ledger", "budget", "ward-a", "--json")[1])["composition"] == "rdp"
    code, _, err = command("ledger", "budget", "ward-a", *FLAGS, "basic")
    assert code == 2
    assert "A registration is never changed" in err
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["ledger.sqlite", "ledger.sqlite.head"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ward-a", "--epsilon", 1), "missing: --delta, --unit, --adjacency, --composition"),
        ((*FLAGS, "rdp"), "missing: the data set's id"),
        (("ward-a", *FLAGS, "pld"), "composition is 'pld'; expected one of basic, rdp"),
        (("ward-a", *FLAGS, "rdp", "--epsilon", "nan"), "epsilon is nan"),
        (("ward-a", *FLAGS, "rdp", "--delta", 2), "delta is 2.0"),
    ],
)
def test_flags_that_make_no_budget_leave_no_ledger(
    tmp_path: Path, command: Run, arguments: tuple[object, ...], message: str
) -> None:
    code, _, err = command("ledger", "budget", *arguments)
    assert code == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("path")
def test_verify_prints_a_head_to_compare_with(command: Run) -> None:
    head = json.loads(command("ledger", "verify", "--json")[1])
    assert head["rows"] == 8
    code, out, _ = command("ledger", "verify", "--head", head["head"])
    assert code == 0
    assert f"head {head['head']}" in out
    code, _, err = command("ledger", "verify", "--head", f"9:{head['sha256']}")
    assert code == 2
    assert "row 9 is missing: a head noted elsewhere counted 9 rows" in err
    code, _, err = command("ledger", "verify", "--head", "9")
    assert "expected ROWS:SHA256" in err


def test_a_changed_ledger_is_refused_by_every_command(path: Path, command: Run) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE chain SET entry = replace(entry, '8.0', '9.0') WHERE row = 2")
    for words in (("show",), ("verify",), ("budget",), ("finish", "r2"), ("export",), ("verify", "--accept")):
        code, out, err = command("ledger", *words, "--ledger", path)
        assert (code, out) == (2, "")
        assert "does not verify: row 2 differs from its digest" in " ".join(err.split())


def test_lost_rows_are_accepted_by_a_person_only(path: Path, command: Run) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM chain WHERE row = 8")
    code, _, err = command("ledger", "verify")
    assert code == 2
    assert "row 8 is missing: ledger.sqlite.head counted 8 rows and there are 7" in " ".join(err.split())
    assert command("ledger", "verify", "--accept")[0] == 0
    assert command("ledger", "verify")[0] == 0
    assert '"accepted",{"rows":8,' in command("ledger", "export")[1]


def test_export_writes_every_row(path: Path, tmp_path: Path, command: Run) -> None:
    code, out, err = command("ledger", "export", "--ledger", path)
    assert (code, err) == (0, "")
    assert [json.loads(line)["entry"][0] for line in out.splitlines()] == list(range(1, 9))
    assert command("ledger", "export", "--out", "rows.jsonl") == (0, "rows.jsonl: 8 rows\n", "")
    assert (tmp_path / "rows.jsonl").read_text() == out
    code, _, err = command("ledger", "export", "--out", "rows.jsonl")
    assert code == 2
    assert "is there already" in err


@pytest.mark.usefixtures("path")
def test_an_abandoned_run_is_finished_by_name(command: Run) -> None:
    assert command("ledger", "finish", "r2")[1] == "run r2 has finished on data set ward-a: 1 of 3 releases made\n"
    assert json.loads(command("ledger", "budget", "ward-b", "--json")[1])["open_runs"] == []
    code, _, err = command("ledger", "finish", "r9")
    assert code == 2
    assert "'r9' has reserved nothing" in err


def test_no_ledger_is_told(command: Run) -> None:
    for words in (("show",), ("verify",), ("budget",), ("export",), ("finish", "r1")):
        code, _, err = command("ledger", *words)
        assert code == 2
        assert "is no ledger: there is no such file" in err
