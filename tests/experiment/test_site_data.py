"""A site's own source gives it the rows, the split and the schema that it has in a simulation of all sites."""

from __future__ import annotations

import csv as csv_module
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.core.component import ComponentSpec
from fedloom.core.data import ClientDataset, Schema
from fedloom.core.ids import ClientId
from fedloom.errors import ComponentError, DataError, NoRows
from fedloom.experiment import Experiment, resolve
from fedloom.experiment.site_data import site_dataset

NAMES = ("age", "bp", "sex", "person", "ward", "outcome")
WARDS = ("north", "south", "west")


@dataclass(frozen=True)
class Visit:
    """One row of the invented hospital."""

    age: float
    bp: float
    sex: str
    person: int
    ward: str
    outcome: str

    def cells(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in NAMES}


def visits(data: st.DataObject, labels: tuple[str, ...]) -> list[Visit]:
    drawn = data.draw(
        st.lists(
            st.builds(
                Visit,
                age=st.integers(0, 90).map(float),
                bp=st.floats(-5, 5, width=32),
                sex=st.sampled_from(["f", "m"]),
                person=st.integers(0, 6),
                ward=st.sampled_from(WARDS),
                outcome=st.sampled_from(labels),
            ),
            min_size=1,
            max_size=40,
        )
    )
    # Every class has rows of many persons at every ward, so that some of them are trained on.
    rest = [
        Visit(50.0 + place, 1.0, "f", 10 + place, ward, label)
        for ward in WARDS
        for label in labels
        for place in range(6)
    ]
    return [*drawn, *rest]


def write_csv(path: Path, rows: list[Visit], names: tuple[str, ...] = NAMES) -> None:
    with path.open("w", newline="") as file:
        writer = csv_module.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row.cells() for row in rows)


def write_sqlite(path: Path, rows: list[Visit], names: tuple[str, ...] = NAMES) -> None:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as base:
        base.execute(f"CREATE TABLE visits ({', '.join(names)})")
        marks = ", ".join("?" * len(names))
        base.executemany(f"INSERT INTO visits VALUES ({marks})", [[row.cells()[n] for n in names] for row in rows])
        base.commit()


def write_parquet(path: Path, rows: list[Visit], names: tuple[str, ...] = NAMES) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({name: [row.cells()[name] for row in rows] for name in names}), path)


def write_npz(path: Path, rows: list[Visit], *, client: bool) -> None:
    given: dict[str, Any] = {
        "features": np.array([[row.age, row.bp] for row in rows], np.float32),
        "columns": np.array(["age", "bp"]),
        "label": np.array([row.outcome for row in rows]),
        "texts": np.array([[row.sex] for row in rows]),
        "text_columns": np.array(["sex"]),
        "group": np.array([row.person for row in rows]),
    }
    if client:
        given["client"] = np.array([row.ward for row in rows])
    np.savez(path, **given)


def experiment(data: ComponentSpec) -> Experiment:
    return Experiment(
        data=data,
        learner=ComponentSpec("fedloom.learners", "logistic", {}),
        algorithm=ComponentSpec("fedloom.algorithms", "fedavg", {"local": {"epochs": 1}}),
        stop=ComponentSpec("fedloom.stops", "max_rounds", {"rounds": 1}),
        seed=3,
    )


def source(name: str, **arguments: Any) -> ComponentSpec:
    return ComponentSpec("fedloom.datasets", name, arguments)


def assert_same(one: ClientDataset, other: ClientDataset) -> None:
    assert one.rows == other.rows
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.dtype.kind == other.arrays[name].dtype.kind, name
        np.testing.assert_array_equal(array, other.arrays[name])
        assert array.dtype == other.arrays[name].dtype or array.dtype.kind == "U"


def of(ward: str, rows: list[Visit]) -> list[Visit]:
    return [row for row in rows if row.ward == ward]


LABELS = (("ill", "well"), ("9", "10", "none"))
FILES = ("csv", "sqlite", "parquet")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"classes": True},
    {"group": "person"},
    {"group": "person", "classes": True, "test": 0.4, "validation": 0.2, "seed": 11},
)


def arguments(labels: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    given = {"label": "outcome", "columns": ["age", "bp", "sex"], "categories": ["sex"], **options}
    return {**given, "classes": list(labels)} if "classes" in options else given


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("sites")


@pytest.mark.parametrize("kept", FILES)
@pytest.mark.parametrize("pooled", FILES)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_site_has_the_rows_and_splits_that_the_simulation_gives_it(
    folder: Path, pooled: str, kept: str, data: st.DataObject
) -> None:
    labels = data.draw(st.sampled_from(LABELS))
    rows = visits(data, labels)
    given = arguments(labels, data.draw(st.sampled_from(OPTIONS)))
    write = {"csv": write_csv, "sqlite": write_sqlite, "parquet": write_parquet}
    query = {"query": "SELECT * FROM visits ORDER BY rowid"}
    write[pooled](folder / "all", rows)
    whole = source(pooled, path="all", client="ward", **given, **(query if pooled == "sqlite" else {}))
    simulated = resolve(whole, base=folder)
    with_ward = data.draw(st.booleans())
    names = NAMES if with_ward else tuple(name for name in NAMES if name != "ward")
    for ward in WARDS:
        # A file with the column of the ward may hold other wards' rows too: they are no rows of this site.
        write[kept](folder / ward, rows if with_ward else of(ward, rows), names)
        own = source(kept, path=ward, **(query if kept == "sqlite" else {}))
        site = site_dataset(experiment(whole), own, client=ClientId(ward), base=folder)
        assert_same(site.client(ClientId(ward)), simulated.client(ClientId(ward)))
        assert site.schema() == simulated.schema()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), client=st.booleans())
def test_archives_and_folders_do_too(folder: Path, data: st.DataObject, client: bool) -> None:
    rows = visits(data, ("ill", "well"))
    write_npz(folder / "all.npz", rows, client=True)
    whole = source("npz", path="all.npz", test=0.3, seed=5)
    simulated = resolve(whole, base=folder)
    files = folder / "files"
    files.mkdir(exist_ok=True)
    names = ("age", "bp", "outcome")
    for ward in WARDS:
        write_csv(files / f"{ward}.csv", of(ward, rows), names)
    parts = source("folder", path="files", label="outcome", pattern="*.csv", classes=["well", "ill"])
    together = resolve(parts, base=folder)
    for ward in WARDS:
        me = ClientId(ward)
        write_npz(folder / f"{ward}.npz", of(ward, rows), client=client)
        site = site_dataset(experiment(whole), source("npz", path=f"{ward}.npz"), client=me, base=folder)
        assert_same(site.client(me), simulated.client(me))
        assert site.schema() == simulated.schema()
        lone = site_dataset(experiment(parts), source("csv", path=f"files/{ward}.csv"), client=me, base=folder)
        whole_folder = source("folder", path="files", pattern=f"{ward}*")
        among = site_dataset(experiment(parts), whole_folder, client=me, base=folder)
        for found in (lone, among):
            assert_same(found.client(me), together.client(me))
            assert found.schema() == together.schema()


MACHINES = Path(__file__).parents[3] / "shared" / "data" / "ai4i2020" / "ai4i2020.csv"


@pytest.mark.skipif(not MACHINES.exists(), reason=f"{MACHINES} is not there")
def test_three_plants_of_a_real_table_each_have_their_own_rows(tmp_path: Path) -> None:
    columns = ["Torque [Nm]", "Tool wear [min]", "Rotational speed [rpm]"]
    given = {"label": "Machine failure", "client": "Type", "columns": columns, "seed": 4}
    whole = source("csv", path=str(MACHINES), **given)
    simulated = resolve(whole, base=tmp_path)
    with MACHINES.open(newline="") as file:
        rows = list(csv_module.DictReader(file))
    for index in range(3):
        plant = simulated.population().id(index)
        with (tmp_path / f"{plant}.csv").open("w", newline="") as file:
            writer = csv_module.DictWriter(file, [*reversed(columns), "Machine failure"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in rows if row["Type"] == plant)
        own = source("csv", path=f"{plant}.csv")
        site = site_dataset(experiment(whole), own, client=plant, base=tmp_path)
        assert_same(site.client(plant), simulated.client(plant))
        assert site.schema() == simulated.schema()


def test_columns_and_classes_take_the_order_that_was_agreed(tmp_path: Path) -> None:
    rows = [Visit(40.0 + n, float(n), "f", n, "north", "ill" if n % 2 else "well") for n in range(8)]
    np.savez(
        tmp_path / "north.npz",
        features=np.array([[row.age, row.bp] for row in rows]),
        columns=np.array(["age", "bp"]),
        label=np.array([n % 2 for n in range(8)]),
        classes=np.array(["well", "ill"]),
    )
    me, asked = ClientId("north"), experiment(source("npz", path="nowhere.npz", test=0.0))
    own = source("npz", path="north.npz")
    plain = site_dataset(asked, own, client=me, base=tmp_path)
    agreed = Schema(("bp", "age"), "label", ("dead", "ill", "well"))
    site = site_dataset(asked, own, client=me, base=tmp_path, schema=agreed)
    np.testing.assert_array_equal(site.client(me).arrays["features"], plain.client(me).arrays["features"][:, ::-1])
    named = np.array(agreed.classes)[site.client(me).arrays["label"]]
    np.testing.assert_array_equal(named, np.array(["well", "ill"])[plain.client(me).arrays["label"]])


def test_nothing_that_the_experiment_names_is_opened(tmp_path: Path) -> None:
    rows = [Visit(40.0 + n, float(n), "f", n, "north", "ill" if n % 2 else "well") for n in range(8)]
    write_sqlite(tmp_path / "mine", rows)
    stolen = "SELECT age, bp, outcome FROM secrets"
    asked = experiment(source("sqlite", path="/etc/shadow", query=stolen, label="outcome", columns=["age", "bp"]))
    with pytest.raises(ComponentError, match="query"):
        site_dataset(asked, source("sqlite", path="mine"), client=ClientId("north"), base=tmp_path)
    own = source("sqlite", path="mine", query="SELECT age, bp, outcome FROM visits")
    site = site_dataset(asked, own, client=ClientId("north"), base=tmp_path)
    assert len(site.client(ClientId("north"))) == 8


@pytest.mark.parametrize(
    ("columns", "asked", "says"),
    [
        (["age", "outcome"], {"columns": ["age", "bp"]}, r"`bp`: not among the columns that the policy of this site"),
        (["age", "bp"], {"columns": ["age", "bp"]}, r"`outcome`: not among the columns that the policy of this site"),
        (["age", "weight"], {}, "there is no column 'weight'"),
    ],
)
def test_a_column_that_the_policy_does_not_open_is_not_read(
    tmp_path: Path, columns: list[str], asked: dict[str, Any], says: str
) -> None:
    rows = [Visit(40.0 + n, float(n), "f", n, "north", "ill" if n % 2 else "well") for n in range(8)]
    write_csv(tmp_path / "mine", rows)
    given = experiment(source("csv", path="all", label="outcome", client="ward", **asked))
    with pytest.raises(DataError, match=says):
        site_dataset(given, source("csv", path="mine"), client=ClientId("north"), base=tmp_path, columns=columns)
    agreed = Schema(("age", "bp"), "outcome")
    with pytest.raises(DataError, match="policy"):
        site_dataset(
            given, source("csv", path="mine"), client=ClientId("north"), base=tmp_path, columns=["age"], schema=agreed
        )


def test_the_policy_opens_columns_by_name(tmp_path: Path) -> None:
    rows = [Visit(40.0 + n, float(n), "f", n, "north", "ill" if n % 2 else "well") for n in range(8)]
    write_csv(tmp_path / "mine", rows)
    given = experiment(source("csv", path="all", label="outcome", client="ward"))
    site = site_dataset(
        given, source("csv", path="mine"), client=ClientId("north"), base=tmp_path, columns=["bp", "age", "outcome"]
    )
    assert site.schema().columns == ("bp", "age")


def test_what_rows_mean_is_not_the_sites_to_change(tmp_path: Path) -> None:
    given = experiment(source("csv", path="all", label="outcome", client="ward", test=0.25))
    with pytest.raises(ComponentError, match=r"source.test = 0.5 in the policy; the experiment says 0.25"):
        site_dataset(given, source("csv", path="mine", test=0.5), client=ClientId("north"), base=tmp_path)


def test_a_site_without_rows_says_so(tmp_path: Path) -> None:
    rows = [Visit(40.0 + n, float(n), "f", n, "north", "ill" if n % 2 else "well") for n in range(8)]
    write_csv(tmp_path / "mine", rows)
    write_csv(tmp_path / "none", [])
    np.savez(tmp_path / "none.npz", features=np.empty((0, 2)), label=np.empty(0))
    given = experiment(source("csv", path="all", label="outcome", client="ward", columns=["age"]))
    archive = experiment(source("npz", path="all"))
    for asked, own, me in [
        (given, source("csv", path="mine"), "south"),
        (given, source("csv", path="none"), "north"),
        (archive, source("npz", path="none.npz"), "north"),
    ]:
        with pytest.raises(NoRows):
            site_dataset(asked, own, client=ClientId(me), base=tmp_path)


def test_a_class_that_only_others_train_is_no_fault_of_a_site(tmp_path: Path) -> None:
    """In the simulation the other client's rows train it; a site cannot know, and must not refuse."""
    north = [Visit(40.0 + n, float(n), "f", n, "north", "rare" if n == 0 else "well") for n in range(2)]
    south = [Visit(40.0 + n, float(n), "f", n, "south", ("rare", "well")[n % 2]) for n in range(8)]
    write_csv(tmp_path / "all", [*north, *south])
    columns = ["age", "bp"]
    names = ("age", "bp", "outcome")
    write_csv(tmp_path / "mine", north, names)
    me = ClientId("north")
    for seed in range(6):
        whole = source("csv", path="all", label="outcome", client="ward", columns=columns, test=0.5, seed=seed)
        site = site_dataset(experiment(whole), source("csv", path="mine"), client=me, base=tmp_path)
        assert_same(site.client(me), resolve(whole, base=tmp_path).client(me))


def test_rows_that_are_dealt_are_dealt_alike_at_every_site(tmp_path: Path) -> None:
    """Where a site's policy says so, as for trying a federation out: each holds the file, and takes its part."""
    rows = [Visit(40.0 + n, float(n), "f", n, "north", "ill" if n % 2 else "well") for n in range(30)]
    write_csv(tmp_path / "all", rows)
    dealt = {"group": "fedloom.partitions", "name": "iid", "arguments": {"clients": 3}}
    whole = source("csv", path="all", label="outcome", columns=["age", "bp"], partition=dealt, seed=2)
    simulated = resolve(whole, base=tmp_path)
    for index in range(3):
        me = simulated.population().id(index)
        own = source("csv", path="all", partition=dealt)
        assert_same(site_dataset(experiment(whole), own, client=me, base=tmp_path).client(me), simulated.client(me))
    with pytest.raises(NoRows, match="no rows of 'north'"):
        site_dataset(experiment(whole), own, client=ClientId("north"), base=tmp_path)
    # Else all rows of its file are the site's own, however a simulation deals them.
    alone = site_dataset(experiment(whole), source("csv", path="all"), client=ClientId("north"), base=tmp_path)
    assert len(alone.rows) == 30


def test_generated_rows_are_those_of_the_simulation(tmp_path: Path) -> None:
    whole = source("generated", clients=3, seed=5)
    simulated = resolve(whole, base=tmp_path)
    me = simulated.population().id(1)
    site = site_dataset(experiment(whole), source("generated"), client=me, base=tmp_path)
    assert_same(site.client(me), simulated.client(me))
    with pytest.raises(DataError, match="are not here"):
        site.client(simulated.population().id(0))
