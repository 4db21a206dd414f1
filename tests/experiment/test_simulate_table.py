"""The table [simulate], nested stops and new partitions in a file: the same values as in Python, errors with lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedloom.algorithms import fedavg
from fedloom.core.schedule import Schedule
from fedloom.data.absences import read_absences
from fedloom.data.generated import generated
from fedloom.errors import ConfigError, DataError
from fedloom.experiment import Experiment
from fedloom.experiment.config import Settings, read_text, resolved
from fedloom.learners import logistic
from fedloom.runtime.cohort import by_size
from fedloom.runtime.simulation import Daily, Simulation
from fedloom.runtime.stopping import all_of, any_of, divergence, max_rounds, small_update, wall_clock

HEAD = """\
seed = 7
data = { name = "generated", clients = 4 }
learner = { name = "logistic" }
algorithm = { name = "fedavg", local = {} }
"""
STOP = 'stop = { name = "max_rounds", rounds = 3 }\n'
BASE = Experiment(
    data=generated(4), learner=logistic(), algorithm=fedavg(Schedule()), stop=max_rounds(3), seed=7
)  # fmt: skip


def read(text: str, base: Path = Path()) -> Settings:
    return read_text(text, name="run.toml", base=base)


def problems(text: str, base: Path = Path()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, base)
    return [str(violation) for violation in caught.value.violations]


def test_the_table_is_the_value_that_python_makes() -> None:
    text = HEAD + STOP + """\
[simulate]
away = 0.1
dropout = 0.2
stragglers = 0.3
slow = "partial"
work = 0.25
daily = { period = 24, share = 0.5 }
[simulate.absences]
client-0000001 = [[3, 5], [9, 9]]
"""  # fmt: skip
    asked = Simulation(
        away=0.1,
        dropout=0.2,
        stragglers=0.3,
        slow="partial",
        work=0.25,
        daily=Daily(period=24, share=0.5),
        absences={"client-0000001": ((3, 5), (9, 9))},
    )
    found = read(text).experiment
    made = Experiment(
        data=BASE.data, learner=BASE.learner, algorithm=BASE.algorithm, stop=BASE.stop, seed=7, simulate=asked
    )
    assert found.digest == made.digest != BASE.digest
    assert "simulate.daily.period = 24  # run.toml:12" in map(str, resolved(read(text)))


def test_without_the_table_nothing_of_it_is_written() -> None:
    settings = read(HEAD + STOP)
    assert settings.experiment.digest == BASE.digest
    assert not any("simulate" in str(setting) for setting in resolved(settings))


def test_a_trace_is_read_into_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "away.csv").write_text("client,from_round,to_round\r\nclient-0000001,3,5\n\nclient-0000001, 9,9\n")
    by_path = read(HEAD + STOP + '[simulate]\nabsences = "away.csv"\n', tmp_path)
    inline = read(HEAD + STOP + "[simulate.absences]\nclient-0000001 = [[3, 5], [9, 9]]\n")
    assert by_path.experiment.digest == inline.experiment.digest, "the digest holds what happens, not the path"
    shown = next(str(item) for item in resolved(by_path) if item.path.startswith("simulate.absences"))
    assert shown == "simulate.absences.client-0000001 = [[3, 5], [9, 9]]  # run.toml:7"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"client,from,to\na,1,2\n", "line 1: columns are client, from, to; expected client,from_round,to_round"),
        (b"client,from_round,to_round\na,1\n", "line 2: 2 fields; expected a client and two rounds"),
        (b"client,from_round,to_round\na,1,2\na,x,2\n", "line 3: rounds are 'x' and '2'; expected numbers"),
        (b"client,from_round,to_round\na,3,2\n", "line 2: away from round 3 to 2; expected 1 or more, in this order"),
        (b"client,from_round,to_round\na,0,2\n", "line 2: away from round 0 to 2"),
        (b"client,from_round,to_round\n", "lists no absences"),
        (b"", "lists no absences"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_bad_trace_is_told_by_path_and_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "away.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_absences(path)
    assert str(caught.value).startswith(f"{path}: ") and told in str(caught.value)
    (line,) = problems(HEAD + STOP + '[simulate]\nabsences = "away.csv"\n', tmp_path)
    assert line.startswith("run.toml:7: simulate.absences: ") and told in line


def test_a_trace_that_is_not_there_is_told() -> None:
    (line,) = problems(HEAD + STOP + '[simulate]\nabsences = "none.csv"\n')
    assert line == "run.toml:7: simulate.absences: none.csv: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("dropout = 1.0", "run.toml:7: simulate.dropout: simulate: dropout = 1.0; expected a chance"),
        ("dropuot = 0.1", "run.toml:7: simulate.dropuot: unknown key; did you mean `dropout`?"),
        ('slow = "lat"', 'run.toml:7: simulate.slow: expected one of "late", "partial", got "lat"'),
        ("daily = { period = 1, share = 0.5 }", "run.toml:7: simulate.daily.period: simulate: daily.period = 1"),
        ("absences = { a = [[5, 2]] }", "run.toml:7: simulate.absences: simulate: absences of 'a' have [5, 2]"),
        ("absences = { a = 3 }", "run.toml:7: simulate.absences: expected a table of a list of a list of int"),
    ],
)
def test_what_is_wrong_in_the_table_is_told_by_its_line(table: str, told: str) -> None:
    (line,) = problems(f"{HEAD}{STOP}[simulate]\n{table}\n")
    assert line.startswith(told), line


def test_stops_nest_in_a_file_as_in_python() -> None:
    text = HEAD + """\
[[stop]]
name = "wall_clock"
seconds = 3600
[[stop]]
name = "divergence"
[[stop]]
name = "all_of"
[[stop.stops]]
name = "max_rounds"
rounds = 20
[[stop.stops]]
name = "any_of"
stops = [{ name = "small_update", norm = 1e-3, rounds = 2 }, { name = "max_rounds", rounds = 90 }]
"""  # fmt: skip
    found = read(text).experiment
    inner = any_of(small_update(1e-3, rounds=2), max_rounds(90))
    stop = any_of(wall_clock(3600.0), divergence(), all_of(max_rounds(20), inner))
    assert found.as_json()["stop"] == Experiment(
        data=BASE.data, learner=BASE.learner, algorithm=BASE.algorithm, stop=stop, seed=7
    ).as_json()["stop"]  # fmt: skip
    assert found.digest == BASE.digest, "a stop is no part of the digest"
    assert stop.rounds == 90 and set(stop.metrics) == {"train/loss", "step/norm"}
    again = Experiment.from_json(found.as_json())
    assert again.as_json() == found.as_json()


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        ('{ name = "all_of" }', "all_of(): give at least one stop"),
        (
            '{ name = "all_of", stops = [{ name = "max_rounds", rounds = 0 }] }',
            "stop.stops.0.rounds: max_rounds(rounds=0)",
        ),
        ('{ name = "divergence", metric = "eval/log_loss" }', "test rows never decide"),
        ('{ name = "small_update", norm = -1 }', "small_update(norm=-1.0, rounds=1): expected 0 or more"),
        ('{ name = "wall_clock", seconds = 0 }', "wall_clock(seconds=0.0): expected a finite number above 0"),
        ('{ name = "wall_clok", seconds = 1 }', 'did you mean "wall_clock"?'),
    ],
)
def test_a_bad_stop_is_told_by_its_line(stop: str, told: str) -> None:
    (line,) = problems(f"{HEAD}stop = {stop}\n")
    assert line.startswith("run.toml:5: stop") and told in line, line


def test_a_cohort_by_size_and_new_partitions_stand_in_a_file() -> None:
    found = read(HEAD + STOP + 'cohort = { name = "by_size", size = 2 }\n').experiment
    made = Experiment(
        data=BASE.data, learner=BASE.learner, algorithm=BASE.algorithm, stop=BASE.stop, seed=7, cohort=by_size(2)
    )
    assert found.digest == made.digest
    for partition in (
        '{ name = "labels_per_client", clients = 3, labels = 1 }',
        '{ name = "quantity", clients = 3, alpha = 0.5 }',
        '{ name = "feature_noise", clients = 3, sigma = 0.1, unit = "deviation" }',
        '{ name = "by_column", column = "alcohol", bins = [12, 13] }',
    ):
        data = f'{{ name = "sklearn", dataset = "wine", partition = {partition} }}'
        settings = read(HEAD.replace('{ name = "generated", clients = 4 }', data) + STOP)
        assert len(settings.experiment.data.population()) == 3  # type: ignore[union-attr]
