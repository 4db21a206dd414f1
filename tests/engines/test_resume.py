"""A run that was left and continued is the run that was not; a refusal leaves a run as it was."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fedloom
from fedloom import local
from fedloom.core.keys import Key
from fedloom.errors import DataError, StoreError
from fedloom.runtime.cohort import uniform
from fedloom.store import list_runs

Make = Callable[..., fedloom.Experiment]
Same = Callable[..., None]


def files(folder: Path) -> dict[str, str]:
    """Return the digest of every file in a run folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def status(root: Path) -> str:
    (run,) = list_runs(root)
    return run.status


class Stop:
    """Interrupts, as Ctrl-C does, when a round has been committed."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, record: fedloom.RoundRecord) -> None:
        if record.round == self.at and record.program == "train":
            raise KeyboardInterrupt


@pytest.mark.parametrize("algorithm", ["fedavg", "fedadam", "scaffold"])
@pytest.mark.parametrize("checkpoint_s", [0.0, 3600.0])
def test_four_rounds_and_six_are_ten_rounds(
    algorithm: str, checkpoint_s: float, tmp_path: Path, experiment: Make, same: Same
) -> None:
    engine = local(checkpoint_s=checkpoint_s)
    ten = experiment(algorithm, cohort=uniform(6), prepare=[fedloom.standardise()])
    four = engine.run(replace(ten, stop=fedloom.max_rounds(4)), output=tmp_path, save_rounds=True)
    assert four.folder is not None and len(four.rounds) == 4
    resumed = engine.run(ten, resume=four.folder)
    whole = engine.run(ten, save_rounds=True)
    same(resumed, whole)
    np.testing.assert_array_equal(resumed.history, whole.history)


@pytest.mark.parametrize("at", [1, 5, 9])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_continues_to_the_same_bytes(
    at: int, workers: int, tmp_path: Path, experiment: Make, same: Same
) -> None:
    asked = experiment("scaffold", cohort=uniform(6))
    engine = local(workers=workers, pool="threads")
    with pytest.raises(fedloom.RunInterrupted) as stopped:
        engine.run(asked, output=tmp_path, on_round=[Stop(at)])
    folder = stopped.value.folder
    assert status(tmp_path) == "interrupted"
    assert str(folder) in str(stopped.value)
    numbers: list[int] = []
    resumed = engine.run(asked, resume=folder, on_round=[lambda record: numbers.append(record.round)])
    assert numbers == list(range(at + 1, 11))
    same(resumed, local().run(asked))
    assert status(tmp_path) == "completed"


@pytest.mark.parametrize("after", [1, 2, 10, 11, 19, 55, 100])
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_inside_a_round_loses_that_round_only(
    after: int, workers: int, *, tmp_path: Path, experiment: Make, same: Same, cut: Any
) -> None:
    asked = experiment("scaffold", block=2)
    with pytest.raises(fedloom.RunInterrupted) as stopped:
        local(workers=workers, pool="threads").run(cut(asked, after), output=tmp_path)
    resumed = local(workers=workers, pool="threads").run(asked, resume=stopped.value.folder)
    same(resumed, local().run(asked))


@pytest.mark.parametrize("after", [3, 11, 15, 21, 27])
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_while_rows_are_read_keeps_what_was_reached(
    after: int, workers: int, *, tmp_path: Path, experiment: Make, same: Same, ragged: Any, interrupting: Any
) -> None:
    """Rows are read in the check before round 1, in the preparation, and in the first round of training."""
    asked = experiment("scaffold", block=2, prepare=[fedloom.standardise()])
    data = interrupting(ragged(), after=after)
    engine = local(workers=workers, pool="threads")
    with pytest.raises((fedloom.RunInterrupted, KeyboardInterrupt)):
        engine.run(replace(asked, data=data), output=tmp_path)
    runs = list_runs(tmp_path)
    if not runs:  # before anything was written
        assert after <= 10
        return
    assert runs[0].status == "interrupted"
    same(engine.run(asked, resume=runs[0].folder), local().run(asked))


def test_an_interrupt_in_a_preparation_keeps_the_records_of_saved_rounds(
    tmp_path: Path, experiment: Make, same: Same, ragged: Any, interrupting: Any
) -> None:
    asked = experiment(prepare=[fedloom.standardise(), fedloom.standardise()])
    data = interrupting(ragged(), after=15)  # ten clients are looked at, then asked: in the first preparation
    with pytest.raises(fedloom.RunInterrupted) as stopped:
        local(checkpoint_s=3600).run(replace(asked, data=data), output=tmp_path, save_rounds=True)
    resumed = local(checkpoint_s=3600).run(asked, resume=stopped.value.folder)
    whole = local().run(asked, save_rounds=True)
    same(resumed, whole)
    np.testing.assert_array_equal(resumed.history, whole.history)


def test_a_run_may_be_left_many_times(tmp_path: Path, experiment: Make, same: Same) -> None:
    asked = experiment("scaffold")
    with pytest.raises(fedloom.RunInterrupted) as stopped:
        local().run(asked, output=tmp_path, on_round=[Stop(1)])
    folder = stopped.value.folder
    for at in (2, 3, 7):
        with pytest.raises(fedloom.RunInterrupted):
            local().run(asked, resume=folder, on_round=[Stop(at)])
    same(local().run(asked, resume=folder), local().run(asked))


def test_a_completed_run_is_left_as_it_is(tmp_path: Path, experiment: Make, same: Same) -> None:
    asked = experiment("scaffold", compare=True)
    first = local().run(asked, output=tmp_path, save_rounds=True)
    assert first.folder is not None
    before = files(first.folder)
    called: list[fedloom.RoundRecord] = []
    again = local().run(asked, resume=first.folder, on_round=[called.append])
    same(first, again)
    assert again.metrics == first.metrics
    assert not called
    assert files(first.folder) == before


def test_what_a_kill_left_before_the_last_file_is_completed(tmp_path: Path, experiment: Make, same: Same) -> None:
    """All rounds are durable, record and model are not: a resume writes them."""
    asked = experiment()
    first = local().run(asked, output=tmp_path)
    assert first.folder is not None
    (first.folder / "record.json").unlink()
    (first.folder / "model.safetensors").unlink()
    same(first, local().run(asked, resume=first.folder))
    assert status(tmp_path) == "completed"
    assert (first.folder / "model.safetensors").exists()


def test_a_resume_with_an_earlier_stop_ends_at_once(tmp_path: Path, experiment: Make) -> None:
    asked = experiment()
    with pytest.raises(fedloom.RunInterrupted) as stopped:
        local().run(asked, output=tmp_path, on_round=[Stop(5)])
    resumed = local().run(replace(asked, stop=fedloom.max_rounds(3)), resume=stopped.value.folder)
    assert len(resumed.rounds) == 5
    assert resumed.reason == "3 rounds done"


def test_another_experiment_is_refused_by_its_paths(tmp_path: Path, experiment: Make) -> None:
    asked = experiment(rounds=2)
    folder = local().run(asked, output=tmp_path).folder
    assert folder is not None
    before = files(folder)
    other = replace(asked, seed=8, learner=fedloom.logistic(l2=1e-2), policy=fedloom.RoundPolicy(quorum=3))
    with pytest.raises(StoreError, match=r"differs in: learner\.l2, policy\.quorum, seed$"):
        local().run(other, resume=folder)
    assert files(folder) == before


def test_other_rows_are_refused_and_the_run_stays_as_it_was(tmp_path: Path, experiment: Make, ragged: Any) -> None:
    asked = experiment(rounds=2)
    folder = local().run(asked, output=tmp_path).folder
    assert folder is not None
    before = files(folder)
    data = asked.data
    changed = data.features.copy()
    changed[0, 0] += 1e-9
    with pytest.raises(DataError, match=r"not those that .* began with"):
        # The spec says the same, as that of a file does whose content has changed.
        local().run(
            replace(asked, data=replace(data, features=changed, spec=replace(data.spec, made=None))), resume=folder
        )
    assert files(folder) == before
    assert status(tmp_path) == "completed"


def test_a_state_of_another_layout_is_refused_and_stays(tmp_path: Path, experiment: Make) -> None:
    asked = experiment(rounds=2)
    engine = local()
    folder = engine.run(asked, output=tmp_path).folder
    assert folder is not None
    before = files(folder)
    # The spec says the same, the state is a bare vector.
    algorithm: Any = asked.algorithm
    named = replace(algorithm.spec, made=None)
    broken = replace(algorithm, init=lambda w: w, broadcast=lambda w: w, params=lambda w: w, spec=named)
    with pytest.raises(fedloom.Error):
        engine.run(replace(asked, algorithm=broken, stop=fedloom.max_rounds(4)), resume=folder)
    assert files(folder) == before


def test_a_resumed_run_saves_rounds_as_it_was_started(tmp_path: Path, experiment: Make) -> None:
    asked = experiment(rounds=2)
    without = local().run(asked, output=tmp_path)
    longer = replace(asked, stop=fedloom.max_rounds(3))
    assert local().run(longer, resume=without.folder, save_rounds=True).history is None


def test_objects_without_a_name_resume_from_python(tmp_path: Path, experiment: Make, same: Same) -> None:
    asked = experiment()
    unnamed = replace(asked.algorithm, spec=None)
    asked = replace(asked, algorithm=unnamed)
    first = local().run(replace(asked, stop=fedloom.max_rounds(3)), output=tmp_path)
    same(local().run(asked, resume=first.folder), local().run(asked))


@pytest.mark.parametrize("trial", range(4))
def test_rounds_short_of_updates_can_be_tried_again(trial: int, tmp_path: Path, experiment: Make, same: Same) -> None:
    """A run that stopped for want of updates goes on, with the bytes of one whose clients were there all along."""
    asked = experiment("scaffold", policy=fedloom.RoundPolicy(quorum=1.0, retries=0))
    at = 2 + trial * 2
    algorithm: Any = asked.algorithm
    absent = _absent(algorithm.client, at=at, client=f"c{trial}")
    sick = replace(algorithm, client=absent, spec=replace(algorithm.spec, made=None))
    with pytest.raises(fedloom.Error, match=f"round {at} was short of updates 1 times") as stopped:
        local().run(replace(asked, algorithm=sick), output=tmp_path)
    assert f"c{trial}: crashed: OSError: away" in str(stopped.value)
    assert any("fedloom resume" in note for note in stopped.value.__notes__)
    (run,) = list_runs(tmp_path)
    assert run.status == "failed"
    resumed = local().run(asked, resume=run.folder)
    assert resumed.model_sha256 == local().run(asked).model_sha256
    assert [record.status for record in resumed.records].count("retried") == 1


def _absent(program: Any, *, at: int, client: str) -> Any:
    def run(broadcast: Any, state: Any, ctx: Any) -> Any:
        if ctx.round == at and ctx.client == client:
            raise OSError("away")
        return (yield from program(broadcast, state, ctx))

    return run


@pytest.mark.slow
def test_a_run_cut_anywhere_ends_in_the_same_bytes(tmp_path: Path, experiment: Make, cut: Any) -> None:
    """Eighty cuts at drawn moments, up to two of them in each run."""
    asked = experiment("scaffold", cohort=uniform(5), prepare=[fedloom.standardise()], rounds=6)
    whole = local().run(asked).model_sha256
    for trial, cuts in enumerate(Key.from_seed(5).generator().integers(1, 31, size=(40, 2)).tolist()):
        root = tmp_path / str(trial)
        for position, after in enumerate(cuts):
            engine = local(workers=1 + trial % 2, checkpoint_s=3600.0 * (trial % 3))
            folder = list_runs(root)[0].folder if position else None
            with contextlib.suppress(fedloom.RunInterrupted):
                engine.run(cut(replace(asked, block=2), after), output=root, resume=folder)
        assert local().run(asked, resume=list_runs(root)[0].folder).model_sha256 == whole


def test_the_record_on_disk_is_that_of_the_result(tmp_path: Path, experiment: Make) -> None:
    result = local().run(experiment(rounds=3), output=tmp_path)
    assert result.folder is not None
    record = msgspec.json.decode((result.folder / "record.json").read_bytes())
    assert record["status"] == "completed"
    assert record["summary"] == msgspec.json.decode(msgspec.json.encode(result.as_json()))
    assert len(record["records"]) == 3
