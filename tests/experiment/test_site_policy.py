"""A policy is read whole or not at all, and every violation is told with its line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import ConfigError
from fedloom.experiment.packages import allowed
from fedloom.experiment.site_policy import (
    DataPolicy,
    Limits,
    charged_with,
    data_of,
    read_policy,
    read_policy_text,
)

POLICY = """\
[site]
name = "hospital-a"
errors = "class"
[allow]
packages = ["fedloom==1.*", "hospital-models==2.1"]
tasks = ["train", "evaluate"]
coordinators = ["spiffe://fed.example/coordinator"]
[data."cohort"]
source = { name = "csv", path = "patients.csv" }
min_rows = 50
columns = ["age", "sex", "bp"]
unit = "record"
adjacency = "add_remove"
composition = "basic"
shares_units_with = ["registry"]
patients_elsewhere = "may-overlap"
[data.registry]
source = { name = "sqlite", path = "registry.db", query = "SELECT * FROM r ORDER BY id" }
kind = "synthetic"
allow_rehearsal = true
[limits]
max_rounds = 100
max_runs_per_day = 4
max_upload_mb = 20
cpu = 2
memory_gb = 1.5
task_minutes = 60
hours = "20:00-06:00"
[privacy]
min_sites_in_aggregate = 3
assumed_colluders = 1
epsilon_total = 4.0
epsilon_per_run = 1
delta = 1e-6
require = ["secure-aggregation"]
metrics = "aggregate-only"
[approval]
mode = "manual"
"""


def broken(text: str) -> list[str]:
    with pytest.raises(ConfigError) as failed:
        read_policy_text(text, name="policy.toml", base=Path("/site"))
    return [str(each) for each in failed.value.violations]


def test_a_whole_policy_is_read() -> None:
    policy = read_policy_text(POLICY, name="policy.toml", base=Path("/site"))
    assert policy.site.name == "hospital-a"
    assert [line.name for line in policy.allow.lines] == ["fedloom", "hospital-models"]
    assert policy.data["cohort"].source.arguments == {"path": "patients.csv"}
    assert policy.data["cohort"].neighbours == "add_remove"
    assert policy.data["registry"].allow_rehearsal
    assert policy.privacy.epsilon_per_run == 1.0
    assert policy.limits.hours == "20:00-06:00"
    assert policy.approval.mode == "manual"
    assert policy.base == Path("/site")


def test_what_is_not_written_is_the_careful_choice() -> None:
    text = '[site]\nname = "a"\n[allow]\n[data.x]\nsource = { name = "csv", path = "p.csv" }\n'
    policy = read_policy_text(text, name="policy.toml", base=Path())
    assert policy.allow.lines == () and policy.allow.coordinators == ()
    assert policy.privacy.require == ("secure-aggregation",) and policy.privacy.metrics == "aggregate-only"
    assert policy.approval.mode == "manual" and policy.site.errors == "class"
    assert not policy.data["x"].allow_rehearsal and policy.data["x"].on_change == "refuse"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('errors = "class"', 'errors = "ful"', 'policy.toml:3: site.errors: expected one of "class", "full"'),
        ('errors = "class"', 'error = "class"', "policy.toml:3: site.error: unknown key; did you mean `errors`?"),
        ('name = "hospital-a"\n', "", "policy.toml:1: site.name: missing; expected string"),
        ("[limits]", "[limit]", "policy.toml:21: limit: unknown key; did you mean `limits`?"),
        ('"fedloom==1.*"', '"fedloom>=1"', 'policy.toml:5: allow.packages: packages = "fedloom>=1"'),
        ('tasks = ["train"', 'tasks = ["trian"', "policy.toml:6: allow.tasks: expected a list of one of"),
        ('"spiffe://fed.example/coordinator"', '"fed.example"', "policy.toml:7: allow.coordinators: coordinators ="),
        ('name = "csv"', 'name = "cvs"', 'policy.toml:9: data.cohort.source.name: fedloom.datasets has no "cvs"'),
        (', path = "patients.csv"', "", "policy.toml:9: data.cohort.source.path: missing; expected a path"),
        ('path = "patients.csv"', "paths = 1", "policy.toml:9: data.cohort.source.paths: unknown key; did you mean"),
        ("min_rows = 50", "min_rows = 0", "policy.toml:10: data.cohort.min_rows: min_rows = 0: expected 1 or more"),
        ("min_rows = 50", 'min_rows = "50"', 'policy.toml:10: data.cohort.min_rows: expected int, got "50"'),
        ('columns = ["age", "sex", "bp"]', 'columns = ["age", "age"]', "policy.toml:11: data.cohort.columns"),
        ('["registry"]', '["registri"]', 'policy.toml:15: data.cohort.shares_units_with: "registri" is no other id'),
        ('kind = "synthetic"\n', "", "policy.toml:19: data.registry.allow_rehearsal: allow_rehearsal = true"),
        ("max_rounds = 100", "max_rounds = -1", "policy.toml:22: limits.max_rounds: max_rounds = -1"),
        ('"20:00-06:00"', '"8 to 6"', 'policy.toml:28: limits.hours: hours = "8 to 6"'),
        ("epsilon_total = 4.0", "epsilon_total = 0", "policy.toml:32: privacy.epsilon_total: epsilon_total = 0"),
        ('["secure-aggregation"]', '["secure"]', "policy.toml:35: privacy.require: expected a list of one of"),
        ('mode = "manual"', 'mode = "auto"', "policy.toml:38: approval.mode: expected one of"),
    ],
)  # fmt: skip
def test_a_violation_is_told_with_its_line(old: str, new: str, says: str) -> None:
    assert POLICY.count(old) == 1
    (violation,) = broken(POLICY.replace(old, new))
    assert violation.startswith(says)


def test_all_violations_are_told_at_once_in_the_order_of_the_file() -> None:
    text = POLICY.replace('errors = "class"', "errors = 1").replace("min_rows = 50", "min_row = 50")
    text = text.replace('mode = "manual"', 'mode = "never"').replace("max_rounds = 100", "max_rounds = 0")
    assert [line.split(" ")[0] for line in broken(text)] == [
        "policy.toml:3:",
        "policy.toml:10:",
        "policy.toml:22:",
        "policy.toml:38:",
    ]


@pytest.mark.parametrize(
    "text", ["", "[site", '[site]\nname = "a"', 'site = 1\nallow = 2\ndata = "x"', "[data]\n[allow]"]
)
def test_what_is_no_policy_allows_nothing(text: str) -> None:
    assert broken(text)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_is_a_policy_error_or_a_policy(data: st.DataObject) -> None:
    """No damaged file raises anything else, and none that is read allows a coordinator which was not written down."""
    start = data.draw(st.integers(0, len(POLICY)))
    stop = data.draw(st.integers(start, min(len(POLICY), start + 30)))
    put = data.draw(st.text(max_size=4))
    try:
        policy = read_policy_text(POLICY[:start] + put + POLICY[stop:], name="p", base=Path())
    except ConfigError as error:
        assert error.violations
    else:
        assert all(name in POLICY[:start] + put + POLICY[stop:] for name in policy.allow.coordinators)


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_policy(tmp_path / "policy.toml")
    (tmp_path / "latin.toml").write_bytes(b'[site]\nname = "caf\xe9"\n')
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_policy(tmp_path / "latin.toml")
    (tmp_path / "policy.toml").write_text(POLICY)
    assert read_policy(tmp_path / "policy.toml").base == tmp_path


def test_the_rows_of_a_run_are_chosen_named_or_the_only_ones() -> None:
    policy = read_policy_text(POLICY, name="p", base=Path())
    assert data_of(policy, asked="cohort") == "cohort"
    assert data_of(policy, asked="cohort", chosen="registry") == "registry"
    assert data_of(policy, asked="elsewhere") is None and data_of(policy, asked=None) is None
    assert data_of(policy, asked="cohort", chosen="strange") is None
    one = POLICY[: POLICY.index("[data.registry]")].replace('["registry"]', "[]")
    assert data_of(read_policy_text(one, name="p", base=Path()), asked="theirs") == "cohort"


def test_what_is_released_is_charged_to_all_who_may_share_people() -> None:
    policy = read_policy_text(POLICY, name="p", base=Path())
    one = policy.data["cohort"]

    def sharing(*ids: str) -> DataPolicy:
        return replace(one, shares_units_with=ids)

    wide = replace(policy, data={"a": sharing("b"), "b": sharing(), "c": sharing("b"), "d": sharing()})
    assert charged_with(policy, "registry") == ("registry", "cohort")
    assert charged_with(wide, "a") == ("a", "b", "c") and charged_with(wide, "d") == ("d",)


@pytest.mark.parametrize(
    ("hours", "minute", "within"),
    [
        ("20:00-06:00", 20 * 60, True),
        ("20:00-06:00", 0, True),
        ("20:00-06:00", 6 * 60, False),
        ("20:00-06:00", 12 * 60, False),
        ("08:00-09:30", 8 * 60, True),
        ("08:00-09:30", 9 * 60 + 29, True),
        ("08:00-09:30", 9 * 60 + 30, False),
        ("00:00-00:00", 1, True),
        (None, 77, True),
    ],
)
def test_hours_may_go_past_midnight(hours: str | None, minute: int, within: bool) -> None:
    assert Limits(hours=hours).within_hours(minute) is within


def test_lines_of_packages() -> None:
    assert allowed("fedloom").version is None
    record = "ab" * 32
    assert allowed(f"models==2.1 sha256:{record}").record == record
    for line in ("fedloom>=1", "fed loom", "fedloom==", "fedloom==1.* sha256:abc", "", "fedloom==1;python_version>3"):
        with pytest.raises(Exception, match="expected"):
            allowed(line)
