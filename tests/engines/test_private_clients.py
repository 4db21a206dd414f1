"""Runs that hide clients: the bytes of one worker, one release per round whatever dies, no word of the rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

import fedloom
from fedloom import PrivacyTarget, Schedule, chain, local, mean
from fedloom.engines.accounting import LEDGER
from fedloom.errors import BudgetError, PlanError
from fedloom.store import list_runs
from fedloom.store.ledger import Ledger
from fedloom.store.ledger_entries import Budget

Same = Callable[..., None]
ROUNDS = 8
STUDY = """
import json, os, sys
from pathlib import Path
import fedloom
from fedloom.store.priced_accounts import PricedAccounts
from fedloom.pipeline.chain import BoundPipeline

where, at = sys.argv[1], int(sys.argv[2])
calls = 0

def dying(kind, name, *, after):
    whole = getattr(kind, name)
    def call(self, *args, **kwargs):
        global calls
        calls += 1
        if calls == at and not after:
            os._exit(9)
        found = whole(self, *args, **kwargs)
        if calls == at:
            os._exit(9)
        return found
    setattr(kind, name, call)

owner = BoundPipeline if where.startswith("release") else PricedAccounts
dying(owner, where.split()[0], after=where.endswith("after"))
experiment = fedloom.Experiment.from_json(json.loads(Path(sys.argv[3]).read_text()))
fedloom.local(checkpoint_s=0).run(experiment, output=sys.argv[4])
"""


def private(*, stage: Any = None, cohort: Any = None, **fields: Any) -> fedloom.Experiment:
    noise = fedloom.gaussian(clip=0.5, noise_multiplier=1.0) if stage is None else stage
    values: dict[str, Any] = {
        "data": fedloom.data.generated(clients=60, rows=20, features=3),
        "learner": fedloom.logistic(),
        "algorithm": fedloom.fedavg(Schedule(epochs=1, batch_size=10, learning_rate=0.2), weighting="uniform"),
        "pipeline": chain(mean(expected=12.0), noise, fedloom.fixed_point()),
        "cohort": fedloom.poisson(0.2) if cohort is None else cohort,
        "stop": fedloom.max_rounds(ROUNDS),
        "privacy": PrivacyTarget(unit="client", delta=1e-3, reader="models"),
        "seed": 5,
        **fields,
    }
    return fedloom.Experiment(**values)


def counted(**fields: Any) -> fedloom.Experiment:
    return private(privacy=PrivacyTarget(unit="client", delta=1e-3, reader="models", data_set="ward"), **fields)


def budget(folder: Path, *, epsilon: float = 30.0, **fields: Any) -> Path:
    values: dict[str, Any] = {"unit": "client", "adjacency": "zero_out", "composition": "rdp", "delta": 1e-3, **fields}
    with Ledger.create(folder / LEDGER) as ledger:
        ledger.register(Budget(data_set="ward", epsilon=epsilon, **values))
    return folder


FORMS: dict[str, Callable[[], dict[str, Any]]] = {
    "gaussian": dict,
    "scaffold": lambda: {"algorithm": fedloom.scaffold(Schedule(steps=3, learning_rate=0.1), weighting="uniform")},
    "adaptive": lambda: {"stage": fedloom.adaptive_gaussian(clip=1.0, noise_multiplier=1.0, bit_noise=2.0)},
    "laplace": lambda: {"stage": fedloom.laplace(clip=0.5, noise_multiplier=2.0)},
    "local": lambda: {
        "stage": fedloom.local_gaussian(clip=0.5, noise_multiplier=4.0),
        "privacy": PrivacyTarget(unit="client", delta=1e-3, adjacency="replace_one"),
    },
    "local laplace": lambda: {
        "stage": fedloom.local_laplace(clip=0.5, noise_multiplier=4.0),
        "privacy": PrivacyTarget(unit="client", delta=0.0, adjacency="replace_one"),
    },
    "uniform": lambda: {"cohort": fedloom.uniform(10)},
    "truncated": lambda: {"cohort": fedloom.truncated_poisson(0.2, 15)},
}


@pytest.mark.parametrize("form", FORMS)
def test_no_worker_and_no_block_changes_a_bit(form: str, same: Same) -> None:
    asked = private(**FORMS[form]())
    plain = local().run(asked)
    same(plain, local(workers=3, pool="threads").run(replace(asked, block=2)))
    same(plain, local(strict=True).run(replace(asked, block=1)))
    assert len(plain.rounds) == ROUNDS and np.isfinite(plain.params).all()


def test_two_processes_give_the_bytes_of_one(same: Same) -> None:
    asked = private()
    same(local().run(asked), local(workers=2, pool="processes").run(asked))


def test_cohorts_come_from_secrets_and_not_from_the_public_key() -> None:
    hidden = local().run(private()).rounds
    shown = local().run(private(privacy=None, pipeline=chain(mean(expected=12.0)))).rounds
    assert [r.included for r in hidden] != [r.included for r in shown]
    assert len({r.included for r in hidden}) == ROUNDS


def test_a_record_holds_the_price_and_nothing_of_the_rows(tmp_path: Path) -> None:
    result = local().run(private(), output=tmp_path)
    assert result.folder is not None and result.holdings is None and result.comparison is None
    assert all(set(record.metrics) == {"step/norm"} and not record.clients for record in result.rounds)
    record = json.loads((result.folder / "record.json").read_text())
    assert record["summary"]["privacy"]["reader"] == "holder of participation data"
    assert "against a reader of the models" not in json.dumps(record)
    public = json.loads((result.folder / "privacy.json").read_text())
    assert public["reader"] == "reader of the models" and public["epsilon"] < record["summary"]["privacy"]["epsilon"]
    assert any(note.startswith("simulated noise and sampling: not private") for note in result.notes)


def test_a_cohort_of_nobody_is_charged_and_the_run_goes_on(tmp_path: Path) -> None:
    """With one client in 60 expected, about a third of the rounds draw nobody."""
    asked = counted(cohort=fedloom.poisson(1 / 60), pipeline=chain(mean(expected=1.0), fedloom.gaussian(0.5, 1.0)))
    result = local().run(asked, output=budget(tmp_path))
    assert {record.status for record in result.rounds} == {"closed", "skipped"}
    with Ledger.read(tmp_path / LEDGER) as ledger:
        (held,) = ledger.holdings()
    assert held.releases == ROUNDS == len(result.rounds)


def test_a_run_that_does_not_fit_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    budget(tmp_path, epsilon=5.0)
    rounds: list[Any] = []
    local().run(counted(), output=tmp_path)
    with pytest.raises(BudgetError, match="does not fit the budget of data set 'ward'"):
        local().run(counted(seed=6), output=tmp_path, on_round=[rounds.append])
    assert not rounds


def test_data_that_have_a_name_need_a_ledger_that_counts_them_alike(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="give it an output folder"):
        local().run(counted())
    with pytest.raises(PlanError, match=r"there is no ledger .*fedloom ledger budget ward"):
        local().run(counted(), output=tmp_path)
    budget(tmp_path, adjacency="replace_one")
    with pytest.raises(BudgetError, match="the two do not add up"):
        local().run(counted(), output=tmp_path)
    assert not list_runs(tmp_path), "refused before a folder was made"


def test_what_rounds_have_used_is_stored_no_longer_than_a_resume_needs_it(tmp_path: Path) -> None:
    asked = replace(counted(), stop=fedloom.max_rounds(ROUNDS))
    seen: list[int] = []

    def look(record: Any) -> None:
        with Ledger.read(tmp_path / LEDGER) as ledger:
            seen.append(sum(1 for _ in ledger._chain.kept_keys()))

    local(checkpoint_s=0).run(asked, output=budget(tmp_path), on_round=[look])
    assert max(seen) <= 2, seen


@pytest.mark.parametrize("failing", [1, 12])
def test_a_client_whose_update_cannot_be_used_changes_nothing_that_noise_does_not_cover(failing: int) -> None:
    """It adds zero. Were the round skipped for it, who sees the models would know; who is away is another matter."""
    whole: Any = private().algorithm

    def client(broadcast: Any, state: Any, context: Any) -> Any:
        if int(context.client.rpartition("-")[2]) < failing:
            raise ValueError("rows that this program cannot take")
        return (yield from whole.client(broadcast, state, context))

    asked = private(
        data=fedloom.data.generated(clients=12, rows=20, features=3),
        algorithm=replace(whole, client=client, spec=None),
        cohort=fedloom.everyone(),
        policy=fedloom.RoundPolicy(quorum=1.0),
        privacy=PrivacyTarget(unit="client", delta=1e-2),
    )
    result = local().run(asked)
    assert {record.status for record in result.rounds} == {"closed"}
    assert [len(record.failures) for record in result.rounds] == [failing] * ROUNDS
    away = replace(asked, algorithm=whole, simulate=fedloom.Simulation(dropout=0.9))
    assert "skipped" in {record.status for record in local().run(away).rounds}


@pytest.mark.parametrize("fault", ["raises", "nan", "wrong part"])
@pytest.mark.parametrize("protocol", [False, True])
def test_under_shares_of_noise_a_client_that_fails_sends_zero_and_its_share(fault: str, protocol: bool) -> None:
    """The server is not trusted: a client that is missing would tell it that something about its rows is odd."""
    whole: Any = private().algorithm

    def client(broadcast: Any, state: Any, context: Any) -> Any:
        update, kept = yield from whole.client(broadcast, state, context)
        if not context.client.endswith("3"):
            return update, kept
        if fault == "raises":
            raise ValueError("rows that this program cannot take")
        if fault == "wrong part":
            return structs.replace(update, parts={"delta": np.zeros(1)}), kept
        return structs.replace(update, parts={"delta": np.full_like(update.parts["delta"], np.nan)}), kept

    asked = private(
        data=fedloom.data.generated(clients=6, rows=20, features=3),
        algorithm=replace(whole, client=client, spec=None),
        pipeline=fedloom.chain(
            fedloom.mean(expected=6),
            fedloom.distributed_gaussian(clip=0.5, noise_multiplier=8.0),
            fedloom.fixed_point(),
            aggregator=fedloom.secure_sum(protocol=protocol, quorum=1.0),
        ),
        cohort=fedloom.everyone(),
        privacy=PrivacyTarget(unit="client", delta=1e-2),
    )
    result = local().run(asked)
    assert [(record.status, len(record.included), record.failures) for record in result.rounds] == [
        ("closed", 6, ())
    ] * ROUNDS
    assert np.isfinite(result.params).all()


def test_a_release_at_the_client_is_charged_also_where_asserts_are_left_out(tmp_path: Path) -> None:
    noise = fedloom.local_gaussian(clip=0.5, noise_multiplier=8.0)
    promise = PrivacyTarget(unit="client", delta=1e-3, adjacency="replace_one", data_set="ward")
    asked = private(stage=noise, privacy=promise)
    (tmp_path / "experiment.json").write_text(json.dumps(asked.as_json()))
    (tmp_path / "runs").mkdir()
    budget(tmp_path / "runs", adjacency="replace_one")
    script = (
        "import json, sys, fedloom; from pathlib import Path; "
        "asked = fedloom.Experiment.from_json(json.loads(Path(sys.argv[1]).read_text())); "
        "fedloom.local().run(asked, output=sys.argv[2])"
    )
    command = [sys.executable, "-O", "-c", script, str(tmp_path / "experiment.json"), str(tmp_path / "runs")]
    subprocess.run(command, check=True, capture_output=True, timeout=50)
    with Ledger.read(tmp_path / "runs" / LEDGER) as ledger:
        (held,) = ledger.holdings()
    assert held.releases == ROUNDS


POINTS = ["commit before", "commit after", "release after", "keep before", "keep after"]
TIMES = [3, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, ROUNDS))]


@pytest.mark.parametrize("where", POINTS)
@pytest.mark.parametrize("at", TIMES)
def test_a_run_that_dies_around_a_release_is_continued_with_one_release_per_round(
    where: str, at: int, tmp_path: Path, same: Same
) -> None:
    asked = counted()
    (tmp_path / "experiment.json").write_text(json.dumps(asked.as_json()))
    for name in ("runs", "other"):
        (tmp_path / name).mkdir()
        budget(tmp_path / name)
    runs, script = tmp_path / "runs", tmp_path / "study.py"
    script.write_text(STUDY)
    command = [sys.executable, str(script), where, str(at), str(tmp_path / "experiment.json"), str(runs)]
    died = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert died.returncode == 9, died.stderr
    (left,) = list_runs(runs)
    with Ledger.read(runs / LEDGER) as ledger:
        ledger.verify()
        (held,) = ledger.holdings()
    assert held.releases == (at - 1 if where == "commit before" else at), "what may have been released is counted"

    resumed = local(checkpoint_s=0).run(asked, resume=left.folder)
    same(local().run(asked, output=tmp_path / "other"), resumed)
    with Ledger.read(runs / LEDGER) as ledger:
        ledger.verify()
        (held,) = ledger.holdings()
    assert (held.releases, held.finished) == (ROUNDS, True)
