"""A site examines a run: its rows, its plan, the price, what leaves; and an operator approves what was shown."""

from __future__ import annotations

import csv as csv_module
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fedloom.core.component import ComponentSpec
from fedloom.core.data import Schema
from fedloom.core.ids import ClientId
from fedloom.errors import CodecError, ComponentError, PlanError, WorkerError
from fedloom.experiment import Experiment
from fedloom.experiment.elsewhere import examine_elsewhere, price_elsewhere
from fedloom.experiment.examination import Examined, Question, examine, run_fingerprint
from fedloom.experiment.handshake import agree
from fedloom.experiment.manifest import difference, read_manifest
from fedloom.experiment.remote import RunFacts, coordinator_plan, plan_digest, without_rows
from fedloom.experiment.site_check import DataFacts, Visit, check_plan
from fedloom.experiment.site_policy import read_policy_text
from fedloom.privacy.target import PrivacyTarget

SITES = tuple(map(ClientId, ("east", "north", "south", "west")))
NORTH = SITES[1]


def csv(**changes: Any) -> ComponentSpec:
    given = {"path": "/secret/all.csv", "label": "outcome", "client": "ward", "classes": ["well", "ill"], **changes}
    return ComponentSpec("fedloom.datasets", "csv", given)


def experiment(**changes: Any) -> Experiment:
    return Experiment(
        **{
            "data": csv(),
            "learner": ComponentSpec("fedloom.learners", "logistic", {}),
            "algorithm": ComponentSpec(
                "fedloom.algorithms", "fedavg", {"local": {"epochs": 1}, "weighting": "uniform"}
            ),
            "stop": ComponentSpec("fedloom.stops", "max_rounds", {"rounds": 7}),
            "seed": 5,
            **changes,
        }
    )


def chain(*stages: dict[str, Any], aggregator: dict[str, Any] | None = None) -> ComponentSpec:
    return ComponentSpec("fedloom.pipelines", "chain", {"stages": list(stages), "aggregator": aggregator})


def spec(group: str, name: str, **arguments: Any) -> dict[str, Any]:
    return ComponentSpec(f"fedloom.{group}", name, arguments).as_json()


SECURE = chain(
    spec("stages", "clip", norm=1.0),
    spec("stages", "mean"),
    spec("stages", "fixed_point", bits=24, most_metric=1000.0),
    aggregator=spec("aggregators", "secure_sum", protocol=True),
)
PRIVATE = chain(
    spec("stages", "mean", expected=4.0),
    spec("stages", "gaussian", clip=1.0, noise_multiplier=20.0),
)
PROMISE = PrivacyTarget(unit="client", delta=1e-6)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write(tmp_path / "north.csv")
    return tmp_path


def write(path: Path, *, names: tuple[str, ...] = ("age", "bp", "outcome"), count: int = 30) -> None:
    with path.open("w", newline="") as file:
        writer = csv_module.DictWriter(file, names, extrasaction="ignore", restval="?")
        writer.writeheader()
        for n in range(count):
            writer.writerow({"age": 20 + n, "bp": n % 7, "outcome": ("ill", "well")[n % 3 == 0]})


def question(asked: Experiment, base: Path, *, agreed: bool = True, **changes: Any) -> Question:
    facts = RunFacts(names=SITES, schema=Schema(("age", "bp"), "outcome", ("well", "ill")), splits=("train", "test"))
    given = {
        "experiment": asked.as_json(),
        "client": NORTH,
        "source": "csv",
        "arguments": {"path": "north.csv"},
        "base": str(base),
        "facts": facts if agreed else None,
        "run": "run-1",
        "data": "cohort",
        **changes,
    }
    return Question(**given)


def codes(found: Examined) -> list[str]:
    return [each.code for each in found.refusals]


def test_before_the_handshake_a_site_says_what_it_has(base: Path) -> None:
    found = examine(question(experiment(), base, agreed=False))
    assert found.refusals == () and found.request is None and found.manifest is None
    assert found.rows == 30 and found.fingerprint is not None
    assert found.site is not None
    assert found.site.schema == Schema(("age", "bp"), "outcome", ("well", "ill"))
    assert {"python", "numpy", "fedloom"} <= found.site.versions.keys()
    assert b"30" not in found.site.canonical.replace(found.site.versions["python"].encode(), b"")
    agreed = agree({NORTH: found.site, SITES[0]: found.site}, csv())
    assert isinstance(agreed, RunFacts) and agreed.names == (SITES[0], NORTH)


def test_a_plain_run_shows_what_it_is(base: Path) -> None:
    found = examine(question(experiment(), base))
    assert found.refusals == () and found.price is None
    request, manifest = found.request, found.manifest
    assert request is not None and manifest is not None
    train, evaluation = request.sums
    assert (train.title, train.hidden, train.survivors, train.clipped, train.noised) == (
        "training",
        False,
        2,
        False,
        False,
    )
    assert (evaluation.program, evaluation.hidden, evaluation.survivors) == ("evaluate", False, None)
    assert evaluation.figures and request.rounds == 7
    assert request.upload_bytes is not None and request.upload_bytes > 7 * 100
    assert manifest.sites == SITES and manifest.columns == ("age", "bp")
    assert manifest.model and manifest.rounds == 7
    assert manifest.plan == coordinators_digest(experiment())
    lines = "\n".join(manifest.lines())
    for words in (
        "run run-1",
        "7 rounds of training",
        "east, north, south, west",
        "the coordinator learns",
        "fedloom",
        "  stop.rounds = 7",
        "  algorithm.local.learning_rate = 0.1",
    ):
        assert words in lines
    assert read_manifest(manifest.canonical) == manifest


def coordinators_digest(asked: Experiment) -> str:
    """The digest as a coordinator has it, which has no rows."""
    facts = RunFacts(names=SITES, schema=Schema(("age", "bp"), "outcome", ("well", "ill")), splits=("train", "test"))
    return plan_digest(coordinator_plan(without_rows(asked, facts, base=Path("/nowhere")), facts, 0), facts)


def test_a_secure_run_is_one_where_the_protocol_really_runs(base: Path) -> None:
    found = examine(question(experiment(pipeline=SECURE), base))
    assert found.request is not None, found.refusals
    for each in found.request.sums:
        assert (each.hidden, each.survivors, each.honest) == (True, 4, 3)
    assert found.request.sums[0].clipped
    arithmetic = chain(*SECURE.arguments["stages"], aggregator=spec("aggregators", "secure_sum", protocol=False))
    found = examine(question(experiment(pipeline=arithmetic), base))
    assert found.request is not None
    assert not any(each.hidden for each in found.request.sums)


def test_a_private_run_is_priced_here(base: Path) -> None:
    asked = experiment(pipeline=PRIVATE, privacy=PROMISE)
    found = examine(question(asked, base))
    assert found.request is not None, found.refusals
    promise = found.request.promise
    assert promise is not None and found.price is not None
    assert promise.epsilon == max(each["epsilon"] for each in found.price["readers"].values())
    assert (promise.delta, promise.unit, promise.adjacency) == (1e-6, "client", "zero_out")
    assert [each.program for each in found.request.sums] == ["train"]
    assert found.request.sums[0].noised


def test_what_a_preparation_leaves_open_is_told(base: Path) -> None:
    asked = experiment(
        data=csv(classes=None), prepare=(ComponentSpec("fedloom.preparations", "label_set", {}),), pipeline=SECURE
    )
    facts = RunFacts(names=SITES, schema=Schema(("age", "bp"), "outcome"), splits=("train", "test"))
    found = examine(question(asked, base, facts=facts))
    assert found.request is not None and found.manifest is not None, found.refusals
    assert [each.program for each in found.request.sums] == ["query", "train", "evaluate"]
    assert all(each.hidden for each in found.request.sums)
    assert found.request.upload_bytes is None and found.manifest.model == ()
    answered = facts.answered({"classes": ["ill", "well"]})
    after = examine(question(asked, base, facts=answered))
    assert after.request is not None and after.manifest is not None
    assert after.manifest.model


def test_public_preparations_leave_nothing_open(base: Path) -> None:
    public = ComponentSpec("fedloom.preparations", "min_max", {"ranges": {"age": [0, 120], "bp": [0, 9]}})
    found = examine(question(experiment(prepare=(public,)), base))
    assert found.manifest is not None and found.manifest.model, found.refusals
    assert found.request is not None and found.request.upload_bytes is not None
    assert [each.program for each in found.request.sums] == ["train", "evaluate"]


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"arguments": {"path": "gone.csv"}}, "NO_DATA", "there is no such file"),
        ({"arguments": {"path": "empty.csv"}}, "NO_DATA", "no rows below the header"),
        ({"arguments": {"path": "narrow.csv"}}, "SCHEMA", "there is no column 'bp'"),
        ({"arguments": {"path": "text.csv"}}, "SCHEMA", "'bp' is not a number"),
        ({"arguments": {"path": "missing.csv"}}, "SCHEMA", "NaN or infinite in 30 of 30 rows"),
        ({"arguments": {"path": "label.csv"}}, "SCHEMA", "not among the classes"),
        ({"columns": ("age", "outcome")}, "SCHEMA", "`bp`: not among the columns that the policy of this site opens"),
        ({"client": ClientId("elsewhere")}, "PLAN", "'elsewhere' is not among the sites"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_by_a_code(
    base: Path, changes: dict[str, Any], code: str, says: str
) -> None:
    write(base / "empty.csv", count=0)
    write(base / "narrow.csv", names=("age", "outcome"))
    (base / "text.csv").write_text("age,bp,outcome\n" + "1,high,ill\n2,low,well\n" * 9)
    (base / "missing.csv").write_text("age,bp,outcome\n" + "1,,ill\n2,,well\n" * 15)
    (base / "label.csv").write_text("age,bp,outcome\n" + "1,2,ill\n2,3,dead\n" * 9)
    found = examine(question(experiment(), base, **changes))
    assert codes(found) == [code]
    assert says in found.refusals[0].words
    assert found.refusals[0].told == {"code": code}
    assert found.request is None


def test_a_column_that_the_run_names_is_told_when_it_is_missing(base: Path) -> None:
    asked = experiment(data=csv(columns=["age", "bp", "weight"], categories=["sex"]))
    (refusal,) = examine(question(asked, base, agreed=False)).refusals
    assert refusal.told == {"code": "SCHEMA", "field": "`weight`, `sex`"}
    assert "there is no column 'weight'" in refusal.words


def test_a_plan_that_cannot_be_is_refused(base: Path) -> None:
    found = examine(question(experiment(privacy=PROMISE), base))
    assert codes(found) == ["PLAN"] and "nothing protects" in found.refusals[0].words
    dear = experiment(pipeline=PRIVATE, privacy=replace(PROMISE, epsilon=1e-3))
    assert codes(examine(question(dear, base))) == ["PLAN"]


def test_versions_are_those_of_the_run(base: Path) -> None:
    tree = experiment().as_json()
    tree["versions"] = {**tree["versions"], "fedloom": "99.0"}
    (refusal,) = examine(question(experiment(), base, experiment=tree)).refusals
    assert refusal.code == "VERSIONS" and refusal.told["request"] == "99.0"
    del tree["versions"]
    (refusal,) = examine(question(experiment(), base, experiment=tree)).refusals
    assert refusal.code == "VERSIONS"


def test_settings_are_written_out_in_full(base: Path) -> None:
    """Another form of one experiment would have another digest, and could name what was not looked at."""
    tree = experiment().as_json()
    del tree["learner"]["arguments"]["l2"]
    (refusal,) = examine(question(experiment(), base, experiment=tree)).refusals
    assert (refusal.code, refusal.field) == ("PLAN", "learner.l2")


def test_a_path_in_the_settings_is_never_opened(base: Path) -> None:
    asked = experiment(learner=ComponentSpec("fedloom.learners", "logistic", {"start": "/etc/passwd"}))
    (refusal,) = examine(question(asked, base)).refusals
    assert refusal.told == {"code": "POLICY_COMPONENT", "field": "learner.start"}


@pytest.mark.parametrize(
    "tree",
    [{}, {"data": 1}, {**experiment().as_json(), "policy": 7}, {**experiment().as_json(), "prepare": {"a": 1}},
     {**experiment().as_json(), "learner": None}, {**experiment().as_json(), "seed": "x"}],
)  # fmt: skip
def test_what_is_no_experiment_is_no_plan(base: Path, tree: dict[str, Any]) -> None:
    assert codes(examine(question(experiment(), base, experiment=tree))) == ["PLAN"]


def test_an_approval_is_of_all_that_was_shown(base: Path) -> None:
    def shown(asked: Experiment, **changes: Any) -> Any:
        found = examine(question(asked, base, **changes))
        assert found.manifest is not None, found.refusals
        return found.manifest

    first = shown(experiment())
    again = shown(experiment(), run="run-2")
    assert difference(again, first) == ()
    assert again.fingerprint != first.fingerprint
    more = shown(experiment(stop=ComponentSpec("fedloom.stops", "max_rounds", {"rounds": 70})))
    words = difference(more, first)
    assert "rounds = 70; it was 7" in words
    assert "experiment.stop.rounds = 70; it was 7" in words
    secure = difference(shown(experiment(pipeline=SECURE)), first)
    assert any("secure_sum" in line and "plain_sum" in line for line in secure)
    assert any(line.startswith("code.") and "which was not there" in line for line in secure)
    assert any("is not there any more" in line for line in difference(first, shown(experiment(pipeline=SECURE))))
    rehearsed = shown(experiment(), rehearsal=True)
    assert "rehearsal = true; it was false" in difference(rehearsed, first)
    assert next(iter(rehearsed.lines())).startswith("REHEARSAL: NO PROTECTION")
    assert difference(first, None) == ("no run was approved here before",)
    with pytest.raises(CodecError):
        read_manifest(first.canonical + b" ")
    with pytest.raises(CodecError):
        read_manifest(b"{}")


def test_rows_are_told_apart_within_a_run_and_nowhere_else() -> None:
    key, other = bytes(range(32)), bytes(32)
    one, two = "0a" * 32, "0b" * 32
    found = {run_fingerprint(k, run, rows) for k in (key, other) for run in ("r1", "r2") for rows in (one, two)}
    assert len(found) == 8
    assert run_fingerprint(key, "r1", one) == run_fingerprint(key, "r1", one)
    with pytest.raises(ComponentError, match="32 or more"):
        run_fingerprint(b"short", "r1", one)


POLICY = """\
[site]
name = "north"
[allow]
packages = ["fedloom"]
coordinators = ["spiffe://fed/coordinator"]
[data.cohort]
source = { name = "csv", path = "north.csv" }
min_rows = 10
unit = "client"
[privacy]
assumed_colluders = 1
"""


def test_examined_in_a_process_of_its_own_it_is_the_same(base: Path) -> None:
    """And what is loaded for it is not loaded here: rows, accountants, learners."""
    before = set(sys.modules)
    asked = question(experiment(pipeline=PRIVATE, privacy=PROMISE), base)
    found = examine_elsewhere(asked, limit_s=60)
    assert not {name for name in set(sys.modules) - before if name.startswith("dp_accounting")}
    assert found == examine(asked)
    assert found.price == price_elsewhere(asked, limit_s=60)
    with pytest.raises(PlanError, match="NO_DATA"):
        price_elsewhere(msgspec.structs.replace(asked, arguments={"path": "gone.csv"}), limit_s=60)
    secure = examine_elsewhere(question(experiment(pipeline=SECURE), base), limit_s=60)
    assert secure.request is not None and secure.rows is not None
    policy = read_policy_text(POLICY, name="policy.toml", base=base)
    visit = Visit(coordinator="spiffe://fed/coordinator", minute=0)
    allowed = check_plan(policy, secure.request, data="cohort", facts=DataFacts(rows=secure.rows), visit=visit)
    assert allowed == ()
    assert found.request is not None
    refused = check_plan(policy, found.request, data="cohort", facts=DataFacts(rows=30), visit=visit)
    assert {each.code for each in refused} == {"POLICY_PROTECTION", "POLICY_COHORT"}


SLOW = """
import os, subprocess, sys, time
from fedloom.core.component import component
from fedloom.data import csv
def slow(path: str):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(os.environ["FEDLOOM_TEST_PIDS"], "w").write(f"{os.getpid()} {child.pid}")
    print("noise on standard output", flush=True)
    time.sleep(600)
def crash(path: str):
    os._exit(3)
"""


@pytest.mark.slow
def test_an_examination_that_hangs_or_crashes_is_ended_and_allows_nothing(
    install: Any, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("slow_rows", SLOW, datasets="slow = slow_rows:slow\ncrash = slow_rows:crash")
    monkeypatch.setenv("FEDLOOM_TEST_PIDS", str(base / "pids"))
    asked = question(experiment(), base, source="slow", arguments={"path": "x"})
    with pytest.raises(WorkerError, match="took more than 3 s"):
        examine_elsewhere(asked, limit_s=3)
    for pid in (base / "pids").read_text().split():
        with pytest.raises(ProcessLookupError):
            gone(int(pid))
    with pytest.raises(WorkerError, match="exit status 3"):
        examine_elsewhere(msgspec.structs.replace(asked, source="crash"), limit_s=60)


def gone(pid: int) -> None:
    """Raise ProcessLookupError once a process is no more than an entry that its parent has not read."""
    state = Path(f"/proc/{pid}/stat")
    for _ in range(1000):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            raise ProcessLookupError
    os.kill(pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's here")
def test_memory_is_bounded(install: Any, base: Path) -> None:
    install("greedy_rows", "def greedy(path: str): return bytearray(64 << 30)", datasets="greedy = greedy_rows:greedy")
    asked = question(experiment(), base, source="greedy", arguments={"path": "x"})
    with pytest.raises(WorkerError, match="MemoryError"):
        examine_elsewhere(asked, limit_s=60, memory_bytes=8 << 30)
