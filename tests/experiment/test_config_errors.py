from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.errors import ConfigError, Violation
from fedloom.experiment import config
from fedloom.experiment.tree import toml_value

FILE = """\
seed = 7
[data]
name = "generated"
clients = 4
[learner]
name = "logistic"
[algorithm]
name = "fedprox"
mu = 0.1
[algorithm.local]
epochs = 1
batch_size = 32
[cohort]
name = "uniform"
size = 2
[stop]
name = "max_rounds"
rounds = 3
"""
ALGORITHMS = "fedadagrad, fedadam, fedavg, fedavgm, fedprox, fedsgd, fedyogi, scaffold"
TOP = (
    "an experiment takes data, prepare, learner, algorithm, pipeline, metrics_pipeline, cohort, evaluate_cohort, "
    "policy, stop, seed, evaluate_every, block, compare, simulate, privacy, engine, output"
)
LOCAL = "local takes epochs, steps, batch_size, learning_rate, optimizer, clip_norm, weight_decay, private"


def violations(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        config.read_text(text, overrides, name="run.toml", base=Path("nowhere"))
    return str(error.value).splitlines()


CASES: dict[str, tuple[dict[str, str], list[str]]] = {
    "unknown key": (
        {"batch_size = 32": "batch_siz = 32"},
        [f"12: algorithm.local.batch_siz: unknown key; did you mean `batch_size`?; {LOCAL}"],
    ),
    "unknown key, nothing near": ({"epochs": "zzz"}, [f"11: algorithm.local.zzz: unknown key; {LOCAL}"]),
    "misspelt table": ({"[learner]": "[lerner]"}, [f"5: lerner: unknown key; did you mean `learner`?; {TOP}"]),
    "misspelt required key": (
        {"clients = 4": "client = 4"},
        [
            "4: data.client: unknown key; did you mean `clients`?; "
            "generated takes clients, rows, features, classes, heterogeneity, dtype, seed, test"
        ],
    ),
    "string for a number": ({"mu = 0.1": 'mu = "0,1"'}, ['9: algorithm.mu: expected float, got "0,1"']),
    "true for a whole number": ({"clients = 4": "clients = true"}, ["4: data.clients: expected int, got true"]),
    "float for a whole number": ({"rounds = 3": "rounds = 3.0"}, ["18: stop.rounds: expected int, got 3.0"]),
    "number for a string": ({'"fedprox"': "3"}, ["8: algorithm.name: expected string, got 3"]),
    "list for a number": ({"mu = 0.1": "mu = [1]"}, ["9: algorithm.mu: expected float, got [1]"]),
    "date": ({"mu = 0.1": "mu = 1979-05-27"}, ["9: algorithm.mu: expected float, got a date or time, 1979-05-27"]),
    "not finite": ({"mu = 0.1": "mu = nan"}, ["9: algorithm.mu: expected float, got nan"]),
    "too large for TOML": (
        {"seed = 7": "seed = 99999999999999999999"},
        ["1: seed: expected int, got a whole number beyond 64 bits"],
    ),
    "unknown word": (
        {"mu = 0.1": 'mu = 0.1\nweighting = "example"'},
        [
            '10: algorithm.weighting: expected one of "examples", "uniform", got "example"; did you mean "examples"?',
        ],
    ),
    "number or word": (
        {"batch_size = 32": 'batch_size = "ful"'},
        ['12: algorithm.local.batch_size: expected int or "full", got "ful"; did you mean "full"?'],
    ),
    "table of numbers": (
        {"epochs = 1": 'steps = { a = "x" }'},
        ['11: algorithm.local.steps: expected int or a table of int, got { a = "x" }'],
    ),
    "unknown component": (
        {'"fedprox"': '"fedprx"'},
        [f'8: algorithm.name: fedloom.algorithms has no "fedprx"; did you mean "fedprox"?; it has {ALGORITHMS}'],
    ),
    "unknown nested component": (
        {"mu = 0.1": 'mu = { name = "cosin" }'},
        [
            '9: algorithm.mu.name: fedloom.ramps has no "cosin"; did you mean "cosine"?; '
            "it has cosine, exponential, inverse, steps, warmup"
        ],
    ),
    "unknown stage, on a line of its own": (
        {"[stop]": '[pipeline]\nstages = [\n  { name = "mean" },\n  { name = "klip" },\n]\n[stop]'},
        [
            '19: pipeline.stages.1.name: fedloom.stages has no "klip"; did you mean "clip"?; it has adaptive_gaussian, '
            "clip, distributed_gaussian, distributed_shared_gaussian, fixed_point, gaussian, laplace, local_gaussian, "
            "local_laplace, mean, rotate, rounded, shared_gaussian"
        ],
    ),
    "no component": (
        {'name = "fedprox"\n': ""},
        [f"7: algorithm.name: missing; expected one of {ALGORITHMS}"],
    ),
    "string for a component": (
        {'[learner]\nname = "logistic"\n': "", "seed = 7": 'seed = 7\nlearner = "logistic"'},
        ['2: learner: expected a table with a name of fedloom.learners, got "logistic"; write { name = "logistic" }'],
    ),
    "table for a list": (
        {"seed = 7": 'seed = 7\nprepare = { name = "x" }'},
        [
            "2: prepare: expected a list, each a table with a name of fedloom.preparations, "
            'got { name = "x" }; write [[prepare]]'
        ],
    ),
    "missing argument": ({"rounds = 3\n": ""}, ["16: stop.rounds: missing; expected int"]),
    "missing seed": ({"seed = 7\n": ""}, ["1: seed: missing; expected int"]),
    "missing table": (
        {'[learner]\nname = "logistic"\n': ""},
        ["1: learner: missing; expected a table with a name of fedloom.learners"],
    ),
    "out of range": ({"rounds = 3": "rounds = 0"}, ["18: stop.rounds: max_rounds(rounds=0): expected 1 or more"]),
    "out of range in a ramp": (
        {"mu = 0.1": 'mu = { name = "cosine", start = -1, rounds = 2 }'},
        ["9: algorithm.mu.start: cosine(start=-1.0): expected a number above 0"],
    ),
    "options that exclude each other": (
        {"epochs = 1": "epochs = 1\nsteps = 2"},
        ["10: algorithm.local: schedule: epochs and steps exclude each other; give one of them"],
    ),
    "experiment's own numbers": (
        {"seed = 7": "seed = -1\nblock = 0\nevaluate_every = 0\ncompare = 1"},
        [
            "1: seed: seed = -1; expected an integer from 0 to 2**64 - 1",
            "2: block: block = 0; expected 1 or more",
            "3: evaluate_every: evaluate_every = 0; expected 1 or more",
            "4: compare: expected true or false, got 1",
        ],
    ),
    "policy": (
        {"[stop]": '[policy]\nquorum = 2.5\nretries = -1\non_short = "give up"\n[stop]'},
        [
            "17: policy.quorum: policy.quorum = 2.5: expected clients (1 or more) or a fraction in (0, 1]",
            "18: policy.retries: policy.retries = -1: expected 0 or more",
            '19: policy.on_short: expected one of "retry", "skip", "stop", got "give up"',
        ],
    ),
    "output": (
        {"[stop]": "[output]\nfolder = 3\n[stop]"},
        ["17: output.folder: expected string, got 3"],
    ),
    "engine": (
        {"[stop]": '[engine]\nname = "lokal"\n[stop]'},
        ['17: engine.name: fedloom.engines has no "lokal"; did you mean "local"?; it has local, ray'],
    ),
    "no TOML": (
        {"mu = 0.1": "mu = 0,1", "rounds = 3": "rounds = 0"},
        ["9: toml: Expected newline or end of document after a statement (column 7)"],
    ),
    "the file ends early": ({"rounds = 3": "rounds = ["}, ["18: toml: Invalid value"]),
    "a key twice": ({"mu = 0.1": "mu = 0.1\nmu = 0.2"}, ["10: toml: Cannot overwrite a value (column 9)"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_told_by_line_path_and_what_was_expected(case: str) -> None:
    changes, expected = CASES[case]
    text = FILE
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    assert violations(text) == [f"run.toml:{line}" for line in expected]


def test_all_violations_come_at_once_in_the_order_of_the_file() -> None:
    text = (
        FILE.replace("seed = 7", "seed = -7")
        .replace("clients = 4", 'clients = "4"')
        .replace('"logistic"', '"logistik"')
        .replace("mu = 0.1", "mu = 0.1\nmue = 2")
        .replace("epochs = 1", "epochs = 0")
        .replace("batch_size = 32", "batch_size = 0\nlearning_rate = -1.0")
        .replace("size = 2", "size = 0")
        .replace("rounds = 3", "")
    )
    found = violations(text, "stop.metric=1", "policy.quorum=0")
    assert [line.split(": ")[:2] for line in found] == [
        ["run.toml:1", "seed"],
        ["run.toml:4", "data.clients"],
        ["run.toml:6", "learner.name"],
        ["run.toml:10", "algorithm.mue"],
        ["run.toml:12", "algorithm.local.epochs"],
        ["run.toml:13", "algorithm.local.batch_size"],
        ["run.toml:14", "algorithm.local.learning_rate"],
        ["run.toml:17", "cohort.size"],
        ["run.toml:18", "stop.rounds"],
        ["--set stop.metric=1", "stop.metric"],
        ["--set policy.quorum=0", "policy.quorum"],
    ]


def test_what_a_broken_argument_leads_to_is_not_reported() -> None:
    text = FILE.replace('name = "max_rounds"\nrounds = 3', 'name = "target"\nmetric = "train/loss"\nat_least = "x"')
    assert violations(text) == ['run.toml:19: stop.at_least: expected float, got "x"']


@pytest.mark.parametrize(
    ("flag", "path", "message"),
    [
        ("algorithm.mu=0,1", "algorithm.mu", 'expected float, got "0,1"'),
        ("algorithm.muu=1", "algorithm.muu", "unknown key; did you mean `mu`?; fedprox takes local, mu, weighting"),
        ("mu=1", "mu", f"unknown key; {TOP}"),
        ("seed.x=1", "seed", "a value, not a table: nothing can be set in it (x)"),
        ("stop.rounds=0", "stop.rounds", "max_rounds(rounds=0): expected 1 or more"),
        ("cohort.name=unifrm", "cohort.name", 'fedloom.cohorts has no "unifrm"; did you mean "uniform"?; it has all, '
         "by_size, poisson, truncated_poisson, uniform"),
        ("mu", "--set", "expected KEY=VALUE, as in --set algorithm.mu=0.1; expected = at character 3 of line 1"),
        ("=1", "--set", "expected KEY=VALUE, as in --set algorithm.mu=0.1; expected a key at character 1 of line 1"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_told_by_its_text(flag: str, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.read_text(FILE, [flag], name="run.toml", base=Path())
    assert error.value.violations == (Violation(where=f"--set {flag}", path=path, message=message),)


def test_a_flag_beyond_a_list_tells_its_length() -> None:
    assert violations(FILE.replace("[stop]", "[[stop]]"), "stop.2.rounds=1", "stop.x=1", "seed=-1") == [
        "--set stop.2.rounds=1: stop: a list of 1; expected a position from 0 to 1, got 2",
        "--set stop.x=1: stop.0.x: unknown key; max_rounds takes rounds",
        "--set seed=-1: seed: seed = -1; expected an integer from 0 to 2**64 - 1",
    ]


def test_a_flag_can_begin_a_list() -> None:
    found = violations(FILE, "prepare.0.name=no_such_thing")
    assert len(found) == 1
    assert found[0].startswith("--set prepare.0.name=no_such_thing: prepare.0.name: fedloom.preparations has no ")


def test_a_line_of_the_file_that_a_flag_makes_wrong_keeps_its_line() -> None:
    assert violations(FILE, "algorithm.name=fedavg") == [
        "run.toml:9: algorithm.mu: unknown key; it is a key of fedprox; fedavg takes local, prox, server, server_lr, "
        "weighting"
    ]


def test_a_file_of_data_that_is_not_there_is_told_at_its_table() -> None:
    text = FILE.replace('"generated"\nclients = 4', '"csv"\npath = "no.csv"\nlabel = "y"\nclient = "c"')
    assert len(violations(text)) == 1
    assert violations(text)[0].startswith("run.toml:2: data: ")
    assert "no.csv" in violations(text)[0]


def test_a_file_that_cannot_be_read_is_a_violation(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    for name, reason in [("absent.toml", "No such file"), (".", "directory"), ("latin.toml", "not UTF-8")]:
        with pytest.raises(ConfigError, match=f"file: cannot be read: .*{reason}"):
            config.read(tmp_path / name)


def test_text_that_breaks_the_parser_is_a_violation() -> None:
    assert violations("a = " + "[" * 100_000) == ["run.toml:1: toml: nested too deeply"]
    assert len(violations("a = " + "9" * 5_000)) == 1


huge = st.sampled_from([1 << 63, -(1 << 63), 1e300, -1e300])
below_one = st.integers(max_value=0) | huge.filter(lambda number: number < 0)
negative = st.floats(max_value=0, exclude_max=True, allow_infinity=False) | st.integers(max_value=-1)
OUT_OF_RANGE = {
    "stop.rounds": below_one,
    "data.clients": below_one,
    "data.classes": st.integers(max_value=1),
    "cohort.size": below_one,
    "algorithm.mu": negative,
    "algorithm.local.epochs": below_one,
    "algorithm.local.batch_size": below_one,
    "algorithm.local.learning_rate": negative,
    "learner.l2": negative,
    "policy.quorum": st.integers(max_value=0) | st.floats(1, exclude_min=True) | st.floats(max_value=0),
    "policy.retries": st.integers(max_value=-1),
    "seed": negative | st.integers(min_value=1 << 64),
    "evaluate_every": below_one,
    "block": below_one,
}


@settings(deadline=None)
@given(st.sampled_from(sorted(OUT_OF_RANGE)).flatmap(lambda path: st.tuples(st.just(path), OUT_OF_RANGE[path])))
def test_a_number_out_of_range_is_always_a_violation(case: tuple[str, float]) -> None:
    path, number = case
    assert violations(FILE, f"{path}={toml_value(number)}")


@settings(deadline=None)
@given(st.floats(max_value=0) | st.floats(min_value=1, exclude_min=True))
def test_a_rate_outside_its_range_is_always_a_violation(rate: float) -> None:
    assert violations(FILE, f'cohort={{ name = "poisson", rate = {toml_value(rate)} }}')


@settings(deadline=None)
@given(st.floats(max_value=0))
def test_an_alpha_that_is_not_positive_is_always_a_violation(alpha: float) -> None:
    partition = f'{{ name = "dirichlet", clients = 2, alpha = {alpha} }}'
    data = f'data={{ name = "csv", path = "x", label = "y", partition = {partition} }}'
    assert any("data.partition.alpha" in line for line in violations(FILE, data))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["full", "mean"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "a", "0"]), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None)
@given(
    st.sampled_from(
        [*OUT_OF_RANGE, "algorithm", "algorithm.local", "pipeline.stages", "stop", "prepare", "engine", "x"]
    ),
    anything,
)
def test_any_value_anywhere_is_taken_or_told(path: str, value: object) -> None:
    try:
        config.read_text(FILE, [f"{path}={toml_value(value)}"], name="run.toml", base=Path())
    except ConfigError as error:
        assert all(violation.where and violation.path for violation in error.violations)
