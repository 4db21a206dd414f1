"""What a policy refuses, code by code; and what of it the coordinator is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.experiment.packages import Installed
from fedloom.experiment.refusals import Refusal
from fedloom.experiment.site_check import (
    Account,
    DataFacts,
    Promise,
    RunRequest,
    SumFacts,
    Visit,
    check_plan,
)
from fedloom.experiment.site_policy import SitePolicy, read_policy_text

POLICY = """\
[site]
name = "a"
[allow]
packages = ["fedloom==1.*", "models==2.1 sha256:{record}"]
coordinators = ["spiffe://fed/coordinator"]
[data.cohort]
source = {{ name = "csv", path = "p.csv" }}
min_rows = 50
{data}
[limits]
max_rounds = 100
max_upload_mb = 2
max_runs_per_day = 2
hours = "20:00-06:00"
[privacy]
min_sites_in_aggregate = 3
assumed_colluders = 1
epsilon_per_run = 1.0
epsilon_total = 4.0
delta = 1e-6
require = ["secure-aggregation", "clip", "noise"]
{privacy}
"""
RECORD = "ab" * 32


def policy(*, data: str = "", privacy: str = "", drop: str = "") -> SitePolicy:
    text = POLICY.format(record=RECORD, data=data, privacy=privacy)
    kept = "\n".join(line for line in text.splitlines() if not drop or not line.startswith(drop))
    return read_policy_text(kept, name="policy.toml", base=Path())


def part(distribution: str = "fedloom", version: str = "1.4", **changes: Any) -> Installed:
    given = {"field": "learner", "group": "fedloom.learners", "name": "logistic", "record": None, **changes}
    return Installed(distribution=distribution, version=version, **given)


DEMANDING = replace(policy(), data={"cohort": replace(policy().data["cohort"], min_rows=50_000_000)})
TRAIN = SumFacts(
    title="training",
    program="train",
    aggregator="secure_sum",
    hidden=True,
    survivors=4,
    honest=3,
    clipped=True,
    noised=True,
)
REQUEST = RunRequest(
    parts=(part(),),
    rounds=100,
    sums=(TRAIN,),
    upload_bytes=2_000_000,
    promise=Promise(epsilon=1.0, delta=1e-6, unit="record", adjacency="add_remove"),
)
VISIT = Visit(coordinator="spiffe://fed/coordinator", minute=23 * 60, runs_today=1)
FACTS = DataFacts(rows=50)
ACCOUNT = Account(epsilon=4.0, delta=1e-6)


def refusals(
    asked: SitePolicy | None = None,
    *,
    request: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    visit: dict[str, Any] | None = None,
    facts: DataFacts | None = FACTS,
    data: str | None = "cohort",
    accounts: tuple[Account, ...] = (ACCOUNT,),
) -> tuple[Refusal, ...]:
    sums = (msgspec.structs.replace(TRAIN, **(train or {})),)
    return check_plan(
        asked or policy(),
        msgspec.structs.replace(REQUEST, **{"sums": sums, **(request or {})}),
        data=data,
        facts=facts,
        visit=msgspec.structs.replace(VISIT, **(visit or {})),
        accounts=accounts,
    )


def test_what_is_at_every_limit_is_allowed() -> None:
    assert refusals() == ()


@pytest.mark.parametrize(
    ("changes", "told", "says"),
    [
        ({"visit": {"coordinator": "spiffe://fed/other"}}, {"code": "POLICY_COORDINATOR"}, "fed/other asks"),
        (
            {"visit": {"minute": 12 * 60 + 5}},
            {"code": "POLICY_HOURS", "limit": "20:00-06:00"},
            "it is 12:05",
        ),
        ({"visit": {"runs_today": 2}}, {"code": "POLICY_RUNS", "limit": 2}, "2 runs began here"),
        ({"visit": {"rehearsal": True}}, {"code": "POLICY_REHEARSAL"}, "protects nothing"),
        ({"request": {"rounds": 101}}, {"code": "POLICY_ROUNDS", "limit": 100, "request": 101}, "asks for 101"),
        ({"request": {"rounds": None}}, {"code": "POLICY_ROUNDS", "limit": 100}, "no bound"),
        (
            {"request": {"upload_bytes": 2_000_001}},
            {"code": "POLICY_BYTES", "limit": 2.0, "request": 2.001},
            "MB would leave",
        ),
        (
            {"train": {"hidden": False, "aggregator": "plain_sum", "honest": None}},
            {"code": "POLICY_PROTECTION", "limit": "secure-aggregation", "request": "plain_sum", "field": "training"},
            "the coordinator would read",
        ),
        (
            {"train": {"clipped": False}},
            {"code": "POLICY_PROTECTION", "limit": "clip", "request": "secure_sum", "field": "training"},
            "nothing bounds",
        ),
        (
            {"train": {"noised": False}},
            {"code": "POLICY_PROTECTION", "limit": "noise", "request": "secure_sum", "field": "training"},
            "no noise",
        ),
        (
            {"train": {"survivors": 2, "honest": 1}},
            {"code": "POLICY_COHORT", "limit": 3, "request": 2, "field": "training"},
            "may hold 2 contributions",
        ),
        (
            {"train": {"survivors": 3, "honest": 3}},
            {"code": "POLICY_COHORT", "limit": 1, "request": 0, "field": "training"},
            "against 0 colluding",
        ),
        (
            {"request": {"promise": Promise(epsilon=1.01, delta=1e-6, unit="record", adjacency="add_remove")}},
            {"code": "POLICY_EPSILON", "limit": 1.0, "request": 1.01},
            "epsilon 1.01",
        ),
        (
            {"request": {"promise": Promise(epsilon=1.0, delta=1e-5, unit="record", adjacency="add_remove")}},
            {"code": "POLICY_EPSILON", "limit": 1e-6, "request": 1e-5},
            "delta 1e-05",
        ),
        (
            {"request": {"promise": Promise(epsilon=1.0, delta=1e-6, unit="client", adjacency="zero_out")}},
            {"code": "POLICY_EPSILON", "limit": "record and add_remove", "request": "client and zero_out"},
            "the two do not add up",
        ),
        ({"accounts": (Account(epsilon=4.01, delta=0),)}, {"code": "POLICY_EPSILON"}, "would show epsilon 4.01"),
        ({"accounts": ()}, {"code": "POLICY_EPSILON"}, "no ledger has counted it"),
        (
            {"accounts": (ACCOUNT, Account(epsilon=9.0, delta=0))},
            {"code": "POLICY_EPSILON"},
            "would show epsilon 9",
        ),
        ({"facts": DataFacts(rows=49)}, {"code": "POLICY_MIN_N"}, "has 49 rows"),
        ({"facts": DataFacts(rows=0)}, {"code": "NO_DATA"}, "has no rows"),
        ({"facts": DataFacts(rows=77, changed=True)}, {"code": "DATA_CHANGED"}, "not what this run began with"),
    ],
)
def test_a_run_beyond_a_limit_is_refused_and_says_which(
    changes: dict[str, Any], told: dict[str, Any], says: str
) -> None:
    (refusal,) = refusals(**changes)
    assert says in refusal.words
    assert refusal.told == told


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (part("strangers", "1.0"), "of strangers==1.0"),
        (part("fedloom", "2.0"), "of fedloom==2.0"),
        (part("fedloom", "10.0"), "of fedloom==10.0"),
        (part("models", "2.1"), "of models==2.1;"),
        (part("models", "2.1", record="cd" * 32), "of models==2.1 sha256:cdcd"),
        (part("models", "2.2", record=RECORD), "of models==2.2"),
        (part("", ""), "no installed package provides it"),
        (part(altered=("fedloom/core/keys.py",)), "not as it was installed (fedloom/core/keys.py)"),
    ],
)
def test_code_that_is_not_on_the_list_does_not_run(changed: Installed, says: str) -> None:
    (refusal,) = refusals(request={"parts": (part(), changed)})
    assert refusal.told == {"code": "POLICY_COMPONENT", "field": "learner"}
    assert says in refusal.words


def test_code_that_is_on_the_list_does() -> None:
    named = (part("models", "2.1", record=RECORD), part("Fedloom", "1.0"), part("fedloom", "1.2.3"))
    assert refusals(request={"parts": named}) == ()


def test_components_may_be_named_one_by_one() -> None:
    narrow = replace(policy(), allow=replace(policy().allow, components=["fedloom.learners/logistic"]))
    assert refusals(narrow) == ()
    (refusal,) = refusals(narrow, request={"parts": (part(name="sklearn"),)})
    assert "not among allow.components" in refusal.words


def test_tasks_may_be_left_out() -> None:
    narrow = replace(policy(), allow=replace(policy().allow, tasks=["evaluate"]))
    (refusal,) = refusals(narrow)
    assert refusal.told == {"code": "POLICY_TASK", "request": "train"}


def test_an_empty_list_allows_nothing() -> None:
    (refusal,) = refusals(policy(drop="packages"))
    assert refusal.code == "POLICY_COMPONENT" and "allow.packages has nothing" in refusal.words
    (refusal,) = refusals(policy(drop="coordinators"))
    assert refusal.code == "POLICY_COORDINATOR" and "has nobody" in refusal.words


def test_a_run_that_promises_nothing_costs_without_bound() -> None:
    found = refusals(request={"promise": None})
    assert [each.told for each in found] == [
        {"code": "POLICY_EPSILON", "limit": 1.0},
        {"code": "POLICY_EPSILON", "limit": 4.0},
    ]
    free = policy(drop="epsilon")
    assert refusals(free, request={"promise": None}) == ()


@pytest.mark.parametrize(
    ("allowed", "hidden", "figures", "refused"),
    [
        ("any", False, ("loss",), False),
        ("aggregate-only", False, ("loss",), True),
        ("aggregate-only", False, (), False),
        ("aggregate-only", True, ("loss",), False),
        ("none", True, ("loss",), True),
        ("none", True, (), False),
    ],
)
def test_figures_of_rows_leave_as_the_policy_says(
    allowed: str, hidden: bool, figures: tuple[str, ...], refused: bool
) -> None:
    asked = policy(privacy=f'metrics = "{allowed}"', drop="require")
    found = refusals(asked, train={"hidden": hidden, "figures": figures})
    assert ("POLICY_METRICS" in {each.code for each in found}) is refused
    assert refused or all(each.code == "POLICY_PROTECTION" for each in found)


def test_a_plain_evaluation_needs_no_quorum() -> None:
    asked = policy(privacy='metrics = "any"').privacy
    open_policy = replace(policy(), privacy=replace(asked, require=()))
    found = refusals(
        open_policy, train={"program": "evaluate", "hidden": False, "survivors": None, "figures": ("loss",)}
    )
    assert found == ()
    (refusal,) = refusals(open_policy, train={"program": "evaluate", "hidden": True, "survivors": None, "honest": None})
    assert refusal.code == "POLICY_COHORT"


def test_rows_that_are_not_there_are_no_data() -> None:
    (refusal,) = refusals(data=None, facts=None)
    assert refusal.told == {"code": "NO_DATA"}
    (refusal,) = refusals(data="strange", facts=None)
    assert 'no data."strange"' in refusal.words


def test_changed_rows_may_be_a_warning() -> None:
    assert refusals(policy(data='on_change = "warn"'), facts=DataFacts(rows=77, changed=True)) == ()


def test_a_rehearsal_is_for_rows_that_are_declared() -> None:
    public = policy(data='kind = "public"\nallow_rehearsal = true')
    assert refusals(public, visit={"rehearsal": True}) == ()


@given(rows=st.integers(1000, 49_000_000), changed=st.booleans())
def test_the_coordinator_is_never_told_how_many_rows(rows: int, changed: bool) -> None:
    facts = DataFacts(rows=rows, changed=changed)
    found = refusals(DEMANDING, facts=facts, accounts=(Account(epsilon=float(rows), delta=0.5),))
    assert {"POLICY_MIN_N", "POLICY_EPSILON"} <= {each.code for each in found}
    for each in found:
        assert str(rows) not in str(each.told)
