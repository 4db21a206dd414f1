"""Faults: a client's is a failure in the record, the run's an error that says what to do."""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedloom
from fedloom import local
from fedloom.core.data import FEATURES, LABEL, ClientDataset, Schema
from fedloom.engines.interrupts import uninterrupted
from fedloom.errors import AlgorithmError, ComponentError, DataError, PipelineError, PlanError, StoreError
from fedloom.store import RunFolder, list_runs
from fedloom.testing.fakes import ListDataset, rows

Make = Callable[..., fedloom.Experiment]
ENGINE = import_module("fedloom.engines.local")  # the attribute of that name is the function


def line_of(function: Any, text: str) -> str:
    """Return ``file:line`` of a line of a function of this module."""
    first = function.__code__.co_firstlineno
    lines = Path(__file__).read_text().splitlines()[first - 1 :]
    return f"{__file__}:{first + next(i for i, line in enumerate(lines) if text in line)}"


def with_client(asked: fedloom.Experiment, program: Any) -> fedloom.Experiment:
    """Put a program before the clients' own; it may raise, or change the update."""
    algorithm: Any = asked.algorithm

    def client(broadcast: Any, state: Any, ctx: Any) -> Any:
        update, new = yield from algorithm.client(broadcast, state, ctx)
        return program(ctx, update), new

    return replace(asked, algorithm=replace(algorithm, client=client, spec=replace(algorithm.spec, made=None)))


def crash(ctx: Any, update: Any) -> Any:
    if ctx.client == "c2":
        raise ValueError("no such tensor")
    return update


def with_delta(update: fedloom.Update, delta: Any) -> fedloom.Update:
    return fedloom.Update({"delta": delta}, update.weight, update.metrics)


def poison(ctx: Any, update: Any) -> Any:
    return with_delta(update, update.parts["delta"] * np.nan) if ctx.client == "c2" else update


def test_a_client_that_crashes_every_round_is_named_by_file_and_line(tmp_path: Path, experiment: Make) -> None:
    result = local().run(with_client(experiment(), crash), output=tmp_path)
    assert result.status == "completed with warnings"
    failures = result.as_json()["failures"]
    assert len(failures) == 10
    assert {(f["client"], f["kind"], f["detail"], f["where"]) for f in failures} == {
        ("c2", "crashed", "ValueError: no such tensor", line_of(crash, "raise ValueError"))
    }
    assert all("c2" not in record.included and len(record.included) == 9 for record in result.rounds)
    assert list_runs(tmp_path)[0].status == "completed with warnings"
    assert result.folder is not None
    assert (result.folder / "run.log").read_text().count("Traceback") == 10


def test_a_crash_is_raised_in_place_when_debugging(experiment: Make) -> None:
    with pytest.raises(ValueError, match="no such tensor"):
        local(debug=True).run(with_client(experiment(), crash))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_client_that_sends_nan_is_never_summed(strict: bool, workers: int, experiment: Make) -> None:
    asked = experiment(rounds=4)
    poisoned = local(strict=strict, workers=workers, pool="threads").run(with_client(asked, poison))
    absent = local().run(with_client(asked, crash))
    assert {(f.client, f.kind) for record in poisoned.records for f in record.failures} == {("c2", "invalid")}
    assert poisoned.model_sha256 == absent.model_sha256  # an invalid update is an absent one
    assert np.isfinite(poisoned.params).all()


def test_a_learning_rate_that_diverges_ends_in_invalid_updates_not_in_warnings(experiment: Make) -> None:
    asked = experiment(algorithm="fedavg", policy=fedloom.RoundPolicy(retries=0))
    wild = fedloom.fedavg(fedloom.Schedule(steps=50, batch_size="full", learning_rate=1e300))
    with pytest.raises(fedloom.Error, match="lower the learning rate"):
        local().run(replace(asked, algorithm=wild))


def broken_step(state: Any, mean: Any) -> Any:
    if mean.round == 3:
        raise KeyError("momentum")
    return replace(state, params=state.params + mean["delta"])


@pytest.mark.parametrize("checkpoint_s", [0.0, 3600.0])
def test_a_step_that_raises_fails_the_run_which_resumes_when_mended(
    checkpoint_s: float, tmp_path: Path, experiment: Make
) -> None:
    asked = experiment(rounds=5)
    algorithm: Any = asked.algorithm
    named = replace(algorithm.spec, made=None)
    broken = replace(asked, algorithm=replace(algorithm, step=broken_step, spec=named))
    with pytest.raises(AlgorithmError, match="round 3: the server step of fedavg raised KeyError") as failed:
        local(checkpoint_s=checkpoint_s).run(broken, output=tmp_path)
    assert str(failed.value).count(line_of(broken_step, "raise KeyError")) == 1
    (run,) = list_runs(tmp_path)
    assert (run.status, run.rounds) == ("failed", 2)
    assert any(str(run.folder) in note for note in failed.value.__notes__)
    log = (run.folder / "run.log").read_text()
    assert log.count("the run is failed") == 1 and log.count("KeyError: 'momentum'") >= 1
    numbers: list[int] = []
    mended = local().run(asked, resume=run.folder, on_round=[lambda record: numbers.append(record.round)])
    assert numbers == [3, 4, 5]
    assert mended.model_sha256 == local().run(asked).model_sha256


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_gives_nan_is_not_committed(value: float, tmp_path: Path, experiment: Make) -> None:
    asked = experiment(rounds=5)

    def step(state: Any, mean: Any) -> Any:
        moved = state.params + mean["delta"]
        return replace(state, params=moved * value if mean.round == 2 else moved)

    algorithm: Any = asked.algorithm
    wild = replace(algorithm, step=step, spec=replace(algorithm.spec, made=None))
    with pytest.raises(AlgorithmError, match="round 2: the server step of fedavg gave a NaN or an infinity"):
        local().run(replace(asked, algorithm=wild), output=tmp_path)
    (run,) = list_runs(tmp_path)
    assert (run.status, run.rounds) == ("failed", 1)
    assert local().run(asked, resume=run.folder).model_sha256 == local().run(asked).model_sha256


def test_a_sum_that_overflows_is_not_committed(experiment: Make) -> None:
    def huge(_ctx: Any, update: Any) -> Any:
        return with_delta(update, np.full_like(update.parts["delta"], 3e38 / update.weight))

    with np.errstate(over="ignore"), pytest.raises(AlgorithmError, match="the sum overflowed"):
        local().run(with_client(experiment(dtype="float32"), huge))


class Full(RunFolder):
    """A run folder on a disk that is full at the n-th write."""

    writes = 0
    at = 0

    def write(self, **content: Any) -> None:
        type(self).writes += 1
        if type(self).writes >= self.at:
            raise StoreError("no space in /runs: needs about 1 MB, has 0 bytes; free some and resume")
        super().write(**content)


@pytest.mark.parametrize("at", [1, 2, 7])
def test_a_full_disk_pauses_the_run_which_resumes(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Make
) -> None:
    asked = experiment("scaffold")
    monkeypatch.setattr(Full, "at", at)
    monkeypatch.setattr(Full, "writes", 0)
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="no space in /runs") as paused:
        patch.setattr(ENGINE, "RunFolder", Full)
        local(checkpoint_s=0).run(asked, output=tmp_path, save_rounds=True)
    (run,) = list_runs(tmp_path)
    assert run.status == "paused"
    assert any("the run is paused" in note and str(run.folder) in note for note in paused.value.__notes__)
    resumed = local().run(asked, resume=run.folder)
    whole = local().run(asked, save_rounds=True)
    assert resumed.model_sha256 == whole.model_sha256
    np.testing.assert_array_equal(resumed.history, whole.history)
    assert list_runs(tmp_path)[0].status == "completed"


def test_a_disk_that_does_not_even_take_the_status_keeps_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Make
) -> None:
    class Worse(Full):
        def finish(self, *_: Any) -> None:
            raise StoreError("record.json: no space")

    monkeypatch.setattr(Full, "at", 2)
    monkeypatch.setattr(Full, "writes", 0)
    with monkeypatch.context() as patch, pytest.raises(StoreError, match="no space in /runs"):
        patch.setattr(ENGINE, "RunFolder", Worse)
        local(checkpoint_s=0).run(experiment(), output=tmp_path)
    (run,) = list_runs(tmp_path)
    assert run.status == "interrupted"  # derived: nobody owns it, and it never ended
    assert local().run(experiment(), resume=run.folder).model_sha256 == local().run(experiment()).model_sha256


def test_a_model_file_that_cannot_be_written_pauses_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Make
) -> None:
    def full(*_: Any) -> None:
        raise StoreError("no space in /runs")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="no space"):
        patch.setattr(ENGINE, "write_model", full)
        local().run(experiment(), output=tmp_path)
    (run,) = list_runs(tmp_path)
    assert run.status == "paused"
    result = local().run(experiment(), resume=run.folder)
    assert (run.folder / "model.safetensors").exists()
    assert result.model_sha256 == local().run(experiment()).model_sha256


def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, experiment: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    asked = with_client(experiment(rounds=2), crash)
    folder = local().run(replace(asked, stop=fedloom.max_rounds(1)), output=tmp_path).folder
    assert folder is not None
    (folder / "run.log").unlink()
    (folder / "run.log").symlink_to("/dev/full")
    assert local().run(asked, resume=folder).status == "completed with warnings"
    (folder / "run.log").unlink()
    (folder / "run.log").mkdir()
    assert len(local().run(replace(asked, stop=fedloom.max_rounds(3)), resume=folder).rounds) == 3
    assert capfd.readouterr() == ("", "")


def test_the_log_is_closed_and_the_logger_as_before(tmp_path: Path, experiment: Make) -> None:
    logger = logging.getLogger("fedloom")
    before = logger.level, list(logger.handlers)
    local().run(with_client(experiment(rounds=1), crash), output=tmp_path)
    assert (logger.level, list(logger.handlers)) == before


def no_rows() -> ListDataset:
    """Return three clients, one of which has test rows only."""
    key = fedloom.Key.from_seed(1)
    clients = {name: rows(key.child(name), size, test=6) for name, size in (("a", 20), ("b", 30), ("empty", 0))}
    return ListDataset(clients, Schema(("x0", "x1", "x2"), "y", ("no", "yes")))


@pytest.mark.parametrize("prepare", [(), (fedloom.standardise(),)])
def test_a_client_without_rows_is_refused_and_the_run_completes(prepare: Any, experiment: Make) -> None:
    result = local().run(experiment(rounds=3, data=no_rows(), prepare=prepare, compare=True))
    assert result.status == "completed with warnings"
    failures = {(f.client, f.phase, f.kind, f.detail) for record in result.rounds for f in record.failures}
    assert failures == {("empty", phase, "refused", "NO_DATA: no training rows") for phase in ("train", "evaluate")}
    assert any("empty: has no training rows" in note for note in result.notes)
    assert all(record.included == ("a", "b") for record in result.rounds)


def test_silos_of_another_width_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"client 'b': expects 3 features, has 2"):
        fedloom.data.silos({"a": (np.ones((4, 3)), [0, 1, 0, 1]), "b": (np.ones((4, 2)), [0, 1, 0, 1])})


def test_a_client_of_another_width_is_refused_before_anything_is_written(tmp_path: Path, experiment: Make) -> None:
    key = fedloom.Key.from_seed(1)
    clients = {name: rows(key.child(name), 9, columns=width, test=3) for name, width in (("a", 3), ("b", 2))}
    data = ListDataset(clients, Schema(("x0", "x1", "x2"), "y", ("no", "yes")))
    with pytest.raises(DataError, match="b: expects 3 features, has 2"):
        local().run(experiment(data=data), output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused_before_anything_is_written(
    value: float, tmp_path: Path, experiment: Make, ragged: Any
) -> None:
    data = ragged()
    features = data.features.copy()
    features[40, 2] = value
    with pytest.raises(DataError, match=r"column `x2` is NaN or infinite"):
        local().run(experiment(data=replace(data, features=features, spec=None)), output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"cohort": fedloom.uniform(11)}, PlanError, "asks for 11 clients; the data have 10"),
        ({"policy": fedloom.RoundPolicy(quorum=11)}, PlanError, "quorum = 11 is more than the 10 clients"),
        ({"stop": fedloom.target("validation/auroc", at_least=0.9)}, PlanError, "data.validation above 0"),
        (
            {"pipeline": fedloom.chain(fedloom.mean(), fedloom.clip(1.0)), "prepare": [fedloom.standardise()]},
            PipelineError,
            "put clip",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_written(
    fields: Any, error: type[Exception], message: str, tmp_path: Path, experiment: Make
) -> None:
    with pytest.raises(error, match=message):
        local().run(experiment(**fields), output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers=0"),
        ({"checkpoint_s": -1.0}, "checkpoint_s"),
        ({"checkpoint_s": float("nan")}, "finite"),
    ],
)
def test_an_engine_refuses_numbers_outside_their_range(arguments: Any, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        local(**arguments)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, experiment: Make) -> None:
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(StoreError, match="file is in the way"):
        local().run(experiment(), output=tmp_path / "runs")
    assert (tmp_path / "runs").read_text() == "mine"


def test_every_run_gets_a_folder_of_its_own(tmp_path: Path, experiment: Make) -> None:
    asked = experiment(rounds=1)
    results = [local().run(asked, output=tmp_path) for _ in range(5)]
    assert len({result.run_id for result in results}) == 5
    assert len({result.model_sha256 for result in results}) == 1


def test_two_owners_of_a_run_are_refused(tmp_path: Path, experiment: Make) -> None:
    asked = experiment(rounds=1)
    folder = local().run(asked, output=tmp_path).folder
    assert folder is not None
    longer = replace(asked, stop=fedloom.max_rounds(2))
    with RunFolder.open(folder), pytest.raises(StoreError, match=rf"owned by pid {os.getpid()} on host"):
        local().run(longer, resume=folder)
    assert len(local().run(longer, resume=folder).rounds) == 2


def test_an_error_of_a_callback_keeps_what_was_reached(tmp_path: Path, experiment: Make) -> None:
    def call(record: Any) -> None:
        if record.round == 3:
            raise RuntimeError("the plot window is gone")

    with pytest.raises(RuntimeError) as failed:
        local(checkpoint_s=3600).run(experiment(), output=tmp_path, on_round=[call])
    (run,) = list_runs(tmp_path)
    assert (run.status, run.rounds) == ("failed", 3)
    assert any("fedloom resume" in note for note in failed.value.__notes__)
    assert local().run(experiment(), resume=run.folder).model_sha256 == local().run(experiment()).model_sha256


def test_no_socket_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Make) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a run called out")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert local(workers=2).run(experiment(compare=True), output=tmp_path).status == "completed"


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_a_signal_waits_for_the_end_of_a_commit() -> None:
    steps: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            steps.append("committed")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == ["committed"]


def test_only_the_main_thread_has_signals_to_hold_back() -> None:
    done: list[bool] = []

    def work() -> None:
        with uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=5)
    assert done == [True]


def test_a_run_in_another_thread_is_the_same_run(experiment: Make, tmp_path: Path) -> None:
    found: list[str] = []
    asked = experiment()
    thread = threading.Thread(target=lambda: found.append(local().run(asked, output=tmp_path).model_sha256))
    thread.start()
    thread.join(timeout=20)
    assert found == [local().run(asked).model_sha256]


def test_workers_end_with_the_block_that_they_are_in(experiment: Make) -> None:
    """Of eighty programs, those that begin after the interrupt are few: a worker's own block, and a race of one."""
    begun = itertools.count()
    started: list[int] = []
    asked = experiment(block=1, rounds=1)
    algorithm: Any = asked.algorithm
    interrupted = threading.Event()

    def client(broadcast: Any, state: Any, ctx: Any) -> Any:
        number = next(begun)
        started.append(number)
        if number == 0:
            interrupted.set()
            raise KeyboardInterrupt
        interrupted.wait(timeout=5)
        return (yield from algorithm.client(broadcast, state, ctx))

    with pytest.raises(fedloom.RunInterrupted):
        local(workers=2).run(replace(asked, algorithm=replace(algorithm, client=client)))
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("fedloom") for name in names)


def test_a_message_names_the_folder_to_resume(tmp_path: Path, experiment: Make) -> None:
    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(fedloom.RunInterrupted) as left:
        local().run(experiment(), output=tmp_path, on_round=[stop])
    assert re.fullmatch(
        rf"interrupted; continue with: fedloom resume {re.escape(str(left.value.folder))}", str(left.value)
    )
    with pytest.raises(fedloom.RunInterrupted, match=r"^interrupted$"):
        local().run(experiment(), on_round=[stop])


def test_rows_of_a_client_that_cannot_be_read_later_are_a_failure(experiment: Make, ragged: Any) -> None:
    """A file that disappears during a run: the client is refused, by name."""
    inner = ragged()

    class Vanishing:
        spec, fingerprint = None, None
        reads = 0

        def population(self) -> Any:
            return inner.population()

        def schema(self) -> Any:
            return inner.schema()

        def client(self, client: Any) -> ClientDataset:
            self.reads += 1
            if self.reads > 10 and client == "c3":
                raise DataError("c3.csv: there is no such file")
            return inner.client(client)

    result = local().run(experiment(rounds=2, data=Vanishing()))
    assert {(f.client, f.kind, f.detail) for record in result.records for f in record.failures} == {
        ("c3", "refused", "c3.csv: there is no such file")
    }
    assert {FEATURES, LABEL} == set(inner.client("c3").arrays)
