"""``fedloom new``: what it writes runs as it is, and what it guesses of a CSV."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedloom.cli.columns import describe
from fedloom.cli.starter import Key, Section, Starter
from fedloom.core.keys import Key as RandomKey

Run = Callable[..., tuple[int, str, str]]
SHARED = Path(__file__).parents[2].parent / "shared/data"


def patients(path: Path, *, rows: int = 120, gaps: bool = False, quoted: str = "pressure") -> Path:
    """Write a CSV of patients: a row id, two numbers, a text, a ward, a remark, two outcomes."""
    draw = RandomKey.from_seed(2).generator()
    name = '"' + quoted.replace('"', '""') + '"'
    lines = [f"patient_id,größe,{name},sex,ward,constant,remark,outcome,days"]
    for row in range(rows):
        age, pressure = draw.normal(size=2)
        sex, ward = "fm"[int(draw.integers(2))], ("north", "south", "west")[row % 3]
        outcome = "ill" if pressure + (sex == "m") + 0.3 * draw.normal() > 0.5 else "well"
        cell = "" if gaps and row % 11 == 4 else f"{pressure:.4f}"
        days = 10 + 4 * pressure + draw.normal()
        lines.append(f'{row + 500},{170 + 9 * age:.1f},{cell},{sex},{ward},7,"note {row}, fine",{outcome},{days:.2f}')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["classification", "regression", "images"])
@pytest.mark.parametrize("clients", [None, 3])
def test_a_starter_file_runs_as_it_is(kind: str, clients: int | None, tmp_path: Path, command: Run) -> None:
    more = [] if clients is None else ["--clients", clients]
    code, out, err = command("new", "mine.toml", "--kind", kind, *more)
    assert (code, err) == (0, "") and out.endswith("wrote mine.toml\nnext: fedloom run mine.toml\n")
    code, out, _ = command("run", "mine.toml", "--json", "--set", "compare=false")
    assert code == 0
    metrics = json.loads(out)["metrics"]
    reached = {
        "classification": ("eval/auroc", 0.97),
        "regression": ("eval/r2", 0.35),
        "images": ("eval/accuracy", 0.9),
    }
    name, least = reached[kind]
    assert metrics[name] > least
    text = (tmp_path / "mine.toml").read_text()
    assert text.count("#") >= 4 and max(map(len, text.splitlines())) <= 120


def test_without_arguments_a_file_of_the_usual_name_is_written(tmp_path: Path, command: Run) -> None:
    assert command("new")[0] == 0
    assert tomllib.loads((tmp_path / "experiment.toml").read_text())["data"] == {"name": "hospitals"}


def test_a_csv_becomes_a_model_in_two_commands(tmp_path: Path, command: Run) -> None:
    """Text, gaps, a row id, a constant column, and names that need quotes in TOML."""
    patients(tmp_path / "rows.csv", gaps=True, quoted='a"b\\c')
    code, out, err = command(
        "new", "mine.toml", "--data", "rows.csv", "--label", "outcome", "--client", "ward", "--json"
    )
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["kind"] == "classification" and said["next"] == "fedloom run mine.toml"
    tree = tomllib.loads((tmp_path / "mine.toml").read_text(encoding="utf-8"))
    assert tree["data"]["columns"] == ["größe", 'a"b\\c', "days"] and tree["data"]["categories"] == ["sex"]
    assert tree["data"]["classes"] == ["ill", "well"] and tree["data"]["client"] == "ward"
    assert [each["name"] for each in tree["prepare"]] == ["impute", "standardise", "one_hot"]
    for column in ("patient_id", "constant", "remark"):
        assert any(f"Left out: {column!r}" in sentence for sentence in said["decided"])
    code, out, _ = command("run", "mine.toml", "--json")
    result = json.loads(out)
    assert code == 0 and result["metrics"]["eval/auroc"] > 0.9
    assert set(result["clients"]) == {"north", "south", "west"}


def test_a_number_becomes_a_regression_over_simulated_clients(tmp_path: Path, command: Run) -> None:
    patients(tmp_path / "rows.csv")
    code, out, _ = command("new", "mine.toml", "--data", "rows.csv", "--label", "days", "--clients", "4")
    assert code == 0 and "task: regression of 'days'" in out
    tree = tomllib.loads((tmp_path / "mine.toml").read_text(encoding="utf-8"))
    assert tree["data"]["task"] == "regression" and tree["learner"]["name"] == "ridge"
    assert tree["data"]["partition"] == {"name": "iid", "clients": 4}
    result = json.loads(command("run", "mine.toml", "--json")[1])
    assert result["metrics"]["eval/r2"] > 0.7 and len(result["clients"]) == 4


def test_the_path_of_the_rows_is_relative_to_the_file(tmp_path: Path, command: Run) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "files").mkdir()
    patients(tmp_path / "rows/all.csv")
    assert command("new", "files/mine.toml", "--data", "rows/all.csv", "--label", "outcome")[0] == 0
    tree = tomllib.loads((tmp_path / "files/mine.toml").read_text(encoding="utf-8"))
    assert tree["data"]["path"] == "../rows/all.csv"
    assert command("config", "show", "files/mine.toml")[0] == 0


def test_a_numeric_label_of_few_values_is_a_class_unless_said_otherwise(tmp_path: Path, command: Run) -> None:
    lines = ["x,y", *(f"{row / 7},{row % 3}" for row in range(60))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    for more, kind in (([], "classification"), (["--kind", "regression"], "regression")):
        code, out, _ = command("new", "--data", "rows.csv", "--label", "y", "--force", *more)
        assert code == 0 and f"task: {kind} of 'y'" in out
    assert 'name = "ridge"' in (tmp_path / "experiment.toml").read_text()


def test_columns_of_text_alone_run(tmp_path: Path, command: Run) -> None:
    draw = RandomKey.from_seed(5).generator()
    lines = ["colour,outcome"]
    for _ in range(90):
        red = int(draw.integers(2))
        lines.append(f"{'red' if red else 'blue'},{'ill' if red ^ int(draw.random() < 0.1) else 'well'}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    assert command("new", "--data", "rows.csv", "--label", "outcome")[0] == 0
    assert json.loads(command("run", "experiment.toml", "--json")[1])["metrics"]["eval/accuracy"] > 0.8


def test_many_classes_are_asked_for_and_many_clients_take_turns(tmp_path: Path, command: Run) -> None:
    lines = ["x,y,who", *(f"{row % 25 + row / 1000},c{row % 25:02},w{row % 60:02}" for row in range(600))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    assert command("new", "--data", "rows.csv", "--label", "y", "--client", "who")[0] == 0
    tree = tomllib.loads((tmp_path / "experiment.toml").read_text())
    assert "classes" not in tree["data"] and tree["prepare"][0] == {"name": "label_set"}
    assert tree["cohort"] == {"name": "uniform", "size": 20}
    assert command("run", "experiment.toml", "--json")[0] == 0


# ---- Refusals --------------------------------------------------------------------------------------------------------


def test_without_a_label_the_columns_are_listed(tmp_path: Path, command: Run) -> None:
    patients(tmp_path / "rows.csv", gaps=True)
    code, out, err = command("new", "--data", "rows.csv")
    assert (code, out) == (2, "") and "which column is to be predicted? Name it by --label COLUMN" in err
    rows = {line.split()[0]: line.split() for line in err.splitlines()[2:]}
    assert rows["größe"][1] == "number" and rows["sex"][1:] == ["text", "2", "0"]
    assert rows["patient_id"][1] == "id" and rows["pressure"][-1] == "11" and rows["constant"][1] == "constant"
    assert not (tmp_path / "experiment.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--kind", "music"], "--kind music: expected one of classification, regression, images"),
        (["--label", "y"], "--label speak of a CSV: name it by --data"),
        (["--clients", "0"], "--clients 0: expected 1 or more"),
        (["--data", "absent.csv", "--label", "y"], "absent.csv: there is no such file"),
        (["--data", "rows.csv", "--label", "outcom"], "there is no such column. Did you mean 'outcome'?"),
        (["--data", "rows.csv", "--label", "outcome", "--client", "outcome"], "cannot be both label and client"),
        (["--data", "rows.csv", "--label", "outcome", "--client", "ward", "--clients", "3"], "give one of them"),
        (["--data", "rows.csv", "--label", "outcome", "--kind", "images"], "--kind images takes no --data"),
        (["--data", "rows.csv", "--label", "outcome", "--kind", "regression"], "is text; --kind regression predicts"),
        (["--data", "rows.csv", "--label", "remark"], "has 120 different values"),
        (["--data", "rows.csv", "--label", "constant"], "has one value in all rows"),
        (["--data", "rows.csv", "--label", "days", "--kind", "classification"], "For a number give --kind regression"),
        (["--data", "rows.csv", "--label", "pressure"], "is missing in 11 rows; fill it in"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    arguments: Sequence[str], wanted: str, tmp_path: Path, command: Run
) -> None:
    patients(tmp_path / "rows.csv", gaps=True)
    code, out, err = command("new", *arguments)
    assert (code, out) == (2, "") and wanted in err and err.startswith("error: ") and "Traceback" not in err
    assert not (tmp_path / "experiment.toml").exists()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "rows.csv: is empty"),
        (b"x,y\n", "no rows below the header"),
        (b"x;y\n1;a\n", "separated by semicolons"),
        (b"x,y\n1,a\n2\n", "line 3: 1 fields; expected 2"),
        (b"x,x,y\n1,2,a\n", "two columns are named 'x'"),
        (b"x,y\n1,a\n2,\xff\n", "line 3: is not UTF-8"),
        (b'x,y\n1,"a\n', "is not CSV"),
        (b"x,y\n1,a\n1,b\n1,a\n", "no column is left to learn from"),
    ],
)
def test_a_broken_csv_is_told_as_by_a_run(content: bytes, wanted: str, tmp_path: Path, command: Run) -> None:
    (tmp_path / "rows.csv").write_bytes(content)
    code, out, err = command("new", "--data", "rows.csv", "--label", "y")
    assert (code, out) == (2, "") and wanted in err
    assert not (tmp_path / "experiment.toml").exists()


def test_a_file_that_is_there_is_left_as_it_is(tmp_path: Path, command: Run) -> None:
    (tmp_path / "experiment.toml").write_text("mine")
    code, out, err = command("new")
    assert (code, out) == (2, "") and "overwrite it: --force" in err
    assert (tmp_path / "experiment.toml").read_text() == "mine"
    assert command("new", "--force")[0] == 0
    assert command("new", "no/such/place.toml")[0] == 2


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_access_is_named(tmp_path: Path, command: Run) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    code, _, err = command("new", "closed/mine.toml")
    assert code == 2 and "mode 500" in err


# ---- Parts -----------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(name=NAMES, value=NAMES, remark=st.text(st.characters(codec="utf-8"), max_size=60))
@example(name='a"b', value="größe\\", remark='ends in a quote "')
@example(name="a.b", value="line\nbreak", remark="line\nbreak\r\x00\x7f")
@example(name="", value="'''", remark="# [table]")
@example(name="\u2028", value="\x85\x1f", remark="\x85 \u2028 \x0b")
def test_any_name_survives_the_way_into_a_file(name: str, value: str, remark: str) -> None:
    starter = Starter(
        title=remark,
        notes=[remark],
        top=[Key(name, value, remark)],
        sections=[
            Section(name + "s", [Key(name, [value, value * 40]), Key("nested", {name: value}, remark)], remark=remark),
            Section("prepare", [Key("name", value)], several=True),
        ],
        hints=[remark],
    )
    tree = tomllib.loads(starter.text())
    assert tree == {
        name: value,
        name + "s": {name: [value, value * 40], "nested": {name: value}},
        "prepare": [{"name": value}],
    }


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("age", ["61", "40.5", "", "33"], "number"),
        ("age", ["1", "2", "3", "4"], "number"),
        ("patient id", ["1", "2", "3", "4"], "id"),
        ("uuid", ["a1", "b2", "c3"], "id"),
        ("any", [str(number) for number in range(12)], "id"),
        ("any", [str(number + 0.5) for number in range(12)], "number"),
        ("sex", ["f", "m", "f"], "text"),
        ("name", [f"name {number}" for number in range(12)], "free text"),
        ("words", [f"word {number % 60}" for number in range(200)], "free text"),
        ("x", ["?", "NA", "nan", ""], "empty"),
        ("x", ["7", "7.0", ""], "number"),
        ("x", ["7", "7"], "constant"),
        ("x", ["1_000", "2"], "text"),
    ],
)
def test_columns_are_what_they_look_like(name: str, cells: Sequence[str], kind: str) -> None:
    assert describe(name, cells).kind == kind


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not beside the checkout")
def test_real_tables_are_guessed_as_a_person_would(tmp_path: Path, command: Run) -> None:
    ai4i = SHARED / "ai4i2020/ai4i2020.csv"
    code, _, _ = command("new", "a.toml", "--data", ai4i, "--label", "Machine failure", "--client", "Type")
    tree = tomllib.loads((tmp_path / "a.toml").read_text(encoding="utf-8"))
    assert code == 0 and "UDI" not in tree["data"]["columns"] and "Product ID" not in tree["data"]["columns"]
    assert "Torque [Nm]" in tree["data"]["columns"] and tree["data"]["classes"] == ["0", "1"]
    esol = SHARED / "esol/delaney-processed.csv"
    code, out, _ = command(
        "new", "e.toml", "--data", esol, "--label", "measured log solubility in mols per litre", "--json"
    )
    assert code == 0 and json.loads(out)["kind"] == "regression"
